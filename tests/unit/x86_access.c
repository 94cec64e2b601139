/*
 * Guest memory as instructions see it: limits, canonical addresses, alignment, accesses
 * over two pages, devices, data breakpoints, and the TLB behind all that.
 */
#include "x86_box.h"

#include "x86/walk.h"

#define PAGE 0x50000 /* a page of the small map to play with; the next one too */

static void must_read(struct box *b, unsigned sreg, u64 off, unsigned size, u64 want)
{
	u64 val = 0;

	if (!mem_read(b->v, sreg, off, size, &val))
		fail_msg("read of %llx: vector %u error %x", (unsigned long long)off,
			 b->v->fault.vector, b->v->fault.error);
	assert_int_equal(val, want);
}

/* Neither a read nor a write is possible, and memory stays. */
static void must_fault(struct box *b, unsigned sreg, u64 off, unsigned size,
		       unsigned vector, u32 error)
{
	u64 val = 0x1234;

	box_remember(b);
	assert_false(mem_read(b->v, sreg, off, size, &val));
	assert_fault(b, vector, error);
	assert_false(mem_write(b->v, sreg, off, size, 0));
	assert_int_equal(b->v->fault.vector, vector);
	assert_all_kept(b);
}

/* ---- segments ---- */

static void set_seg(struct box *b, unsigned sreg, u32 base, u32 limit, u32 attr)
{
	b->v->seg[sreg] =
		(struct seg){ .base = base, .limit = limit, .attr = attr, .sel = 0x33 };
	seg_changed(b->v, sreg);
	vcpu_mode_changed(b->v);
}

#define DATA (ATTR_DATA(3) | SEG_ACCESSED | SEG_DB)

static void limit_counts_to_the_last_byte(void **state)
{
	struct box *b = *state;

	box_protected(b, 3);
	set_seg(b, DS, PAGE, 0xff, DATA);
	for (unsigned size = 1; size <= 8; size *= 2) {
		poke(b, PAGE + 0x100 - size, 0x1122334455667788, size);
		must_read(b, DS, 0x100 - size, size,
			  0x1122334455667788 & size_mask(size));
		must_fault(b, DS, 0x101 - size, size, VEC_GP, 0);
		must_fault(b, DS, 0x100, size, VEC_GP, 0);
		must_fault(b, DS, 0xffffffff, size, VEC_GP, 0);
	}
}

static void stack_segment_raises_ss(void **state)
{
	struct box *b = *state;

	box_protected(b, 3);
	set_seg(b, SS, PAGE, 0xff, DATA);
	must_fault(b, SS, 0xfd, 4, VEC_SS, 0);
	b->v->seg[SS].attr |= SEG_UNUSABLE;
	seg_changed(b->v, SS);
	must_fault(b, SS, 0, 1, VEC_SS, 0);
}

static void expand_down_is_above_the_limit(void **state)
{
	struct box *b = *state;
	u32 down = ATTR_DATA(3) | SEG_EXPAND_DOWN | SEG_ACCESSED;

	box_protected(b, 3);
	set_seg(b, DS, PAGE - 0x1000, 0xfff, down);
	poke(b, PAGE, 0x77, 1);
	must_read(b, DS, 0x1000, 1, 0x77);
	must_fault(b, DS, 0xfff, 1, VEC_GP, 0);
	must_fault(b, DS, 0xffe, 4, VEC_GP, 0);
	/* Without B the top is FFFFh. */
	must_read(b, DS, 0xfffc, 4, 0);
	must_fault(b, DS, 0xfffd, 4, VEC_GP, 0);
	must_fault(b, DS, 0x10000, 1, VEC_GP, 0);
	set_seg(b, DS, PAGE - 0x1000, 0xfff, down | SEG_DB);
	must_read(b, DS, 0xfffd, 4, 0);
	must_fault(b, DS, 0xfffffffd, 4, VEC_GP, 0);
	must_fault(b, DS, 0xfff, 1, VEC_GP, 0);
	/* Nothing is left above the highest limit. */
	set_seg(b, DS, 0, 0xffffffff, down | SEG_DB);
	must_fault(b, DS, 0xffffffff, 1, VEC_GP, 0);
}

static void base_plus_offset_wraps_at_4g(void **state)
{
	struct box *b = *state;

	box_protected(b, 3);
	set_seg(b, DS, 0x80000000, 0xffffffff, DATA | SEG_G);
	poke(b, PAGE, 0xabcd, 2);
	must_read(b, DS, 0x80000000 + PAGE, 2, 0xabcd);
}

/* In a segment of 4 GiB the bytes behind the last come from the bottom. */
static void offset_wraps_in_a_segment_of_4g(void **state)
{
	struct box *b = *state;

	box_protected(b, 3);
	set_seg(b, DS, PAGE + 2, 0xffffffff, DATA | SEG_G);
	poke(b, PAGE, 0x44332211, 4);
	must_read(b, DS, 0xfffffffe, 4, 0x44332211);
}

