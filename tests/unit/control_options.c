/* The options of `umbra run`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "control/options.h"

#define WORDS(...) ((char *[]){ (char[]){ "run" }, __VA_ARGS__ NULL })
#define W(text)    (char[]){ text },

static int parse(struct run_options *o, struct error *err, char **argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	err->msg[0] = 0;
	return options_parse(o, argc, argv, err);
}

static void parse_ok(struct run_options *o, char **argv)
{
	struct error err;

	if (parse(o, &err, argv))
		fail_msg("%s", err.msg);
	assert_string_equal(err.msg, "");
}

static void parse_bad(const char *text, char **argv)
{
	struct run_options o;
	struct error err;

	assert_true(parse(&o, &err, argv) < 0);
	if (!strstr(err.msg, text))
		fail_msg("not '%s' but '%s'", text, err.msg);
	assert_null(strchr(err.msg, '\n'));
}

static void sizes_have_suffixes_and_fractions(void **state)
{
	static const struct {
		const char *text;
		u64 bytes;
	} good[] = {
		{ "1", MiB(1) },
		{ "512", MiB(512) },
		{ "512M", MiB(512) },
		{ "2G", GiB(2) },
		{ "2g", GiB(2) },
		{ "1T", GiB(1024) },
		{ "4096K", MiB(4) },
		{ "4194304B", MiB(4) },
		{ "1.5G", MiB(1536) },
		{ "0.5", KiB(512) },
		{ "0", 0 },
		{ "1.125K", 1152 },
		{ "8191P", GiB(1) * 1048576 * 8191 },
		{ "16383P", GiB(1) * 1048576 * 16383 },
	};
	static const char *const bad[] = {
		"",    "M",      "-1", "+1",   " 1",   "1 ",
		"1MM", "1.",     ".5", "1.G",  "0x1",  "1e3",
		"abc", "16384P", "1,", "1KiB", "1..5", "18446744073709551616B",
	};
	u64 bytes;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		if (!options_size(good[i].text, &bytes) || bytes != good[i].bytes)
			fail_msg("%s", good[i].text);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (options_size(bad[i], &bytes))
			fail_msg("%s was taken", bad[i]);
}

static void defaults_are_a_small_machine(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS());
	assert_int_equal(o.action, RUN_MACHINE);
	assert_int_equal(o.ram_size, MiB(512));
	assert_int_equal(o.cpus, 1);
	assert_int_equal(o.serials, 0);
	assert_null(o.command);
	assert_null(o.kernel);
}

static void dashes_and_equal_sign_are_one_spelling(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-m") W("64") W("--kernel") W("k") W("--append=a=b c")
				   W("-initrd=i")));
	assert_int_equal(o.ram_size, MiB(64));
	assert_string_equal(o.kernel, "k");
	assert_string_equal(o.append, "a=b c");
	assert_string_equal(o.initrd, "i");
	/* A value may look like an option. */
	parse_ok(&o, WORDS(W("-append") W("--") W("-name") W("-m")));
	assert_string_equal(o.append, "--");
	assert_null(o.command);
}

static void debugger_is_waited_for_where_asked(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-s") W("-S")));
	assert_string_equal(o.gdb, "tcp::1234");
	assert_true(o.hold);
	parse_ok(&o, WORDS(W("-gdb") W("unix:/run/g")));
	assert_string_equal(o.gdb, "unix:/run/g");
	assert_false(o.hold);
}

static void command_keeps_its_own_options(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-m") W("64") W("--") W("ls") W("-m") W("--") W("--help")));
	assert_int_equal(o.action, RUN_MACHINE);
	assert_string_equal(o.command[0], "ls");
	assert_string_equal(o.command[2], "--");
	assert_string_equal(o.command[3], "--help");
	assert_null(o.command[4]);
}

