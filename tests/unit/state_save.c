/* Save and load of described state; streams that somebody tampered with. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "state/save.h"

struct chip_state {
	u64 wide;
	u32 index;
	u16 regs[5];
	u8 flag, small;
};

static const struct state_field chip_fields[] = {
	STATE_FIELD(struct chip_state, wide, 1),
	STATE_FIELD(struct chip_state, index, 1),
	STATE_ARRAY(struct chip_state, regs, 1),
	STATE_FIELD(struct chip_state, flag, 1),
	STATE_FIELD(struct chip_state, small, 2),
	{ 0 },
};

static bool chip_valid(const void *state)
{
	const struct chip_state *s = state;

	return s->index < 16 && s->flag <= 1;
}

static const struct state_desc chip_desc = {
	.name = "chip",
	.size = sizeof(struct chip_state),
	.version = 2,
	.fields = chip_fields,
	.valid = chip_valid,
};

static const struct chip_state sample = {
	.wide = UINT64_C(0x1122334455667788),
	.index = 7,
	.regs = { 1, 2, 0xffff },
	.flag = 1,
	.small = 9,
};

static void save_sample(struct state_buf *b)
{
	*b = (struct state_buf){ 0 };
	state_save(b, &chip_desc, 3, &sample);
}

/* A stream of which each test owns a copy of exactly its length. */
static int load_bytes(const u8 *data, size_t len, struct chip_state *s, struct error *err)
{
	struct state_buf b = { .len = len, .cap = len };
	int ret;

	b.data = malloc(len ? len : 1);
	assert_non_null(b.data);
	memcpy(b.data, data, len);
	ret = state_load(&b, &chip_desc, 3, s, err);
	assert_true(b.pos <= b.len);
	state_buf_fini(&b);
	return ret;
}

static void put_field(struct state_buf *b, const char *name, u8 elem, u32 count,
		      const void *data)
{
	u8 head[64];
	size_t n = strlen(name);

	head[0] = (u8)n;
	memcpy(head + 1, name, n);
	head[1 + n] = elem;
	memcpy(head + 2 + n, &count, 4);
	memcpy(b->data + b->len, head, n + 6);
	memcpy(b->data + b->len + n + 6, data, (size_t)elem * count);
	b->len += n + 6 + (size_t)elem * count;
}

static void put_head(struct state_buf *b, u16 version, u16 fields)
{
	static const u32 magic = 0x43455255, instance = 3;

	b->data = xzalloc(4096);
	b->cap = 4096;
	memcpy(b->data, &magic, 4);
	memcpy(b->data + 4, &version, 2);
	memcpy(b->data + 6, &fields, 2);
	memcpy(b->data + 8, &instance, 4);
	memcpy(b->data + 12, "\4chip", 5);
	b->len = 17;
}

static void state_table_covers_the_struct(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&chip_desc), sizeof(struct chip_state));
}

static void state_save_load_save_is_identical(void **state)
{
	struct state_buf a, b = { 0 };
	struct chip_state s = { 0 };

	(void)state;
	save_sample(&a);
	assert_int_equal(state_load(&a, &chip_desc, 3, &s, NULL), 0);
	assert_int_equal(a.pos, a.len);
	assert_memory_equal(&s, &sample, sizeof(s));
	state_save(&b, &chip_desc, 3, &s);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_fini(&a);
	state_buf_fini(&b);
}

static void state_records_follow_each_other(void **state)
{
	struct state_buf b = { 0 };
	struct chip_state s[100] = { 0 }, in = sample;

	(void)state;
	for (u32 i = 0; i < 100; i++) {
		in.wide = i;
		state_save(&b, &chip_desc, i, &in);
	}
	for (u32 i = 0; i < 100; i++) {
		assert_int_equal(state_load(&b, &chip_desc, i, &s[i], NULL), 0);
		assert_int_equal(s[i].wide, i);
	}
	assert_int_equal(state_load(&b, &chip_desc, 100, &s[0], NULL), -EINVAL);
	state_buf_fini(&b);
}

static void state_of_another_thing_is_refused(void **state)
{
	static const struct state_desc other = { .name = "chop",
						 .size = sizeof(struct chip_state),
						 .version = 2,
						 .fields = chip_fields };
	struct chip_state s = { 0 };
	struct error err = { 0 };
	struct state_buf b;

	(void)state;
	save_sample(&b);
	assert_int_equal(state_load(&b, &other, 3, &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "chop 3 expected, found chip 3"));
	b.pos = 0;
	assert_int_equal(state_load(&b, &chip_desc, 4, &s, &err), -EINVAL);
	assert_int_equal(s.wide, 0);
	state_buf_fini(&b);
}

static void state_of_an_older_version_keeps_new_fields(void **state)
{
	struct chip_state s = { .small = 0x55 };
	struct state_buf b = { 0 };

	(void)state;
	put_head(&b, 1, 4);
	put_field(&b, "regs", 2, 5, sample.regs);
	put_field(&b, "wide", 8, 1, &sample.wide);
	put_field(&b, "flag", 1, 1, &sample.flag);
	put_field(&b, "index", 4, 1, &sample.index);
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, NULL), 0);
	assert_int_equal(s.small, 0x55);
	assert_int_equal(s.regs[2], 0xffff);
	assert_int_equal(s.wide, sample.wide);
	state_buf_fini(&b);
}

