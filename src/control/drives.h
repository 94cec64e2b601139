/*
 * Disk images by name: -drive.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct block;
struct drives;

struct drives *drives_new(void);
/* Closes the images: after the machine. */
void drives_free(struct drives *d);

/* Words only: the text of -drive. */
int drives_add(struct drives *d, const char *text, struct error *err);
/* Give every drive a temporary overlay: -snapshot. */
void drives_snapshot(struct drives *d);
/* Open the images. Every drive of 'none' must have been taken. */
int drives_open(struct drives *d, struct error *err);

/* Claim a drive for a device, once: its number, or -errno. */
int drives_take(struct drives *d, const char *id, struct error *err);
/* The same for a number; nobody else can have it. */
void drives_take_number(struct drives *d, unsigned n);
/* How many there are, numbered from 0. */
unsigned drives_count(const struct drives *d);
/* It is a virtio disk by itself, without a -device. */
bool drives_is_virtio(const struct drives *d, unsigned n);
/* The same, a SATA disk. */
bool drives_is_ide(const struct drives *d, unsigned n);
const char *drives_id(const struct drives *d, unsigned n);
const char *drives_serial(const struct drives *d, unsigned n);
/* After drives_open(). */
struct block *drives_block(const struct drives *d, unsigned n);
/* cache=directsync or writethrough: the guest is told that there is no cache. */
bool drives_writethrough(const struct drives *d, unsigned n);
