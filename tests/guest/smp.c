/*
 * Several processors: starting, IPIs, atomicity, memory order, translations that another
 * one changes. Code that another one changes: crosscode.c.
 * SDM volume 3 chapters 8 (multiprocessing, memory order), 9.4 (INIT and SIPI), 11.6
 * (IPIs), 4.10.5 (TLB shootdown).
 */
#include "smp.h"
#include "page.h"

static unsigned cpus;
static volatile unsigned taken[CPUS_MAX][256];

static unsigned me(void)
{
	return (u32)(cpuid(1, 0).b >> 24);
}

static void on_ipi(struct frame *f)
{
	taken[me()][f->vector]++;
	eoi();
}

static bool start(void)
{
	cpus = smp_start();
	for (unsigned v = 0x40; v < 0x80; v++)
		hook[v] = on_ipi;
	if (cpus < 2)
		skip("one CPU");
	return cpus >= 2;
}

static void others(void (*fn)(word), word arg)
{
	for (unsigned n = 1; n < cpus; n++)
		smp_run(n, fn, arg);
}

static void join(void)
{
	for (unsigned n = 1; n < cpus; n++)
		smp_wait(n);
}

static void all_start(void)
{
	if (!start())
		return;
	want_equal(cpus, smp_count());
	want((cpuid(1, 0).b >> 16 & 0xff) >= cpus);
}

/* ---- IPIs ---- */

static volatile bool go;

static void take_ipis(word vector)
{
	while (!go) {
		__asm__ volatile("sti; nop; nop; cli" : : : "memory");
		pause();
	}
	(void)vector;
}

static void halt_for_ipi(word vector)
{
	unsigned n = me();

	while (!taken[n][vector])
		sti_hlt();
}

static void ipis(void)
{
	if (!start())
		return;
	go = false;
	others(take_ipis, 0);
	for (unsigned round = 1; round <= 50; round++) {
		for (unsigned n = 1; n < cpus; n++)
			send_ipi(smp_id(n), 0x4000 | 0x41);
		for (unsigned n = 1; n < cpus; n++)
			while (taken[n][0x41] < round)
				pause();
	}
	/* To all others. */
	lapic_write(LAPIC_ICR, 0xc4000 | 0x42);
	for (unsigned n = 1; n < cpus; n++)
		while (!taken[n][0x42])
			pause();
	want_equal(taken[0][0x42], 0);
	/* Logical, flat: each has its bit, if it set one. */
	go = true;
	join();
	for (unsigned n = 1; n < cpus; n++)
		want_equal(taken[n][0x41], 50);
}

/* A halted CPU wakes. */
static void halted(void)
{
	if (!start())
		return;
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned n = 1; n < cpus; n++)
			taken[n][0x50 + round] = 0;
		others(halt_for_ipi, 0x50 + round);
		if (round & 1)
			wait_ms(2);
		for (unsigned n = 1; n < cpus; n++)
			send_ipi(smp_id(n), 0x4000 | (0x50 + round));
		join();
	}
}

#define TICK 0x60

/*
 * A CPU that halts is woken by its timer each time, in each of its modes, however close
 * to HLT it comes, while others send it interrupts.
 */
static void halt_for_ticks(word rounds)
{
	bool deadline = cpuid(1, 0).c & BIT(24);
	unsigned n = me();
	u32 random = n + 1;

	lapic_write(LAPIC_TIMER_DIV, 0xb);
	for (unsigned i = 0; i < rounds; i++) {
		unsigned before = taken[n][TICK];
		u32 wait;

		random = random * 1664525 + 1013904223;
		wait = random >> 22; /* of 40 ns, or of 1 ns */
		if (i % 3 == 2 && deadline) {
			lapic_write(LAPIC_LVT_TIMER, TICK | LVT_DEADLINE);
			wrmsr(IA32_TSC_DEADLINE, rdtsc() + 40 * wait + 1);
		} else {
			lapic_write(LAPIC_LVT_TIMER, TICK | (i % 3 ? LVT_PERIODIC : 0));
			lapic_write(LAPIC_TIMER_INIT, wait + 1);
		}
		if (i % 4 == 0)
			send_ipi(smp_id((n + 1) % cpus), 0x4000 | (TICK + 1));
		while (taken[n][TICK] == before)
			sti_hlt();
	}
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	sti_nop();
}

