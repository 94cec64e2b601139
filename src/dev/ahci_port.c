/*
 * A port of the AHCI adapter: its registers, command list, FISes, scatter lists, resets.
 *
 * AHCI 1.3.1, sections 3.3, 4, 5, 6.2, 10. Queued commands run at the same time, any
 * other alone. A write to PxCI begins each of 32 slots at most once; what has to wait
 * begins when another is done.
 *
 * Lock: a->lock. Requests are done on threads of the block layer.
 */
#include "dev/ahci_port.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* FIS types, and where they are received (4.2.1). */
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_SDB = 0xa1 };
enum { RX_PIO = 0x20, RX_D2H = 0x40, RX_SDB = 0x58 };

#define SIG_DISK  0x00000101u
#define SIG_NONE  0xffffffffu
#define SSTS_UP   0x133u  /* active, 6 Gbit/s, device present */
#define SERR_X    BIT(26) /* exchanged */
#define SERR_MASK 0x07ff0f03u

#define HEADER_SIZE 32u
#define PRD_SIZE    16u
#define PRD_BATCH   32u

/* ---- scatter list, 4.2.3 ---- */

static bool add_piece(struct ahci_request *r, gpa_t gpa, u32 len, bool to_guest)
{
	u8 *host = phys_host(r->p->a->phys, gpa, len, to_guest);
	struct iovec *last = r->iovs ? &r->iov[r->iovs - 1] : NULL;

	if (!host)
		return false;
	if (to_guest)
		phys_back_range(r->p->a->phys, gpa, len);
	if (last && (u8 *)last->iov_base + last->iov_len == host &&
	    r->gpa[r->iovs - 1] + last->iov_len == gpa) {
		last->iov_len += len;
		return true;
	}
	r->gpa[r->iovs] = gpa;
	r->iov[r->iovs++] = (struct iovec){ host, len };
	return true;
}

enum ata_next ahci_map(struct ahci_request *r, u32 len, bool to_guest, u8 *error)
{
	u8 prd[PRD_BATCH * PRD_SIZE];
	u32 i = 0;

	r->iovs = 0;
	r->len = len;
	*error = ATA_ABRT;
	for (; len; i++) {
		u8 *e = prd + i % PRD_BATCH * PRD_SIZE;
		u32 n;

		if (i == r->cmd.prdtl || r->iovs == AHCI_IOV_MAX) {
			guest_bug("ahci", "a list of %u buffers does not hold the data",
				  r->cmd.prdtl);
			return ATA_FAILED;
		}
		if (i % PRD_BATCH == 0 &&
		    !phys_dma_read(r->p->a->phys, r->cmd.table + 0x80 + (u64)i * PRD_SIZE,
				   prd, MIN(PRD_BATCH, r->cmd.prdtl - i) * PRD_SIZE))
			return ATA_FATAL;
		/* Both are even. */
		n = MIN(len, ((u32)le_load(e + 12, 4) & 0x3fffff & ~1u) + 2);
		if (!add_piece(r, le_load(e, 8) & ~1ul, n, to_guest))
			return ATA_FATAL;
		len -= n;
	}
	return ATA_DONE;
}

void ahci_note_written(struct ahci_request *r)
{
	for (unsigned i = 0; i < r->iovs; i++)
		phys_note_write(r->p->a->phys, r->gpa[i], r->iov[i].iov_len);
}

void ahci_give(struct ahci_request *r, const void *data)
{
	const u8 *from = data;

	for (unsigned i = 0; i < r->iovs; from += r->iov[i++].iov_len)
		memcpy(r->iov[i].iov_base, from, r->iov[i].iov_len);
	ahci_note_written(r);
}

void ahci_take(struct ahci_request *r, void *data)
{
	u8 *to = data;

	for (unsigned i = 0; i < r->iovs; to += r->iov[i++].iov_len)
		memcpy(to, r->iov[i].iov_base, r->iov[i].iov_len);
}

/* ---- FISes to the guest ---- */

/* What is not RAM receives nothing. */
static void receive(struct ahci_port *p, unsigned at, const u8 *fis, unsigned len)
{
	if (p->s.cmd & CMD_FRE)
		(void)!phys_dma_write(p->a->phys, p->s.fb + at, fis, len);
}

static void set_status(struct ahci_port *p, u8 status, u8 error)
{
	p->s.tfd = status | (u32)error << 8;
}

static void fill(u8 *fis, const struct ahci_port *p, u8 type, const u8 *from)
{
	memset(fis, 0, 20);
	fis[0] = type;
	fis[1] = 1 << 6; /* interrupt */
	fis[2] = (u8)p->s.tfd;
	fis[3] = (u8)(p->s.tfd >> 8);
	if (!from)
		return;
	memcpy(fis + 4, from + 4, 3);
	fis[7] = from[7];
	memcpy(fis + 8, from + 8, 3);
	memcpy(fis + 12, from + 12, 2);
}

