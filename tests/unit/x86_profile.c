/* Counting by guest address. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "x86/profile.h"

static u64 sum(const struct spots *s, enum spot_kind kind)
{
	u64 n = 0;

	for (unsigned i = 0; i < SPOTS; i++)
		n += s->spot[i].count[kind];
	return n;
}

static const struct spot *find(const struct spots *s, u64 key)
{
	for (unsigned i = 0; i < SPOTS; i++)
		if (s->spot[i].lin == key)
			return &s->spot[i];
	return NULL;
}

static void places_are_16_bytes_of_one_privilege(void **state)
{
	struct spots s = { .spot = calloc(SPOTS, sizeof(struct spot)) };
	const struct spot *t;

	(void)state;
	spot_add(&s, 0x1000, false, SPOT_LOOP, 1);
	spot_add(&s, 0x100f, false, SPOT_TIME, 5);
	spot_add(&s, 0x1010, false, SPOT_LOOP, 1);
	spot_add(&s, 0x1008, true, SPOT_LOOP, 1);
	spot_add(&s, 0, false, SPOT_TRAP, 1);
	t = find(&s, 0x1000 | SPOT_USED);
	assert_non_null(t);
	assert_true(t->count[SPOT_LOOP] == 1 && t->count[SPOT_TIME] == 5);
	assert_non_null(find(&s, 0x1010 | SPOT_USED));
	assert_non_null(find(&s, 0x1000 | SPOT_USED | SPOT_USER));
	assert_non_null(find(&s, SPOT_USED));
	free(s.spot);
}

/* More places than there is room for: none is lost without being counted. */
static void what_finds_no_room_is_counted(void **state)
{
	struct spots s = { .spot = calloc(SPOTS, sizeof(struct spot)) };

	(void)state;
	for (u64 i = 0; i < 4 * SPOTS; i++)
		spot_add(&s, i * 0x1230, i & 1, SPOT_CALL_OUT, 3);
	assert_true(s.lost[SPOT_CALL_OUT]);
	assert_true(sum(&s, SPOT_CALL_OUT) + s.lost[SPOT_CALL_OUT] == 12 * SPOTS);
	free(s.spot);
}

static void what_a_thread_does_is_given_back(void **state)
{
	static struct vcpu v;
	u8 was;

	(void)state;
	profile_doing(&v, DOING_INTERPRET);
	was = profile_doing(&v, DOING_FILL);
	assert_int_equal(v.doing, DOING_FILL);
	profile_doing(&v, was);
	assert_int_equal(v.doing, DOING_INTERPRET);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(places_are_16_bytes_of_one_privilege),
		cmocka_unit_test(what_finds_no_room_is_counted),
		cmocka_unit_test(what_a_thread_does_is_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
