/* Devices by name: words, help, places on a board. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "machine/devices.h"
#include "mem/io.h"
#include "mem/phys.h"

static void refuse(const char *text, const char *want)
{
	struct device_args a;
	struct error err = { 0 };

	assert_true(device_args_parse(&a, text, &err) < 0);
	if (!strstr(err.msg, want) || strchr(err.msg, '\n'))
		fail_msg("%s: not '%s' but '%s'", text, want, err.msg);
}

static void words_are_checked(void **state)
{
	struct error err = { 0 };
	struct device_args a;

	(void)state;
	assert_int_equal(
		device_args_parse(&a, "isa-debug-exit,iobase=0xf4,iosize=0x4,id=x", &err),
		0);
	assert_string_equal(device_name(&a), "isa-debug-exit");
	assert_int_equal(a.number[0], 0xf4);
	assert_int_equal(a.number[1], 4);
	assert_int_equal(device_args_parse(&a, "driver=isa-debug-exit", &err), 0);
	assert_int_equal(a.number[0], 0x501);
	assert_int_equal(a.number[1], 2);
	assert_int_equal(device_args_parse(&a, "isa-debugcon,chardev=me", &err), 0);
	assert_string_equal(a.chardev, "me");
	refuse("", "-device : there is no such device");
	refuse("virtio-frob", "-device virtio-frob: there is no such device");
	refuse("isa-debug-exi", "there is no such device");
	refuse("name=isa-debug-exit", "there is no such device");
	refuse("isa-debug-exit,colour=red", "there is no property 'colour'");
	refuse("isa-debug-exit,", "there is no property ''");
	refuse("isa-debug-exit,iobase", "iobase=: a number from 0 to 0xffff");
	refuse("isa-debug-exit,iobase=0x10000", "a number from 0 to 0xffff");
	refuse("isa-debug-exit,iobase=-1", "a number from 0");
	refuse("isa-debug-exit,iosize=0", "a number from 1 to 0x8");
	refuse("isa-debug-exit,iosize=9", "a number from 1 to 0x8");
	refuse("isa-debugcon", "chardev=ID is needed");
	refuse("isa-debugcon,chardev=", "needs the id");
	refuse("pc-testdev,iobase=1", "there is no property 'iobase'");
}

static void help_lists_devices_and_properties(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	devices_help(f);
	assert_true(device_help(f, "isa-debug-exit"));
	assert_false(device_help(f, "nosuch"));
	fclose(f);
	assert_non_null(strstr(text, "pc-testdev"));
	assert_non_null(strstr(text, "iosize"));
	free(text);
}

struct board {
	struct phys *phys;
	struct io_ports *ports;
	struct device_board b;
	u32 val;
};

static struct irq_line gsi(void *opaque, unsigned n)
{
	(void)opaque;
	(void)n;
	return (struct irq_line){ 0 };
}

static void ended(void *opaque, u32 val)
{
	struct board *b = opaque;

	b->val = val;
}

static int add(struct board *b, struct device *d, const char *text, struct error *err)
{
	struct device_args a;

	err->msg[0] = 0;
	assert_int_equal(device_args_parse(&a, text, err), 0);
	return device_new(d, &a, &b->b, err);
}

static void devices_are_placed_once(void **state)
{
	struct board b = { .phys = phys_new(), .ports = io_ports_new() };
	struct device exit_dev, test = { 0 }, other = { 0 };
	struct error err = { 0 };

	(void)state;
	b.b = (struct device_board){ b.phys, b.ports, gsi, ended, &b };
	assert_int_equal(add(&b, &exit_dev, "isa-debug-exit,iobase=0xf4,iosize=4", &err),
			 0);
	assert_int_equal(add(&b, &test, "pc-testdev", &err), 0);
	io_ports_write(b.ports, 0xf4, 0x12345, 4);
	assert_int_equal(b.val, 0x12345);
	io_ports_write(b.ports, 0xe0, 0x55aa, 2);
	assert_int_equal(io_ports_read(b.ports, 0xe8, 2), 0x55aa);
	phys_store(b.phys, 0xff00fffc, 77, 4);
	assert_int_equal(phys_load(b.phys, 0xff00fffc, 4), 77);
	assert_true(add(&b, &other, "isa-debug-exit,iobase=0xf7,iosize=1", &err) < 0);
	assert_string_equal(err.msg,
			    "-device isa-debug-exit: its ports f7h to f7h are not free, "
			    "isa-debug-exit has one of them");
	assert_true(add(&b, &other, "isa-debugcon,chardev=x", &err) < 0);
	assert_non_null(strstr(err.msg, "pc-testdev has one of them"));
	assert_true(add(&b, &other, "isa-debug-exit,iobase=0xffff", &err) < 0);
	assert_non_null(strstr(err.msg, "go beyond ffffh"));
	device_reset(&exit_dev);
	device_reset(&test);
	assert_int_equal(io_ports_read(b.ports, 0xe0, 2), 0);
	device_free(&exit_dev);
	device_free(&test);
	device_free(&other);
	io_ports_free(b.ports);
	phys_free(b.phys);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_are_checked),
		cmocka_unit_test(help_lists_devices_and_properties),
		cmocka_unit_test(devices_are_placed_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