static void send_d2h(struct ahci_port *p, const u8 *from)
{
	u8 fis[20];

	fill(fis, p, FIS_D2H, from);
	receive(p, RX_D2H, fis, sizeof(fis));
}

/* 5.3.13.1, and what a disk says after each reset. */
static void send_signature(struct ahci_port *p)
{
	static const u8 signature[20] = { [4] = 1, [12] = 1 };

	p->s.sig = SIG_DISK;
	set_status(p, ATA_READY, 1);
	send_d2h(p, signature);
}

static void send_pio(struct ahci_request *r)
{
	struct ahci_port *p = r->p;
	u8 fis[20];

	fill(fis, p, FIS_PIO, r->cmd.fis);
	if (r->r.op != BLOCK_WRITE)
		fis[1] |= 1 << 5; /* to the host */
	fis[2] |= ATA_DRQ;
	fis[15] = (u8)p->s.tfd;
	le_store(fis + 16, MIN(r->len, 0xfffeu), 2);
	receive(p, RX_PIO, fis, sizeof(fis));
}

static void send_sdb(struct ahci_port *p, u32 done)
{
	u8 fis[8] = { FIS_SDB, 1 << 6, (u8)p->s.tfd & 0x77, (u8)(p->s.tfd >> 8) };

	le_store(fis + 4, done, 4);
	receive(p, RX_SDB, fis, sizeof(fis));
}

/* ---- ends of commands ---- */

static void put_count(struct ahci_request *r)
{
	u8 count[4];

	le_store(count, r->len, 4);
	(void)!phys_dma_write(r->p->a->phys, r->p->s.clb + r->slot * HEADER_SIZE + 4,
			      count, 4);
}

static void succeed(struct ahci_request *r)
{
	struct ahci_port *p = r->p;
	u32 bit = 1u << r->slot;

	if (r->ncq) {
		set_status(p, ATA_READY, 0);
		p->s.sact &= ~bit;
		send_sdb(p, bit);
		ahci_event(p, IS_SDBS);
		return;
	}
	put_count(r);
	set_status(p, ATA_READY, 0);
	p->s.ci &= ~bit;
	if (r->pio && r->len) {
		send_pio(r);
		ahci_event(p, IS_PSS);
		/* 5.3.6: data to the host ends with it. */
		if (r->r.op != BLOCK_WRITE)
			return;
	}
	send_d2h(p, r->cmd.fis);
	ahci_event(p, IS_DHRS);
}

/* 6.2.2.1: nothing more is begun until the driver clears ST. */
static void fail(struct ahci_request *r, u8 error)
{
	struct ahci_port *p = r->p;

	p->s.halted = 1;
	set_status(p, ATA_READY | ATA_ERR, error);
	if (r->ncq) {
		p->s.error_valid = 1;
		p->s.error_tag = r->slot;
		p->s.error_error = error;
		p->s.error_lba = r->cmd.lba;
		send_sdb(p, 0);
		/* The disk has given up all that was queued. */
		p->dropping = p->active != 0;
	} else {
		send_d2h(p, r->cmd.fis);
	}
	ahci_event(p, IS_TFES);
}

static void fatal(struct ahci_port *p, unsigned slot)
{
	guest_bug("ahci", "port %u, slot %u: not in memory", p->index, slot);
	p->s.halted = 1;
	ahci_event(p, IS_HBFS);
}

static void list_free(struct ahci_request *r)
{
	free(r->list);
	r->list = NULL;
}

static void comreset_done(struct ahci_port *p)
{
	p->comreset = false;
	if (!p->block)
		return;
	p->s.ssts = SSTS_UP;
	p->s.serr |= (u32)SERR_X;
	ata_reset(p);
	send_signature(p);
	ahci_event(p, IS_PCS);
}

static void request_done(struct block_req *br, int ret)
{
	struct ahci_request *r = container_of(br, struct ahci_request, r);
	struct ahci_port *p = r->p;
	struct ahci *a = p->a;

	pthread_mutex_lock(&a->lock);
	if (!ret && !p->dropping && ata_more(r)) {
		block_submit(p->block, &br, 1);
		pthread_mutex_unlock(&a->lock);
		return;
	}
	if (br->op == BLOCK_READ)
		ahci_note_written(r);
	list_free(r);
	p->active &= ~(1u << r->slot);
	if (!p->dropping && !ret)
		succeed(r);
	else if (!p->dropping)
		fail(r, ata_error_of(r, ret));
	if (!p->active) {
		p->dropping = p->exclusive = false;
		if (p->comreset)
			comreset_done(p);
	}
	ahci_port_run(p);
	ahci_put(a);
	pthread_mutex_unlock(&a->lock);
}