static void halted_with_timers(void)
{
	if (!start())
		return;
	others(halt_for_ticks, 2500);
	halt_for_ticks(2500);
	join();
	for (unsigned n = 0; n < cpus; n++)
		want(taken[n][TICK] >= 2500);
}

/* Logical destinations: each CPU has a bit of the flat model, or a cluster of two. */
static void set_logical(word cluster)
{
	unsigned n = me();
	u32 flat = 1u << n << 24, pair = (n / 2) << 28 | 1u << (n & 1) << 24;

	lapic_write(LAPIC_DFR, cluster ? 0x0fffffff : 0xffffffff);
	lapic_write(LAPIC_LDR, cluster ? pair : flat);
}

static void everywhere(void (*fn)(word), word arg)
{
	others(fn, arg);
	fn(arg);
	join();
}

static void taken_clear(unsigned vector)
{
	for (unsigned n = 0; n < cpus; n++)
		taken[n][vector] = 0;
}

static unsigned taken_sum(unsigned vector)
{
	unsigned sum = 0;

	for (unsigned n = 0; n < cpus; n++)
		sum += taken[n][vector];
	return sum;
}

/* It comes to these CPUs, once, and to no other. */
static void want_taken(unsigned vector, unsigned set)
{
	for (unsigned n = 0; n < cpus; n++)
		while ((set >> n & 1) && !taken[n][vector]) {
			sti_nop();
			pause();
		}
	wait_ms(1);
	sti_nop();
	for (unsigned n = 0; n < cpus; n++)
		want_equal(taken[n][vector], set >> n & 1);
	taken_clear(vector);
}

static void logical_and_shorthands(void)
{
	unsigned all;

	if (!start())
		return;
	all = (1u << cpus) - 1;
	taken_clear(0x43);
	everywhere(set_logical, false);
	go = false;
	others(take_ipis, 0);
	for (unsigned set = 1; set <= all; set++) {
		send_ipi(set, 0x4843);
		want_taken(0x43, set);
	}
	send_ipi(0xff, 0x4843);
	want_taken(0x43, all);
	send_ipi(0xff, 0x4043); /* physical: broadcast too */
	want_taken(0x43, all);
	send_ipi(0, 0x44043); /* self */
	want_taken(0x43, 1);
	send_ipi(0, 0x84043); /* all */
	want_taken(0x43, all);
	send_ipi(0, 0xc4043); /* all but self */
	want_taken(0x43, all & ~1u);
	go = true;
	join();
	everywhere(set_logical, true);
	go = false;
	others(take_ipis, 0);
	send_ipi(0x03, 0x4843); /* cluster 0, both */
	want_taken(0x43, 3);
	send_ipi(0x02, 0x4843);
	want_taken(0x43, 2);
	if (cpus > 2) {
		send_ipi(0x11, 0x4843);
		want_taken(0x43, 4);
	}
	send_ipi(0xff, 0x4843);
	want_taken(0x43, all);
	go = true;
	join();
	everywhere(set_logical, false);
}

/* One of those named gets it, and not one that is busy with something higher. */
static void lowest_priority(void)
{
	if (!start())
		return;
	taken_clear(0x44);
	everywhere(set_logical, false);
	go = false;
	others(take_ipis, 0);
	lapic_write(LAPIC_TPR, 0xf0);
	for (unsigned i = 1; i <= 50; i++) {
		send_ipi((1u << cpus) - 1, 0x4944);
		while (taken_sum(0x44) != i)
			pause();
	}
	want_equal(taken[0][0x44], 0);
	lapic_write(LAPIC_TPR, 0);
	go = true;
	join();
	want_equal(taken_sum(0x44), 50);
}

static volatile unsigned nmis[CPUS_MAX];

static void on_nmi(struct frame *f)
{
	(void)f;
	nmis[me()]++;
}

static void spin_for_nmi(word arg)
{
	(void)arg;
	while (!nmis[me()])
		pause();
}

