/* The guest-physical address space: RAM, ROM and MMIO windows. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "mem/phys.h"

struct chip {
	u8 reg[64];
	unsigned n;
	unsigned size[16];
};

static u64 chip_read(void *dev, u64 off, unsigned size)
{
	struct chip *c = dev;

	if (c->n < ARRAY_SIZE(c->size))
		c->size[c->n] = size;
	c->n++;
	return le_load(c->reg + off % 56, size);
}

static void chip_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct chip *c = dev;

	c->n++;
	le_store(c->reg + off % 56, val, size);
}

static const struct io_ops chip_ops = { chip_read, chip_write,
					IO_1 | IO_2 | IO_4 | IO_8 };
static const struct io_ops chip4_ops = { chip_read, chip_write, IO_4 };

static struct phys *map_new(void)
{
	struct phys *p = phys_new();

	assert_int_equal(phys_add_ram(p, "low", 0, MiB(4), NULL), 0);
	assert_int_equal(phys_add_ram(p, "high", GiB(4), MiB(4), NULL), 0);
	return p;
}

static void ram_starts_as_zero_and_keeps_what_is_written(void **state)
{
	struct phys *p = map_new();
	u8 buf[3 * 4096];

	(void)state;
	memset(buf, 0xff, sizeof(buf));
	assert_true(phys_read(p, 0x1ff0, buf, sizeof(buf)));
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	memset(buf, 0x5a, sizeof(buf));
	assert_true(phys_write(p, 0x1ff0, buf, sizeof(buf)));
	assert_int_equal(phys_load(p, 0x1ff0, 1), 0x5a);
	assert_int_equal(phys_load(p, 0x1fec, 8), UINT64_C(0x5a5a5a5a00000000));
	assert_int_equal(phys_ram_size(p), MiB(8));
	phys_free(p);
}

static void ram_refuses_bad_sizes_and_overlap(void **state)
{
	struct phys *p = map_new();
	struct error err = { 0 };

	(void)state;
	assert_int_equal(phys_add_ram(p, "odd", MiB(16), 100, &err), -EINVAL);
	assert_int_equal(phys_add_ram(p, "odd", MiB(16) + 1, 4096, &err), -EINVAL);
	assert_int_equal(phys_add_ram(p, "none", MiB(16), 0, &err), -EINVAL);
	assert_int_equal(phys_add_ram(p, "far", BIT(52), 4096, &err), -EINVAL);
	assert_int_equal(phys_add_ram(p, "wrap", BIT(51), BIT(52), &err), -EINVAL);
	memset(&err, 0, sizeof(err));
	assert_int_equal(phys_add_ram(p, "over", MiB(3), MiB(2), &err), -EBUSY);
	assert_non_null(strstr(err.msg, "low"));
	assert_int_equal(phys_add_rom(p, "rom", MiB(3), "x", 0, &err), -EINVAL);
	phys_free(p);
}

static void ram_that_the_host_refuses_is_one_clear_error(void **state)
{
	struct phys *p = phys_new();
	struct error err = { 0 };

	(void)state;
	/* More than a process can address on any x86-64 host. */
	assert_int_equal(phys_add_ram(p, "ram", 0, BIT(51), &err), -ENOMEM);
	assert_non_null(strstr(err.msg, "refuses"));
	assert_null(strchr(err.msg, '\n'));
	assert_int_equal(phys_ram_size(p), 0);
	phys_free(p);
}

static void ram_is_a_memfd(void **state)
{
	struct phys *p = map_new();
	u8 byte = 0x77, back = 0;

	(void)state;
	assert_true(phys_write(p, GiB(4) + 5, &byte, 1));
	assert_int_equal(pread(phys_ram_fd(p, GiB(4)), &back, 1, 5), 1);
	assert_int_equal(back, 0x77);
	assert_int_equal(phys_ram_fd(p, MiB(1)), -1);
	phys_free(p);
}

