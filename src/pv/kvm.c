/*
 * KVM's paravirtual interface, as far as it is offered: its clock and steal time.
 *
 * Linux, Documentation/virt/kvm/x86/msr.rst: MSRs and the structures in guest memory.
 * Addresses are the guest's word: what is not RAM from beginning to end is not written.
 * Missing: 'preempted' of steal time is never set, as nobody sees the host take a CPU
 * away; PVCLOCK_GUEST_STOPPED, as a stopped guest's time stands still; all that is not
 * offered.
 *
 * Threads and lock: see kvm.h.
 */
#include "pv/kvm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "mem/phys.h"
#include "time/clock.h"
#include "time/tsc.h"

#define ENABLE BIT(0)

/* struct pvclock_wall_clock */
#define WALL_VERSION 0
#define WALL_SEC     4
#define WALL_NSEC    8
#define WALL_SIZE    12

/* struct pvclock_vcpu_time_info */
#define TIME_VERSION 0
#define TIME_TSC     8
#define TIME_SYSTEM  16
#define TIME_MUL     24
#define TIME_SHIFT   28 /* and the flags in the next byte, and two bytes of nothing */
#define TIME_SIZE    32

#define PVCLOCK_TSC_STABLE 1u

/* struct kvm_steal_time */
#define STEAL_NS       0
#define STEAL_VERSION  8
#define STEAL_SIZE     64
#define STEAL_RESERVED BITS(5, 1)

struct pv_kvm_state {
	u64 wall_clock; /* MSR_KVM_WALL_CLOCK, of all CPUs */
};

struct pv_kvm_cpu_state {
	u64 system_time; /* MSR_KVM_SYSTEM_TIME */
	u64 steal_time;  /* MSR_KVM_STEAL_TIME */
};

struct pv_kvm {
	struct pv_kvm_config cfg;
	pthread_mutex_t lock;
	struct pv_kvm_state s;
	bool stable; /* what the flag says in all structures */
	struct {
		struct pv_kvm_cpu_state s;
		const struct tsc *tsc;
	} cpu[];
};

struct pv_kvm *pv_kvm_new(const struct pv_kvm_config *cfg)
{
	struct pv_kvm *k = xzalloc(sizeof(*k) + cfg->cpus * sizeof(k->cpu[0]));

	k->cfg = *cfg;
	pthread_mutex_init(&k->lock, NULL);
	return k;
}

void pv_kvm_free(struct pv_kvm *k)
{
	if (!k)
		return;
	pthread_mutex_destroy(&k->lock);
	free(k);
}

void pv_kvm_set_tsc(struct pv_kvm *k, unsigned cpu, const struct tsc *tsc)
{
	k->cpu[cpu].tsc = tsc;
}

/* ---- guest memory ---- */

static bool is_ram(struct pv_kvm *k, gpa_t at, u64 len)
{
	if (phys_host(k->cfg.phys, at, len, true))
		return true;
	guest_bug("kvm", "structure at %#llx is not in RAM", (unsigned long long)at);
	return false;
}

/* Each word at once, as a CPU would; aligned, it crosses no page. */
static void put32(struct pv_kvm *k, gpa_t at, u32 val)
{
	phys_store(k->cfg.phys, at, val, 4);
}

static void put64(struct pv_kvm *k, gpa_t at, u64 val)
{
	put32(k, at, (u32)val);
	put32(k, at + 4, (u32)(val >> 32));
}

/*
 * Between these two the version is odd, and a reader that saw anything of it reads again,
 * on another CPU too: stores are seen in order.
 */
static u32 open_version(struct pv_kvm *k, gpa_t at)
{
	u32 odd = ((u32)phys_load(k->cfg.phys, at, 4) + 1) | 1;

	put32(k, at, odd);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return odd;
}

static void close_version(struct pv_kvm *k, gpa_t at, u32 odd)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	put32(k, at, odd + 1);
}

/* ---- the clock ---- */

/* 'mul' is rounded down: at 1 GHz and its halves this is exact, else slow by 0.5 ppb. */
struct pv_kvm_scale pv_kvm_scale(u64 khz)
{
	struct pv_kvm_scale s = { .shift = 0 };
	u64 ns = 1000000, ticks = khz; /* that take as long */

	for (; ns >= ticks; s.shift++)
		ticks *= 2;
	for (; ns * 2 < ticks; s.shift--)
		ns *= 2;
	s.mul = (u32)((ns << 32) / ticks);
	return s;
}