static void smp_counts_in_all_spellings(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-smp") W("4")));
	assert_int_equal(o.cpus, 4);
	parse_ok(&o, WORDS(W("-smp") W("cpus=2,maxcpus=2")));
	assert_int_equal(o.cpus, 2);
	parse_ok(&o, WORDS(W("-smp") W("sockets=2,cores=2,threads=2")));
	assert_int_equal(o.cpus, 8);
	parse_ok(&o, WORDS(W("-smp") W("8,cores=4")));
	assert_int_equal(o.cpus, 8);
	parse_bad("does not make", WORDS(W("-smp") W("8,sockets=1,cores=4,threads=1")));
	parse_bad("maxcpus", WORDS(W("-smp") W("2,maxcpus=4")));
	parse_bad("from 1 to", WORDS(W("-smp") W("cpus=")));
	parse_bad("is not one of", WORDS(W("-smp") W("4,")));
	parse_bad("from 1 to", WORDS(W("-smp") W("99999999999999999999")));
}

static void serial_ports_fill_up_in_order(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-serial") W("null") W("-serial") W("mon:stdio") W("-serial")
				   W("file:a:b")));
	assert_int_equal(o.serials, 3);
	assert_int_equal(o.serial[0].backend, BACKEND_NULL);
	assert_int_equal(o.serial[1].backend, BACKEND_STDIO);
	assert_int_equal(o.serial[2].backend, BACKEND_FILE);
	assert_string_equal(o.serial[2].path, "a:b");
	assert_int_equal(o.serial[3].backend, BACKEND_DEFAULT);
	parse_bad("only one", WORDS(W("-serial") W("stdio") W("-debugcon") W("stdio")));
}

static void dates_exist(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-rtc") W("base=2024-02-29T12:34:56,clock=host")));
	assert_int_equal(o.rtc_base, RTC_BASE_DATE);
	assert_int_equal(o.rtc_date, 1709210096);
	parse_ok(&o, WORDS(W("-rtc") W("base=1970-01-01")));
	assert_int_equal(o.rtc_date, 0);
	parse_ok(&o, WORDS(W("-rtc") W("base=localtime")));
	assert_int_equal(o.rtc_base, RTC_BASE_LOCAL);
	parse_bad("date", WORDS(W("-rtc") W("base=2023-02-29")));
	parse_bad("date", WORDS(W("-rtc") W("base=2023-01-01T")));
	parse_bad("date", WORDS(W("-rtc") W("base=1969-12-31")));
	parse_bad("date", WORDS(W("-rtc") W("base")));
	parse_bad("clock=host", WORDS(W("-rtc") W("clock=vm")));
}

static void stats_take_a_format_only_with_equal_sign(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("--stats")));
	assert_int_equal(o.stats, STATS_TEXT);
	parse_ok(&o, WORDS(W("--stats=json") W("--") W("true")));
	assert_int_equal(o.stats, STATS_JSON);
	parse_bad("'json' is not an option", WORDS(W("--stats") W("json")));
}

static void symbols_may_have_moved(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-profile") W("p") W("-symbols") W("a,b")));
	assert_string_equal(o.profile, "p");
	assert_int_equal(o.symbols_len, 3);
	assert_false(o.symbols_moved);
	parse_ok(&o, WORDS(W("-perfmap") W("-symbols") W("a,offset=0x1c00000")));
	assert_int_equal(o.symbols_len, 1);
	assert_true(o.symbols_moved && o.perfmap);
	assert_int_equal(o.symbols_offset, 0x1c00000);
	parse_bad("offset is a number", WORDS(W("-profile=p") W("-symbols=a,offset=")));
	parse_bad("offset is a number", WORDS(W("-profile=p") W("-symbols=a,offset=-1")));
	parse_bad("offset is a number", WORDS(W("-profile=p") W("-symbols=a,offset=1x")));
	parse_bad("offset is a number",
		  WORDS(W("-profile=p") W("-symbols=a,offset=0x10000000000000000")));
	parse_bad("an empty file name", WORDS(W("-profile=p") W("-symbols=,offset=1")));
	parse_bad("an empty file name", WORDS(W("-profile=")));
	parse_bad("only -profile and -perfmap", WORDS(W("-symbols=a")));
	parse_bad("takes no value", WORDS(W("-perfmap=x")));
}