static void find_knows_every_edge(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };

	(void)state;
	assert_int_equal(
		phys_add_mmio(p, "chip", 0xfec00000, 0x1000, &chip_ops, &c, NULL), 0);
	assert_int_equal(phys_add_mmio(p, "next", 0xfec01000, 0x10, &chip_ops, &c, NULL),
			 0);
	assert_string_equal(phys_find(p, 0)->name, "low");
	assert_string_equal(phys_find(p, MiB(4) - 1)->name, "low");
	assert_null(phys_find(p, MiB(4)));
	assert_null(phys_find(p, 0xfebfffff));
	assert_string_equal(phys_find(p, 0xfec00000)->name, "chip");
	assert_string_equal(phys_find(p, 0xfec00fff)->name, "chip");
	assert_string_equal(phys_find(p, 0xfec01000)->name, "next");
	assert_null(phys_find(p, 0xfec01010));
	assert_string_equal(phys_find(p, GiB(4))->name, "high");
	assert_null(phys_find(p, GiB(4) + MiB(4)));
	assert_null(phys_find(p, UINT64_MAX));
	assert_string_equal(phys_ram_region(p, 0)->name, "low");
	assert_string_equal(phys_ram_region(p, 1)->name, "high");
	assert_null(phys_ram_region(p, 2));
	phys_free(p);
}

static void window_at_the_end_of_the_address_space_works(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };

	(void)state;
	assert_int_equal(
		phys_add_mmio(p, "end", ~UINT64_C(0xfff), 0x1000, &chip_ops, &c, NULL),
		0);
	assert_string_equal(phys_find(p, UINT64_MAX)->name, "end");
	assert_int_equal(phys_load(p, UINT64_MAX - 7, 8), 0);
	assert_int_equal(
		phys_add_mmio(p, "wrap", ~UINT64_C(0xfff), 0x1001, &chip_ops, &c, NULL),
		-EINVAL);
	assert_int_equal(phys_add_mmio(p, "none", 0, 0, &chip_ops, &c, NULL), -EINVAL);
	phys_free(p);
}

static void host_address_stays_within_one_region(void **state)
{
	struct phys *p = map_new();
	static const u8 bios[4096] = { 1, 2, 3 };

	(void)state;
	assert_int_equal(phys_add_rom(p, "rom", MiB(4), bios, sizeof(bios), NULL), 0);
	assert_non_null(phys_host(p, 0, MiB(4), true));
	assert_null(phys_host(p, 0, MiB(4) + 1, true));
	assert_null(phys_host(p, 1, UINT64_MAX, true));
	assert_non_null(phys_host(p, MiB(4), 4096, false));
	assert_null(phys_host(p, MiB(4), 1, true));
	assert_null(phys_host(p, MiB(8), 1, false));
	phys_free(p);
}

static void rom_ignores_writes(void **state)
{
	struct phys *p = map_new();
	u8 bios[4096];
	u64 zero = 0;

	(void)state;
	memset(bios, 0xcc, sizeof(bios));
	assert_int_equal(phys_add_rom(p, "rom", 0xfffff000, bios, sizeof(bios), NULL), 0);
	phys_store(p, 0xfffffff0, 0, 4);
	assert_true(phys_write(p, 0xfffffff0, &zero, 8));
	assert_int_equal(phys_load(p, 0xfffffff0, 8), UINT64_C(0xcccccccccccccccc));
	assert_true(phys_remove(p, 0xfffff000));
	assert_null(phys_find(p, 0xfffff000));
	phys_free(p);
}

static void nowhere_reads_all_ones_and_ignores_writes(void **state)
{
	struct phys *p = map_new();
	u8 buf[16] = { 0 };

	(void)state;
	assert_int_equal(phys_load(p, 0xd0000000, 4), 0xffffffff);
	phys_store(p, 0xd0000000, 1, 4);
	assert_false(phys_read(p, MiB(4) - 8, buf, 16));
	assert_int_equal(le_load(buf, 8), 0);
	assert_int_equal(le_load(buf + 8, 8), UINT64_MAX);
	memset(buf, 1, sizeof(buf));
	assert_false(phys_write(p, MiB(4) - 8, buf, 16));
	assert_int_equal(phys_load(p, MiB(4) - 8, 8), UINT64_C(0x0101010101010101));
	/* Round the end of the address space. */
	assert_false(phys_read(p, UINT64_MAX - 3, buf, 8));
	assert_int_equal(le_load(buf, 4), 0xffffffff);
	phys_free(p);
}

