/*
 * ACPI fixed hardware: PM1a event and control, GPE0, SMI command port, port cf9h.
 *
 * ACPI 6.4, sections 4.8.3 and 4.8.4; the layout of PM1a_CNT, the SLP_TYP values and
 * the reset control register as in Intel's ICH9 (316972, sections 13.7.5 and
 * 13.8.3). SCI_EN can be written directly, as there, because firmware does
 * it on resume. The SMI command port only knows the two ACPI commands: there is no
 * system management mode behind it.
 * Deliberately missing: power button override after 4 s, RTC wake, bus master and
 * global status events.
 *
 * Lock: 'lock' covers 's'; taken on vCPU threads, the timer thread and whoever
 * presses a button. The outputs are called without it.
 */
#include "dev/acpi_pm.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"

/* PM1 status and enable, table 4.11 and 4.12. */
enum {
	PM1_TMR = 0x0001,
	PM1_GBL = 0x0020,
	PM1_PWRBTN = 0x0100,
	PM1_SLPBTN = 0x0200,
	PM1_RTC = 0x0400,
	PM1_WAK = 0x8000,
	PM1_EVENTS = PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC,
	PM1_ENABLES = PM1_TMR | PM1_EVENTS,
};

/* PM1 control, table 4.13. */
enum {
	CNT_SCI_EN = 0x0001,
	CNT_BM_RLD = 0x0002,
	CNT_SLP_TYP = 0x1c00,
	CNT_SLP_EN = 0x2000,
	CNT_KEPT = CNT_SCI_EN | CNT_BM_RLD | CNT_SLP_TYP,
};

/* RST_CNT, ICH9 13.7.5. */
enum {
	RST_SYS = 0x02,
	RST_CPU = 0x04,
	RST_FULL = 0x08,
	RST_KEPT = RST_SYS | RST_CPU | RST_FULL
};

/* Guest-visible state. TMR_STS is the PM timer's. */
struct acpi_pm_state {
	u16 pm1_sts, pm1_en, pm1_cnt;
	u16 rst_cnt;
	u8 gpe_sts[ACPI_PM_GPES / 8], gpe_en[ACPI_PM_GPES / 8];
	u8 apm_cnt, apm_sts;
};

static const struct state_field acpi_pm_fields[] = {
	STATE_FIELD(struct acpi_pm_state, pm1_sts, 1),
	STATE_FIELD(struct acpi_pm_state, pm1_en, 1),
	STATE_FIELD(struct acpi_pm_state, pm1_cnt, 1),
	STATE_FIELD(struct acpi_pm_state, rst_cnt, 1),
	STATE_ARRAY(struct acpi_pm_state, gpe_sts, 1),
	STATE_ARRAY(struct acpi_pm_state, gpe_en, 1),
	STATE_FIELD(struct acpi_pm_state, apm_cnt, 1),
	STATE_FIELD(struct acpi_pm_state, apm_sts, 1),
	{ 0 },
};

static bool acpi_pm_valid(const void *state)
{
	const struct acpi_pm_state *s = state;

	return !(s->pm1_sts & ~(PM1_EVENTS | PM1_WAK)) && !(s->pm1_en & ~PM1_ENABLES) &&
	       !(s->pm1_cnt & ~CNT_KEPT) && !(s->rst_cnt & ~RST_KEPT);
}

const struct state_desc acpi_pm_desc = {
	.name = "acpi_pm",
	.size = sizeof(struct acpi_pm_state),
	.version = 1,
	.fields = acpi_pm_fields,
	.valid = acpi_pm_valid,
};

struct acpi_pm {
	struct acpi_pm_state s;
	pthread_mutex_t lock;
	struct irq_line sci;
	struct pmtimer *tmr;
	bool acpi_on;
	struct acpi_pm_outputs out;
};

/* ---- lock held ---- */

static u16 pm1_sts(struct acpi_pm *a)
{
	return a->s.pm1_sts | (a->tmr && pmtimer_status(a->tmr) ? PM1_TMR : 0);
}

