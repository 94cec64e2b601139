/*
 * The paging walk against an oracle written from the text of SDM volume 3 chapter 4:
 * every mode, every bit of every entry, every control bit, every kind of access.
 */
#include "x86_box.h"

#include "x86/walk.h"

/* ---- tables: one path through the given number of levels ---- */

#define TABLES     0x30000 /* of level i at TABLES + i * 1000h; CR3 points to the first */
#define LEVELS_MAX 5

struct shape {
	const char *name;
	enum paging_mode mode;
	unsigned levels;
	u8 shift[LEVELS_MAX];
	u8 entry_size;
	bool pse;
};

static const struct shape shapes[] = {
	{ "32-bit", PAGING_32, 2, { 22, 12 }, 4, false },
	{ "32-bit with PSE", PAGING_32, 2, { 22, 12 }, 4, true },
	{ "PAE", PAGING_PAE, 2, { 21, 12 }, 8, false },
	{ "4-level", PAGING_4LEVEL, 4, { 39, 30, 21, 12 }, 8, false },
	{ "5-level", PAGING_5LEVEL, 5, { 48, 39, 30, 21, 12 }, 8, false },
};

/* All that the outcome may depend on. */
struct setting {
	const struct shape *shape;
	u64 entry[LEVELS_MAX];
	gva_t va;
	bool wp, smep, smap, nxe, pge, pke, pks;
	u32 pkru, pkrs;
	u8 phys_bits;
	enum access acc;
	enum mmu_idx idx;
};

/* ---- the oracle ---- */

enum { P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX (UINT64_C(1) << 63)

struct outcome {
	bool granted;
	u32 error;
	gpa_t gpa;
	unsigned shift, leaf;
	bool user, global;
};

/* Does the entry of this level map a page? */
static bool maps_page(const struct setting *s, unsigned level)
{
	unsigned shift = s->shape->shift[level];

	if (shift == 12)
		return true;
	if (!(s->entry[level] & PS))
		return false;
	switch (shift) {
	case 21:
	case 30: return true;
	case 22: return s->shape->pse;
	default: return false;
	}
}

/* Tables 4-2 to 4-20: is a bit set that must be 0? */
static bool reserved_set(const struct setting *s, unsigned level)
{
	unsigned shift = s->shape->shift[level];
	bool page = maps_page(s, level);
	u64 e = s->entry[level];

	if (s->shape->mode == PAGING_32) {
		if (!page || shift == 12)
			return false;
		for (unsigned bit = 13; bit < 22; bit++)
			if ((e >> bit & 1) &&
			    (bit == 21 || 32 + (bit - 13) >= s->phys_bits))
				return true;
		return false;
	}
	for (unsigned bit = s->phys_bits; bit < 52; bit++)
		if (e >> bit & 1)
			return true;
	if (s->shape->mode == PAGING_PAE && (e >> 52 & 0x7ff))
		return true;
	if ((e & NX) && !s->nxe)
		return true;
	if (page && shift == 21 && (e >> 13 & 0xff))
		return true;
	if (page && shift == 30 && (e >> 13 & 0x1ffff))
		return true;
	return !page && shift > 21 && (e & PS);
}

/* Section 4.6.1. */
static bool right(const struct setting *s, enum access acc, bool user_page, bool writable,
		  bool nx)
{
	bool user = s->idx == MMU_USER;

	if (user && !user_page)
		return false;
	if (!user && user_page && acc != ACC_EXEC && s->smap && s->idx != MMU_KERNEL_AC)
		return false;
	if (acc == ACC_READ)
		return true;
	if (acc == ACC_WRITE)
		return writable || (!user && !s->wp);
	return !nx && (user || !user_page || !s->smep);
}

/* Section 4.6.2. */
static bool key_right(const struct setting *s, enum access acc, bool user_page, u64 leaf)
{
	u32 keys = user_page ? s->pkru : s->pkrs;
	unsigned key = leaf >> 59 & 15;

	if (acc == ACC_EXEC || s->shape->mode < PAGING_4LEVEL ||
	    !(user_page ? s->pke : s->pks))
		return true;
	if (keys >> (2 * key) & 1)
		return false;
	if (acc == ACC_READ || !(keys >> (2 * key + 1) & 1))
		return true;
	return s->idx != MMU_USER && !s->wp;
}

static u32 error_base(const struct setting *s)
{
	u32 e = 0;

	if (s->acc == ACC_WRITE)
		e |= PF_W;
	if (s->idx == MMU_USER)
		e |= PF_U;
	if (s->acc == ACC_EXEC && (s->smep || (s->shape->mode != PAGING_32 && s->nxe)))
		e |= PF_I;
	return e;
}

static struct outcome oracle(const struct setting *s)
{
	struct outcome o = { .user = true };
	bool writable = true, nx = false, key;
	u64 e, low;