static void types_allow_what_they_say(void **state)
{
	struct box *b = *state;
	u64 val;

	box_protected(b, 3);
	set_seg(b, ES, PAGE, 0xfff, DATA & ~SEG_WRITABLE);
	assert_true(mem_read(b->v, ES, 0, 4, &val));
	assert_false(mem_write(b->v, ES, 0, 4, 1));
	assert_fault(b, VEC_GP, 0);
	set_seg(b, ES, PAGE, 0xfff, ATTR_CODE(3) | SEG_DB);
	assert_true(mem_read(b->v, ES, 0, 4, &val));
	assert_false(mem_write(b->v, ES, 0, 4, 1));
	assert_fault(b, VEC_GP, 0);
	set_seg(b, ES, PAGE, 0xfff, (ATTR_CODE(3) & ~SEG_READABLE) | SEG_DB);
	must_fault(b, ES, 0, 4, VEC_GP, 0);
	/* Real mode does not care. */
	box_real(b);
	set_seg(b, ES, PAGE, 0xffff, (ATTR_CODE(0) & ~SEG_READABLE));
	assert_true(mem_read(b->v, ES, 0, 4, &val));
	assert_true(mem_write(b->v, ES, 0, 4, 1));
}

static void real_mode_has_a_limit_of_64k(void **state)
{
	struct box *b = *state;

	box_real(b);
	must_fault(b, DS, 0xffff, 2, VEC_GP, 0);
	must_fault(b, SS, 0xffff, 2, VEC_SS, 0);
	must_fault(b, DS, 0x10000, 1, VEC_GP, 0);
	must_read(b, DS, 0xfffe, 2, 0);
	box_v86(b, 0);
	must_fault(b, DS, 0xffff, 2, VEC_GP, 0);
	must_read(b, DS, 0xfffe, 2, 0);
}

/* ---- 64-bit mode ---- */

static void not_canonical_is_gp_or_ss(void **state)
{
	static const u64 bad[] = { 0x800000000000, 0xffff7fffffffffff, 0x8000000000000000,
				   0x7ffffffffff9 /* the last byte of 8 */,
				   0xffff7ffffffffffc };
	struct box *b = *state;

	box_long(b, 3);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		must_fault(b, DS, bad[i], 8, VEC_GP, 0);
		must_fault(b, SS, bad[i], 8, VEC_SS, 0);
		must_fault(b, FS, bad[i], 8, VEC_GP, 0);
	}
	/* The base of FS counts, that of others does not. */
	b->v->seg[FS].base = 0x7ffffffff000;
	seg_changed(b->v, FS);
	must_fault(b, FS, 0x1000, 1, VEC_GP, 0);
	b->v->seg[DS].base = 0x7ffffffff000;
	seg_changed(b->v, DS);
	poke(b, PAGE, 0x99, 1);
	must_read(b, DS, PAGE, 1, 0x99);
}

static void bytes_are_checked_for_canonical_addresses_too(void **state)
{
	struct box *b = *state;
	u8 buf[64] = { 0 };

	box_long(b, 3);
	assert_false(mem_read_bytes(b->v, DS, 0x7fffffffffe0, buf, 64));
	assert_fault(b, VEC_GP, 0);
	assert_false(mem_write_bytes(b->v, SS, 0x7fffffffffe0, buf, 64));
	assert_fault(b, VEC_SS, 0);
	assert_false(mem_probe_write(b->v, DS, 0x800000000000, 1));
	assert_fault(b, VEC_GP, 0);
}

/* With 5 levels bit 56 decides. */
static void la57_widens_addresses(void **state)
{
	struct box *b = *state;

	box_long(b, 3);
	b->v->cr4 |= CR4_LA57;
	memset(b->ram + 0x38000, 0, 0x1000);
	poke(b, 0x38000, PML4 | 7, 8);
	b->v->cr3 = 0x38000;
	vcpu_sync(b->v);
	poke(b, PAGE, 0x5a, 1);
	must_read(b, DS, PAGE, 1, 0x5a);
	must_fault(b, DS, 0x800000000000, 1, VEC_PF, PF_U);
	must_fault(b, DS, UINT64_C(1) << 56, 1, VEC_GP, 0);
}

/* Compatibility mode: segmentation as in protected mode, addresses of 32 bits. */
static void compatibility_mode_has_limits(void **state)
{
	struct box *b = *state;

	box_compat(b, 3);
	set_seg(b, DS, PAGE, 0xff, DATA);
	must_fault(b, DS, 0x100, 1, VEC_GP, 0);
	set_seg(b, DS, 0xfffff000, 0xffffffff, DATA | SEG_G);
	poke(b, PAGE, 0x31, 1);
	must_read(b, DS, PAGE + 0x1000, 1, 0x31);
}