/* 4.8.3.1: the SCI is the level of all enabled status bits, while in ACPI mode. */
static void update_sci(struct acpi_pm *a)
{
	const struct acpi_pm_state *s = &a->s;
	bool level = pm1_sts(a) & s->pm1_en;

	for (unsigned i = 0; i < sizeof(s->gpe_sts); i++)
		level |= (s->gpe_sts[i] & s->gpe_en[i]) != 0;
	irq_set(&a->sci, level && s->pm1_cnt & CNT_SCI_EN);
}

static void update_timer(struct acpi_pm *a)
{
	if (a->tmr)
		pmtimer_set_enable(a->tmr, a->s.pm1_en & PM1_TMR);
}

/* Write 'size' bytes of val at byte 'off' of a 16-bit register. */
static u16 merge(u16 old, u64 off, u64 val, unsigned size)
{
	unsigned shift = off & 1 ? 8 : 0;
	u16 mask = (u16)(size_mask(size) << shift);

	return (u16)((old & ~mask) | ((val << shift) & mask));
}

/* ---- PM1a event ---- */

static u64 evt_read(void *dev, u64 off, unsigned size)
{
	struct acpi_pm *a = dev;
	u16 v;

	pthread_mutex_lock(&a->lock);
	v = off < 2 ? pm1_sts(a) : a->s.pm1_en;
	pthread_mutex_unlock(&a->lock);
	return v >> (off & 1 ? 8 : 0) & size_mask(size);
}

static void evt_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *a = dev;

	pthread_mutex_lock(&a->lock);
	if (off < 2) {
		u16 clear = merge(0, off, val, size);

		a->s.pm1_sts &= (u16)~clear;
		if (clear & PM1_TMR && a->tmr)
			pmtimer_clear_status(a->tmr);
	} else {
		a->s.pm1_en = merge(a->s.pm1_en, off, val, size) & PM1_ENABLES;
		update_timer(a);
	}
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
}

const struct io_ops acpi_pm_evt_ops = {
	.read = evt_read,
	.write = evt_write,
	.sizes = IO_1 | IO_2,
};

/* ---- PM1a control ---- */

static u64 cnt_read(void *dev, u64 off, unsigned size)
{
	struct acpi_pm *a = dev;
	u16 v;

	pthread_mutex_lock(&a->lock);
	v = a->s.pm1_cnt;
	pthread_mutex_unlock(&a->lock);
	return v >> (off & 1 ? 8 : 0) & size_mask(size);
}

static void cnt_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *a = dev;
	u16 v;

	pthread_mutex_lock(&a->lock);
	v = merge(a->s.pm1_cnt, off, val, size);
	a->s.pm1_cnt = v & CNT_KEPT;
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
	if (v & CNT_SLP_EN && a->out.sleep)
		a->out.sleep(a->out.opaque, (unsigned)bits_get(v, 12, 10));
}

const struct io_ops acpi_pm_cnt_ops = {
	.read = cnt_read,
	.write = cnt_write,
	.sizes = IO_1 | IO_2,
};

/* ---- GPE0: status bytes, then enable bytes ---- */

static u64 gpe_read(void *dev, u64 off, unsigned size)
{
	struct acpi_pm *a = dev;
	const unsigned n = sizeof(a->s.gpe_sts);
	u8 v;

	(void)size;
	pthread_mutex_lock(&a->lock);
	v = off < n ? a->s.gpe_sts[off] : a->s.gpe_en[(off - n) % n];
	pthread_mutex_unlock(&a->lock);
	return v;
}

static void gpe_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *a = dev;
	const unsigned n = sizeof(a->s.gpe_sts);

	(void)size;
	pthread_mutex_lock(&a->lock);
	if (off < n)
		a->s.gpe_sts[off] &= (u8)~val;
	else
		a->s.gpe_en[(off - n) % n] = (u8)val;
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
}

const struct io_ops acpi_pm_gpe_ops = { .read = gpe_read,
					.write = gpe_write,
					.sizes = IO_1 };

/* ---- SMI command port b2h and its data port b3h ---- */

static u64 smi_read(void *dev, u64 off, unsigned size)
{
	struct acpi_pm *a = dev;
	u8 v;

	(void)size;
	pthread_mutex_lock(&a->lock);
	v = off ? a->s.apm_sts : a->s.apm_cnt;
	pthread_mutex_unlock(&a->lock);
	return v;
}

