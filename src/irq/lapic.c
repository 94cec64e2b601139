/*
 * Local APIC of one CPU, xAPIC and x2APIC.
 *
 * Intel SDM vol. 3, chapter 11 ("APIC"); section numbers below are its. The model is
 * a recent one: version 15h, seven LVT entries, EOI-broadcast suppression, read-only
 * ID, no focus processor, no arbitration bus (send and receive checksum and accept
 * errors cannot happen, delivery status is always idle). The timer is apictimer.c, the
 * way of messages between local APICs is msi.c.
 *
 * Threads. L1: IRR, TMR, pending errors and the ExtINT latch are set by any thread
 * with atomic operations and no lock; an event is reported after the bit is set, so
 * that an owner who clears its event first and looks then misses nothing. L2: all other
 * registers are written by the owner (vCPU thread) with atomic stores and read by
 * any thread. L3: ISR and PPR are the owner's; others read PPR for arbitration
 * as a hint. L4: l->lock covers the pins and LVT LINT0/1 with their remote IRR.
 * Lock order: device, PIC or IOAPIC, l->lock, timer's lock. EOI broadcasts and INTA go up
 * to IOAPIC and PIC, so no lock is held there.
 */
#include "irq/lapic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "irq/apictimer.h"

/* Registers: offset in the window / 16, MSR - 800h (table 11-1, table 11-6). */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09, /* xAPIC only */
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c, /* xAPIC only */
	REG_LDR = 0x0d,
	REG_DFR = 0x0e, /* xAPIC only */
	REG_SVR = 0x0f,
	REG_ISR = 0x10, /* 8 each */
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_LVT_CMCI = 0x2f,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31, /* xAPIC only */
	REG_LVT_TIMER = 0x32,
	REG_LVT_ERROR = 0x37,
	REG_INITIAL = 0x38,
	REG_CURRENT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f, /* x2APIC only */
};

/* Highest LVT entry 6, EOI-broadcast suppression (11.4.8). */
#define VERSION (LAPIC_VERSION | 6u << 16 | BIT(24))

#define SVR_ENABLE           BIT(8)
#define SVR_NO_EOI_BROADCAST BIT(12)
#define SVR_WRITABLE         (BITS(9, 0) | BIT(12)) /* bit 9, focus, has no effect */

#define ICR_WRITABLE 0xccfffu /* without bit 12, delivery status */
#define ICR_ASSERT   BIT(14)
#define ICR_LEVEL    BIT(15)

#define LVT_STATUS     BIT(12)
#define LVT_ACTIVE_LOW BIT(13)
#define LVT_REMOTE_IRR BIT(14)
#define LVT_LEVEL      BIT(15)
#define LVT_MASK       BIT(16)
#define LVT_READ_ONLY  (LVT_STATUS | LVT_REMOTE_IRR)

#define ESR_SEND_ILLEGAL BIT(5)
#define ESR_RECV_ILLEGAL BIT(6)
#define ESR_ILLEGAL_REG  BIT(7)

/* Local vector table: in the order of registers 32h to 37h, CMCI (2Fh) last. */
enum {
	LVT_TIMER,
	LVT_THERMAL,
	LVT_PMI,
	LVT_LINT0,
	LVT_LINT1,
	LVT_ERROR,
	LVT_CMCI,
	LVT_COUNT
};

/* Figure 11-8. */
static const u32 lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PMI] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
	[LVT_CMCI] = 0x107ff,
};

/* lapic_state.inputs */
enum { IN_LINT0 = 1, IN_LINT1 = 2, IN_EXTINT = 4 /* an ExtINT message, not yet taken */ };

struct lapic_state {
	u64 apic_base;
	u32 irr[8], isr[8], tmr[8];
	u32 id;
	u32 tpr;
	u32 ldr;
	u32 dfr;
	u32 svr;
	u32 esr;         /* as the guest reads it */
	u32 esr_pending; /* detected since it last wrote ESR */
	u32 icr_low;
	u32 icr_high;
	u32 lvt[LVT_COUNT];
	u32 inputs; /* IN_* */
	u32 sipi;   /* vector of the last start-up IPI */
};

struct lapic {
	struct lapic_state s;
	struct apic_target target; /* what the bus sees; derived from s */
	struct apictimer timer;
	pthread_mutex_t lock; /* L4 */
	struct lapic_config cfg;
	/* Owner: what the last lapic_has_intr() found. */
	enum { FOUND_NOTHING, FOUND_VECTOR, FOUND_EXTINT } found;
};

static u32 get(const u32 *reg)
{
	return __atomic_load_n(reg, __ATOMIC_ACQUIRE);
}

static void put(u32 *reg, u64 v)
{
	__atomic_store_n(reg, (u32)v, __ATOMIC_RELEASE);
}

static void event(struct lapic *l, unsigned events)
{
	l->cfg.ops->event(l->cfg.opaque, events);
}

static u64 base(const struct lapic *l)
{
	return __atomic_load_n(&l->s.apic_base, __ATOMIC_ACQUIRE);
}