static void nmi(void)
{
	if (!start())
		return;
	hook[NMI] = on_nmi;
	others(spin_for_nmi, 0);
	for (unsigned n = 1; n < cpus; n++)
		send_ipi(smp_id(n), 0x4400);
	join();
	hook[NMI] = NULL;
	want_equal(nmis[0], 0);
}

/* INIT stops a CPU wherever it is; SIPI starts it again; a SIPI to one that runs is
 * nothing. */
static volatile u32 counter[CPUS_MAX];

static void count_for_ever(word n)
{
	for (;;)
		counter[n]++;
}

/* Does it count, within a second? For not to, it must stand still for a while. */
static bool counts(unsigned n)
{
	u32 at = counter[n];

	for (unsigned i = 0; i < 50; i++) {
		wait_ms(20);
		if (counter[n] != at)
			return true;
	}
	return false;
}

static void init_again(void)
{
	if (!start())
		return;
	smp_run(1, count_for_ever, 1);
	want(counts(1));
	send_ipi(smp_id(1), 0x4630);
	want(counts(1));
	send_ipi(smp_id(1), 0x4500);
	/* It may be a moment before the other side gets to it. */
	if (counts(1))
		want(!counts(1));
	smp_restart(1);
	nmis[1] = 1;
	smp_run(1, spin_for_nmi, 0);
	smp_wait(1);
}

/* SIPI at any page of the first MiB, page 0 too: from there a far jump to the usual
 * start. */
static void start_anywhere(void)
{
	static const u8 vectors[] = { 0x00, 0x01, 0x00, 0x2f, 0x8f, 0x30 };
	static const u8 jump[5] = { 0xea, 0, 0, 0, SMP_START };

	if (!start())
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
		volatile u8 *at = PHYS(vectors[i] << 12);
		u8 old[5];

		for (unsigned k = 0; k < 5 && vectors[i] != SMP_START; k++) {
			old[k] = at[k];
			at[k] = jump[k];
		}
		want(smp_restart_at(1, vectors[i]));
		nmis[1] = 1;
		smp_run(1, spin_for_nmi, 0);
		smp_wait(1);
		for (unsigned k = 0; k < 5 && vectors[i] != SMP_START; k++)
			at[k] = old[k];
	}
}

/* ---- atomic operations and memory order ---- */

static volatile u32 shared __attribute__((aligned(64)));
static u64 wide[9] __attribute__((aligned(64)));
#define CROSSING ((u8 *)wide + 62)
#define ROUNDS   20000
/* Some hosts take a fraction of a millisecond for each of those (bus lock detection). */
#define SPLIT    16

static void add_locked(word arg)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incl %0" : "+m"(shared) : : "cc");
		/* Across a cache line, and by CMPXCHG8B. */
		if (i % SPLIT == 0)
			__asm__ volatile("lock addl $1, %0"
					 : "+m"(*(volatile u32 *)CROSSING)
					 :
					 : "cc");
		__asm__ volatile("mov (%0), %%eax\n\t"
				 "mov 4(%0), %%edx\n"
				 "1:\tmov %%eax, %%ebx\n\t"
				 "mov %%edx, %%ecx\n\t"
				 "add $1, %%ebx\n\t"
				 "adc $0, %%ecx\n\t"
				 "lock cmpxchg8b (%0)\n\t"
				 "jnz 1b"
				 :
				 : "D"(&wide[2])
				 : "eax", "ebx", "ecx", "edx", "memory", "cc");
	}
	(void)arg;
}

static void atomic(void)
{
	if (!start())
		return;
	shared = 0;
	((volatile u64 *)wide)[2] = 0xffffff00;
	*(volatile u32 *)CROSSING = 0;
	others(add_locked, 0);
	add_locked(0);
	join();
	want_equal(shared, cpus * ROUNDS);
	want_equal(((volatile u64 *)wide)[2], 0xffffff00 + (u64)cpus * ROUNDS);
	want_equal(*(volatile u32 *)CROSSING, cpus * (ROUNDS / SPLIT));
}

/* By each locked instruction; and locks made of them. */
static struct {
	u64 xadd, cmpxchg, adc, sbb, neg, not, dec, by_xchg, by_bts, parity;
	volatile u32 xchg_lock, bts_lock;
	u64 wide[2] __attribute__((aligned(16)));
} counters __attribute__((aligned(64)));