static void mmio_is_copied_in_aligned_pieces(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };
	u8 buf[16];

	(void)state;
	for (unsigned i = 0; i < sizeof(c.reg); i++)
		c.reg[i] = (u8)i;
	assert_int_equal(phys_add_mmio(p, "chip", 0xd0000000, 64, &chip_ops, &c, NULL),
			 0);
	assert_true(phys_read(p, 0xd0000003, buf, 15));
	for (unsigned i = 0; i < 15; i++)
		assert_int_equal(buf[i], i + 3);
	/* 3; 4..7; 8..15; 16..17 */
	assert_int_equal(c.n, 4);
	assert_int_equal(c.size[0], 1);
	assert_int_equal(c.size[1], 4);
	assert_int_equal(c.size[2], 8);
	assert_int_equal(c.size[3], 2);
	phys_free(p);
}

static void mmio_access_is_cut_at_the_end_of_its_window(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };

	(void)state;
	c.reg[6] = 0x12;
	c.reg[7] = 0x34;
	assert_int_equal(phys_add_mmio(p, "chip", 0xd0000000, 8, &chip_ops, &c, NULL), 0);
	assert_int_equal(phys_load(p, 0xd0000006, 4), 0xffff3412);
	phys_store(p, 0xd0000006, 0xaabbccdd, 4);
	assert_int_equal(c.reg[6], 0xdd);
	assert_int_equal(c.reg[7], 0xcc);
	assert_int_equal(c.reg[8], 0);
	phys_free(p);
}

static void mmio_of_one_size_refuses_smaller_accesses(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };

	(void)state;
	assert_int_equal(phys_add_mmio(p, "chip", 0xd0000000, 64, &chip4_ops, &c, NULL),
			 0);
	assert_int_equal(phys_load(p, 0xd0000000, 2), 0xffff);
	assert_int_equal(phys_load(p, 0xd0000000, 8), 0);
	assert_int_equal(c.n, 2);
	phys_free(p);
}

static void window_over_ram_is_hidden(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };
	u64 generation = phys_generation(p);

	(void)state;
	assert_int_equal(phys_add_mmio(p, "bar", MiB(2), 0x1000, &chip_ops, &c, NULL), 0);
	assert_string_equal(phys_find(p, MiB(2))->name, "low");
	/* Half over RAM is hidden as a whole. */
	assert_int_equal(phys_add_mmio(p, "half", MiB(3), MiB(4), &chip_ops, &c, NULL),
			 0);
	assert_null(phys_find(p, MiB(5)));
	assert_true(phys_generation(p) > generation);
	assert_true(phys_remove_mmio(p, MiB(2), &chip_ops, &c));
	assert_true(phys_remove_mmio(p, MiB(3), &chip_ops, &c));
	assert_false(phys_remove_mmio(p, MiB(3), &chip_ops, &c));
	assert_false(phys_remove(p, 0)); /* RAM stays */
	assert_string_equal(phys_find(p, 0)->name, "low");
	phys_free(p);
}

static void hidden_window_appears_when_the_other_goes(void **state)
{
	struct phys *p = map_new();
	struct chip a = { 0 }, b = { 0 };

	(void)state;
	assert_int_equal(phys_add_mmio(p, "a", 0xd0000000, 0x2000, &chip_ops, &a, NULL),
			 0);
	assert_int_equal(phys_add_mmio(p, "b", 0xd0001000, 0x2000, &chip_ops, &b, NULL),
			 0);
	assert_string_equal(phys_find(p, 0xd0001000)->name, "a");
	assert_null(phys_find(p, 0xd0002000));
	/* At the same base, each removes its own. */
	assert_int_equal(phys_add_mmio(p, "c", 0xd0000000, 0x1000, &chip_ops, &b, NULL),
			 0);
	assert_true(phys_remove_mmio(p, 0xd0000000, &chip_ops, &b));
	assert_string_equal(phys_find(p, 0xd0000000)->name, "a");
	assert_true(phys_remove_mmio(p, 0xd0000000, &chip_ops, &a));
	assert_string_equal(phys_find(p, 0xd0002000)->name, "b");
	phys_free(p);
}

static void moving_between_places_keeps_few_maps(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };

	(void)state;
	/* Many more moves than maps are kept, but always the same places. */
	for (unsigned i = 0; i < 3 * PHYS_MAX_MAPS; i++) {
		gpa_t base = 0xd0000000 + (i % 16) * 0x10000;

		assert_int_equal(
			phys_add_mmio(p, "bar", base, 0x1000, &chip_ops, &c, NULL), 0);
		assert_non_null(phys_find(p, base));
		assert_true(phys_remove_mmio(p, base, &chip_ops, &c));
	}
	phys_free(p);
}