/* ---- alignment ---- */

static void alignment_is_checked_at_cpl3_with_am_and_ac(void **state)
{
	for (unsigned n = 0; n < 16; n++) {
		unsigned cpl = n & 1 ? 3 : 0;
		bool am = n & 2, ac = n & 4, lm = n & 8;
		struct box *b = *state;
		struct rmw m;
		u64 val;

		if (lm)
			box_long(b, cpl);
		else
			box_protected(b, cpl);
		b->v->cr0 |= am ? CR0_AM : 0;
		b->v->flags |= ac ? RFLAGS_AC : 0;
		vcpu_sync(b->v);
		for (unsigned size = 1; size <= 8; size *= 2) {
			for (unsigned off = 0; off < 8; off++) {
				bool bad = cpl == 3 && am && ac && off % size;

				/* Twice: on a miss, and on a hit. */
				for (unsigned i = 0; i < 2; i++) {
					assert_int_equal(mem_read(b->v, DS, PAGE + off,
								  size, &val),
							 !bad);
					if (bad)
						assert_fault(b, VEC_AC, 0);
					assert_int_equal(
						mem_write(b->v, DS, PAGE + off, size, 1),
						!bad);
					if (bad)
						assert_fault(b, VEC_AC, 0);
					assert_int_equal(
						rmw_begin(b->v, DS, PAGE + off, size, &m),
						!bad);
					if (bad)
						assert_fault(b, VEC_AC, 0);
				}
			}
		}
		/* The CPU's own accesses are not checked. */
		assert_true(sys_read(b->v, PAGE + 1, 8, &val));
		assert_true(sys_write(b->v, PAGE + 3, 4, 1));
	}
}

/* ---- two pages ---- */

static void fault_in_the_second_page_writes_nothing(void **state)
{
	struct box *b = *state;
	u64 val;

	box_long(b, 3);
	box_map_small(b);
	set_pte(b, PAGE + 0x1000, 0);
	poke(b, PAGE + 0xff8, 0x1111111111111111, 8);
	for (unsigned size = 2; size <= 8; size *= 2) {
		for (unsigned n = 1; n < size; n++) {
			assert_false(mem_write(b->v, DS, PAGE + 0x1000 - n, size,
					       ~UINT64_C(0)));
			assert_fault(b, VEC_PF, PF_W | PF_U);
			assert_int_equal(b->v->fault.cr2, PAGE + 0x1000);
			assert_false(mem_read(b->v, DS, PAGE + 0x1000 - n, size, &val));
			assert_fault(b, VEC_PF, PF_U);
			assert_int_equal(b->v->fault.cr2, PAGE + 0x1000);
			assert_int_equal(peek(b, PAGE + 0xff8, 8), 0x1111111111111111);
		}
	}
	/* The first page is at fault before the second. */
	set_pte(b, PAGE, 0);
	assert_false(mem_write(b->v, DS, PAGE + 0xffd, 8, 0));
	assert_int_equal(b->v->fault.cr2, PAGE + 0xffd);
}

static void read_only_second_page_writes_nothing(void **state)
{
	struct box *b = *state;
	u8 buf[64], seen[64];
	struct rmw m;

	box_long(b, 3);
	box_map_small(b);
	set_pte(b, PAGE + 0x1000, 5);
	memset(buf, 0xee, sizeof(buf));
	assert_false(mem_write_bytes(b->v, DS, PAGE + 0xff0, buf, 64));
	assert_fault(b, VEC_PF, PF_P | PF_W | PF_U);
	assert_true(mem_read_bytes(b->v, DS, PAGE + 0xff0, seen, 64));
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(seen[i], 0);
	assert_false(rmw_begin(b->v, DS, PAGE + 0xffc, 8, &m));
	assert_fault(b, VEC_PF, PF_P | PF_W | PF_U);
	assert_false(mem_probe_write(b->v, DS, PAGE + 0xfff, 2));
	assert_true(mem_probe_write(b->v, DS, PAGE + 0xffe, 2));
	assert_true(mem_probe_read(b->v, DS, PAGE + 0xfff, 2));
}

/* Pages that are not neighbours in memory. */
static void crossing_access_is_put_together_of_both_pages(void **state)
{
	struct box *b = *state;

	box_long(b, 3);
	box_map_small(b);
	poke(b, PT + (PAGE >> 12) * 8 + 8, 0x90000 | 7, 8);
	tlb_flush_all(b->v);
	poke(b, PAGE + 0xffc, 0x44332211, 4);
	poke(b, 0x90000, 0x88776655, 4);
	must_read(b, DS, PAGE + 0xffc, 8, 0x8877665544332211);
	must_read(b, DS, PAGE + 0xfff, 2, 0x5544);
	assert_true(mem_write(b->v, DS, PAGE + 0xffd, 8, 0x0102030405060708));
	assert_int_equal(peek(b, PAGE + 0xffc, 4), 0x06070811);
	assert_int_equal(peek(b, 0x90000, 8), 0x0102030405);
}