#define LOCKED(insn, field, ...)                                                         \
	__asm__ volatile("lock " insn                                                    \
			 : "+m"(counters.field)                                          \
			 : __VA_ARGS__                                                   \
			 : "memory", "cc")

static bool has_cx16;

static void count_all_ways(word arg)
{
	(void)arg;
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 one = 1, old, lo, hi;
		u32 held;
		bool ok;

		__asm__ volatile("lock xaddq %0, %1"
				 : "+r"(one), "+m"(counters.xadd)
				 :
				 : "memory", "cc");
		old = counters.cmpxchg;
		while (!__atomic_compare_exchange_n(&counters.cmpxchg, &old, old + 1,
						    false, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST))
			;
		__asm__ volatile("stc; lock adcq $0, %0"
				 : "+m"(counters.adc)
				 :
				 : "memory", "cc");
		__asm__ volatile("stc; lock sbbq $0, %0"
				 : "+m"(counters.sbb)
				 :
				 : "memory", "cc");
		LOCKED("negq %0", neg, "r"(0));
		LOCKED("notq %0", not, "r"(0));
		LOCKED("decq %0", dec, "r"(0));
		LOCKED("btcq %1, %0", parity, "r"((u64)(i & 63)));
		do {
			held = 1;
			__asm__ volatile("xchgl %0, %1"
					 : "+r"(held), "+m"(counters.xchg_lock)
					 :
					 : "memory");
			if (held)
				pause();
		} while (held);
		(*(volatile u64 *)&counters.by_xchg)++;
		counters.xchg_lock = 0;
		do {
			__asm__ volatile("lock btsl $5, %1"
					 : "=@ccc"(ok), "+m"(counters.bts_lock)
					 :
					 : "memory");
			if (ok)
				pause();
		} while (ok);
		(*(volatile u64 *)&counters.by_bts)++;
		__asm__ volatile("lock btrl $5, %0"
				 : "+m"(counters.bts_lock)
				 :
				 : "memory", "cc");
		if (!has_cx16)
			continue;
		lo = counters.wide[0];
		hi = counters.wide[1];
		do {
			__asm__ volatile("lock cmpxchg16b %1"
					 : "=@ccz"(ok), "+m"(counters.wide), "+a"(lo),
					   "+d"(hi)
					 : "b"(lo + 1), "c"(hi - 1)
					 : "memory");
		} while (!ok);
	}
}

static void locked_instructions(void)
{
	u64 n, flips = 0;

	if (!start())
		return;
	for (u64 *p = &counters.xadd; p <= &counters.parity; p++)
		*(volatile u64 *)p = 0;
	counters.xchg_lock = counters.bts_lock = 0;
	counters.neg = 5;
	counters.not = 6;
	counters.wide[0] = counters.wide[1] = 0;
	has_cx16 = HAS(1, 0, c, 13);
	others(count_all_ways, 0);
	count_all_ways(0);
	join();
	n = (u64)cpus * ROUNDS;
	/* How often each bit was complemented, all CPUs alike. */
	for (unsigned i = 0; i < 64; i++)
		if (((ROUNDS + 63 - i) / 64) * cpus & 1)
			flips |= BIT(i);
	want_equal(counters.xadd, n);
	want_equal(counters.cmpxchg, n);
	want_equal(counters.adc, n);
	want_equal(counters.sbb, -n);
	want_equal(counters.neg, n & 1 ? (u64)-5 : 5);
	want_equal(counters.not, n & 1 ? ~UINT64_C(6) : 6);
	want_equal(counters.dec, -n);
	want_equal(counters.parity, flips);
	want_equal(counters.by_xchg, n);
	want_equal(counters.by_bts, n);
	want_equal(counters.wide[0], has_cx16 ? n : 0);
	want_equal(counters.wide[1], has_cx16 ? -n : 0);
}

/* An aligned load or store is one, of each size. */
static volatile u64 torn[3] __attribute__((aligned(64)));
static volatile bool enough;