static bool is_on(const struct lapic *l)
{
	return base(l) & APIC_BASE_EN;
}

static bool is_x2apic(const struct lapic *l)
{
	return base(l) & APIC_BASE_EXTD;
}

static bool is_enabled(const struct lapic *l)
{
	return get(&l->s.svr) & SVR_ENABLE;
}

/* Registers that the bus looks at have changed. */
static void update_target(struct lapic *l)
{
	put(&l->target.ldr, l->s.ldr);
	put(&l->target.dfr, l->s.dfr);
	put(&l->target.flags, (is_on(l) ? APIC_T_ON : 0) |
				      (is_x2apic(l) ? APIC_T_X2 : 0) |
				      (is_enabled(l) ? APIC_T_ACCEPTS : 0));
}

/* --- Vectors and priorities (11.8.3, 11.8.4) --------------------------------- */

static bool bitmap_test(const u32 *map, u8 vector)
{
	return get(&map[vector / 32]) & BIT(vector % 32);
}

static void bitmap_set(u32 *map, u8 vector)
{
	__atomic_fetch_or(&map[vector / 32], 1u << vector % 32, __ATOMIC_ACQ_REL);
}

static void bitmap_clear(u32 *map, u8 vector)
{
	__atomic_fetch_and(&map[vector / 32], ~(1u << vector % 32), __ATOMIC_ACQ_REL);
}

/* The highest vector, -1 when there is none. */
static int bitmap_highest(const u32 *map)
{
	for (int i = 7; i >= 0; i--) {
		u32 w = get(&map[i]);

		if (w)
			return i * 32 + 31 - __builtin_clz(w);
	}
	return -1;
}

static u32 ppr(const struct lapic *l)
{
	return get(&l->target.ppr);
}

static void update_ppr(struct lapic *l)
{
	int isrv = bitmap_highest(l->s.isr);
	u32 serving = isrv < 0 ? 0 : (u32)isrv & 0xf0;

	put(&l->target.ppr, (l->s.tpr & 0xf0) >= serving ? l->s.tpr : serving);
}

/* 11.6.2.4, as P6 has it; later processors keep the register and do not use it. */
static u32 apr(const struct lapic *l)
{
	int irrv = bitmap_highest(l->s.irr), isrv = bitmap_highest(l->s.isr);
	u32 tpr = l->s.tpr, requested = irrv < 0 ? 0 : (u32)irrv & 0xf0;
	u32 serving = isrv < 0 ? 0 : (u32)isrv & 0xf0;

	if ((tpr & 0xf0) >= requested && (tpr & 0xf0) > serving)
		return tpr;
	return MAX(tpr & serving & 0xf0, requested);
}

/* The vector that could be delivered now, -1 if none. Owner. */
static int deliverable(const struct lapic *l)
{
	int v;

	if (!is_on(l))
		return -1;
	v = bitmap_highest(l->s.irr);
	return v >= 0 && ((u32)v & 0xf0) > (ppr(l) & 0xf0) ? v : -1;
}

static unsigned lvt_mode(u32 lvt)
{
	return (unsigned)bits_get(lvt, 10, 8);
}

static bool lint_asserted(const struct lapic *l, unsigned pin, u32 lvt)
{
	bool level = (get(&l->s.inputs) >> pin) & 1;
	bool active_low = lvt & LVT_ACTIVE_LOW;

	return level != active_low;
}

/* The PIC asks through LINT0 or by message, or is all there is (11.4.3). Owner. */
static bool extint_active(const struct lapic *l)
{
	u32 lvt = get(&l->s.lvt[LVT_LINT0]);

	if (!l->cfg.ops->inta)
		return false;
	if (!is_on(l))
		return get(&l->s.inputs) & IN_LINT0;
	if (get(&l->s.inputs) & IN_EXTINT)
		return true;
	return !(lvt & LVT_MASK) && lvt_mode(lvt) == APIC_DM_EXTINT &&
	       lint_asserted(l, 0, lvt);
}

/* The owner did something that may have made an interrupt deliverable. */
static void poke(struct lapic *l)
{
	if (deliverable(l) >= 0 || extint_active(l))
		event(l, LAPIC_EV_INTR);
}

bool lapic_has_intr(struct lapic *l)
{
	if (extint_active(l))
		l->found = FOUND_EXTINT;
	else
		l->found = deliverable(l) >= 0 ? FOUND_VECTOR : FOUND_NOTHING;
	return l->found != FOUND_NOTHING;
}

/* --- Accepting interrupts: any thread ---------------------------------------- */

static void local_deliver(struct lapic *l, unsigned entry);

/* 11.5.3: the first error since ESR was last written interrupts. */
static void detect_error(struct lapic *l, u64 bit)
{
	if (!__atomic_fetch_or(&l->s.esr_pending, (u32)bit, __ATOMIC_ACQ_REL))
		local_deliver(l, LVT_ERROR);
}