/* Linear addresses wrap at 4 GiB without long mode. */
static void crossing_access_wraps_at_4g(void **state)
{
	struct box *b = *state;
	u64 val;

	box_protected(b, 0);
	poke(b, 0, 0x2211, 2);
	assert_true(lin_read(b->v, DS, 0xfffffffe, 4, &val));
	/* The upper half of the address space is nowhere. */
	assert_int_equal(val, 0x2211ffff);
}

/* ---- read-modify-write ---- */

static void rmw_points_into_ram_when_it_can(void **state)
{
	struct box *b = *state;
	struct rmw m;

	box_long(b, 3);
	assert_true(rmw_begin(b->v, DS, PAGE + 8, 8, &m));
	assert_true(m.direct);
	assert_ptr_equal(m.p, b->ram + PAGE + 8);
	__atomic_fetch_add((u64 *)m.p, 5, __ATOMIC_SEQ_CST);
	rmw_end(b->v, &m);
	assert_int_equal(peek(b, PAGE + 8, 8), 5);
	/* And again, by the TLB. */
	assert_true(rmw_begin(b->v, DS, PAGE + 8, 8, &m));
	assert_ptr_equal(m.p, b->ram + PAGE + 8);
}

static void rmw_over_two_pages_is_a_copy(void **state)
{
	struct box *b = *state;
	struct rmw m;

	box_long(b, 3);
	box_map_small(b);
	poke(b, PT + (PAGE >> 12) * 8 + 8, 0x90000 | 7, 8);
	tlb_flush_all(b->v);
	poke(b, PAGE + 0xffd, 0x332211, 2);
	assert_true(rmw_begin(b->v, DS, PAGE + 0xffd, 16, &m));
	assert_false(m.direct);
	memset(m.p, 0x5c, 16);
	/* Abandoned: nothing is written. */
	assert_int_equal(peek(b, PAGE + 0xffd, 1), 0x11);
	rmw_end(b->v, &m);
	assert_int_equal(peek(b, PAGE + 0xffd, 2), 0x5c5c);
	assert_int_equal(peek(b, 0x9000c, 8), 0x5c);
}

static void rmw_needs_a_writable_page_and_sets_dirty(void **state)
{
	struct box *b = *state;
	struct rmw m;

	box_long(b, 3);
	box_map_small(b);
	set_pte(b, PAGE, 5);
	assert_false(rmw_begin(b->v, DS, PAGE, 4, &m));
	assert_fault(b, VEC_PF, PF_P | PF_W | PF_U);
	set_pte(b, PAGE, 7);
	assert_true(rmw_begin(b->v, DS, PAGE, 4, &m));
	assert_int_equal(peek(b, PT + (PAGE >> 12) * 8, 8) & 0x60, 0x60);
}

/* ---- devices ---- */

#define DEVICE 0x10000000 /* beyond RAM */

struct device {
	struct {
		bool write;
		u64 off, val;
		unsigned size;
	} log[32];
	unsigned n;
};

static u64 device_read(void *dev, u64 off, unsigned size)
{
	struct device *d = dev;

	assert_in_range(d->n, 0, 31);
	d->log[d->n].write = false;
	d->log[d->n].off = off;
	d->log[d->n++].size = size;
	/* Each byte is its offset. */
	return 0x0706050403020100 + off * 0x0101010101010101;
}

static void device_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct device *d = dev;

	assert_in_range(d->n, 0, 31);
	d->log[d->n].write = true;
	d->log[d->n].off = off;
	d->log[d->n].val = val;
	d->log[d->n++].size = size;
}

static const struct io_ops device_ops = { device_read, device_write,
					  IO_1 | IO_2 | IO_4 | IO_8 };

static struct device *add_device(struct box *b)
{
	static struct device d;
	struct error err = { "" };

	d = (struct device){ 0 };
	assert_int_equal(
		phys_add_mmio(b->phys, "device", DEVICE, 0x2000, &device_ops, &d, &err),
		0);
	box_protected(b, 0);
	return &d;
}

static void want_access(struct device *d, unsigned i, bool write, u64 off, unsigned size)
{
	assert_in_range(i, 0, d->n - 1);
	assert_int_equal(d->log[i].write, write);
	assert_int_equal(d->log[i].off, off);
	assert_int_equal(d->log[i].size, size);
}

static void device_gets_one_access_of_the_size(void **state)
{
	struct box *b = *state;
	struct device *d = add_device(b);

	for (unsigned size = 1; size <= 8; size *= 2) {
		d->n = 0;
		must_read(b, DS, DEVICE + 8, size, 0x0f0e0d0c0b0a0908 & size_mask(size));
		assert_true(mem_write(b->v, DS, DEVICE + 16, size, 0x1122334455667788));
		assert_int_equal(d->n, 2);
		want_access(d, 0, false, 8, size);
		want_access(d, 1, true, 16, size);
		assert_int_equal(d->log[1].val, 0x1122334455667788 & size_mask(size));
	}
	assert_int_equal(b->stats.mmio_reads, 4);
	assert_int_equal(b->stats.mmio_writes, 4);
}