	for (o.leaf = 0;; o.leaf++) {
		e = s->entry[o.leaf];
		if (!(e & P)) {
			o.error = error_base(s);
			return o;
		}
		if (reserved_set(s, o.leaf)) {
			o.error = error_base(s) | PF_P | PF_RSVD;
			return o;
		}
		o.user = o.user && (e & US);
		writable = writable && (e & RW);
		nx = nx || (s->shape->entry_size == 8 && (e & NX));
		if (maps_page(s, o.leaf))
			break;
	}
	o.shift = s->shape->shift[o.leaf];
	key = key_right(s, s->acc, o.user, e);
	o.granted = key && right(s, s->acc, o.user, writable, nx);
	if (!o.granted) {
		o.error = error_base(s) | PF_P | (key ? 0 : PF_PK);
		return o;
	}
	low = s->va & ((UINT64_C(1) << o.shift) - 1);
	if (s->shape->mode == PAGING_32 && o.shift == 22)
		o.gpa = (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | low;
	else if (s->shape->mode == PAGING_32)
		o.gpa = (e & 0xfffff000) | low;
	else
		o.gpa = (e & 0xffffffffff000 & ~((UINT64_C(1) << o.shift) - 1)) | low;
	o.global = s->pge && (e & G);
	return o;
}

/* What rights the walk should report: those of all three kinds for this kind of CPU
 * access. */
static u8 oracle_rights(const struct setting *s)
{
	struct setting t = *s;
	u8 r = 0;

	for (unsigned acc = ACC_READ; acc <= ACC_EXEC; acc++) {
		t.acc = acc;
		if (oracle(&t).granted)
			r |= (u8)(1u << acc);
	}
	return r;
}

/* ---- the walk ---- */

static gpa_t entry_gpa(const struct setting *s, unsigned level)
{
	unsigned bits = s->shape->entry_size == 4 ? 10 : 9;
	u64 index = s->va >> s->shape->shift[level] & ((1u << bits) - 1);

	return TABLES + level * 0x1000 + index * s->shape->entry_size;
}

static void apply(struct box *b, const struct setting *s)
{
	struct vcpu *v = b->v;
	bool pae = s->shape->mode != PAGING_32, lm = s->shape->mode >= PAGING_4LEVEL;

	b->cpuid.phys_bits = s->phys_bits;
	cpuid_attach(v, &b->cpuid);
	v->cr0 = CR0_PE | CR0_PG | CR0_ET | (s->wp ? CR0_WP : 0);
	v->cr4 = (pae ? CR4_PAE : 0) | (s->shape->pse ? CR4_PSE : 0) |
		 (s->shape->mode == PAGING_5LEVEL ? CR4_LA57 : 0) |
		 (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0) |
		 (s->pge ? CR4_PGE : 0) | (s->pke ? CR4_PKE : 0) | (s->pks ? CR4_PKS : 0);
	v->efer = (lm ? EFER_LME | EFER_LMA : 0) | (s->nxe ? EFER_NXE : 0);
	v->pkru = s->pkru;
	v->pkrs = s->pkrs;
	v->cr3 = TABLES;
	for (unsigned i = 0; i < 4; i++)
		v->pdpte[i] = TABLES | P;
	vcpu_sync(v);
	for (unsigned i = 0; i < s->shape->levels; i++)
		poke(b, entry_gpa(s, i), s->entry[i], s->shape->entry_size);
}

static void describe(const struct setting *s)
{
	print_error("%s va %llx phys_bits %u wp %d smep %d smap %d nxe %d pge %d pke %d "
		    "pks %d "
		    "pkru %x pkrs %x access %d idx %d\n",
		    s->shape->name, (unsigned long long)s->va, s->phys_bits, s->wp,
		    s->smep, s->smap, s->nxe, s->pge, s->pke, s->pks, s->pkru, s->pkrs,
		    s->acc, s->idx);
	for (unsigned i = 0; i < s->shape->levels; i++)
		print_error("  entry %u: %llx\n", i, (unsigned long long)s->entry[i]);
}

#define expect(cond)                                                                     \
	do {                                                                             \
		if (!(cond)) {                                                           \
			describe(s);                                                     \
			fail_msg("not: %s", #cond);                                      \
		}                                                                        \
	} while (0)

static void compare(struct box *b, const struct setting *s)
{
	struct outcome o = oracle(s);
	struct walk w = { 0 };
	bool ok;

	apply(b, s);
	ok = walk(b->v, s->va, s->acc, s->idx, &w);
	expect(ok == o.granted);
	if (!ok) {
		if (w.pf_error != o.error)
			print_error("error %x, want %x\n", w.pf_error, o.error);
		expect(w.pf_error == o.error);
	} else {
		expect(w.gpa == o.gpa);
		expect(w.page_shift == o.shift);
		expect(w.user == o.user);
		expect(w.global == o.global);
		expect(w.rights == oracle_rights(s));
		expect(w.dirty == (s->acc == ACC_WRITE || (s->entry[o.leaf] & D)));
	}
	/* A above the leaf may be set as the walk passes; nothing else unless it is
	 * granted. */
	for (unsigned i = 0; i < s->shape->levels; i++) {
		u64 now = peek(b, entry_gpa(s, i), s->shape->entry_size),
		    set = now ^ s->entry[i];

		expect(!(now & ~s->entry[i] & ~(u64)(A | D)) && !(s->entry[i] & ~now));
		if (ok && i < o.leaf)
			expect((now & A) && !(set & D));
		else if (ok && i == o.leaf)
			expect((now & A) &&
			       (s->acc == ACC_WRITE ? (now & D) : !(set & D)));
		else
			expect(!(set & D) && (i < o.leaf || !(set & A)));
	}
}

/* ---- settings ---- */

static u64 state = 1;

static u64 rnd(void)
{
	/* xorshift64*, a fixed seed: the same settings each time. */
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * UINT64_C(2685821657736338717);
}

static bool one_in(unsigned n)
{
	return rnd() % n == 0;
}

/* An entry that mostly is fine, so that walks get somewhere. */
static u64 random_entry(struct setting *s, unsigned level)
{
	u64 e = P | (one_in(4) ? 0 : RW) | (one_in(4) ? 0 : US);
	unsigned bit;

	if (one_in(16))
		e &= ~(u64)P;
	if (one_in(2))
		e |= A;
	if (one_in(2))
		e |= D;
	if (one_in(3))
		e |= G;
	if (one_in(6))
		e |= PS;
	if (s->shape->entry_size == 8 && one_in(6))
		e |= NX;
	if (s->shape->mode >= PAGING_4LEVEL)
		e |= (rnd() & 15) << 59;
	s->entry[level] = e;
	if (maps_page(s, level))
		e |= rnd() & ~UINT64_C(0) << s->shape->shift[level] & 0xfffffffff;
	else
		e |= TABLES + (level + 1) * 0x1000;
	/* One more bit, anywhere; not so that it leads to another table. */
	bit = (unsigned)(rnd() % (s->shape->entry_size * 8));
	if (one_in(4) && bit != 7 &&
	    (maps_page(s, level) || bit < 12 || bit >= s->phys_bits || bit >= 52))
		e ^= UINT64_C(1) << bit;
	return s->shape->entry_size == 4 ? (u32)e : e;
}

static void random_setting(struct setting *s, const struct shape *shape)
{
	static const u8 widths[] = { 36, 39, 40, 46, 52 };

	*s = (struct setting){ .shape = shape };
	s->phys_bits = widths[rnd() % 5];
	s->va = rnd() & (shape->mode < PAGING_4LEVEL    ? 0xffffffff
			 : shape->mode == PAGING_4LEVEL ? 0x7fffffffffff
							: 0xffffffffffffff);
	if (shape->mode >= PAGING_4LEVEL && one_in(2))
		s->va = ~s->va;
	s->wp = one_in(2);
	s->smep = one_in(2);
	s->smap = one_in(2);
	s->nxe = !one_in(3);
	s->pge = one_in(2);
	s->pke = one_in(2);
	s->pks = one_in(2);
	s->pkru = (u32)rnd();
	s->pkrs = (u32)rnd();
	s->acc = rnd() % 3;
	s->idx = rnd() % MMU_IDX_COUNT;
	for (unsigned i = 0; i < shape->levels; i++)
		s->entry[i] = random_entry(s, i);
}

static void walk_agrees_with_the_manual_on_random_settings(void **test)
{
	struct box *b = *test;
	unsigned granted = 0;
	struct setting s;

	for (unsigned i = 0; i < 300000; i++) {
		random_setting(&s, &shapes[i % ARRAY_SIZE(shapes)]);
		/* An address that a non-canonical check would have stopped does not come
		 * here. */
		compare(b, &s);
		granted += oracle(&s).granted;
	}
	/* Not all the same. */
	assert_in_range(granted, 50000, 250000);
}

/* Every right in the leaf and in one entry above, with every control bit and access. */
static void matrix(struct box *b, const struct shape *shape, unsigned leaf)
{
	struct setting s = { .shape = shape, .phys_bits = 40, .va = 0x12345678 };
	unsigned kinds = shape->entry_size == 8 ? 16 : 8;

	for (unsigned n = 0; n < kinds * kinds * 16; n++) {
		unsigned own = n % kinds, above = n / kinds % kinds,
			 control = n / (kinds * kinds);

		for (unsigned i = 0; i < leaf; i++)
			s.entry[i] = (TABLES + (i + 1) * 0x1000) | P | RW | US;
		s.entry[leaf] = UINT64_C(0x80000000) >> (shape->shift[leaf] == 22) |
				(own & 7) | (own & 8 ? NX : 0) |
				(leaf < shape->levels - 1 ? PS : 0);
		if (leaf)
			s.entry[leaf - 1] = (TABLES + leaf * 0x1000) | (above & 7) |
					    (above & 8 ? NX : 0);
		s.wp = control & 1;
		s.smep = control & 2;
		s.smap = control & 4;
		s.nxe = control & 8;
		for (s.acc = ACC_READ; s.acc <= ACC_EXEC; s.acc++)
			for (s.idx = 0; s.idx < MMU_IDX_COUNT; s.idx++)
				compare(b, &s);
	}
}

static void every_right_in_every_mode(void **test)
{
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
		for (unsigned leaf = 0; leaf < shapes[i].levels; leaf++)
			if (shapes[i].shift[leaf] < 30 &&
			    (leaf == shapes[i].levels - 1 ||
			     shapes[i].mode != PAGING_32 || shapes[i].pse))
				matrix(*test, &shapes[i], leaf);
}

/* Each bit of each entry, alone, for each width of physical addresses. */
static void reserved_bits_of(struct box *b, struct setting *s, unsigned leaf,
			     unsigned level)
{
	for (unsigned bit = 0; bit < s->shape->entry_size * 8u; bit++) {
		for (unsigned l = 0; l < s->shape->levels; l++)
			s->entry[l] = (TABLES + (l + 1) * 0x1000) | P | RW | US;
		s->entry[leaf] = P | RW | US | (leaf < s->shape->levels - 1 ? PS : 0);
		/* No longer a page. */
		if (level == leaf && bit == 7)
			continue;
		s->entry[level] ^= UINT64_C(1) << bit;
		/* Another table: nothing to learn. */
		if (level != leaf && bit >= 12 && bit < 52 && !reserved_set(s, level))
			continue;
		compare(b, s);
	}
}

static void every_reserved_bit(void **test)
{
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		const struct shape *shape = &shapes[i];
		struct setting s = { .shape = shape, .va = 0x3000, .wp = true };

		for (unsigned n = 0; n < 2 * 17 * shape->levels * shape->levels; n++) {
			unsigned leaf = n % shape->levels,
				 level = n / shape->levels % shape->levels;

			s.nxe = n / (shape->levels * shape->levels) & 1;
			s.phys_bits = (u8)(36 + n / (2 * shape->levels * shape->levels));
			if (level > leaf || shape->shift[leaf] > 30 ||
			    (shape->shift[leaf] == 22 && !shape->pse))
				continue;
			reserved_bits_of(*test, &s, leaf, level);
		}
	}
}

/* ---- how far walks have come ---- */

/* A walk that is granted, and how many entries it has read. */
static u64 refs_of(struct box *b, gva_t va, struct walk *w)
{
	u64 refs = b->stats.walk_refs;

	assert_true(walk(b->v, va, ACC_READ, MMU_KERNEL, w));
	return b->stats.walk_refs - refs;
}

/* Through all levels to pages of 4 KiB, of which the first two are mapped. */
static void map_two(struct box *b, struct setting *s)
{
	for (unsigned i = 0; i < s->shape->levels; i++)
		s->entry[i] = (TABLES + (i + 1) * 0x1000) | P | RW | US;
	apply(b, s);
	poke(b, entry_gpa(s, s->shape->levels - 1) + s->shape->entry_size, 0x7000 | P,
	     s->shape->entry_size);
}

static void walks_in_long_mode_begin_where_others_came_by(void **test)
{
	struct box *b = *test;

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct setting s = { .shape = &shapes[i],
				     .va = 0x40000000,
				     .phys_bits = 40 };
		bool cached = s.shape->mode >= PAGING_4LEVEL;
		struct walk w;

		map_two(b, &s);
		assert_int_equal(refs_of(b, s.va, &w), s.shape->levels);
		assert_int_equal(refs_of(b, s.va + 0x1000, &w),
				 cached ? 1 : s.shape->levels);
		assert_int_equal(w.gpa, 0x7000);
		assert_true(peek(b,
				 entry_gpa(&s, s.shape->levels - 1) + s.shape->entry_size,
				 1) &
			    A);
		/* The same bits of the index, elsewhere. */
		if (cached)
			assert_false(walk(b->v, s.va + (UINT64_C(1) << 30), ACC_READ,
					  MMU_KERNEL, &w));
	}
}

static void every_flush_makes_walks_begin_at_the_top(void **test)
{
	struct setting s = { .shape = &shapes[3], .va = 0x40000000, .phys_bits = 40 };
	struct box *b = *test;
	struct walk w;

	map_two(b, &s);
	assert_int_equal(refs_of(b, s.va, &w), 4);
	tlb_flush_page(b->v, 0x1234000);
	assert_int_equal(refs_of(b, s.va, &w), 4);
	tlb_flush_nonglobal(b->v);
	assert_int_equal(refs_of(b, s.va, &w), 4);
	tlb_flush_all(b->v);
	assert_int_equal(refs_of(b, s.va, &w), 4);
	assert_int_equal(refs_of(b, s.va, &w), 1);
}

/* SDM 3 section 4.10.2.4: what was cached cannot be why it faults twice. */
static void no_fault_comes_from_an_old_table(void **test)
{
	struct setting s = { .shape = &shapes[3], .va = 0x40000000, .phys_bits = 40 };
	struct box *b = *test;
	struct walk w;

	map_two(b, &s);
	assert_int_equal(refs_of(b, s.va, &w), 4);
	/* Another table, and the old one is cleared. */
	poke(b, entry_gpa(&s, 2), 0x60000 | P | RW | US, 8);
	poke(b, 0x60000, 0x9000 | P, 8);
	poke(b, entry_gpa(&s, 3), 0, 8);
	assert_int_equal(refs_of(b, s.va, &w), 1 + 4);
	assert_int_equal(w.gpa, 0x9000);
	/* So it is when the fault is real. */
	poke(b, 0x60000, 0, 8);
	assert_false(walk(b->v, s.va, ACC_READ, MMU_KERNEL, &w));
	assert_int_equal(w.pf_error, 0);
}

/* What entries above allow holds for walks that do not see them. */
static void rights_of_entries_above_are_kept(void **test)
{
	struct box *b = *test;

	for (unsigned n = 0; n < 3 * 8; n++) {
		struct setting s = { .shape = &shapes[3],
				     .va = 0x40000000,
				     .phys_bits = 40,
				     .wp = true,
				     .nxe = true };
		struct walk first, again;

		map_two(b, &s);
		poke(b, entry_gpa(&s, n / 8),
		     (TABLES + (n / 8 + 1) * 0x1000) | P | (n & 1 ? RW : 0) |
			     (n & 2 ? US : 0) | (n & 4 ? NX : 0),
		     8);
		assert_int_equal(refs_of(b, s.va, &first), 4);
		assert_int_equal(refs_of(b, s.va, &again), 1);
		assert_int_equal(again.rights, first.rights);
		assert_int_equal(again.user, first.user);
	}
}

/* ---- single facts ---- */

static void no_paging_maps_one_to_one(void **test)
{
	struct box *b = *test;
	struct walk w;

	box_protected(b, 3);
	assert_true(walk(b->v, 0xdeadbeef, ACC_WRITE, MMU_USER, &w));
	assert_int_equal(w.gpa, 0xdeadbeef);
	assert_int_equal(w.rights, 7);
}

/* A walk that cannot write A into its table (ROM, nothing there) goes on all the same. */
static void tables_outside_ram_read_as_ones(void **test)
{
	struct box *b = *test;
	struct walk w;

	box_long(b, 0);
	poke(b, PML4, UINT64_C(0x5000000000) | 7, 8);
	/* All ones has reserved bits. */
	assert_false(walk(b->v, 0, ACC_READ, MMU_KERNEL, &w));
	assert_int_equal(w.pf_error, PF_P | PF_RSVD);
}

static void cr3_low_and_high_bits_are_not_part_of_the_address(void **test)
{
	struct box *b = *test;
	struct walk w;

	box_long(b, 0);
	b->v->cr4 |= CR4_PCIDE;
	b->v->cr3 = PML4 | 0xabc;
	assert_true(walk(b->v, 0x1234, ACC_READ, MMU_KERNEL, &w));
	assert_int_equal(w.gpa, 0x1234);
}

/* PAE: the table lies at CR3 31:5, and need not be page-aligned. */
static void pdpte_load_takes_four_entries_from_cr3(void **test)
{
	struct box *b = *test;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4; i++)
		poke(b, 0x30fe0 + 8 * i, 0x40000 + i * 0x1000 + 1, 8);
	assert_true(pdpte_load(v, 0x30fe0 | 0x18));
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(v->pdpte[i], 0x40001 + i * 0x1000);
}

