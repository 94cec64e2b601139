/*
 * The time-stamp counter of one vCPU, computed from the machine's clock.
 *
 * Intel SDM vol. 3, 18.17 and 18.17.3. Conversions are exact: one rounding, in 128 bits,
 * of the whole time since virtual time 0, so nothing accumulates.
 *
 * Missing: TSC scaling of a nested guest, which is the business of VMX.
 *
 * Thread and lock: see tsc.h.
 */
#include "time/tsc.h"

#include "base/bits.h"

#define NS_PER_MS 1000000

static u64 load(const u64 *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store(u64 *p, u64 v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

/*
 * Ticks at virtual time t with offset 0; t < 0 counts as 0, as the clock starts there. In
 * two parts, as Linux reads the TSC in each system call and 128 bits are slow to divide.
 */
static u128 raw_ticks(u64 khz, vns_t t)
{
	u64 ns = t > 0 ? (u64)t : 0;

	return (u128)(ns / NS_PER_MS) * khz + ns % NS_PER_MS * khz / NS_PER_MS;
}

void tsc_init(struct tsc *t, u64 khz, vns_t now)
{
	store(&t->s.khz, MIN(MAX(khz, 1), TSC_KHZ_MAX));
	store(&t->s.offset, -(u64)raw_ticks(t->s.khz, now));
	store(&t->s.adjust, 0);
}

u64 tsc_read(const struct tsc *t, vns_t now)
{
	return (u64)raw_ticks(load(&t->s.khz), now) + load(&t->s.offset);
}

u64 tsc_offset(const struct tsc *t)
{
	return load(&t->s.offset);
}

u64 tsc_khz(const struct tsc *t)
{
	return load(&t->s.khz);
}

void tsc_write(struct tsc *t, vns_t now, u64 val)
{
	u64 delta = val - tsc_read(t, now);

	store(&t->s.offset, t->s.offset + delta);
	store(&t->s.adjust, t->s.adjust + delta);
}

u64 tsc_adjust_read(const struct tsc *t)
{
	return load(&t->s.adjust);
}

void tsc_adjust_write(struct tsc *t, u64 val)
{
	store(&t->s.offset, t->s.offset + (val - t->s.adjust));
	store(&t->s.adjust, val);
}

/*
 * Working from what is missing now, not from the offset, keeps the modulus out of it: the
 * offset's sign is not known (a guest may have written any TSC value).
 */
vns_t tsc_to_vns(const struct tsc *t, u64 value, vns_t now)
{
	u64 khz = load(&t->s.khz), cur = tsc_read(t, now);
	u128 at;

	if (cur >= value)
		return now;
	/* First t with floor(t * khz / 10^6) >= target. */
	at = ((raw_ticks(khz, now) + (value - cur)) * NS_PER_MS + khz - 1) / khz;
	return at < (u128)VNS_NEVER ? (vns_t)at : VNS_NEVER;
}

u64 tsc_ticks(const struct tsc *t, vns_t ns)
{
	u128 n = raw_ticks(load(&t->s.khz), ns);

	return n > UINT64_MAX ? UINT64_MAX : (u64)n;
}

vns_t tsc_duration(const struct tsc *t, u64 ticks)
{
	u64 khz = load(&t->s.khz);
	u128 ns = ((u128)ticks * NS_PER_MS + khz - 1) / khz;

	return ns < (u128)VNS_NEVER ? (vns_t)ns : VNS_NEVER;
}

static const struct state_field tsc_fields[] = {
	STATE_FIELD(struct tsc_state, khz, 1),
	STATE_FIELD(struct tsc_state, offset, 1),
	STATE_FIELD(struct tsc_state, adjust, 1),
	{ 0 },
};

static bool tsc_valid(const void *state)
{
	const struct tsc_state *s = state;

	return s->khz >= 1 && s->khz <= TSC_KHZ_MAX;
}

const struct state_desc tsc_desc = {
	.name = "tsc",
	.size = sizeof(struct tsc_state),
	.version = 1,
	.fields = tsc_fields,
	.valid = tsc_valid,
};

void tsc_save(const struct tsc *t, struct state_buf *b, u32 instance)
{
	state_save(b, &tsc_desc, instance, &t->s);
}

int tsc_load(struct tsc *t, struct state_buf *b, u32 instance, struct error *err)
{
	return state_load(b, &tsc_desc, instance, &t->s, err);
}