static void qemus_other_options_are_known_by_name(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o,
		 WORDS(W("-drive") W("file=x") W("-nic") W("user") W("-pcap") W("f")));
	assert_int_equal(o.virtio.count, 3);
	parse_bad("-device virtio-frob: there is no such device",
		  WORDS(W("--device=virtio-frob")));
	parse_bad("say -nic user,", WORDS(W("-net") W("nic")));
	parse_ok(&o, WORDS(W("-nic") W("none") W("-vga=none") W("-nodefaults")
				   W("-nographic") W("-display") W("none")));
}

static void typing_errors_get_a_suggestion(void **state)
{
	static const char *const names[] = { "kernel", "m", "smp", "serial", NULL };

	(void)state;
	assert_string_equal(options_nearest("kernal", names), "kernel");
	assert_string_equal(options_nearest("kenrel", names), "kernel");
	assert_string_equal(options_nearest("spm", names), "smp");
	assert_string_equal(options_nearest("serials", names), "serial");
	assert_null(options_nearest("frobnicate", names));
	assert_null(options_nearest("", names));
	parse_bad("is -append meant?", WORDS(W("-apend") W("x")));
	/* Longer than any option. */
	parse_bad("unknown option", WORDS(W("-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
					    "aaaaaaaaaaaaaaaaaaaaaa")));
}

static void help_wins_over_what_comes_after(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-m") W("1") W("--help") W("-nonsense")));
	assert_int_equal(o.action, RUN_HELP);
	parse_ok(&o, WORDS(W("-cpu") W("help")));
	assert_int_equal(o.action, RUN_CPU_HELP);
}

static void devices_and_their_backends(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-device") W("isa-debug-exit,iobase=0xf4,iosize=0x4") W(
			     "--device") W("pc-testdev") W("-debugcon") W("file:x")));
	assert_int_equal(o.devices, 3);
	assert_string_equal(device_name(&o.device[0]), "isa-debug-exit");
	assert_int_equal(o.device[0].number[0], 0xf4);
	assert_string_equal(device_name(&o.device[2]), "isa-debugcon");
	assert_int_equal(o.debugcon.backend, BACKEND_FILE);
	/* By name, and in any order. */
	parse_ok(&o,
		 WORDS(W("-device") W("isa-debugcon,iobase=0x402,chardev=c") W("-chardev")
			       W("file,id=c,path=a,,b") W("-serial") W("chardev:s")
				       W("-chardev") W("stdio,mux=on,id=s,signal=off")));
	assert_int_equal(o.debugcon.backend, BACKEND_FILE);
	assert_string_equal(o.debugcon.path, "a,b");
	assert_int_equal(o.serial[0].backend, BACKEND_STDIO);
	parse_ok(&o, WORDS(W("-debugcon") W("none")));
	assert_int_equal(o.devices, 0);
	parse_ok(&o, WORDS(W("-device") W("help")));
	assert_int_equal(o.action, RUN_DEVICE_HELP);
	assert_null(o.device_help);
	parse_ok(&o, WORDS(W("-device") W("isa-debug-exit,help")));
	assert_string_equal(o.device_help, "isa-debug-exit,help");
	parse_bad("-device nosuch: there is no such device",
		  WORDS(W("-device") W("nosuch,help")));
	parse_bad("there is a debug console already",
		  WORDS(W("-debugcon") W("null") W("-debugcon") W("null")));
	parse_bad(
		"there is a debug console already",
		WORDS(W("-debugcon") W("null") W("-device") W("isa-debugcon,chardev=x")));
	parse_bad("-device isa-debugcon: there is no -chardev with id 'x'",
		  WORDS(W("-device") W("isa-debugcon,chardev=x")));
	parse_bad("-serial: there is no -chardev with id 'x'",
		  WORDS(W("-serial") W("chardev:x")));
	parse_bad("stdio can be used for only one",
		  WORDS(W("-chardev") W("stdio,id=c") W("-serial") W("stdio") W("-serial")
				W("chardev:c")));
	parse_bad("one of stdio, file, null", WORDS(W("-chardev") W("pipe,id=c")));
	parse_ok(&o, WORDS(W("-chardev") W("socket,id=c,path=p,server=on,wait=off")));
	parse_bad("id= is needed", WORDS(W("-chardev") W("null")));
	parse_bad("path= is needed", WORDS(W("-chardev") W("file,id=c")));
	parse_bad("no property 'path'", WORDS(W("-chardev") W("null,id=c,path=x")));
	parse_bad("with id c already",
		  WORDS(W("-chardev") W("null,id=c") W("-chardev") W("null,id=c")));
}