static void pdpte_load_checks_reserved_bits_of_present_entries(void **test)
{
	struct box *b = *test;
	struct vcpu *v = b->v;

	b->cpuid.phys_bits = 40;
	cpuid_attach(v, &b->cpuid);
	vcpu_sync(v);
	memset(v->pdpte, 0x55, sizeof(v->pdpte));
	for (unsigned n = 0; n < 64; n++) {
		bool bad = n == 1 || n == 2 || (n >= 5 && n <= 8) || n >= 40;

		for (unsigned i = 0; i < 4; i++)
			poke(b, 0x30000 + 8 * i, 0, 8);
		poke(b, 0x30018, UINT64_C(1) << n | 1, 8);
		box_remember(b);
		assert_int_equal(pdpte_load(v, 0x30000), !bad);
		if (bad) {
			assert_fault(b, VEC_GP, 0);
			assert_state_kept(b);
		}
		/* Not looked at when it is not present. */
		poke(b, 0x30018, UINT64_C(1) << n & ~UINT64_C(1), 8);
		assert_true(pdpte_load(v, 0x30000));
	}
}

static void pdpte_not_present_is_a_page_fault(void **test)
{
	struct box *b = *test;
	struct setting s = { .shape = &shapes[2],
			     .phys_bits = 40,
			     .va = 0xc0000000,
			     .entry = { 0x87, 0 } };
	struct walk w;

	apply(b, &s);
	assert_true(walk(b->v, s.va, ACC_READ, MMU_KERNEL, &w));
	b->v->pdpte[3] = 0;
	assert_false(walk(b->v, s.va, ACC_WRITE, MMU_USER, &w));
	assert_int_equal(w.pf_error, PF_W | PF_U);
	assert_true(walk(b->v, 0x80000000, ACC_READ, MMU_KERNEL, &w));
}