/* ---- beginning commands ---- */

/* False: it cannot be read. */
static bool fetch(struct ahci_port *p, unsigned slot, struct ahci_cmd *c)
{
	u8 header[16];

	if (!phys_dma_read(p->a->phys, p->s.clb + slot * HEADER_SIZE, header,
			   sizeof(header)))
		return false;
	c->prdtl = (u16)le_load(header + 2, 2);
	c->table = le_load(header + 8, 8) & ~(u64)0x7f;
	/* What is shorter than a FIS should be has zeroes there; a table is that long. */
	if (!phys_dma_read(p->a->phys, c->table, c->fis, sizeof(c->fis)))
		return false;
	for (unsigned i = (header[0] & 0x1fu) * 4; i < sizeof(c->fis); i++)
		c->fis[i] = 0;
	return true;
}

/* 10.4.1: SRST on, then off. */
static void control(struct ahci_port *p, struct ahci_request *r)
{
	bool srst = r->cmd.fis[15] & 4;

	p->s.ci &= ~(1u << r->slot);
	if (p->s.srst && !srst) {
		ata_reset(p);
		send_signature(p);
	}
	p->s.srst = srst;
}

static struct ahci_request *request_of(struct ahci_port *p, unsigned slot)
{
	if (!p->req[slot]) {
		p->req[slot] = calloc(1, sizeof(*p->req[slot]));
		if (p->req[slot]) {
			p->req[slot]->p = p;
			p->req[slot]->slot = (u8)slot;
		}
	}
	return p->req[slot];
}

static void submit(struct ahci_request *r)
{
	struct ahci_port *p = r->p;
	struct block_req *br = &r->r;

	br->done = request_done;
	p->active |= 1u << r->slot;
	p->exclusive = !r->ncq;
	p->a->busy++;
	block_submit(p->block, &br, 1);
}

/* False: it has to wait. */
static bool begin(struct ahci_port *p, unsigned slot)
{
	struct ahci_request *r = request_of(p, slot);
	u8 error = ATA_ABRT;

	if (!r)
		return false;
	if (!fetch(p, slot, &r->cmd)) {
		fatal(p, slot);
		return false;
	}
	r->ncq = r->cmd.fis[0] == FIS_H2D && r->cmd.fis[1] & 0x80 &&
		 ata_is_ncq(r->cmd.fis[2]);
	if (p->exclusive || (!r->ncq && p->active))
		return false;
	p->s.next = (u8)((slot + 1) % AHCI_SLOTS);
	r->pio = false;
	r->iovs = 0;
	r->len = 0;
	r->r.op = BLOCK_FLUSH;
	if (r->cmd.fis[0] != FIS_H2D) {
		fail(r, ATA_ABRT);
		return false;
	}
	if (!(r->cmd.fis[1] & 0x80)) {
		control(p, r);
		return true;
	}
	/* 9.3.1: the disk has it in its queue. */
	if (r->ncq)
		p->s.ci &= ~(1u << slot);
	switch (ata_command(r, &error)) {
	case ATA_SUBMIT: submit(r); return true;
	case ATA_DONE:
		list_free(r);
		succeed(r);
		return true;
	case ATA_FATAL:
		list_free(r);
		fatal(p, slot);
		return false;
	default:
		list_free(r);
		fail(r, error);
		return false;
	}
}

static bool runs(const struct ahci_port *p)
{
	return ahci_runs(p->a) && p->block && p->s.cmd & CMD_ST && !p->s.halted &&
	       !p->dropping && !p->comreset && (p->s.ssts & 0xf) == 3;
}

void ahci_port_run(struct ahci_port *p)
{
	unsigned first = p->s.next;

	for (unsigned i = 0; i < AHCI_SLOTS && p->s.ci && runs(p); i++) {
		unsigned slot = (first + i) % AHCI_SLOTS;

		if (p->s.ci >> slot & 1 && !(p->active >> slot & 1) && !begin(p, slot))
			break;
	}
}

/* ---- resets ---- */

void ahci_port_drop(struct ahci_port *p)
{
	p->dropping = p->active != 0;
	p->s.ci = p->s.sact = 0;
	p->s.halted = 0;
}