static void too_many_different_maps_are_refused_and_removing_still_works(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };
	struct error err = { 0 };
	gpa_t base = 0;
	int ret = 0;

	(void)state;
	for (unsigned i = 0; i < 4 * PHYS_MAX_MAPS && !ret; i++) {
		base = GiB(16) + i * 0x1000;
		ret = phys_add_mmio(p, "bar", base, 0x1000, &chip_ops, &c, &err);
		if (!ret && i % 2) {
			assert_true(phys_remove_mmio(p, base, &chip_ops, &c));
			assert_null(phys_find(p, base));
		} else if (!ret && i > 2) {
			assert_true(phys_remove_mmio(p, base, &chip_ops, &c));
		}
	}
	assert_int_equal(ret, -ENOSPC);
	assert_null(phys_find(p, base));
	assert_non_null(phys_find(p, GiB(16)));
	assert_true(phys_remove_mmio(p, GiB(16), &chip_ops, &c));
	assert_null(phys_find(p, GiB(16)));
	assert_int_equal(phys_load(p, 0, 8), 0);
	phys_free(p);
}

static void dma_does_not_reach_mmio(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };
	u8 buf[8192];

	(void)state;
	memset(buf, 0x33, sizeof(buf));
	assert_int_equal(phys_add_mmio(p, "chip", MiB(4), 0x1000, &chip_ops, &c, NULL),
			 0);
	assert_true(phys_dma_write(p, MiB(4) - 4096, buf, 4096));
	assert_false(phys_dma_write(p, MiB(4) - 2048, buf, 4096));
	assert_false(phys_dma_read(p, MiB(4), buf, 1));
	assert_false(phys_dma_read(p, MiB(16), buf, 1));
	assert_int_equal(c.n, 0);
	assert_true(phys_dma_read(p, MiB(4) - 4096, buf, 4096));
	phys_free(p);
}

struct heard {
	unsigned n;
	gpa_t gpa;
	u64 len;
	struct code_listener l;
};

static void written(void *opaque, gpa_t gpa, u64 len)
{
	struct heard *h = opaque;

	h->n++;
	h->gpa = gpa;
	h->len = len;
}

/* Several hold code: who does hears of a write, and nobody else. */
static void only_holders_of_code_are_told(void **state)
{
	struct phys *p = map_new();
	struct heard h[PHYS_MAX_LISTENERS + 1] = { 0 };

	(void)state;
	for (unsigned i = 0; i <= PHYS_MAX_LISTENERS; i++) {
		h[i].l = (struct code_listener){ .written = written, .opaque = &h[i] };
		assert_int_equal(phys_add_code_listener(p, &h[i].l),
				 i < PHYS_MAX_LISTENERS ? 0 : -ENOSPC);
	}
	assert_true(phys_mark_code(p, &h[0].l, 0x2000));
	assert_true(phys_mark_code(p, &h[63].l, 0x2000));
	assert_true(phys_mark_code(p, &h[1].l, 0x3000));
	phys_store(p, 0x2004, 1, 4);
	assert_int_equal(h[0].n, 1);
	assert_int_equal(h[1].n, 0);
	assert_int_equal(h[63].n, 1);
	/* Code as long as one holds some. */
	phys_unmark_code(p, &h[0].l, 0x2000);
	phys_store(p, 0x2004, 1, 4);
	assert_int_equal(h[0].n, 1);
	assert_int_equal(h[63].n, 2);
	phys_unmark_code(p, &h[63].l, 0x2000);
	assert_int_equal(*phys_page_flags(p, 0x2000), 0);
	/* A place that is free again is taken. */
	phys_remove_code_listener(p, &h[5].l);
	assert_int_equal(phys_add_code_listener(p, &h[64].l), 0);
	phys_free(p);
}

static void guarded(void *opaque, gpa_t gpa)
{
	struct heard *h = opaque;

	assert_int_equal(gpa, 0x2000);
	h->n += 100;
}