/* Registers, not memory: a change of the table does nothing. */
static void pae_walk_uses_the_loaded_pdptes(void **test)
{
	struct box *b = *test;
	struct setting s = { .shape = &shapes[2], .phys_bits = 40, .entry = { 0x87, 0 } };
	struct walk w;

	apply(b, &s);
	b->v->cr3 = 0x50000; /* nothing there */
	assert_true(walk(b->v, 0, ACC_READ, MMU_KERNEL, &w));
}

static void peek_finds_what_the_walk_finds_and_sets_nothing(void **test)
{
	struct box *b = *test;
	unsigned found = 0;
	struct setting s;

	for (unsigned i = 0; i < 50000; i++) {
		struct outcome o;
		gpa_t gpa;

		random_setting(&s, &shapes[i % ARRAY_SIZE(shapes)]);
		/* The right to read is not asked for. */
		s.acc = ACC_READ;
		s.idx = MMU_KERNEL_AC;
		s.pks = s.pke = false;
		o = oracle(&s);
		apply(b, &s);
		if (o.granted) {
			found++;
			assert_true(walk_peek(b->v, s.va, &gpa));
			assert_int_equal(gpa, o.gpa);
		}
		for (unsigned l = 0; l < s.shape->levels; l++)
			assert_int_equal(peek(b, entry_gpa(&s, l), s.shape->entry_size),
					 s.entry[l]);
	}
	assert_in_range(found, 10000, 50000);
}

