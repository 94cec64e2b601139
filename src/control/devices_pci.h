/*
 * Virtio devices from the command line, with the drives and networks behind them:
 * -device virtio-..., -drive, --seed, -netdev, -nic, -object, --pcap, -snapshot.
 */
#pragma once

#include <stdio.h>

#include "base/error.h"
#include "base/types.h"
#include "machine/pcidevices.h"

struct clock;
struct pc;

#define VIRTIO_WORDS_MAX 128

enum virtio_word {
	WORD_DEVICE,
	WORD_DRIVE,
	WORD_NETDEV,
	WORD_NIC,
	WORD_OBJECT,
	WORD_PCAP,
	WORD_CHARDEV,
	WORD_SEED,
	WORD_SNAPSHOT
};

/* What was said, in order. Texts are borrowed. */
struct virtio_words {
	unsigned count;
	struct {
		enum virtio_word kind;
		const char *text;
	} word[VIRTIO_WORDS_MAX];
};

/* Is this text of -device one of these? */
bool devices_pci_has(const char *text);
/* 0, or -EINVAL when there are too many. Only keeps it. */
int devices_pci_add(struct virtio_words *w, enum virtio_word kind, const char *text,
		    struct error *err);
/* For -device help, and for -device NAME,help: false when it is none of these. */
void devices_pci_list(FILE *out);
bool devices_pci_help(FILE *out, const char *name);

/* The machine's virtio devices and what they are connected to. */
struct devices_pci {
	struct pcidevices_config cfg[PCIDEVICES_MAX];
	unsigned count;
	struct drives *drives;
	struct nets *nets;
	struct ports *ports;
	struct device_spec *spec, *port_spec; /* the texts of 'cfg', and of its ports */
};

/*
 * Understand all words, then open images and networks. Even when it fails
 * devices_pci_fini() is due.
 */
int devices_pci_init(struct devices_pci *d, const struct virtio_words *w,
		     struct clock *clk, struct error *err);
/* Connect what speaks to the machine while it runs; undone by detach. */
int devices_pci_attach(struct devices_pci *d, struct pc *pc, struct error *err);
void devices_pci_detach(struct devices_pci *d);
/* After the machine. */
void devices_pci_fini(struct devices_pci *d);