static void device_sees_aligned_pieces_of_bytes(void **state)
{
	struct box *b = *state;
	struct device *d = add_device(b);
	u8 buf[16];

	assert_true(mem_read_bytes(b->v, DS, DEVICE + 3, buf, 16));
	assert_int_equal(d->n, 5);
	want_access(d, 0, false, 3, 1);
	want_access(d, 1, false, 4, 4);
	want_access(d, 2, false, 8, 8);
	want_access(d, 3, false, 16, 2);
	want_access(d, 4, false, 18, 1);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(buf[i], 3 + i);
	d->n = 0;
	assert_true(mem_write_bytes(b->v, DS, DEVICE + 3, buf, 13));
	assert_int_equal(d->n, 3);
	want_access(d, 0, true, 3, 1);
	want_access(d, 1, true, 4, 4);
	want_access(d, 2, true, 8, 8);
}

static void device_rmw_is_a_read_and_a_write(void **state)
{
	struct box *b = *state;
	struct device *d = add_device(b);
	struct rmw m;

	assert_true(rmw_begin(b->v, DS, DEVICE + 4, 4, &m));
	assert_false(m.direct);
	*(u32 *)m.p += 1;
	rmw_end(b->v, &m);
	assert_int_equal(d->n, 2);
	want_access(d, 0, false, 4, 4);
	want_access(d, 1, true, 4, 4);
	assert_int_equal(d->log[1].val, 0x07060505);
}

static void access_from_ram_into_a_device_is_split(void **state)
{
	struct box *b = *state;
	struct device *d = add_device(b);
	u64 val;

	box_long(b, 0);
	box_map_small(b);
	poke(b, PT + (PAGE >> 12) * 8 + 8, DEVICE | 3, 8);
	tlb_flush_all(b->v);
	poke(b, PAGE + 0xffe, 0x2211, 2);
	assert_true(mem_read(b->v, DS, PAGE + 0xffe, 8, &val));
	assert_int_equal(val, 0x0504030201002211);
	assert_int_equal(d->n, 2);
	want_access(d, 0, false, 0, 4);
	want_access(d, 1, false, 4, 2);
}

static void nothing_there_reads_as_ones(void **state)
{
	struct box *b = *state;

	box_protected(b, 0);
	must_read(b, DS, 0x20000000, 4, 0xffffffff);
	assert_true(mem_write(b->v, DS, 0x20000000, 4, 0));
}

static void rom_ignores_writes(void **state)
{
	struct box *b = *state;
	u8 rom[4096];
	struct error err = { "" };
	struct rmw m;

	memset(rom, 0x3c, sizeof(rom));
	assert_int_equal(phys_add_rom(b->phys, "rom", 0x30000000, rom, sizeof(rom), &err),
			 0);
	box_protected(b, 0);
	must_read(b, DS, 0x30000004, 4, 0x3c3c3c3c);
	assert_true(mem_write(b->v, DS, 0x30000004, 4, 0));
	assert_true(rmw_begin(b->v, DS, 0x30000004, 4, &m));
	*(u32 *)m.p = 0;
	rmw_end(b->v, &m);
	must_read(b, DS, 0x30000004, 4, 0x3c3c3c3c);
}

/* ---- data breakpoints ---- */

/* Breakpoint n enabled; rw 1 writes, 3 all; len 0 1, 1 2, 2 8, 3 4. */
static void set_break(struct box *b, unsigned n, u64 addr, unsigned rw, unsigned len)
{
	assert_true(dr_write(b->v, n, addr));
	assert_true(dr_write(b->v, 7,
			     b->v->dr[7] | 1u << (2 * n) | rw << (16 + 4 * n) |
				     len << (18 + 4 * n)));
}

static u64 hits(struct box *b)
{
	u64 h = b->v->pending_db;

	b->v->pending_db = 0;
	return h;
}

static void breakpoint_hits_any_overlap(void **state)
{
	struct box *b = *state;
	u64 val;

	box_long(b, 0);
	set_break(b, 1, PAGE + 4, 1, 3);
	for (unsigned size = 1; size <= 8; size *= 2) {
		for (unsigned off = 0; off < 16; off++) {
			bool overlap = off < 8 && off + size > 4;

			assert_true(mem_write(b->v, DS, PAGE + off, size, 0));
			assert_int_equal(hits(b), overlap ? 2 : 0);
			/* A read is none for this kind. */
			assert_true(mem_read(b->v, DS, PAGE + off, size, &val));
			assert_int_equal(hits(b), 0);
		}
	}
}

