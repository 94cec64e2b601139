/*
 * Random changes of two sets of page tables, each followed by an access of user code
 * (direct.h): the fault or the value, and A and D of every page, are what the tables say.
 *
 * SDM volume 3 sections 4.6 to 4.8, 4.10.4. Pages share a few frames, which the kernel
 * and user code write, code among them.
 */
#include "direct.h"

#define PAGES  48 /* from OTHER on */
#define FRAMES 8  /* of OTHER and on */
#define FUNC   0x800

SNIPPET(load, "mov (%rbx), %rax; ud2");
SNIPPET(store, "mov %rax, (%rbx); ud2");
SNIPPET(jump, "jmp *%rbx");
SNIPPET(function, "mov $0, %eax; ud2");

enum access { READ, WRITE, FETCH };
#define ENTRY(kind) (U(CODE) + 64 * (kind))

/* What the entries are to be: A and D as the accesses until now have left them. */
static u64 model[2][PAGES];

static void set(unsigned s, unsigned i, u64 pte)
{
	pt[s][OTHER + i] = model[s][i] = pte;
}

static void change_one(unsigned s, unsigned i)
{
	u64 pte = model[s][i];

	switch (rnd() % 8) {
	case 0: set(s, i, 0); break;
	case 1: set(s, i, pte ^ RW); break;
	case 2: set(s, i, pte ^ NX); break;
	case 3: set(s, i, pte ^ US); break;
	case 4: set(s, i, pte & ~(u64)A); break;
	case 5: set(s, i, pte & ~(u64)D); break;
	default: {
		static const u64 kinds[] = { P | US | RW,     P | US | RW | NX,
					     P | US,          P | US | NX,
					     P | US | RW | A, P | US | RW | A | D };

		set(s, i,
		    FRAME(OTHER + rnd() % FRAMES) | kinds[rnd() % ARRAY_SIZE(kinds)]);
	}
	}
	if (s == space)
		invlpg((void *)U(OTHER + i));
}

static void change_some(void)
{
	for (u64 n = rnd() % 4; n > 0; n--)
		change_one(rnd() % 2, (unsigned)(rnd() % PAGES));
	switch (rnd() % 16) {
	case 0:
	case 1: use_space(!space); break;
	case 2: use_space(space); break;
	case 3: flush_tlb(); break;
	case 4:
		for (unsigned i = 0; i < PAGES; i++)
			change_one(space, i);
		break;
	case 5: {
		unsigned f = OTHER + (unsigned)(rnd() % FRAMES);

		data_at(f)[1] = rnd();
		*(volatile u32 *)(AT(f) + FUNC + 1) = (u32)rnd();
		break;
	}
	default: break;
	}
}

/* The error code, or -1. */
static int oracle(u64 pte, enum access kind)
{
	int code = 4 | (kind == WRITE ? 2 : kind == FETCH ? 0x10 : 0);

	if (!(pte & P))
		return code;
	if (!(pte & US) || (kind == WRITE && !(pte & RW)) ||
	    (kind == FETCH && (pte & NX)))
		return code | 1;
	return -1;
}

/*
 * A processor may read a page before the program does, or before a write there is found
 * not to be allowed, as direct execution does: A says so then, D never does.
 */
static void early(unsigned i)
{
	if (pt[space][OTHER + i] == (model[space][i] | A))
		model[space][i] |= A;
}

static void access_one(unsigned step)
{

	unsigned i = (unsigned)(rnd() % PAGES), f;
	enum access kind = rnd() % 3;
	u64 *pte = &model[space][i], value = rnd();
	word lin = U(OTHER + i) + (kind == FETCH ? FUNC : 8);
	int error = oracle(*pte, kind);

	f = (unsigned)((*pte & 0xfffff000) - TEST_PA) / 4096;
	in.ip = ENTRY(kind);
	in.r[RBX] = lin;
	in.r[RAX] = value;
	run();
	checked();
	if (got_vector != (error < 0 ? UD : PF) ||
	    (error >= 0 && ((int)got_error != error || got_cr2 != lin))) {
		fail("step %u: access %u to page %u, %llx: got vector %lx error %lx ip "
		     "%llx",
		     step, kind, i, *pte, got_vector, got_error, out.ip);
		return;
	}
	if (error < 0) {
		*pte |= kind == WRITE ? A | D : A;
		if (kind == READ)
			want_equal(out.r[RAX], data_at(f)[1]);
		else if (kind == WRITE)
			want_equal(data_at(f)[1], value);
		else
			want_equal(out.r[RAX], *(volatile u32 *)(AT(f) + FUNC + 1));
	}
	if (error >= 0)
		early(i);
	for (unsigned s = 0; s < 2; s++)
		for (i = 0; i < PAGES; i++)
			if (pt[s][OTHER + i] != model[s][i]) {
				fail("step %u: space %u page %u is %llx, not %llx", step,
				     s, i, pt[s][OTHER + i], model[s][i]);
				return;
			}
}

static void random_changes(void)
{
	if (!begin())
		return;
	put_code(CODE, 64 * READ, load);
	put_code(CODE, 64 * WRITE, store);
	put_code(CODE, 64 * FETCH, jump);
	for (unsigned i = 0; i < FRAMES; i++)
		put_code(OTHER + i, FUNC, function);
	for (unsigned s = 0; s < 2; s++)
		for (unsigned i = 0; i < PAGES; i++)
			set(s, i, FRAME(OTHER + i % FRAMES) | P | US | RW);
	flush_tlb();
	for (unsigned step = 0; step < 8000 && !failed(); step++) {
		change_some();
		access_one(step);
	}
}

const struct test_case cases[] = {
	CASE(random_changes, "SDM 3 4.10"),
	CASES_END,
};