/* Into IRR. The TMR bit must be right before the IRR bit can be seen (L1). */
static void accept_vector(struct lapic *l, u8 vector, bool level)
{
	u32 bit = 1u << vector % 32;

	if (vector < 16) {
		detect_error(l, ESR_RECV_ILLEGAL);
		return;
	}
	if (bitmap_test(l->s.tmr, vector) != level) {
		if (level)
			bitmap_set(l->s.tmr, vector);
		else
			bitmap_clear(l->s.tmr, vector);
	}
	/* When the bit is set already, whoever set it reports it. */
	if (!(__atomic_fetch_or(&l->s.irr[vector / 32], bit, __ATOMIC_ACQ_REL) & bit))
		event(l, LAPIC_EV_INTR);
}

/* 11.4.7.2: a local APIC that software disabled takes no fixed interrupts. */
void lapic_post(struct lapic *l, u8 vector, bool level)
{
	if (is_on(l) && is_enabled(l))
		accept_vector(l, vector, level);
}

static void deliver_msg(void *opaque, const struct apic_msg *msg)
{
	struct lapic *l = opaque;

	switch (msg->mode) {
	case APIC_DM_FIXED:
	case APIC_DM_LOWEST: lapic_post(l, msg->vector, msg->level); break;
	case APIC_DM_SMI: event(l, LAPIC_EV_SMI); break;
	case APIC_DM_NMI: event(l, LAPIC_EV_NMI); break;
	case APIC_DM_INIT: event(l, LAPIC_EV_INIT); break;
	case APIC_DM_STARTUP:
		put(&l->s.sipi, msg->vector);
		event(l, LAPIC_EV_SIPI);
		break;
	case APIC_DM_EXTINT:
		if (is_enabled(l)) {
			__atomic_fetch_or(&l->s.inputs, IN_EXTINT, __ATOMIC_ACQ_REL);
			event(l, LAPIC_EV_INTR);
		}
		break;
	default: break;
	}
}

/* An event of a local source, mask aside. */
static void deliver_lvt(struct lapic *l, u32 lvt, bool level)
{
	switch (lvt_mode(lvt)) {
	case APIC_DM_FIXED: accept_vector(l, (u8)lvt, level); break;
	case APIC_DM_SMI: event(l, LAPIC_EV_SMI); break;
	case APIC_DM_NMI: event(l, LAPIC_EV_NMI); break;
	case APIC_DM_INIT: event(l, LAPIC_EV_INIT); break;
	default: break; /* reserved; ExtINT is a level at LINT0, not an event */
	}
}

static void local_deliver(struct lapic *l, unsigned entry)
{
	u32 lvt = get(&l->s.lvt[entry]);

	if (is_on(l) && !(lvt & LVT_MASK))
		deliver_lvt(l, lvt, false);
}

void lapic_raise(struct lapic *l, enum lapic_source src)
{
	static const u8 entry[] = {
		[LAPIC_SRC_CMCI] = LVT_CMCI,
		[LAPIC_SRC_THERMAL] = LVT_THERMAL,
		[LAPIC_SRC_PMI] = LVT_PMI,
	};

	local_deliver(l, entry[src]);
	/* 11.5.1: a performance counter interrupt masks its entry. */
	if (src == LAPIC_SRC_PMI)
		__atomic_fetch_or(&l->s.lvt[LVT_PMI], (u32)LVT_MASK, __ATOMIC_ACQ_REL);
}

/* The timer's own mask decides: what was due before the LVT changed is still due. */
static void timer_expired(void *opaque)
{
	struct lapic *l = opaque;

	if (is_on(l) && is_enabled(l))
		deliver_lvt(l, get(&l->s.lvt[LVT_TIMER]), false);
}

/* 11.5.1: trigger mode counts for fixed only, and LINT1 is edge-triggered in any case. */
static bool lint_is_level(unsigned pin, u32 lvt)
{
	return pin == 0 && (lvt & LVT_LEVEL) && lvt_mode(lvt) == APIC_DM_FIXED;
}

/* A level at LINT0 that is due. With l->lock. */
static void service_lint0(struct lapic *l)
{
	u32 lvt = l->s.lvt[LVT_LINT0];

	if (is_on(l) && lint_is_level(0, lvt) && !(lvt & (LVT_MASK | LVT_REMOTE_IRR)) &&
	    lint_asserted(l, 0, lvt)) {
		put(&l->s.lvt[LVT_LINT0], lvt | LVT_REMOTE_IRR);
		deliver_lvt(l, lvt, true);
	}
}

static void lint_changed(struct lapic *l, unsigned pin, bool was)
{
	u32 lvt = l->s.lvt[LVT_LINT0 + pin];

	if (!lint_asserted(l, pin, lvt) || (lvt & LVT_MASK))
		return;
	if (lvt_mode(lvt) == APIC_DM_EXTINT)
		event(l, LAPIC_EV_INTR);
	else if (lint_is_level(pin, lvt))
		service_lint0(l);
	else if (!was)
		deliver_lvt(l, lvt, false);
}

