/*
 * The e1000, without its thread: the target plays the network's thread, and the peer that
 * sends frames. Input: 8 bytes a step.
 *
 * RAM is 1 MiB; rings of 16 descriptors at 0 (transmit) and 1000h (receive).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "dev/e1000_regs.h"
#include "fuzz.h"
#include "pci/host.h"

#define RAM_SIZE MiB(1)
#define BAR      UINT64_C(0xd0000000)
#define PORTS    0x2000u
#define DEVFN    PCI_DEVFN(1, 0)
#define COUNT    16u
#define STEP     8u

/* In place of net/net.c. */
struct net {
	struct net_client c;
	u32 sent;
};

static struct net cable;

static void check(bool ok)
{
	if (!ok)
		abort();
}

int net_attach(struct net *n, const struct net_client *c, struct error *err)
{
	(void)err;
	n->c = *c;
	return 0;
}

void net_detach(struct net *n)
{
	(void)n;
}

void net_kick(struct net *n)
{
	(void)n;
}

void net_send(struct net *n, struct net_frame *f)
{
	check(f->len >= NET_ETH_MIN && f->len <= NET_FRAME_MAX);
	n->sent += f->data[f->len - 1];
}

struct rig {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *host;
	struct e1000 *d;
	unsigned tail;
};

static void line(void *chip, unsigned pin, bool level)
{
	(void)chip;
	(void)pin;
	(void)level;
}

static void wr(struct rig *r, u64 off, u32 val)
{
	phys_store(r->phys, BAR + off, val, 4);
}

static void place(struct rig *r)
{
	pci_host_config_write(r->host, DEVFN, PCI_BAR0, (u32)BAR, 4);
	pci_host_config_write(r->host, DEVFN, PCI_BAR0 + 4, PORTS, 4);
	pci_host_config_write(r->host, DEVFN, PCI_COMMAND, 7, 2);
}

static void start(struct rig *r)
{
	wr(r, E_TDBAL, 0);
	wr(r, E_TDBAH, 0);
	wr(r, E_TDLEN, 16 * COUNT);
	wr(r, E_TDH, 0);
	wr(r, E_TDT, 0);
	wr(r, E_RDBAL, 0x1000);
	wr(r, E_RDBAH, 0);
	wr(r, E_RDLEN, 16 * COUNT);
	wr(r, E_RDH, 0);
	wr(r, E_RDT, COUNT - 1);
	wr(r, E_TCTL, TCTL_EN);
	wr(r, E_RCTL, RCTL_EN | RCTL_BAM | RCTL_UPE | RCTL_MPE | RCTL_LPE);
	r->tail = 0;
}

/* A descriptor to send that is mostly possible. */
static void descriptor(struct rig *r, const uint8_t *d)
{
	u8 *e = phys_host(r->phys, 16 * r->tail, 16, true);

	memset(e, 0, 16);
	if ((d[1] & 7) == 7) {
		memcpy(e, d + 2, 6); /* a context */
		e[11] = 0x20 | d[1] >> 3;
		e[13] = d[7];
		le_store(e + 14, le_load(d + 5, 2), 2);
	} else {
		le_store(e, le_load(d + 2, 2) << 4, 8);
		le_store(e + 8, le_load(d + 4, 2), 2);
		e[10] = d[1] & 1 ? 0x10 : d[6];
		e[11] = (u8)((d[1] & 1 ? 0x20 : 0) | (d[1] >> 3 & 15));
		e[13] = d[7];
	}
	r->tail = (r->tail + 1) % COUNT;
	wr(r, E_TDT, r->tail);
}

static void frame(const uint8_t *d)
{
	u8 buf[9000];
	u32 val = (u32)le_load(d + 4, 4);
	struct net_frame f = { .data = buf, .len = 14 + val % 8900 };

	memset(buf, d[1], sizeof(buf));
	if (d[2] & 1)
		f.off = (struct net_offload){ .flags = NET_NEEDS_CSUM,
					      .gso_type = d[2] & 2 ? NET_GSO_TCPV4 : 0,
					      .gso_size = (u16)(NET_GSO_MIN + d[3]) };
	(void)cable.c.receive(cable.c.opaque, &f);
}

static void save_load(struct rig *r, unsigned damage)
{
	struct state_buf a = { 0 };
	struct error err = { 0 };

	e1000_pause(r->d);
	e1000_save(r->d, &a);
	if (damage)
		a.data[damage % a.len] ^= (u8)(1 + damage % 255);
	(void)!e1000_load(r->d, &a, &err);
	if (!damage && err.msg[0]) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	state_buf_fini(&a);
	place(r);
	e1000_resume(r->d);
}

static void one(struct rig *r, const uint8_t *d)
{
	u32 v = (u32)le_load(d + 4, 4);

	switch (d[0] & 15) {
	case 0:
	case 1:
	case 2:
	case 3: descriptor(r, d); break;
	case 4: cable.c.transmit(cable.c.opaque); break;
	case 5:
	case 6: frame(d); break;
	case 7: wr(r, le_load(d + 1, 2) & 0x5ffc, v); break;
	case 8: phys_load(r->phys, BAR + (le_load(d + 1, 2) & 0x5ffc), 4); break;
	case 9: phys_store(r->phys, le_load(d + 1, 4) % RAM_SIZE & ~3ul, v, 4); break;
	case 10: save_load(r, d[1] & 1 ? v & 0xffff : 0); break;
	case 11: wr(r, E_EECD, d[1]); break;
	case 12: wr(r, E_RCTL, v); break;
	case 13:
		io_ports_write(r->ports, PORTS + (d[1] & 4), v, 4);
		io_ports_read(r->ports, PORTS + 4, 4);
		break;
	case 14: wr(r, d[1] & 1 ? E_RDH : E_RDT, d[2] % COUNT); break;
	default:
		place(r);
		start(r);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = { 0 };
	struct pci_host_args args = { .intx_count = 4 };
	struct e1000_setup cfg = { .net = &cable };

	args.phys = r.phys = phys_new();
	args.ports = r.ports = io_ports_new();
	check(!phys_add_ram(r.phys, "ram", 0, RAM_SIZE, NULL));
	for (unsigned i = 0; i < 4; i++)
		args.intx[i] = (struct irq_line){ line, &r, i };
	r.host = pci_host_new(&args, NULL);
	r.d = e1000_new(&cfg, r.phys, r.host, DEVFN, NULL);
	check(r.d != NULL);
	place(&r);
	e1000_resume(r.d);
	start(&r);
	for (size_t i = 0; i + STEP <= size && i < 512 * STEP; i += STEP)
		one(&r, data + i);
	e1000_pause(r.d);
	e1000_free(r.d);
	pci_host_free(r.host);
	io_ports_free(r.ports);
	phys_free(r.phys);
	return 0;
}
