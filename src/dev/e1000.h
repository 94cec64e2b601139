/*
 * Intel 82540EM network card (e1000), as a PCI function.
 *
 * BAR 0 (memory) has the registers, BAR 1 (ports) a window to them. Guest accesses come
 * on vCPU threads; frames move on the network's thread (net/net.h).
 */
#pragma once

#include "base/error.h"
#include "base/types.h"
#include "state/save.h"

struct e1000;
struct net;
struct pci_host;
struct phys;

extern const struct state_desc e1000_desc;

struct e1000_setup {
	struct net *net; /* borrowed */
	u8 mac[6];
};

/* 'devfn' must be free. NULL and a message otherwise. */
struct e1000 *e1000_new(const struct e1000_setup *cfg, struct phys *phys,
			struct pci_host *host, u8 devfn, struct error *err);
/* After e1000_pause(). */
void e1000_free(struct e1000 *d);

/* Stop and go on touching memory. Paused at first. */
void e1000_pause(struct e1000 *d);
void e1000_resume(struct e1000 *d);

/* Machine stopped. With its PCI function. */
void e1000_reset(struct e1000 *d);
void e1000_save(struct e1000 *d, struct state_buf *b);
int e1000_load(struct e1000 *d, struct state_buf *b, struct error *err);