void lapic_lint_set(void *chip, unsigned pin, bool level)
{
	struct lapic *l = chip;
	u32 bit = pin ? IN_LINT1 : IN_LINT0;
	bool was, was_high;

	if (pin > 1)
		return;
	pthread_mutex_lock(&l->lock);
	was_high = get(&l->s.inputs) & bit;
	was = lint_asserted(l, pin, l->s.lvt[LVT_LINT0 + pin]);
	if (level)
		__atomic_fetch_or(&l->s.inputs, bit, __ATOMIC_ACQ_REL);
	else
		__atomic_fetch_and(&l->s.inputs, ~bit, __ATOMIC_ACQ_REL);
	if (is_on(l))
		lint_changed(l, pin, was);
	else if (level && !was_high)
		/* 11.4.3: the pins are INTR and NMI of the processor. */
		event(l, pin ? LAPIC_EV_NMI : LAPIC_EV_INTR);
	pthread_mutex_unlock(&l->lock);
}

/* --- Acknowledge and end of interrupt: owner --------------------------------- */

int lapic_take(struct lapic *l)
{
	int v, found = l->found;

	l->found = FOUND_NOTHING;
	/* When the PIC withdrew after INTR was seen, the INTA cycle runs all the same. */
	if (extint_active(l) || (found == FOUND_EXTINT && l->cfg.ops->inta)) {
		__atomic_fetch_and(&l->s.inputs, ~(u32)IN_EXTINT, __ATOMIC_ACQ_REL);
		return l->cfg.ops->inta(l->cfg.opaque);
	}
	v = deliverable(l);
	if (v < 0) /* 11.9 */
		return found == FOUND_VECTOR && is_on(l) ? (int)(l->s.svr & 0xff) : -1;
	/* ISR first: a saver or a debugger never sees the interrupt in neither. */
	bitmap_set(l->s.isr, (u8)v);
	bitmap_clear(l->s.irr, (u8)v);
	update_ppr(l);
	return v;
}

static void eoi_lint0(struct lapic *l, u8 vector)
{
	u32 lvt;

	pthread_mutex_lock(&l->lock);
	lvt = l->s.lvt[LVT_LINT0];
	if ((lvt & LVT_REMOTE_IRR) && (lvt & 0xff) == vector) {
		put(&l->s.lvt[LVT_LINT0], lvt & ~LVT_REMOTE_IRR);
		service_lint0(l);
	}
	pthread_mutex_unlock(&l->lock);
}

/* 11.8.5 */
static void write_eoi(struct lapic *l)
{
	int v = bitmap_highest(l->s.isr);
	bool level;

	if (v < 0)
		return;
	level = bitmap_test(l->s.tmr, (u8)v);
	bitmap_clear(l->s.isr, (u8)v);
	update_ppr(l);
	/* Without the lock: remote IRR was set before the vector that ends here was
	 * accepted. */
	if (get(&l->s.lvt[LVT_LINT0]) & LVT_REMOTE_IRR)
		eoi_lint0(l, (u8)v);
	if (level && !(l->s.svr & SVR_NO_EOI_BROADCAST))
		apic_bus_eoi(l->cfg.bus, (u8)v);
	poke(l);
}

/* --- Registers: owner -------------------------------------------------------- */

static void write_tpr(struct lapic *l, u32 val)
{
	u32 old = ppr(l);

	put(&l->s.tpr, val & 0xff);
	update_ppr(l);
	if (ppr(l) < old)
		poke(l);
}

/* 11.6.1 */
static void write_icr(struct lapic *l, u32 low, u32 high)
{
	bool x2 = is_x2apic(l);
	struct apic_msg msg = {
		.dest = x2 ? high : high >> 24,
		.vector = (u8)low,
		.mode = (u8)bits_get(low, 10, 8),
		.shorthand = (u8)bits_get(low, 19, 18),
		.logical = low & BIT(11),
		.wide = x2,
		/* Trigger mode is for INIT level de-assert; IPIs are edge-triggered. */
		.level = false,
	};

	if (msg.mode == 3 || msg.mode == 7) {
		guest_bug("lapic", "reserved delivery mode in ICR %08x", low);
		return;
	}
	/* Arbitration IDs, which it would synchronise, went with the APIC bus. */
	if (msg.mode == APIC_DM_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT))
		return;
	if (msg.mode <= APIC_DM_LOWEST && msg.vector < 16) {
		detect_error(l, ESR_SEND_ILLEGAL);
		return;
	}
	if (msg.shorthand == APIC_SH_SELF)
		deliver_msg(l, &msg);
	else
		apic_bus_send(l->cfg.bus, &l->target, &msg);
}

/*
 * While the timer is not masked the entry has its vector: what was due before the entry
 * became masked still finds the old one.
 */
static void write_lvt_timer(struct lapic *l, u32 val)
{
	unsigned mode;

	if (!l->cfg.tsc_deadline)
		val &= ~(u32)BIT(18);
	mode = (unsigned)bits_get(val, 18, 17);
	if (val & LVT_MASK) {
		apictimer_set_lvt(&l->timer, mode, true);
		put(&l->s.lvt[LVT_TIMER], val);
	} else {
		put(&l->s.lvt[LVT_TIMER], val);
		apictimer_set_lvt(&l->timer, mode, false);
	}
}