/* CPUs are asked only where one may write, and refused where there is code. */
static void writers_are_guarded_against(void **state)
{
	struct phys *p = map_new();
	struct heard h = {
		.l = { .written = written, .guard = guarded, .opaque = &h },
	};
	u8 *flags = phys_page_flags(p, 0x2000);

	(void)state;
	assert_int_equal(phys_add_code_listener(p, &h.l), 0);
	assert_true(phys_mark_code(p, &h.l, 0x2abc));
	assert_int_equal(h.n, 0);
	assert_false(phys_page_writer(flags));
	assert_int_equal(*flags, PAGE_CODE | PAGE_GUARDED);
	phys_unmark_code(p, &h.l, 0x2000);
	assert_true(phys_page_writer(flags));
	assert_true(phys_page_writer(flags));
	assert_int_equal(*flags, PAGE_WRITERS);
	assert_true(phys_mark_code(p, &h.l, 0x2abc));
	assert_int_equal(h.n, 100);
	assert_int_equal(*flags, PAGE_CODE | PAGE_GUARDED);
	assert_true(phys_mark_code(p, &h.l, 0x2abc));
	assert_int_equal(h.n, 100);
	phys_free(p);
}

static void write_to_code_page_is_told(void **state)
{
	struct phys *p = map_new();
	struct heard h = { .l = { .written = written, .opaque = &h } };
	u8 buf[3 * 4096] = { 0 };

	(void)state;
	assert_int_equal(phys_add_code_listener(p, &h.l), 0);
	phys_store(p, 0x2000, 1, 8);
	assert_int_equal(h.n, 0);
	assert_true(phys_mark_code(p, &h.l, 0x2abc));
	assert_int_equal(*phys_page_flags(p, 0x2000), PAGE_CODE | PAGE_GUARDED);
	phys_store(p, 0x2004, 1, 4);
	assert_int_equal(h.n, 1);
	assert_int_equal(h.gpa, 0x2004);
	assert_int_equal(h.len, 4);
	phys_store(p, 0x3000, 1, 4);
	assert_int_equal(h.n, 1);
	/* The marked page is the middle of three. */
	assert_true(phys_write(p, 0x1000, buf, sizeof(buf)));
	assert_int_equal(h.n, 2);
	assert_int_equal(h.len, sizeof(buf));
	assert_true(phys_dma_write(p, 0x2fff, buf, 2));
	assert_int_equal(h.n, 3);
	phys_note_write(p, 0x2000, 1);
	assert_int_equal(h.n, 4);
	phys_note_write(p, UINT64_MAX - 1, 100); /* nowhere */
	phys_note_write(p, 0x2000, 0);
	assert_int_equal(h.n, 4);
	phys_unmark_code(p, &h.l, 0x2fff);
	assert_int_equal(*phys_page_flags(p, 0x2000), 0);
	phys_store(p, 0x2004, 1, 4);
	assert_int_equal(h.n, 4);
	assert_true(phys_mark_code(p, &h.l, 0x2abc));
	phys_remove_code_listener(p, &h.l);
	phys_store(p, 0x2004, 1, 4);
	assert_int_equal(h.n, 4);
	assert_false(phys_mark_code(p, &h.l, MiB(64)));
	assert_null(phys_page_flags(p, MiB(64)));
	phys_free(p);
}

struct mover {
	struct phys *p;
	struct chip *chip;
	bool stop;
};

static void *move_window(void *arg)
{
	struct mover *m = arg;

	for (unsigned i = 0; !__atomic_load_n(&m->stop, __ATOMIC_RELAXED); i++) {
		gpa_t base = 0xd0000000 + (i % 8) * 0x1000;

		assert_int_equal(phys_add_mmio(m->p, "bar", base, 0x1000, &chip_ops,
					       m->chip, NULL),
				 0);
		assert_true(phys_remove_mmio(m->p, base, &chip_ops, m->chip));
	}
	return NULL;
}