static void state_that_lacks_a_field_is_refused(void **state)
{
	struct chip_state s = sample;
	struct error err = { 0 };
	struct state_buf b = { 0 };

	(void)state;
	put_head(&b, 2, 4);
	put_field(&b, "regs", 2, 5, sample.regs);
	put_field(&b, "wide", 8, 1, &sample.wide);
	put_field(&b, "flag", 1, 1, &sample.flag);
	put_field(&b, "index", 4, 1, &sample.index);
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "'small' is missing"));
	state_buf_fini(&b);
}

static void state_with_a_field_twice_is_refused(void **state)
{
	struct chip_state s = sample;
	struct error err = { 0 };
	struct state_buf b = { 0 };

	(void)state;
	put_head(&b, 1, 2);
	put_field(&b, "flag", 1, 1, &sample.flag);
	put_field(&b, "flag", 1, 1, &sample.flag);
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "twice"));
	state_buf_fini(&b);
}

static void state_of_a_newer_version_is_refused(void **state)
{
	struct chip_state s = { 0 };
	struct error err = { 0 };
	struct state_buf b;

	(void)state;
	save_sample(&b);
	b.data[4] = 3;
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "newer"));
	state_buf_fini(&b);
}

static void state_with_another_shape_of_field_is_refused(void **state)
{
	static const u8 zeros[64];
	struct chip_state s = { 0 };
	struct error err = { 0 };
	struct state_buf b = { 0 };

	(void)state;
	put_head(&b, 2, 1);
	put_field(&b, "regs", 2, 4, zeros);
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "another size"));
	state_buf_fini(&b);
	memset(&err, 0, sizeof(err));
	put_head(&b, 2, 1);
	put_field(&b, "rags", 2, 5, zeros);
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "unknown field 'rags'"));
	state_buf_fini(&b);
}

static void state_that_is_not_valid_changes_nothing(void **state)
{
	struct chip_state bad = sample, s = { 0 }, zero = { 0 };
	struct state_buf b = { 0 };

	(void)state;
	bad.index = 16;
	state_save(&b, &chip_desc, 3, &bad);
	assert_int_equal(state_load(&b, &chip_desc, 3, &s, NULL), -EINVAL);
	assert_memory_equal(&s, &zero, sizeof(s));
	state_buf_fini(&b);
}

static void state_cut_at_any_byte_is_refused_and_changes_nothing(void **state)
{
	struct state_buf b;

	(void)state;
	save_sample(&b);
	for (size_t len = 0; len < b.len; len++) {
		struct chip_state s = { .index = 1 }, before = s;
		struct error err = { 0 };

		assert_int_equal(load_bytes(b.data, len, &s, &err), -EINVAL);
		assert_memory_equal(&s, &before, sizeof(s));
		assert_true(err.msg[0]);
	}
	state_buf_fini(&b);
}

static void state_with_any_bit_flipped_is_refused_or_valid(void **state)
{
	struct state_buf b;
	unsigned refused = 0;

	(void)state;
	save_sample(&b);
	for (size_t bit = 0; bit < 8 * b.len; bit++) {
		struct chip_state s = { .index = 1 }, before = s;

		b.data[bit / 8] ^= (u8)(1 << bit % 8);
		if (load_bytes(b.data, b.len, &s, NULL)) {
			assert_memory_equal(&s, &before, sizeof(s));
			refused++;
		} else {
			assert_true(chip_valid(&s));
		}
		b.data[bit / 8] ^= (u8)(1 << bit % 8);
	}
	/* Everything but flips inside of values. */
	assert_true(refused > 8 * (b.len - sizeof(struct chip_state)) - 100);
	state_buf_fini(&b);
}

static void state_of_random_bytes_is_refused(void **state)
{
	u8 data[256];
	u64 x = 88172645463325252;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		struct chip_state s = { 0 };
		struct state_buf b;
		size_t at;

		save_sample(&b);
		memcpy(data, b.data, b.len);
		for (unsigned i = 0; i < 4; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			at = (size_t)(x >> 8) % b.len;
			data[at] = (u8)x;
		}
		if (!load_bytes(data, b.len, &s, NULL))
			assert_true(chip_valid(&s));
		state_buf_fini(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(state_table_covers_the_struct),
		cmocka_unit_test(state_save_load_save_is_identical),
		cmocka_unit_test(state_records_follow_each_other),
		cmocka_unit_test(state_of_another_thing_is_refused),
		cmocka_unit_test(state_of_an_older_version_keeps_new_fields),
		cmocka_unit_test(state_that_lacks_a_field_is_refused),
		cmocka_unit_test(state_with_a_field_twice_is_refused),
		cmocka_unit_test(state_of_a_newer_version_is_refused),
		cmocka_unit_test(state_with_another_shape_of_field_is_refused),
		cmocka_unit_test(state_that_is_not_valid_changes_nothing),
		cmocka_unit_test(state_cut_at_any_byte_is_refused_and_changes_nothing),
		cmocka_unit_test(state_with_any_bit_flipped_is_refused_or_valid),
		cmocka_unit_test(state_of_random_bytes_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
