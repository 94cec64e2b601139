/* -drive in QEMU's spelling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/drive.h"

static void a_drive_has_all_its_keys(void **state)
{
	struct error err = { 0 };
	struct drive d;

	(void)state;
	assert_int_equal(drive_parse(&d,
				     "file=a,,b=c.qcow2,format=qcow2,if=none,id=d0,"
				     "readonly=on,cache=directsync,snapshot=on,"
				     "discard=unmap,serial=S1,index=3,aio=native,"
				     "throttling.bps-read=1000,throttling.bps-read-max="
				     "2000,iops=5,iops_wr_max=9",
				     &err),
			 0);
	assert_string_equal(d.block.file, "a,b=c.qcow2");
	assert_string_equal(d.block.format, "qcow2");
	assert_string_equal(d.id, "d0");
	assert_string_equal(d.serial, "S1");
	assert_int_equal(d.interface, DRIVE_IF_NONE);
	assert_int_equal(d.index, 3);
	assert_int_equal(d.block.cache, BLOCK_CACHE_DIRECTSYNC);
	assert_true(d.block.readonly && d.block.snapshot && d.block.discard);
	assert_int_equal(d.block.bps[BLOCK_RATE_READ].per_second, 1000);
	assert_int_equal(d.block.bps[BLOCK_RATE_READ].max, 2000);
	assert_int_equal(d.block.bps[BLOCK_RATE_TOTAL].per_second, 0);
	assert_int_equal(d.block.iops[BLOCK_RATE_TOTAL].per_second, 5);
	assert_int_equal(d.block.iops[BLOCK_RATE_WRITE].max, 9);
	drive_fini(&d);
}

static void a_drive_has_defaults(void **state)
{
	struct error err = { 0 };
	struct drive d;

	(void)state;
	assert_int_equal(drive_parse(&d, "file=x", &err), 0);
	assert_int_equal(d.interface, DRIVE_IF_VIRTIO);
	assert_false(d.has_interface);
	assert_null(d.block.format);
	assert_int_equal(d.index, -1);
	assert_int_equal(d.block.cache, BLOCK_CACHE_WRITEBACK);
	drive_fini(&d);
}

static void what_is_wrong_is_named(void **state)
{
	static const char *const bad[][2] = {
		{ "x.img", "file=NAME" },
		{ "", "file=NAME is missing" },
		{ "format=raw", "file=NAME is missing" },
		{ "file=", "empty file name" },
		{ "file=x,format=vmdk", "raw or qcow2" },
		{ "file=x,if=scsi", "virtio, ide or none" },
		{ "file=x,cache=fast", "writeback" },
		{ "file=x,discard=maybe", "unmap or ignore" },
		{ "file=x,readonly=perhaps", "on or off" },
		{ "file=x,index=-1", "0 to 255" },
		{ "file=x,index=300", "0 to 255" },
		{ "file=x,bps=12x", "a number" },
		{ "file=x,bps=", "a number" },
		{ "file=x,bps=99999999999999999999", "10^15" },
		{ "file=x,cach=none", "is cache meant?" },
		{ "file=x,werror=report", "'werror' is not supported" },
		{ "file=x,id=", "a name" },
		{ "file=x,,", NULL },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = { 0 };
		struct drive d;
		int ret = drive_parse(&d, bad[i][0], &err);

		if (bad[i][1] && (!ret || !strstr(err.msg, bad[i][1])))
			fail_msg("%s: '%s' does not say '%s'", bad[i][0], err.msg,
				 bad[i][1]);
		drive_fini(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_drive_has_all_its_keys),
		cmocka_unit_test(a_drive_has_defaults),
		cmocka_unit_test(what_is_wrong_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