static void lookups_go_on_while_windows_move(void **state)
{
	struct phys *p = map_new();
	struct chip c = { 0 };
	struct mover m = { .p = p, .chip = &c };
	pthread_t t;

	(void)state;
	phys_store(p, GiB(4) + 8, 0x1234, 8);
	assert_int_equal(pthread_create(&t, NULL, move_window, &m), 0);
	for (unsigned i = 0; i < 20000; i++) {
		const struct phys_region *r = phys_find(p, 0xd0000000);

		assert_true(!r || r->base == 0xd0000000);
		assert_int_equal(phys_load(p, GiB(4) + 8, 8), 0x1234);
	}
	__atomic_store_n(&m.stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	phys_free(p);
}

struct racer {
	struct phys *p;
	unsigned rounds;
};

static void *store_word(void *arg)
{
	struct racer *r = arg;

	for (unsigned i = 0; i < r->rounds; i++)
		phys_store(r->p, 0x5000, i & 1 ? UINT64_MAX : 0, 8);
	return NULL;
}

static void aligned_access_is_not_torn(void **state)
{
	struct phys *p = map_new();
	struct racer r = { .p = p, .rounds = 200000 };
	pthread_t t;

	(void)state;
	assert_int_equal(pthread_create(&t, NULL, store_word, &r), 0);
	for (unsigned i = 0; i < r.rounds; i++) {
		u64 v = phys_load(p, 0x5000, 8);

		assert_true(v == 0 || v == UINT64_MAX);
	}
	pthread_join(t, NULL);
	phys_free(p);
}

/* Pages of [gpa, gpa + len) that the host has made. */
static u64 present(struct phys *p, gpa_t gpa, u64 len)
{
	unsigned char there[512];
	u64 n = 0;

	assert_true(len <= MiB(2));
	assert_int_equal(mincore(phys_host(p, gpa, len, true), len, there), 0);
	for (u64 i = 0; i < len >> PAGE_SHIFT; i++)
		n += there[i] & 1;
	return n;
}

static u64 backed(struct phys *p, gpa_t gpa, u64 len)
{
	u64 n = 0;

	for (u64 i = 0; i < len; i += PAGE_SIZE)
		n += *phys_page_flags(p, gpa + i) & PAGE_BACKED ? 1 : 0;
	return n;
}

static void memory_comes_with_that_around_it(void **state)
{
	struct phys *p = map_new();

	(void)state;
	assert_int_equal(present(p, 0, MiB(2)), 0);
	phys_back(phys_find(p, 0), 0x13456);
	assert_int_equal(present(p, 0, MiB(2)), 16);
	assert_int_equal(present(p, 0x10000, KiB(64)), 16);
	assert_int_equal(backed(p, 0x10000, KiB(64)), 16);
	assert_int_equal(backed(p, 0, MiB(2)), 16);
	/* DMA over the edge of two such pieces; into nothing, and beyond the end. */
	phys_back_range(p, 0x4fff0, 0x20);
	assert_int_equal(present(p, 0x40000, KiB(128)), 32);
	phys_back_range(p, MiB(64), KiB(64));
	phys_back_range(p, MiB(4) - 0x1000, 0x2000);
	phys_back_range(p, 0x300000, 0);
	assert_int_equal(present(p, MiB(2), MiB(2)), 0);
	phys_free(p);
}

/* The kB of large pages in the mapping of 'at'. */
static unsigned long large_pages(const void *at)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long from, to, kb = 0, n;
	bool here = false;
	char line[256];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = from <= (uintptr_t)at && (uintptr_t)at < to;
		else if (here && sscanf(line, "ShmemPmdMapped: %lu kB", &n) == 1)
			kb = n;
	}
	(void)fclose(f);
	return kb;
}

static void memory_in_use_becomes_large_pages(void **state)
{
	struct phys *p = map_new();
	u8 *host = phys_host(p, 0, MiB(4), true);

	(void)state;
	/* Does this host make them? */
	host[0] = 1;
	if (madvise(host, MiB(2), MADV_COLLAPSE)) {
		print_message("this host makes no large pages of a memfd: %s\n",
			      strerror(errno));
		phys_free(p);
		skip();
	}
	assert_int_equal(large_pages(host), 2048);
	phys_store(p, MiB(2), 0x1234, 8);
	for (u64 at = MiB(2); at < MiB(3); at += KiB(64)) {
		assert_int_equal(large_pages(host), 2048);
		phys_back_range(p, at, KiB(64));
		if (backed(p, MiB(2), MiB(2)) == 512)
			break;
	}
	assert_int_equal(large_pages(host), 4096);
	assert_int_equal(backed(p, MiB(2), MiB(2)), 512);
	assert_int_equal(phys_load(p, MiB(2), 8), 0x1234);
	phys_free(p);
}