static void store_patterns(word arg)
{
	(void)arg;
	while (!enough) {
		torn[0] = 0;
		torn[0] = ~UINT64_C(0);
		*(volatile u32 *)&torn[1] = 0;
		*(volatile u32 *)&torn[1] = 0xffffffff;
		*(volatile u16 *)&torn[2] = 0;
		*(volatile u16 *)&torn[2] = 0xffff;
	}
}

static void aligned_accesses_are_whole(void)
{
	unsigned bad = 0;

	if (!start())
		return;
	enough = false;
	smp_run(1, store_patterns, 0);
	for (unsigned i = 0; i < 10 * ROUNDS; i++) {
		u64 a = torn[0];
		u32 b = *(volatile u32 *)&torn[1];
		u16 c = *(volatile u16 *)&torn[2];

		bad += (a && ~a) || (b && ~b) || (c && c != 0xffff);
	}
	enough = true;
	smp_wait(1);
	want_equal(bad, 0);
}

/* Stores are seen in order: the flag never before the data. */
static volatile u32 data __attribute__((aligned(64))), flag __attribute__((aligned(64)));
static volatile unsigned violations;

static void reader(word arg)
{
	for (;;) {
		u32 f = flag, d = data;

		if (d < f)
			violations++;
		if (f == ROUNDS)
			return;
		(void)arg;
	}
}

static void message_passing(void)
{
	if (!start())
		return;
	data = flag = 0;
	violations = 0;
	others(reader, 0);
	for (u32 i = 1; i <= ROUNDS; i++) {
		data = i;
		flag = i;
	}
	join();
	want_equal(violations, 0);
}

/* With a fence between store and load, two CPUs cannot both miss the other's store. */
static volatile u32 x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile u32 turn __attribute__((aligned(64))), seen_x, seen_y, ready;

static void store_y(word kind)
{
	for (u32 i = 1; i <= 2000; i++) {
		while (turn != i)
			pause();
		y = i;
		if (kind)
			__asm__ volatile("mfence" : : : "memory");
		else
			__asm__ volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
		seen_x = x;
		__atomic_store_n(&ready, i, __ATOMIC_SEQ_CST);
	}
}

static void store_buffer(void)
{
	if (!start())
		return;
	for (word kind = 0; kind < 2; kind++) {
		x = y = turn = ready = 0;
		smp_run(1, store_y, kind);
		for (u32 i = 1; i <= 2000; i++) {
			turn = i;
			x = i;
			if (kind)
				__asm__ volatile("mfence" : : : "memory");
			else
				__asm__ volatile("lock orl $0, (%%rsp)"
						 :
						 :
						 : "memory", "cc");
			seen_y = y;
			while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) != i)
				pause();
			if (seen_x < i && seen_y < i)
				fail("round %u: neither saw the other's store", i);
		}
		smp_wait(1);
	}
}

/* ---- translations and descriptors ---- */

static volatile u32 acknowledged[CPUS_MAX];
static volatile word shot_va;

static void on_shootdown(struct frame *f)
{
	(void)f;
	invlpg((void *)shot_va);
	eoi();
	acknowledged[me()]++;
}

static volatile u32 epoch __attribute__((aligned(64)));

/* Reads the page all the time; after an acknowledged shootdown it must see the new one.
 */
static void watch_page(word arg)
{
	u32 e, v;

	(void)arg;
	do {
		__asm__ volatile("sti" : : : "memory");
		e = epoch;
		v = *(volatile u32 *)shot_va;
		__asm__ volatile("cli" : : : "memory");
		if (v < e)
			violations++;
	} while (e != 200);
}

static void shootdown(void)
{
	unsigned leaf;

	if (!start())
		return;
	paging_on(PAGING_4, true);
	path_set(leaf = path.levels - 1, TEST_PA, ALL);
	hook[0x45] = on_shootdown;
	shot_va = path.va;
	epoch = 0;
	violations = 0;
	*(volatile u32 *)PHYS(TEST_PA) = 0;
	others(watch_page, 0);
	for (u32 i = 1; i <= 200; i++) {
		u32 pa = TEST_PA + (i & 1) * 0x1000;
		u32 before[CPUS_MAX];

		*(volatile u32 *)PHYS(pa) = i;
		entry_set(leaf, pa | ALL);
		for (unsigned n = 1; n < cpus; n++) {
			before[n] = acknowledged[n];
			send_ipi(smp_id(n), 0x4000 | 0x45);
		}
		for (unsigned n = 1; n < cpus; n++)
			while (acknowledged[n] == before[n])
				pause();
		epoch = i;
	}
	join();
	want_equal(violations, 0);
	hook[0x45] = on_ipi;
}