/* Does it not matter whose TSC a reader takes? With the lock. */
static bool in_step(const struct pv_kvm *k)
{
	const struct tsc *first = k->cpu[0].tsc;

	for (unsigned i = 1; i < k->cfg.cpus; i++)
		if (tsc_offset(k->cpu[i].tsc) != tsc_offset(first) ||
		    tsc_khz(k->cpu[i].tsc) != tsc_khz(first))
			return false;
	return true;
}

/* With the lock. */
static void put_system_time(struct pv_kvm *k, unsigned cpu)
{
	u64 msr = k->cpu[cpu].s.system_time;
	const struct tsc *tsc = k->cpu[cpu].tsc;
	struct pv_kvm_scale scale = pv_kvm_scale(tsc_khz(tsc));
	gpa_t at = msr & ~ENABLE;
	u32 odd;

	if (!(msr & ENABLE) || !is_ram(k, at, TIME_SIZE))
		return;
	odd = open_version(k, at + TIME_VERSION);
	put64(k, at + TIME_TSC, tsc_offset(tsc));
	put64(k, at + TIME_SYSTEM, 0);
	put32(k, at + TIME_MUL, scale.mul);
	put32(k, at + TIME_SHIFT,
	      (u8)scale.shift | (k->stable ? PVCLOCK_TSC_STABLE << 8 : 0));
	close_version(k, at + TIME_VERSION, odd);
}

/* With the lock. 'cpu' for certain, the others where the flag is another now. */
static void put_system_times(struct pv_kvm *k, unsigned cpu)
{
	bool stable = k->cfg.stable && in_step(k), changed = stable != k->stable;

	k->stable = stable;
	for (unsigned i = 0; i < k->cfg.cpus; i++)
		if (changed || i == cpu)
			put_system_time(k, i);
}

static void put_wall_clock(struct pv_kvm *k, gpa_t at)
{
	i64 epoch = clock_epoch_ns(k->cfg.clock), sec = epoch / NSEC_PER_SEC;
	u32 odd;

	if (sec * NSEC_PER_SEC > epoch)
		sec--;
	/* As KVM has it; a guest may write 0 to end it. */
	if (!at)
		return;
	if (!is_ram(k, at, WALL_SIZE))
		return;
	odd = open_version(k, at + WALL_VERSION);
	put32(k, at + WALL_SEC, (u32)sec);
	put32(k, at + WALL_NSEC, (u32)(epoch - sec * NSEC_PER_SEC));
	close_version(k, at + WALL_VERSION, odd);
}

void pv_kvm_tsc_changed(struct pv_kvm *k, unsigned cpu)
{
	pthread_mutex_lock(&k->lock);
	put_system_times(k, cpu);
	pthread_mutex_unlock(&k->lock);
}

/* ---- steal time ---- */

bool pv_kvm_wants_steal(const struct pv_kvm *k, unsigned cpu)
{
	return k->cpu[cpu].s.steal_time & ENABLE;
}

/* The sum is in the guest's memory, to start again at what the guest likes. */
void pv_kvm_add_steal(struct pv_kvm *k, unsigned cpu, u64 ns)
{
	gpa_t at = k->cpu[cpu].s.steal_time & ~ENABLE;
	u64 sum;
	u32 odd;

	if (!pv_kvm_wants_steal(k, cpu) || !is_ram(k, at, STEAL_SIZE))
		return;
	sum = phys_load(k->cfg.phys, at + STEAL_NS, 8) + ns;
	odd = open_version(k, at + STEAL_VERSION);
	put64(k, at + STEAL_NS, sum);
	close_version(k, at + STEAL_VERSION, odd);
}

/* ---- MSRs ---- */

static bool wall_clock_valid(u64 val)
{
	return !(val & BITS(1, 0));
}

/* "Anything with bit 0 clear" ends it. */
static bool system_time_valid(u64 val)
{
	return !(val & ENABLE) || !(val & BIT(1));
}

static bool steal_time_valid(u64 val)
{
	return !(val & STEAL_RESERVED);
}