static void breakpoint_on_reads_and_writes(void **state)
{
	struct box *b = *state;
	u8 buf[64] = { 0 };
	struct rmw m;
	u64 val;

	box_long(b, 0);
	set_break(b, 0, PAGE + 0x20, 3, 2);
	set_break(b, 3, PAGE + 0x21, 3, 0);
	assert_true(mem_read(b->v, DS, PAGE + 0x20, 1, &val));
	assert_int_equal(hits(b), 1);
	assert_true(mem_read(b->v, DS, PAGE + 0x20, 2, &val));
	assert_int_equal(hits(b), 9);
	assert_true(mem_read_bytes(b->v, DS, PAGE, buf, 64));
	assert_int_equal(hits(b), 9);
	assert_true(mem_write_bytes(b->v, DS, PAGE + 0x22, buf, 4));
	assert_int_equal(hits(b), 1);
	assert_true(rmw_begin(b->v, DS, PAGE + 0x20, 4, &m));
	rmw_end(b->v, &m);
	assert_int_equal(hits(b), 9);
	/* Another page is not slowed down, nor is this one when it is over. */
	assert_null(mem_fast_ptr(b->v, DS, PAGE, 4, ACC_READ));
	assert_true(dr_write(b->v, 7, 0));
	assert_non_null(mem_fast_ptr(b->v, DS, PAGE, 4, ACC_READ));
	assert_true(mem_read(b->v, DS, PAGE + 0x20, 8, &val));
	assert_int_equal(hits(b), 0);
}

static void breakpoint_does_not_hit_when_the_access_faults(void **state)
{
	struct box *b = *state;
	u64 val;

	box_long(b, 3);
	box_map_small(b);
	b->v->cpl = 0;
	set_break(b, 0, PAGE + 0xffe, 3, 1);
	b->v->cpl = 3;
	set_pte(b, PAGE + 0x1000, 0);
	assert_false(mem_read(b->v, DS, PAGE + 0xffe, 4, &val));
	assert_int_equal(hits(b), 0);
	assert_false(mem_write(b->v, DS, PAGE + 0xffe, 4, 0));
	assert_int_equal(hits(b), 0);
}

/* ---- TLB ---- */

/* Is the page in the TLB? A read of it walks or does not. */
static bool cached(struct box *b, gva_t lin)
{
	u64 before = b->stats.walks, val;

	assert_true(mem_read(b->v, DS, lin, 1, &val));
	return b->stats.walks == before;
}

static void read_fills_the_tlb(void **state)
{
	struct box *b = *state;

	box_long(b, 0);
	box_map_small(b);
	assert_false(cached(b, PAGE));
	assert_true(cached(b, PAGE + 0xfff));
	assert_false(cached(b, PAGE + 0x1000));
}

/* A read does not make a page writable before D is set. */
static void first_write_walks_for_the_dirty_bit(void **state)
{
	struct box *b = *state;
	gpa_t pte = PT + (PAGE >> 12) * 8;
	u64 val;

	box_long(b, 0);
	box_map_small(b);
	set_pte(b, PAGE, 7);
	assert_true(mem_read(b->v, DS, PAGE, 1, &val));
	assert_int_equal(peek(b, pte, 8) & 0x60, 0x20);
	assert_true(mem_write(b->v, DS, PAGE, 1, 0));
	assert_int_equal(peek(b, pte, 8) & 0x60, 0x60);
}

static void faults_are_not_cached(void **state)
{
	struct box *b = *state;
	gpa_t pte = PT + (PAGE >> 12) * 8;
	u64 val;

	box_long(b, 0);
	box_map_small(b);
	set_pte(b, PAGE, 0);
	assert_false(mem_read(b->v, DS, PAGE, 1, &val));
	poke(b, pte, PAGE | 1, 8);
	assert_true(mem_read(b->v, DS, PAGE, 1, &val));
	b->v->cr0 |= CR0_WP;
	vcpu_sync(b->v);
	assert_false(mem_write(b->v, DS, PAGE, 1, 0));
	poke(b, pte, PAGE | 3, 8);
	assert_true(mem_write(b->v, DS, PAGE, 1, 0));
}

static void flush_page_drops_that_page(void **state)
{
	struct box *b = *state;

	box_long(b, 0);
	box_map_small(b);
	cached(b, PAGE);
	cached(b, PAGE + 0x1000);
	tlb_flush_page(b->v, PAGE + 0x777);
	assert_true(cached(b, PAGE + 0x1000));
	assert_false(cached(b, PAGE));
	/* Another page in the same slot is not it. */
	tlb_flush_page(b->v, PAGE + TLB_SIZE * 0x1000);
	assert_true(cached(b, PAGE));
}