static void write_lvt(struct lapic *l, unsigned entry, u32 val)
{
	u32 *lvt = &l->s.lvt[entry];

	val &= lvt_writable[entry];
	if (!is_enabled(l))
		val |= LVT_MASK;
	if (entry == LVT_LINT0 || entry == LVT_LINT1) {
		pthread_mutex_lock(&l->lock);
		/* Remote IRR belongs to a level-triggered entry. */
		if (lint_is_level(entry - LVT_LINT0, val))
			val |= *lvt & LVT_REMOTE_IRR;
		put(lvt, val);
		if (entry == LVT_LINT0)
			service_lint0(l);
		pthread_mutex_unlock(&l->lock);
		poke(l);
		return;
	}
	if (entry == LVT_TIMER)
		write_lvt_timer(l, val);
	else
		put(lvt, val);
}

static void write_svr(struct lapic *l, u32 val)
{
	put(&l->s.svr, val & SVR_WRITABLE);
	/* 11.4.7.2: all entries become masked. */
	if (!(val & SVR_ENABLE))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			write_lvt(l, i, l->s.lvt[i]);
	update_target(l);
}

static bool lvt_entry(unsigned reg, unsigned *entry)
{
	if (reg == REG_LVT_CMCI)
		*entry = LVT_CMCI;
	else if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR)
		*entry = reg - REG_LVT_TIMER;
	else
		return false;
	return true;
}

/* A register of either mode. False: reserved. */
static bool reg_read(struct lapic *l, unsigned reg, u32 *val)
{
	unsigned entry;

	if (reg >= REG_ISR && reg < REG_ESR) {
		const u32 *map = reg < REG_TMR   ? l->s.isr
				 : reg < REG_IRR ? l->s.tmr
						 : l->s.irr;

		*val = get(&map[reg & 7]);
		return true;
	}
	if (lvt_entry(reg, &entry)) {
		*val = get(&l->s.lvt[entry]);
		return true;
	}
	switch (reg) {
	case REG_ID: *val = is_x2apic(l) ? l->s.id : l->s.id << 24; break;
	case REG_VERSION: *val = VERSION; break;
	case REG_TPR: *val = l->s.tpr; break;
	case REG_APR: *val = apr(l); break;
	case REG_PPR: *val = ppr(l); break;
	case REG_EOI: *val = 0; break;
	case REG_RRD: *val = 0; break;
	case REG_LDR: *val = l->s.ldr; break;
	case REG_DFR: *val = l->s.dfr; break;
	case REG_SVR: *val = l->s.svr; break;
	case REG_ESR: *val = l->s.esr; break;
	case REG_ICR: *val = l->s.icr_low; break;
	case REG_ICR_HIGH: *val = l->s.icr_high; break;
	case REG_INITIAL: *val = apictimer_read_initial(&l->timer); break;
	case REG_CURRENT: *val = apictimer_read_current(&l->timer); break;
	case REG_DIVIDE: *val = apictimer_read_divide(&l->timer); break;
	default: return false;
	}
	return true;
}

/* What both modes can write; reserved bits have been dealt with. */
static void reg_write(struct lapic *l, unsigned reg, u32 val)
{
	unsigned entry;

	if (lvt_entry(reg, &entry)) {
		write_lvt(l, entry, val);
		return;
	}
	switch (reg) {
	case REG_TPR: write_tpr(l, val); break;
	case REG_EOI: write_eoi(l); break;
	case REG_SVR: write_svr(l, val); break;
	case REG_ESR:
		put(&l->s.esr,
		    __atomic_exchange_n(&l->s.esr_pending, 0, __ATOMIC_ACQ_REL));
		break;
	case REG_INITIAL: apictimer_write_initial(&l->timer, val); break;
	case REG_DIVIDE: apictimer_write_divide(&l->timer, val & 0xb); break;
	default: break; /* read-only */
	}
}

/* --- xAPIC window (11.4.1) --------------------------------------------------- */

static bool is_xapic(const struct lapic *l)
{
	return (base(l) & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN;
}

/*
 * Registers are the first 4 of each 16 bytes. Processors return the bytes that a narrow
 * load asks for; what the other 12 bytes do is undefined, here they read as 0.
 */
static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	struct lapic *l = dev;
	unsigned byte = off & 15;
	u32 val = 0;

	if (!is_xapic(l))
		return size_mask(size);
	if (byte + size > 4) {
		guest_bug("lapic", "read of %u bytes at %03x", size, (unsigned)off);
		return 0;
	}
	if (!reg_read(l, (unsigned)(off >> 4), &val)) {
		guest_bug("lapic", "read of reserved register %03x", (unsigned)off);
		detect_error(l, ESR_ILLEGAL_REG);
	}
	return (val >> byte * 8) & size_mask(size);
}