/* The mode that the control registers select. */
static void paging_mode_of_control_registers(void **test)
{
	static const struct {
		u64 cr0, cr4, efer;
		enum paging_mode mode;
	} table[] = {
		{ 0, CR4_PAE, EFER_LMA, PAGING_NONE },
		{ CR0_PG, 0, 0, PAGING_32 },
		{ CR0_PG, CR4_PSE, 0, PAGING_32 },
		{ CR0_PG, CR4_PAE, 0, PAGING_PAE },
		{ CR0_PG, CR4_PAE | CR4_LA57, 0, PAGING_PAE },
		{ CR0_PG, CR4_PAE, EFER_LME, PAGING_PAE },
		{ CR0_PG, CR4_PAE, EFER_LME | EFER_LMA, PAGING_4LEVEL },
		{ CR0_PG, CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA, PAGING_5LEVEL },
	};
	struct box *b = *test;

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		b->v->cr0 = CR0_PE | table[i].cr0;
		b->v->cr4 = table[i].cr4;
		b->v->efer = table[i].efer;
		assert_int_equal(paging_mode(b->v), table[i].mode);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(walk_agrees_with_the_manual_on_random_settings),
		TEST(every_right_in_every_mode),
		TEST(every_reserved_bit),
		TEST(walks_in_long_mode_begin_where_others_came_by),
		TEST(every_flush_makes_walks_begin_at_the_top),
		TEST(no_fault_comes_from_an_old_table),
		TEST(rights_of_entries_above_are_kept),
		TEST(no_paging_maps_one_to_one),
		TEST(tables_outside_ram_read_as_ones),
		TEST(cr3_low_and_high_bits_are_not_part_of_the_address),
		TEST(pdpte_load_takes_four_entries_from_cr3),
		TEST(pdpte_load_checks_reserved_bits_of_present_entries),
		TEST(pdpte_not_present_is_a_page_fault),
		TEST(pae_walk_uses_the_loaded_pdptes),
		TEST(peek_finds_what_the_walk_finds_and_sets_nothing),
		TEST(paging_mode_of_control_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