static void flush_page_drops_all_pieces_of_a_large_page(void **state)
{
	struct box *b = *state;

	box_long(b, 0);
	for (unsigned i = 0; i < 16; i++)
		cached(b, PAGE + i * 0x1000);
	tlb_flush_page(b->v, 0x1ff000);
	for (unsigned i = 0; i < 16; i++)
		assert_false(cached(b, PAGE + i * 0x1000));
}

static void flush_page_drops_it_for_every_kind_of_access(void **state)
{
	struct box *b = *state;
	gpa_t gpa;
	u64 val, walks;

	box_long(b, 3);
	box_map_small(b);
	assert_true(mem_read(b->v, DS, PAGE, 1, &val));
	assert_true(sys_read(b->v, PAGE, 1, &val));
	assert_true(fetch_translate(b->v, PAGE, &gpa));
	walks = b->stats.walks;
	assert_true(fetch_translate(b->v, PAGE, &gpa));
	assert_true(sys_read(b->v, PAGE, 1, &val));
	assert_int_equal(b->stats.walks, walks);
	tlb_flush_page(b->v, PAGE);
	assert_true(sys_read(b->v, PAGE, 1, &val));
	assert_true(fetch_translate(b->v, PAGE, &gpa));
	assert_int_equal(b->stats.walks, walks + 2);
}

static void global_pages_survive_flush_nonglobal(void **state)
{
	struct box *b = *state;

	box_long(b, 0);
	box_map_small(b);
	b->v->cr4 |= CR4_PGE;
	vcpu_sync(b->v);
	set_pte(b, PAGE, 0x167);
	cached(b, PAGE);
	cached(b, PAGE + 0x1000);
	tlb_flush_nonglobal(b->v);
	assert_true(cached(b, PAGE));
	assert_false(cached(b, PAGE + 0x1000));
	/* INVLPG takes them too, and so does a flush of all. */
	tlb_flush_page(b->v, PAGE);
	assert_false(cached(b, PAGE));
	tlb_flush_all(b->v);
	assert_false(cached(b, PAGE));
	/* Without PGE the bit means nothing. */
	b->v->cr4 &= ~CR4_PGE;
	vcpu_sync(b->v);
	cached(b, PAGE);
	tlb_flush_nonglobal(b->v);
	assert_false(cached(b, PAGE));
}

/* More pages than slots, with two that share one. */
static void pages_of_one_slot_do_not_mix(void **state)
{
	struct box *b = *state;

	box_long(b, 0);
	/* The last GiB is the same memory. */
	poke(b, PAGE, 0x11, 1);
	poke(b, PAGE + 0x100000, 0x22, 1);
	for (unsigned i = 0; i < 4; i++) {
		must_read(b, DS, PAGE, 1, 0x11);
		must_read(b, DS, 0xffffffffc0000000 + PAGE + 0x100000, 1, 0x22);
		must_read(b, DS, 0xffffffffc0000000 + PAGE, 1, 0x11);
	}
}

static void privilege_has_its_own_entries(void **state)
{
	struct box *b = *state;
	u64 val;

	box_long(b, 3);
	box_map_small(b);
	set_pte(b, PAGE, 3);
	/* The CPU's own access fills the supervisor's entry; the user's stays empty. */
	assert_true(sys_read(b->v, PAGE, 1, &val));
	assert_false(mem_read(b->v, DS, PAGE, 1, &val));
	assert_fault(b, VEC_PF, PF_P | PF_U);
}

/* SMAP: the same page, with and without AC, at once. */
static void ac_flag_lets_a_supervisor_through_smap(void **state)
{
	struct box *b = *state;
	u64 val;

	box_long(b, 0);
	b->v->cr4 |= CR4_SMAP;
	vcpu_sync(b->v);
	for (unsigned i = 0; i < 3; i++) {
		assert_false(mem_read(b->v, DS, PAGE, 1, &val));
		assert_fault(b, VEC_PF, PF_P);
		b->v->flags |= RFLAGS_AC;
		vcpu_mode_changed(b->v);
		assert_true(mem_read(b->v, DS, PAGE, 1, &val));
		/* Implicit accesses are not let through. */
		assert_false(sys_read(b->v, PAGE, 1, &val));
		b->v->flags &= ~(u64)RFLAGS_AC;
		vcpu_mode_changed(b->v);
	}
}

static void fetch_needs_the_right_to_execute(void **state)
{
	struct box *b = *state;
	gpa_t gpa;
	u64 val;

	box_long(b, 0);
	box_map_small(b);
	set_pte(b, PAGE, 7 | UINT64_C(1) << 63);
	assert_true(mem_read(b->v, DS, PAGE, 1, &val));
	assert_false(fetch_translate(b->v, PAGE + 5, &gpa));
	assert_fault(b, VEC_PF, PF_P | PF_I);
	assert_int_equal(b->v->fault.cr2, PAGE + 5);
	set_pte(b, PAGE, 7);
	assert_true(fetch_translate(b->v, PAGE + 5, &gpa));
	assert_int_equal(gpa, PAGE + 5);
	b->v->cr4 |= CR4_SMEP;
	vcpu_sync(b->v);
	assert_false(fetch_translate(b->v, PAGE, &gpa));
	assert_false(fetch_translate(b->v, 0x800000000000, &gpa));
	assert_fault(b, VEC_GP, 0);
}