void ahci_port_reset(struct ahci_port *p)
{
	p->s = (struct ahci_port_state){ .cmd = CMD_SUD | CMD_POD,
					 .tfd = 0x7f,
					 .sig = SIG_NONE };
	p->dropping = p->exclusive = p->comreset = false;
	ata_reset(p);
	p->s.write_cache = !p->write_cache_off;
	if (!p->block)
		return;
	p->s.ssts = SSTS_UP;
	p->s.serr = (u32)SERR_X;
	p->s.is = IS_PCS;
	send_signature(p);
}

void ahci_port_fini(struct ahci_port *p)
{
	for (unsigned i = 0; i < AHCI_SLOTS; i++)
		free(p->req[i]);
}

/* ---- registers ---- */

u32 ahci_port_read(const struct ahci_port *p, u64 off)
{
	const struct ahci_port_state *s = &p->s;

	switch (off) {
	case PX_CLB: return (u32)s->clb;
	case PX_CLBU: return (u32)(s->clb >> 32);
	case PX_FB: return (u32)s->fb;
	case PX_FBU: return (u32)(s->fb >> 32);
	case PX_IS: return s->is;
	case PX_IE: return s->ie;
	case PX_CMD:
		/* CCS is the slot that was begun last. */
		return s->cmd | (s->cmd & CMD_FRE ? CMD_FR : 0u) |
		       (s->cmd & CMD_ST || p->active ? CMD_CR : 0u) |
		       (s->cmd & CMD_ST ? (s->next + AHCI_SLOTS - 1) % AHCI_SLOTS << 8
					: 0u);
	case PX_TFD: return s->tfd | (p->exclusive && !p->dropping ? (u32)ATA_BSY : 0u);
	case PX_SIG: return s->sig;
	case PX_SSTS: return s->ssts;
	case PX_SCTL: return s->sctl;
	case PX_SERR: return s->serr;
	case PX_SACT: return s->sact;
	case PX_CI: return s->ci;
	default: return 0;
	}
}

static void cmd_write(struct ahci_port *p, u32 val)
{
	u32 old = p->s.cmd;

	p->s.cmd = CMD_SUD | CMD_POD | (val & (CMD_ST | CMD_FRE));
	if (old & ~val & CMD_ST)
		ahci_port_drop(p);
	if (val & CMD_CLO && p->block)
		p->s.tfd &= ~(u32)(ATA_BSY | ATA_DRQ);
	/* What the disk said while nobody could receive it. */
	if (~old & val & CMD_FRE && p->block && !p->comreset)
		send_d2h(p, (const u8[20]){ [4] = 1, [12] = 1 });
}

/* 10.4.2: DET 1 resets, and 0 lets the disk come back. */
static void sctl_write(struct ahci_port *p, u32 val)
{
	bool was = (p->s.sctl & 0xf) == 1;

	p->s.sctl = val & 0xfff;
	if ((val & 0xf) == 1) {
		ahci_port_drop(p);
		p->s.ssts = 0;
		p->s.tfd = p->block ? ATA_BSY : 0x7f;
		p->comreset = false;
	} else if ((val & 0xf) == 4) {
		ahci_port_drop(p);
		p->s.ssts = 4;
	} else if (was || p->s.ssts == 4) {
		p->s.ssts = 0;
		p->comreset = true;
		if (!p->active)
			comreset_done(p);
	}
}

static void set_low(u64 *reg, u32 val, u32 mask)
{
	*reg = (*reg & ~(u64)UINT32_MAX) | (val & ~mask);
}

static void set_high(u64 *reg, u32 val)
{
	*reg = (u32)*reg | (u64)val << 32;
}

void ahci_port_write(struct ahci_port *p, u64 off, u32 val)
{
	struct ahci_port_state *s = &p->s;

	switch (off) {
	case PX_CLB: set_low(&s->clb, val, 0x3ff); break;
	case PX_CLBU: set_high(&s->clb, val); break;
	case PX_FB: set_low(&s->fb, val, 0xff); break;
	case PX_FBU: set_high(&s->fb, val); break;
	case PX_IS:
		/* PCS follows PxSERR. */
		s->is &= ~(val & ~(u32)IS_PCS);
		ahci_update(p->a, false);
		break;
	case PX_IE:
		s->ie = val & 0xfdc000ff;
		ahci_update(p->a, true);
		break;
	case PX_CMD:
		cmd_write(p, val);
		ahci_port_run(p);
		break;
	case PX_SCTL: sctl_write(p, val); break;
	case PX_SERR:
		s->serr &= ~(val & SERR_MASK);
		if (!(s->serr & SERR_X))
			s->is &= ~(u32)IS_PCS;
		break;
	case PX_SACT:
		if (s->cmd & CMD_ST)
			s->sact |= val;
		break;
	case PX_CI:
		if (s->cmd & CMD_ST)
			s->ci |= val;
		ahci_port_run(p);
		break;
	default: break;
	}
}
