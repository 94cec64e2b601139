/*
 * Networks by name: -netdev, -nic, -object filter-dump.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"
#include "cpu/vm.h"

struct clock;
struct net;
struct nets;

struct nets *nets_new(void);
void nets_free(struct nets *n);

/* Words only: the text of -netdev. */
int nets_add(struct nets *n, const char *text, struct error *err);
/*
 * The text of -nic: a network and a device at once. 1: 'nic' says how the device is; 0:
 * it is "none"; -errno.
 */
struct nic {
	int net;     /* its number */
	char *mac;   /* allocated, or NULL */
	char *model; /* the same */
};
int nets_add_nic(struct nets *n, const char *text, struct nic *nic, struct error *err);
/* The text of -object, which must be a filter-dump. */
int nets_add_dump(struct nets *n, const char *text, struct error *err);
/* --pcap FILE: record the first network. */
void nets_set_pcap(struct nets *n, const char *path);

/* Claim a network for a device, once: its number, or -errno. */
int nets_take(struct nets *n, const char *id, struct error *err);
/* Open all; 'clk' outlives them. */
int nets_open(struct nets *n, struct clock *clk, struct error *err);
struct net *nets_net(const struct nets *n, int number);
/* What CPUs may wait for that halt; of those that are open. */
struct vm_idle nets_idle(struct nets *n);