/* ---- code pages ---- */

static gpa_t told_gpa;
static u64 told_len;
static unsigned told;

static void written(void *opaque, gpa_t gpa, u64 len)
{
	(void)opaque;
	told++;
	told_gpa = gpa;
	told_len = len;
}

static void guard(void *opaque, gpa_t page)
{
	struct box *b = opaque;

	tlb_protect_code(b->v, page);
}

static void write_to_a_code_page_is_told(void **state)
{
	struct box *b = *state;
	struct code_listener l = { .written = written, .guard = guard, .opaque = b };
	struct rmw m;

	box_long(b, 0);
	assert_int_equal(phys_add_code_listener(b->phys, &l), 0);
	/* It is writable by the TLB before it becomes code. */
	assert_true(mem_write(b->v, DS, PAGE, 4, 0));
	assert_true(mem_write(b->v, DS, 0xffffffffc0000000 + PAGE, 4, 0));
	told = 0;
	assert_true(phys_mark_code(b->phys, &l, PAGE));
	assert_true(mem_write(b->v, DS, PAGE + 8, 4, 0));
	assert_int_equal(told, 1);
	assert_int_equal(told_gpa, PAGE + 8);
	assert_int_equal(told_len, 4);
	/* By any alias, and by each kind of store. */
	assert_true(mem_write(b->v, DS, 0xffffffffc0000000 + PAGE + 1, 2, 0));
	assert_int_equal(told, 2);
	assert_int_equal(told_gpa, PAGE + 1);
	assert_true(mem_write_bytes(b->v, DS, PAGE + 0xffc, "12345678", 8));
	assert_int_equal(told, 3);
	assert_int_equal(told_gpa, PAGE + 0xffc);
	assert_int_equal(told_len, 4);
	assert_true(rmw_begin(b->v, DS, PAGE, 8, &m));
	assert_int_equal(told, 3);
	rmw_end(b->v, &m);
	assert_int_equal(told, 4);
	assert_null(mem_fast_ptr(b->v, DS, PAGE, 4, ACC_WRITE));
	/* Over the boundary into it. */
	assert_true(mem_write(b->v, DS, PAGE - 2, 4, 0));
	assert_int_equal(told, 5);
	assert_int_equal(told_gpa, PAGE);
	phys_remove_code_listener(b->phys, &l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(limit_counts_to_the_last_byte),
		TEST(stack_segment_raises_ss),
		TEST(expand_down_is_above_the_limit),
		TEST(base_plus_offset_wraps_at_4g),
		TEST(offset_wraps_in_a_segment_of_4g),
		TEST(types_allow_what_they_say),
		TEST(real_mode_has_a_limit_of_64k),
		TEST(not_canonical_is_gp_or_ss),
		TEST(bytes_are_checked_for_canonical_addresses_too),
		TEST(la57_widens_addresses),
		TEST(compatibility_mode_has_limits),
		TEST(alignment_is_checked_at_cpl3_with_am_and_ac),
		TEST(fault_in_the_second_page_writes_nothing),
		TEST(read_only_second_page_writes_nothing),
		TEST(crossing_access_is_put_together_of_both_pages),
		TEST(crossing_access_wraps_at_4g),
		TEST(rmw_points_into_ram_when_it_can),
		TEST(rmw_over_two_pages_is_a_copy),
		TEST(rmw_needs_a_writable_page_and_sets_dirty),
		TEST(device_gets_one_access_of_the_size),
		TEST(device_sees_aligned_pieces_of_bytes),
		TEST(device_rmw_is_a_read_and_a_write),
		TEST(access_from_ram_into_a_device_is_split),
		TEST(nothing_there_reads_as_ones),
		TEST(rom_ignores_writes),
		TEST(breakpoint_hits_any_overlap),
		TEST(breakpoint_on_reads_and_writes),
		TEST(breakpoint_does_not_hit_when_the_access_faults),
		TEST(read_fills_the_tlb),
		TEST(first_write_walks_for_the_dirty_bit),
		TEST(faults_are_not_cached),
		TEST(flush_page_drops_that_page),
		TEST(flush_page_drops_all_pieces_of_a_large_page),
		TEST(flush_page_drops_it_for_every_kind_of_access),
		TEST(global_pages_survive_flush_nonglobal),
		TEST(pages_of_one_slot_do_not_mix),
		TEST(privilege_has_its_own_entries),
		TEST(ac_flag_lets_a_supervisor_through_smap),
		TEST(fetch_needs_the_right_to_execute),
		TEST(write_to_a_code_page_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