static void mmio_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct lapic *l = dev;
	unsigned reg = (unsigned)(off >> 4);
	u32 dummy;

	if (!is_xapic(l))
		return;
	if (size != 4 || (off & 15)) {
		guest_bug("lapic", "write of %u bytes at %03x", size, (unsigned)off);
		return;
	}
	switch (reg) {
	case REG_LDR:
		put(&l->s.ldr, val & 0xff000000);
		update_target(l);
		break;
	case REG_DFR:
		put(&l->s.dfr, (u32)val | 0x0fffffff);
		update_target(l);
		break;
	case REG_ICR_HIGH: put(&l->s.icr_high, val & 0xff000000); break;
	case REG_ICR:
		put(&l->s.icr_low, val & ICR_WRITABLE);
		write_icr(l, l->s.icr_low, l->s.icr_high);
		break;
	case REG_ID: /* read-only on this model (11.4.6) */
	default:
		/* Registers that exist and can only be read ignore it. */
		if (reg_read(l, reg, &dummy)) {
			reg_write(l, reg, (u32)val);
			break;
		}
		guest_bug("lapic", "write of reserved register %03x", (unsigned)off);
		detect_error(l, ESR_ILLEGAL_REG);
		break;
	}
}

const struct io_ops lapic_mmio_ops = {
	.read = mmio_read,
	.write = mmio_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

bool lapic_window(const struct lapic *l, u64 *at)
{
	*at = base(l) & BITS(51, 12);
	return is_xapic(l);
}

/* --- x2APIC registers (11.12.1) ---------------------------------------------- */

/* The bits that WRMSR may set in a register that it may write; read-only bits are
 * ignored. */
static bool x2apic_writable(const struct lapic *l, unsigned reg, u64 *bits)
{
	unsigned entry;

	if (lvt_entry(reg, &entry)) {
		*bits = lvt_writable[entry] | LVT_STATUS;
		if (entry == LVT_LINT0 || entry == LVT_LINT1)
			*bits |= LVT_REMOTE_IRR;
		if (entry == LVT_TIMER && !l->cfg.tsc_deadline)
			*bits &= ~BIT(18);
		return true;
	}
	switch (reg) {
	case REG_TPR: *bits = 0xff; return true;
	case REG_EOI: *bits = 0; return true;
	case REG_SVR: *bits = SVR_WRITABLE; return true;
	case REG_ESR: *bits = 0; return true;
	/* Bit 12 was the delivery status; processors let it pass. */
	case REG_ICR: *bits = ICR_WRITABLE | BIT(12) | BITS(63, 32); return true;
	case REG_INITIAL: *bits = 0xffffffff; return true;
	case REG_DIVIDE: *bits = 0xb; return true;
	case REG_SELF_IPI: *bits = 0xff; return true;
	default: return false;
	}
}

bool lapic_msr_read(struct lapic *l, u32 msr, u64 *val)
{
	unsigned reg = msr - 0x800;
	u32 v;

	if (!is_x2apic(l))
		return false;
	switch (reg) {
	case REG_APR:
	case REG_EOI:
	case REG_RRD:
	case REG_DFR:
	case REG_ICR_HIGH:
	case REG_SELF_IPI: return false;
	default: break;
	}
	if (!reg_read(l, reg, &v))
		return false;
	*val = reg == REG_ICR ? (u64)l->s.icr_high << 32 | v : v;
	return true;
}

static void write_self_ipi(struct lapic *l, u8 vector)
{
	if (vector < 16)
		detect_error(l, ESR_SEND_ILLEGAL);
	else
		lapic_post(l, vector, false);
}

bool lapic_msr_write(struct lapic *l, u32 msr, u64 val)
{
	unsigned reg = msr - 0x800;
	u64 bits;

	if (!is_x2apic(l) || !x2apic_writable(l, reg, &bits) || (val & ~bits))
		return false;
	if (reg == REG_ICR) {
		put(&l->s.icr_low, val & ICR_WRITABLE);
		put(&l->s.icr_high, val >> 32);
		write_icr(l, l->s.icr_low, l->s.icr_high);
	} else if (reg == REG_SELF_IPI) {
		write_self_ipi(l, (u8)val);
	} else {
		reg_write(l, reg, (u32)val);
	}
	return true;
}

/* --- Modes (11.4.3, 11.12.5) ------------------------------------------------- */

/* 11.12.10.2 */
static u32 x2apic_ldr(u32 id)
{
	return id >> 4 << 16 | 1u << (id & 0xf);
}

/* 11.4.7.1: everything but ID, IA32_APIC_BASE and what the pins are at. */
static void reset_registers(struct lapic *l)
{
	struct lapic_state *s = &l->s;

	for (unsigned i = 0; i < 8; i++) {
		put(&s->irr[i], 0);
		put(&s->isr[i], 0);
		put(&s->tmr[i], 0);
	}
	put(&s->tpr, 0);
	put(&s->ldr, is_x2apic(l) ? x2apic_ldr(s->id) : 0);
	put(&s->dfr, 0xffffffff);
	put(&s->svr, 0xff);
	put(&s->esr, 0);
	put(&s->esr_pending, 0);
	put(&s->icr_low, 0);
	put(&s->icr_high, 0);
	pthread_mutex_lock(&l->lock);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		put(&s->lvt[i], LVT_MASK);
	__atomic_fetch_and(&s->inputs, ~(u32)IN_EXTINT, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&l->lock);
	apictimer_reset(&l->timer);
	l->found = FOUND_NOTHING;
	update_ppr(l);
	update_target(l);
}

static void set_base(struct lapic *l, u64 val)
{
	__atomic_store_n(&l->s.apic_base, val, __ATOMIC_RELEASE);
}

u64 lapic_base_read(const struct lapic *l)
{
	return base(l);
}

/* Can IA32_APIC_BASE have this value on this CPU at all? */
static bool base_is_legal(const struct lapic_config *cfg, u64 val)
{
	u64 legal = APIC_BASE_BSP | APIC_BASE_EN | BITS(cfg->phys_bits - 1, 12);

	if (cfg->x2apic)
		legal |= APIC_BASE_EXTD;
	return !(val & ~legal) && (!(val & APIC_BASE_EXTD) || (val & APIC_BASE_EN));
}

bool lapic_base_write(struct lapic *l, u64 val)
{
	u64 mode = APIC_BASE_EN | APIC_BASE_EXTD;
	u64 old = base(l) & mode, new = val &mode;

	if (!base_is_legal(&l->cfg, val))
		return false;
	/* Figure 11-27: into x2APIC only from xAPIC, and out of it only to disabled. */
	if (old != new &&
	    ((new == mode &&old != APIC_BASE_EN) || (old == mode && new == APIC_BASE_EN)))
		return false;
	set_base(l, val);
	if (old != new) {
		if (new == mode) {
			/* 11.12.5.1: the other registers stay. */
			put(&l->s.ldr, x2apic_ldr(l->s.id));
			put(&l->s.icr_high, 0);
			update_target(l);
		} else {
			reset_registers(l);
		}
		poke(l);
	}
	if (l->cfg.ops->base_changed)
		l->cfg.ops->base_changed(l->cfg.opaque, val);
	return true;
}

u64 lapic_tsc_deadline_read(struct lapic *l)
{
	return apictimer_read_deadline(&l->timer);
}

void lapic_tsc_deadline_write(struct lapic *l, u64 tsc)
{
	if (is_on(l))
		apictimer_write_deadline(&l->timer, tsc);
}

void lapic_tsc_changed(struct lapic *l)
{
	apictimer_tsc_changed(&l->timer);
}

u64 lapic_cr8_read(const struct lapic *l)
{
	return l->s.tpr >> 4;
}

void lapic_cr8_write(struct lapic *l, u64 val)
{
	write_tpr(l, (u32)(val & 0xf) << 4);
}

u8 lapic_sipi_vector(const struct lapic *l)
{
	return (u8)get(&l->s.sipi);
}

u32 lapic_id(const struct lapic *l)
{
	return l->cfg.id;
}

void lapic_init(struct lapic *l)
{
	reset_registers(l);
}

void lapic_reset(struct lapic *l)
{
	u64 val = LAPIC_BASE_DEFAULT | APIC_BASE_EN | (l->cfg.is_bsp ? APIC_BASE_BSP : 0);

	set_base(l, val);
	put(&l->s.sipi, 0);
	reset_registers(l);
	if (l->cfg.ops->base_changed)
		l->cfg.ops->base_changed(l->cfg.opaque, val);
}

void lapic_virtual_wire(struct lapic *l)
{
	write_svr(l, 0x1ff);
	write_lvt(l, LVT_LINT0, APIC_DM_EXTINT << 8);
	write_lvt(l, LVT_LINT1, APIC_DM_NMI << 8);
}

/* --- Life -------------------------------------------------------------------- */

static vns_t tsc_to_vns(void *opaque, u64 tsc)
{
	struct lapic *l = opaque;

	return l->cfg.ops->tsc_to_vns(l->cfg.opaque, tsc);
}

static u64 vns_to_tsc(void *opaque, vns_t t)
{
	struct lapic *l = opaque;

	return l->cfg.ops->vns_to_tsc(l->cfg.opaque, t);
}

static const struct apictimer_ops timer_ops = { .expired = timer_expired };
static const struct apictimer_ops timer_ops_tsc = {
	.expired = timer_expired,
	.tsc_to_vns = tsc_to_vns,
	.vns_to_tsc = vns_to_tsc,
};

struct lapic *lapic_new(const struct lapic_config *cfg)
{
	struct lapic *l = xzalloc(sizeof(*l));

	l->cfg = *cfg;
	if (!l->cfg.phys_bits)
		l->cfg.phys_bits = 52;
	if (!l->cfg.timer_hz)
		l->cfg.timer_hz = LAPIC_TIMER_HZ;
	if (!cfg->ops->tsc_to_vns || !cfg->ops->vns_to_tsc)
		l->cfg.tsc_deadline = false;
	l->s.id = cfg->id;
	l->target.id = cfg->id;
	l->target.deliver = deliver_msg;
	l->target.opaque = l;
	if (!apic_bus_add(cfg->bus, &l->target)) {
		free(l);
		return NULL;
	}
	pthread_mutex_init(&l->lock, NULL);
	apictimer_init(&l->timer, cfg->clk, l->cfg.timer_hz,
		       l->cfg.tsc_deadline ? &timer_ops_tsc : &timer_ops, l);
	set_base(l,
		 LAPIC_BASE_DEFAULT | APIC_BASE_EN | (cfg->is_bsp ? APIC_BASE_BSP : 0));
	reset_registers(l);
	return l;
}

struct bell *lapic_bell(struct lapic *l, void (*ring)(void *opaque), void *opaque)
{
	return apictimer_bell(&l->timer, ring, opaque);
}

void lapic_free(struct lapic *l)
{
	if (!l)
		return;
	apic_bus_remove(l->cfg.bus, &l->target);
	apictimer_fini(&l->timer);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static const struct state_field lapic_fields[] = {
	STATE_FIELD(struct lapic_state, apic_base, 1),
	STATE_ARRAY(struct lapic_state, irr, 1),
	STATE_ARRAY(struct lapic_state, isr, 1),
	STATE_ARRAY(struct lapic_state, tmr, 1),
	STATE_FIELD(struct lapic_state, id, 1),
	STATE_FIELD(struct lapic_state, tpr, 1),
	STATE_FIELD(struct lapic_state, ldr, 1),
	STATE_FIELD(struct lapic_state, dfr, 1),
	STATE_FIELD(struct lapic_state, svr, 1),
	STATE_FIELD(struct lapic_state, esr, 1),
	STATE_FIELD(struct lapic_state, esr_pending, 1),
	STATE_FIELD(struct lapic_state, icr_low, 1),
	STATE_FIELD(struct lapic_state, icr_high, 1),
	STATE_ARRAY(struct lapic_state, lvt, 1),
	STATE_FIELD(struct lapic_state, inputs, 1),
	STATE_FIELD(struct lapic_state, sipi, 1),
	{ 0 },
};

static bool lapic_valid(const void *state)
{
	const struct lapic_state *s = state;
	bool x2 = s->apic_base & APIC_BASE_EXTD;

	if ((s->irr[0] | s->isr[0] | s->tmr[0]) & 0xffff)
		return false;
	for (unsigned i = 0; i < LVT_COUNT; i++) {
		u32 bits = lvt_writable[i];

		if (i == LVT_LINT0 && lint_is_level(0, s->lvt[i]))
			bits |= LVT_REMOTE_IRR;
		if ((s->lvt[i] & ~bits) ||
		    (!(s->svr & SVR_ENABLE) && !(s->lvt[i] & LVT_MASK)))
			return false;
	}
	return s->tpr <= 0xff && !(s->svr & ~SVR_WRITABLE) && s->esr <= 0xff &&
	       s->esr_pending <= 0xff && !(s->icr_low & ~ICR_WRITABLE) &&
	       (s->dfr & 0x0fffffff) == 0x0fffffff && s->inputs <= 7 && s->sipi <= 0xff &&
	       (x2 ? s->ldr == x2apic_ldr(s->id)
		   : !(s->ldr & 0xffffff) && !(s->icr_high & 0xffffff));
}

const struct state_desc lapic_desc = {
	.name = "lapic",
	.size = sizeof(struct lapic_state),
	.version = 1,
	.fields = lapic_fields,
	.valid = lapic_valid,
};

void lapic_save(const struct lapic *l, struct state_buf *b)
{
	state_save(b, &lapic_desc, l->cfg.id, &l->s);
	apictimer_save(&l->timer, b, l->cfg.id);
}

static bool timer_agrees(const struct apictimer_state *t, u32 lvt)
{
	return t->mode == bits_get(lvt, 18, 17) && t->masked == !!(lvt & LVT_MASK);
}

int lapic_load(struct lapic *l, struct state_buf *b, struct error *err)
{
	struct lapic_state s = l->s;
	int ret = state_load(b, &lapic_desc, l->cfg.id, &s, err);

	if (ret)
		return ret;
	if (s.id != l->cfg.id || !base_is_legal(&l->cfg, s.apic_base))
		return error_set(err, -EINVAL,
				 "state of lapic %u: a value is out of range", l->cfg.id);
	ret = apictimer_load(&l->timer, b, l->cfg.id, err);
	if (ret)
		return ret;
	if (!timer_agrees(&l->timer.s, s.lvt[LVT_TIMER])) {
		apictimer_reset(&l->timer);
		return error_set(err, -EINVAL,
				 "state of lapic %u: timer and LVT disagree", l->cfg.id);
	}
	l->s = s;
	l->found = FOUND_NOTHING;
	update_ppr(l);
	update_target(l);
	if (l->cfg.ops->base_changed)
		l->cfg.ops->base_changed(l->cfg.opaque, base(l));
	poke(l);
	return 0;
}