static void properties_of_the_machine(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-machine") W("q35,accel=tcg,pit=off,hpet=off,vmport=off")));
	assert_true(o.no_pit && o.no_hpet && !o.no_i8042);
	parse_ok(&o,
		 WORDS(W("-M") W("accel=kvm:tcg") W("-machine") W("i8042=off,pit=on")));
	assert_true(!o.no_pit && o.no_i8042);
	parse_ok(&o, WORDS(W("-accel") W("tcg,thread=single") W("-no-hpet")));
	assert_true(o.no_hpet);
	parse_bad("-machine accel=kvm is not supported yet",
		  WORDS(W("-machine") W("accel=kvm")));
	parse_bad("-accel kvm is not supported yet", WORDS(W("-accel") W("kvm")));
	parse_bad("-machine pit=maybe: on or off", WORDS(W("-machine") W("pit=maybe")));
	parse_bad("-machine pit=: on or off", WORDS(W("-machine") W("q35,pit")));
	parse_bad("-machine usb=on: it can only be off",
		  WORDS(W("-machine") W("usb=on")));
	parse_bad("'warp' is not a property", WORDS(W("-machine") W("q35,warp=9")));
}

static void files_for_fw_cfg(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, WORDS(W("-fw_cfg") W("opt/a,string=x") W("-fw_cfg")
				   W("name=opt/b,file=y")));
	assert_int_equal(o.fw_cfgs, 2);
	parse_bad("a name is needed", WORDS(W("-fw_cfg") W("string=x")));
	parse_bad("either file= or string= is needed", WORDS(W("-fw_cfg") W("opt/a")));
	parse_bad("either file= or string= is needed",
		  WORDS(W("-fw_cfg") W("opt/a,file=x,string=y")));
	parse_bad("'gen_id' is not one of", WORDS(W("-fw_cfg") W("opt/a,gen_id=x")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_have_suffixes_and_fractions),
		cmocka_unit_test(defaults_are_a_small_machine),
		cmocka_unit_test(dashes_and_equal_sign_are_one_spelling),
		cmocka_unit_test(debugger_is_waited_for_where_asked),
		cmocka_unit_test(command_keeps_its_own_options),
		cmocka_unit_test(smp_counts_in_all_spellings),
		cmocka_unit_test(serial_ports_fill_up_in_order),
		cmocka_unit_test(dates_exist),
		cmocka_unit_test(stats_take_a_format_only_with_equal_sign),
		cmocka_unit_test(symbols_may_have_moved),
		cmocka_unit_test(qemus_other_options_are_known_by_name),
		cmocka_unit_test(typing_errors_get_a_suggestion),
		cmocka_unit_test(help_wins_over_what_comes_after),
		cmocka_unit_test(devices_and_their_backends),
		cmocka_unit_test(properties_of_the_machine),
		cmocka_unit_test(files_for_fw_cfg),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
