/*
 * Privileged and sensitive instructions in protected and 64-bit mode: each of the table
 * in sensitive.h, at every level, with every IOPL, with and without PVI, UMIP and TSD.
 * SDM volume 3 sections 2.3, 2.5, 5.9 and 20.4.
 */
#include "sensitive.h"

static PAGED u8 code[4096];
static u8 data[64] __attribute__((aligned(64)));

static u16 ring_cs(unsigned ring)
{
	return (u16)(FREE_SEL + 16 * ring + ring);
}

static void ring_segments(void)
{
	for (unsigned r = 0; r < 4; r++) {
		u32 dpl = D_DPL(r) | D_G;

		set_gdt(ring_cs(r) & ~7u,
			descriptor(0, 0xfffff, D_KCODE | dpl | (W64 ? D_L : D_DB)));
		set_gdt((ring_cs(r) & ~7u) + 8,
			descriptor(0, 0xfffff, D_KDATA | dpl | D_DB));
	}
}

static void run_ring(const struct sens_insn *in, const struct sens_state *s)
{
	word alias = s->cpl == 3 ? ALIAS : 0;
	word start = sens_build(code, in, s, (word)code + alias, (word)data + alias);
	word cr4 = read_cr4();

	write_cr4(sens_cr4(cr4, s));
	enter((word)code + alias, ring_cs(s->cpl), s->flags | s->iopl << 12,
	      (word)user_stack + STACK_SIZE - 64 + alias, ring_cs(s->cpl) + 8u);
	write_cr4(cr4);
	sens_judge(in, s, start - alias, trap.vector, trap.error, trap.ip, trap.flags);
	if (trap.vector != NONE && (trap.cs & 3) != s->cpl)
		fail("%s: the level became %lx", in->name, trap.cs & 3);
}

static void ring(unsigned cpl)
{
	struct sens_state s = { .mode = M_PROT, .bits = W64 ? 64 : 32, .cpl = cpl };

	ring_segments();
	for (unsigned n = 0; n < 8; n++) {
		s.iopl = n & 3;
		s.virt = n & 4;
		sens_rows(&s, run_ring);
	}
	write_dr0(0);
}

static void ring0(void)
{
	ring(0);
}
static void ring1(void)
{
	ring(1);
}
static void ring2(void)
{
	ring(2);
}
static void ring3(void)
{
	ring(3);
}

const struct test_case cases[] = {
	CASE(ring0, "SDM 3 5.9"),
	CASE(ring1, "SDM 3 5.9"),
	CASE(ring2, "SDM 3 5.9"),
	CASE(ring3, "SDM 3 5.9"),
	CASES_END,
};