static void released_memory_is_gone_and_zero(void **state)
{
	struct phys *p = map_new();

	(void)state;
	for (u64 at = MiB(2); at < MiB(4); at += PAGE_SIZE)
		phys_store(p, at, at, 8);
	phys_back_range(p, MiB(2), MiB(2));
	assert_true(phys_release(p, MiB(2) + 0x5000, 0x2000));
	assert_int_equal(present(p, MiB(2), MiB(2)), 510);
	assert_int_equal(phys_load(p, MiB(2) + 0x4000, 8), MiB(2) + 0x4000);
	assert_int_equal(phys_load(p, MiB(2) + 0x5000, 8), 0);
	assert_int_equal(phys_load(p, MiB(2) + 0x7000, 8), MiB(2) + 0x7000);
	assert_true(phys_release(p, MiB(2), MiB(2)));
	assert_int_equal(present(p, MiB(2), MiB(2)), 0);
	assert_int_equal(backed(p, MiB(2), MiB(2)), 0);
	/* Over the end, into another region, nowhere. */
	assert_false(phys_release(p, MiB(4) - PAGE_SIZE, 2 * PAGE_SIZE));
	assert_false(phys_release(p, MiB(16), PAGE_SIZE));
	phys_free(p);
}

/* What is around a page that was given back, as by a balloon, must not bring it back. */
static void released_pages_stay_away(void **state)
{
	struct phys *p = map_new();

	(void)state;
	phys_back_range(p, MiB(2), KiB(64));
	assert_true(phys_release(p, MiB(2) + 0x1000, 0x3000));
	for (u64 at = MiB(2); at < MiB(4); at += KiB(64))
		phys_back_range(p, at, KiB(64));
	assert_int_equal(backed(p, MiB(2), MiB(2)), 512);
	assert_int_equal(present(p, MiB(2), MiB(2)), 509);
	phys_free(p);
	/* Nor what has never been there. */
	p = map_new();
	assert_true(phys_release(p, MiB(2) + 0x1000, 0x3000));
	phys_back_range(p, MiB(2) + 0x8000, PAGE_SIZE);
	assert_int_equal(present(p, MiB(2), MiB(2)), 1);
	assert_int_equal(present(p, MiB(2) + 0x8000, PAGE_SIZE), 1);
	assert_int_equal(backed(p, MiB(2), MiB(2)), 1);
	phys_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram_starts_as_zero_and_keeps_what_is_written),
		cmocka_unit_test(ram_refuses_bad_sizes_and_overlap),
		cmocka_unit_test(ram_that_the_host_refuses_is_one_clear_error),
		cmocka_unit_test(ram_is_a_memfd),
		cmocka_unit_test(find_knows_every_edge),
		cmocka_unit_test(window_at_the_end_of_the_address_space_works),
		cmocka_unit_test(host_address_stays_within_one_region),
		cmocka_unit_test(rom_ignores_writes),
		cmocka_unit_test(nowhere_reads_all_ones_and_ignores_writes),
		cmocka_unit_test(mmio_is_copied_in_aligned_pieces),
		cmocka_unit_test(mmio_access_is_cut_at_the_end_of_its_window),
		cmocka_unit_test(mmio_of_one_size_refuses_smaller_accesses),
		cmocka_unit_test(window_over_ram_is_hidden),
		cmocka_unit_test(hidden_window_appears_when_the_other_goes),
		cmocka_unit_test(moving_between_places_keeps_few_maps),
		cmocka_unit_test(
			too_many_different_maps_are_refused_and_removing_still_works),
		cmocka_unit_test(dma_does_not_reach_mmio),
		cmocka_unit_test(write_to_code_page_is_told),
		cmocka_unit_test(only_holders_of_code_are_told),
		cmocka_unit_test(writers_are_guarded_against),
		cmocka_unit_test(lookups_go_on_while_windows_move),
		cmocka_unit_test(aligned_access_is_not_torn),
		cmocka_unit_test(memory_comes_with_that_around_it),
		cmocka_unit_test(memory_in_use_becomes_large_pages),
		cmocka_unit_test(released_memory_is_gone_and_zero),
		cmocka_unit_test(released_pages_stay_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
