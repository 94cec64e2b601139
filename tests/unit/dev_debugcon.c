/* Debug console at port e9h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/debugcon.h"

struct out {
	u8 bytes[16];
	size_t len;
};

static size_t out_write(void *opaque, const u8 *buf, size_t len)
{
	struct out *o = opaque;

	assert_int_equal(len, 1);
	if (o->len == sizeof(o->bytes))
		return 0;
	o->bytes[o->len++] = buf[0];
	return 1;
}

static void debugcon_answers_and_passes_bytes_on(void **state)
{
	struct out o = { 0 };
	struct debugcon *d = debugcon_new((struct chardev_sink){ out_write, &o }, 0xe9);

	(void)state;
	assert_int_equal(io_read(&debugcon_ops, d, 0, 1), 0xe9);
	io_write(&debugcon_ops, d, 0, 'h', 1);
	io_write(&debugcon_ops, d, 0, 'i', 1);
	assert_int_equal(o.len, 2);
	assert_memory_equal(o.bytes, "hi", 2);
	debugcon_free(d);
}

static void debugcon_loses_what_the_sink_refuses(void **state)
{
	struct out o = { 0 };
	struct debugcon *d = debugcon_new((struct chardev_sink){ out_write, &o }, 0xe9);

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		io_write(&debugcon_ops, d, 0, i, 1);
	assert_int_equal(o.len, 16);
	debugcon_free(d);
}

static void debugcon_without_sink_is_silent(void **state)
{
	struct debugcon *d = debugcon_new((struct chardev_sink){ 0 }, 0x42);

	(void)state;
	io_write(&debugcon_ops, d, 0, 'x', 1);
	debugcon_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(debugcon_answers_and_passes_bytes_on),
		cmocka_unit_test(debugcon_loses_what_the_sink_refuses),
		cmocka_unit_test(debugcon_without_sink_is_silent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