/* A and D bits by several CPUs at once: none is lost, and no other bit changes. */
static void touch(word arg)
{
	for (unsigned i = 0; i < 2000; i++) {
		invlpg((void *)shot_va);
		*(volatile u32 *)(shot_va + 64 * arg) = i;
		*(volatile u32 *)(shot_va + 64 * arg);
	}
}

static void accessed_dirty(void)
{
	unsigned leaf;
	u64 e;

	if (!start())
		return;
	paging_on(PAGING_4, true);
	path_set(leaf = path.levels - 1, TEST_PA, ALL);
	shot_va = path.va;
	for (unsigned n = 1; n < cpus; n++)
		smp_run(n, touch, n);
	/* Software bits are changed meanwhile, with LOCK, as an OS would. */
	for (unsigned i = 0; i < 2000; i++) {
		__asm__ volatile("lock xorq %1, %0"
				 : "+m"(*(volatile u64 *)path.entry[leaf])
				 : "r"(BIT(9))
				 : "cc");
		__asm__ volatile("lock xorq %1, %0"
				 : "+m"(*(volatile u64 *)path.entry[leaf])
				 : "r"(BIT(10))
				 : "cc");
	}
	join();
	e = entry_get(leaf);
	want_equal(e & ~(u64)(A | D), TEST_PA | ALL);
	want_equal(e & (A | D), A | D);
}

/* The accessed bit of a descriptor is set with LOCK: what another CPU does to the other
 * bits of the byte stays. */
static void toggle_dpl(word arg)
{
	volatile u8 *type = (volatile u8 *)&gdt[FREE_SEL / 8] + 5;

	for (unsigned i = 1; i <= 20 * ROUNDS; i++) {
		__asm__ volatile("lock xorb $0x60, %0" : "+m"(*type) : : "cc");
		if ((*type & 0x60) != (i & 1 ? 0x60 : 0)) {
			violations++;
			*type = (u8)((*type & ~0x60) | (i & 1 ? 0x60 : 0));
		}
	}
	(void)arg;
	enough = true;
}

static void descriptor_accessed(void)
{
	volatile u8 *type = (volatile u8 *)&gdt[FREE_SEL / 8] + 5;

	if (!start())
		return;
	set_gdt(FREE_SEL, descriptor(0, 0xfffff, (D_KDATA & ~D_A) | D_G | D_DB));
	enough = false;
	violations = 0;
	smp_run(1, toggle_dpl, 0);
	while (!enough) {
		__asm__ volatile("lock andb $0xfe, %0" : "+m"(*type) : : "cc");
		__asm__ volatile("mov %0, %%fs" : : "r"(FREE_SEL));
		if (!(*type & 1))
			fail("the accessed bit is not set");
	}
	smp_wait(1);
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
	want_equal(violations, 0);
	want_equal(*type, 0x93);
}

/* The TSC is one for all. */
static volatile u64 tsc_there;
static volatile u32 tsc_turn;

static void tsc_answer(word arg)
{
	(void)arg;
	for (u32 i = 1; i <= 200; i++) {
		while (tsc_turn != 2 * i - 1)
			pause();
		tsc_there = rdtsc();
		tsc_turn = 2 * i;
	}
}

static void tsc_in_step(void)
{
	if (!start())
		return;
	tsc_turn = 0;
	smp_run(1, tsc_answer, 0);
	for (u32 i = 1; i <= 200; i++) {
		u64 a = rdtsc(), b;

		tsc_turn = 2 * i - 1;
		while (tsc_turn != 2 * i)
			pause();
		b = rdtsc();
		if (tsc_there < a || tsc_there > b)
			fail("round %u: %llx is not between %llx and %llx", i, tsc_there,
			     a, b);
	}
	smp_wait(1);
}