static void smi_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *a = dev;

	(void)size;
	pthread_mutex_lock(&a->lock);
	if (off) {
		a->s.apm_sts = (u8)val;
	} else {
		a->s.apm_cnt = (u8)val;
		if (val == ACPI_SMI_ENABLE)
			a->s.pm1_cnt |= CNT_SCI_EN;
		else if (val == ACPI_SMI_DISABLE)
			a->s.pm1_cnt &= (u16)~CNT_SCI_EN;
		else
			guest_bug("acpi", "unknown SMI command %#x", (unsigned)val);
		update_sci(a);
	}
	pthread_mutex_unlock(&a->lock);
}

const struct io_ops acpi_pm_smi_ops = { .read = smi_read,
					.write = smi_write,
					.sizes = IO_1 };

/* ---- reset control, port cf9h ---- */

static u64 rst_read(void *dev, u64 off, unsigned size)
{
	struct acpi_pm *a = dev;
	u8 v;

	(void)off;
	(void)size;
	pthread_mutex_lock(&a->lock);
	v = (u8)a->s.rst_cnt;
	pthread_mutex_unlock(&a->lock);
	return v;
}

static void rst_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *a = dev;
	bool edge;

	(void)off;
	(void)size;
	pthread_mutex_lock(&a->lock);
	edge = val & ~(u64)a->s.rst_cnt & RST_CPU;
	a->s.rst_cnt = val & RST_KEPT;
	pthread_mutex_unlock(&a->lock);
	if (edge && a->out.reset)
		a->out.reset(a->out.opaque, val & RST_FULL);
}

const struct io_ops acpi_pm_reset_ops = { .read = rst_read,
					  .write = rst_write,
					  .sizes = IO_1 };

/* ---- public ---- */

static void timer_carry(void *opaque)
{
	struct acpi_pm *a = opaque;

	pthread_mutex_lock(&a->lock);
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
}

struct acpi_pm *acpi_pm_new(struct irq_line sci, bool acpi_on, struct pmtimer *tmr,
			    struct acpi_pm_outputs out)
{
	struct acpi_pm *a = xzalloc(sizeof(*a));

	pthread_mutex_init(&a->lock, NULL);
	a->sci = sci;
	a->acpi_on = acpi_on;
	a->tmr = tmr;
	a->out = out;
	if (acpi_on)
		a->s.pm1_cnt = CNT_SCI_EN;
	if (tmr)
		pmtimer_set_notify(tmr, timer_carry, a);
	return a;
}

void acpi_pm_free(struct acpi_pm *a)
{
	if (!a)
		return;
	if (a->tmr)
		pmtimer_set_notify(a->tmr, NULL, NULL);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void acpi_pm_reset(struct acpi_pm *a)
{
	pthread_mutex_lock(&a->lock);
	a->s = (struct acpi_pm_state){ .pm1_cnt = a->acpi_on ? CNT_SCI_EN : 0 };
	update_timer(a);
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
}

void acpi_pm_save(const struct acpi_pm *a, struct state_buf *b)
{
	state_save(b, &acpi_pm_desc, 0, &a->s);
}

int acpi_pm_load(struct acpi_pm *a, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&a->lock);
	ret = state_load(b, &acpi_pm_desc, 0, &a->s, err);
	if (!ret) {
		update_timer(a);
		update_sci(a);
	}
	pthread_mutex_unlock(&a->lock);
	return ret;
}

static void event(struct acpi_pm *a, u16 bits)
{
	pthread_mutex_lock(&a->lock);
	a->s.pm1_sts |= bits;
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
}

void acpi_pm_wake(struct acpi_pm *a)
{
	event(a, PM1_WAK);
}

void acpi_pm_press_power(struct acpi_pm *a)
{
	event(a, PM1_PWRBTN);
}

void acpi_pm_press_sleep(struct acpi_pm *a)
{
	event(a, PM1_SLPBTN);
}

void acpi_pm_gpe(struct acpi_pm *a, unsigned n)
{
	if (n >= ACPI_PM_GPES)
		return;
	pthread_mutex_lock(&a->lock);
	a->s.gpe_sts[n / 8] |= (u8)BIT(n % 8);
	update_sci(a);
	pthread_mutex_unlock(&a->lock);
}