int pv_kvm_msr_read(struct pv_kvm *k, unsigned cpu, u32 msr, u64 *val)
{
	int ret = 1;

	pthread_mutex_lock(&k->lock);
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW: *val = k->s.wall_clock; break;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW: *val = k->cpu[cpu].s.system_time; break;
	case MSR_KVM_STEAL_TIME: *val = k->cpu[cpu].s.steal_time; break;
	default: ret = -1; break;
	}
	pthread_mutex_unlock(&k->lock);
	return ret;
}

static int write_locked(struct pv_kvm *k, unsigned cpu, u32 msr, u64 val)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		if (!wall_clock_valid(val))
			return 0;
		k->s.wall_clock = val;
		put_wall_clock(k, val);
		return 1;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		if (!system_time_valid(val))
			return 0;
		k->cpu[cpu].s.system_time = val;
		put_system_times(k, cpu);
		return 1;
	case MSR_KVM_STEAL_TIME:
		if (!steal_time_valid(val))
			return 0;
		k->cpu[cpu].s.steal_time = val;
		return 1;
	default: return -1;
	}
}

int pv_kvm_msr_write(struct pv_kvm *k, unsigned cpu, u32 msr, u64 val)
{
	int ret;

	pthread_mutex_lock(&k->lock);
	ret = write_locked(k, cpu, msr, val);
	pthread_mutex_unlock(&k->lock);
	return ret;
}

void pv_kvm_init(struct pv_kvm *k, unsigned cpu)
{
	pthread_mutex_lock(&k->lock);
	k->cpu[cpu].s = (struct pv_kvm_cpu_state){ 0 };
	pthread_mutex_unlock(&k->lock);
}

void pv_kvm_reset(struct pv_kvm *k)
{
	k->s = (struct pv_kvm_state){ 0 };
	for (unsigned i = 0; i < k->cfg.cpus; i++)
		pv_kvm_init(k, i);
}

/* ---- state ---- */

static const struct state_field pv_kvm_fields[] = {
	STATE_FIELD(struct pv_kvm_state, wall_clock, 1),
	{ 0 },
};

static bool state_valid(const void *state)
{
	const struct pv_kvm_state *s = state;

	return wall_clock_valid(s->wall_clock);
}

const struct state_desc pv_kvm_desc = {
	.name = "kvm",
	.size = sizeof(struct pv_kvm_state),
	.version = 1,
	.fields = pv_kvm_fields,
	.valid = state_valid,
};

static const struct state_field pv_kvm_cpu_fields[] = {
	STATE_FIELD(struct pv_kvm_cpu_state, system_time, 1),
	STATE_FIELD(struct pv_kvm_cpu_state, steal_time, 1),
	{ 0 },
};

static bool cpu_state_valid(const void *state)
{
	const struct pv_kvm_cpu_state *s = state;

	return system_time_valid(s->system_time) && steal_time_valid(s->steal_time);
}

const struct state_desc pv_kvm_cpu_desc = {
	.name = "kvm_cpu",
	.size = sizeof(struct pv_kvm_cpu_state),
	.version = 1,
	.fields = pv_kvm_cpu_fields,
	.valid = cpu_state_valid,
};

void pv_kvm_save(struct pv_kvm *k, struct state_buf *b)
{
	state_save(b, &pv_kvm_desc, 0, &k->s);
	for (unsigned i = 0; i < k->cfg.cpus; i++)
		state_save(b, &pv_kvm_cpu_desc, i, &k->cpu[i].s);
}

static int load_cpu(struct pv_kvm *k, unsigned i, struct state_buf *b, struct error *err)
{
	struct pv_kvm_cpu_state s = { 0 };
	int ret = state_load(b, &pv_kvm_cpu_desc, i, &s, err);

	if (ret)
		return ret;
	if ((s.system_time && !k->cfg.system_time) ||
	    (s.steal_time && !k->cfg.steal_time))
		return error_set(
			err, -EINVAL,
			"vCPU %u: the saved machine used more of KVM's interface "
			"than this CPU model has",
			i);
	k->cpu[i].s = s;
	return 0;
}

int pv_kvm_load(struct pv_kvm *k, struct state_buf *b, struct error *err)
{
	int ret = state_load(b, &pv_kvm_desc, 0, &k->s, err);

	for (unsigned i = 0; !ret && i < k->cfg.cpus; i++)
		ret = load_cpu(k, i, b, err);
	if (ret) {
		pv_kvm_reset(k);
		return ret;
	}
	for (unsigned i = 0; i < k->cfg.cpus; i++)
		pv_kvm_tsc_changed(k, i);
	return 0;
}