/* The last of all, as there is no way back but by switching the APIC off. */
static void enter_x2apic(word arg)
{
	(void)arg;
	wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | APIC_X2);
}

static void x2apic(void)
{
	unsigned all;

	if (!start())
		return;
	if (!(cpuid(1, 0).c & BIT(21))) {
		skip("no x2APIC");
		return;
	}
	all = (1u << cpus) - 1;
	everywhere(enter_x2apic, 0);
	taken_clear(0x43);
	go = false;
	others(take_ipis, 0);
	for (unsigned n = 0; n < cpus; n++) {
		send_ipi(n, 0x4043);
		want_taken(0x43, 1u << n);
	}
	/* Cluster 0 has a bit for each of 16. */
	want_equal(lapic_read(LAPIC_LDR), 1);
	for (unsigned set = 1; set <= all; set++) {
		send_ipi(set, 0x4843);
		want_taken(0x43, set);
	}
	send_ipi(0xffffffff, 0x4043);
	want_taken(0x43, all);
	send_ipi(0xffffffff, 0x4843);
	want_taken(0x43, all);
	send_ipi(0, 0xc4043);
	want_taken(0x43, all & ~1u);
	lapic_write(LAPIC_SELF_IPI, 0x43);
	want_taken(0x43, 1);
	go = true;
	join();
}

/* ---- the end ---- */

static void triple(word arg)
{
	struct table none = { 0, 0 };

	(void)arg;
	__asm__ volatile("lidt %0\n\tud2" : : "m"(none));
}

static void triple_fault_of_another(void)
{
	if (!start())
		return;
	ends_with("triple");
	smp_run(1, triple, 0);
	wait_ms(1000);
	not_ended();
}

static void reset_by_another(word arg)
{
	(void)arg;
	outb(0xcf9, 6);
	for (;;)
		pause();
}

static void reset_while_spinning(void)
{
	if (!start())
		return;
	for (unsigned n = 2; n < cpus; n++)
		smp_run(n, count_for_ever, n);
	ends_with("reset");
	smp_run(1, reset_by_another, 0);
	for (;;)
		pause();
}

static void power_off_by_another(word arg)
{
	(void)arg;
	power_off();
}

static void power_off_while_spinning(void)
{
	if (!start())
		return;
	for (unsigned n = 2; n < cpus; n++)
		smp_run(n, count_for_ever, n);
	ends_with("poweroff");
	smp_run(1, power_off_by_another, 0);
	for (;;)
		pause();
}

const struct test_case cases[] = {
	CASE(all_start, "SDM 3 9.4.4"),
	CASE(ipis, "SDM 3 11.6"),
	CASE(halted, "SDM 2 HLT"),
	CASE(halted_with_timers, "SDM 3 11.5.4"),
	CASE(logical_and_shorthands, "SDM 3 11.6.2"),
	CASE(lowest_priority, "SDM 3 11.6.2.4"),
	CASE(nmi, "SDM 3 11.6"),
	CASE(init_again, "SDM 3 9.4"),
	CASE(start_anywhere, "SDM 3 9.4.4"),
	CASE(atomic, "SDM 3 8.1"),
	CASE(locked_instructions, "SDM 3 8.1.2.2"),
	CASE(aligned_accesses_are_whole, "SDM 3 8.1.1"),
	CASE(message_passing, "SDM 3 8.2.3.2"),
	CASE(store_buffer, "SDM 3 8.2.3.4, 8.2.5"),
	CASE(shootdown, "SDM 3 4.10.5"),
	CASE(accessed_dirty, "SDM 3 4.8"),
	CASE(descriptor_accessed, "SDM 3 8.1.2.1"),
	CASE(tsc_in_step, "SDM 3 17.17"),
	CASE(x2apic, "SDM 3 11.12"),
	CASE_ALONE(reset_while_spinning, "ICH9 13.7.5"),
	CASE_ALONE(triple_fault_of_another, "SDM 3 6.15 #DF"),
	CASE_ALONE(power_off_while_spinning, "ACPI 4.8.3.2"),
	CASES_END,
};
