/*
 * gdb's protocol: packets, and what each command does with CPUs and memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/gdb.h"
#include "control/gdb_monitor.h"
#include "control/gdb_regs.h"
#include "gdb_rig.h"
#include "host/loop.h"
#include "virtio/balloon.h"
#include "x86/xsave.h"

/* ---- packets ---- */

static enum gdb_event feed(struct gdb_packet *p, const char *bytes, size_t len)
{
	enum gdb_event ev = GDB_NOTHING;

	for (size_t i = 0; i < len; i++) {
		ev = gdb_packet_byte(p, (u8)bytes[i]);
		if (i + 1 < len)
			assert_int_equal(ev, GDB_NOTHING);
	}
	return ev;
}

#define FEED(p, text) feed(p, text, sizeof(text) - 1)

static void packet_is_read(void **state)
{
	struct gdb_packet p = { 0 };

	(void)state;
	assert_int_equal(FEED(&p, "+noise$g#67"), GDB_PACKET);
	assert_string_equal(p.data, "g");
	assert_int_equal(FEED(&p, "$#00"), GDB_PACKET);
	assert_int_equal(p.len, 0);
	assert_int_equal(FEED(&p, "$Xa}\x03}]#13"), GDB_PACKET);
	assert_string_equal(p.data, "Xa#}");
	assert_int_equal(FEED(&p, "$g#AB"), GDB_BAD);
	assert_int_equal(FEED(&p, "$g#x"), GDB_BAD);
	/* A packet that is begun anew. */
	assert_int_equal(FEED(&p, "$abc$g#67"), GDB_PACKET);
	assert_int_equal(p.len, 1);
	assert_int_equal(FEED(&p, "-"), GDB_NAK);
	assert_int_equal(FEED(&p, "\x03"), GDB_INTERRUPT);
}

static void packet_too_long_is_refused(void **state)
{
	struct gdb_packet p = { 0 };
	u8 sum = 0;

	(void)state;
	for (unsigned extra = 0; extra < 2; extra++) {
		char tail[4];

		sum = 0;
		gdb_packet_byte(&p, '$');
		for (unsigned i = 0; i < GDB_PACKET_MAX + extra; i++) {
			assert_int_equal(gdb_packet_byte(&p, 'a'), GDB_NOTHING);
			sum = (u8)(sum + 'a');
		}
		snprintf(tail, sizeof(tail), "#%02x", sum);
		assert_int_equal(feed(&p, tail, 3), extra ? GDB_LONG : GDB_PACKET);
	}
}

static void packet_that_is_wrapped_comes_back(void **state)
{
	struct gdb_packet p = { 0 };
	char all[256], wire[1024];
	size_t n;

	(void)state;
	for (unsigned i = 0; i < 256; i++)
		all[i] = (char)i;
	n = gdb_wrap(all, 256, wire);
	assert_true(n <= gdb_wrapped_max(256));
	assert_int_equal(feed(&p, wire, n), GDB_PACKET);
	assert_int_equal(p.len, 256);
	assert_memory_equal(p.data, all, 256);
}

static void numbers_are_checked(void **state)
{
	const char *s;
	u8 buf[4];
	i64 thread;
	u64 val;

	(void)state;
	s = "1aF,";
	assert_true(gdb_hex(&s, &val) && val == 0x1af && *s == ',');
	s = "ffffffffffffffff";
	assert_true(gdb_hex(&s, &val) && val == UINT64_MAX);
	s = "10000000000000000";
	assert_false(gdb_hex(&s, &val));
	s = "";
	assert_false(gdb_hex(&s, &val));
	s = "0102zz";
	assert_false(gdb_hex_bytes(&s, buf, 3));
	s = "010";
	assert_false(gdb_hex_bytes(&s, buf, 2));
	s = "-1";
	assert_true(gdb_thread(&s, &thread) && thread == -1);
	s = "-2";
	assert_false(gdb_thread(&s, &thread));
	s = "ffffffff";
	assert_false(gdb_thread(&s, &thread));
}

/* ---- the stub ---- */

/* The packet that was sent last, without its frame. */
static const char *answer(struct gdb_rig *r)
{
	char *begin = memrchr(r->out, '$', r->out_len), *end;

	if (!begin)
		return "(nothing)";
	end = strrchr(begin, '#');
	assert_non_null(end);
	*end = 0;
	return begin + 1;
}

static const char *ask_bytes(struct gdb_rig *r, const char *data, size_t len)
{
	char wire[4096];
	size_t n = 0;
	u8 sum = 0;

	wire[n++] = '$';
	for (size_t i = 0; i < len; i++) {
		wire[n++] = data[i];
		sum = (u8)(sum + (u8)data[i]);
	}
	n += (size_t)snprintf(wire + n, sizeof(wire) - n, "#%02x", sum);
	r->out_len = 0;
	gdb_stub_input(r->stub, (const u8 *)wire, n);
	return answer(r);
}

static const char *ask(struct gdb_rig *r, const char *text)
{
	return ask_bytes(r, text, strlen(text));
}

#define TEST(name)                                                                       \
	static void name##_in(struct gdb_rig *r);                                        \
	static void name(void **state)                                                   \
	{                                                                                \
		struct gdb_rig *r = gdb_rig_new();                                       \
                                                                                         \
		(void)state;                                                             \
		name##_in(r);                                                            \
		gdb_rig_free(r);                                                         \
	}                                                                                \
	static void name##_in(struct gdb_rig *r)

static void expect(struct gdb_rig *r, const char *question, const char *want)
{
	const char *got = ask(r, question);

	if (strcmp(got, want))
		fail_msg("%s: %s, want %s", question, got, want);
}

TEST(unknown_commands_are_answered_with_nothing)
{
	static const char *const odd[] = {
		"", "!", "A", "bc", "y", "vX", "QX", "qX", "vMustReplyEmpty", "Z5,0,0"
	};

	for (unsigned i = 0; i < ARRAY_SIZE(odd); i++)
		expect(r, odd[i], "");
}

TEST(malformed_commands_change_nothing)
{
	static const char *const bad[] = {
		"m",
		"m1000",
		"m1000,",
		"m,4",
		"m1000,4x",
		"Mx,1:00",
		"M1000,2:00",
		"M1000,1:0g",
		"M1000,1:000",
		"X1000,2:a",
		"X1000",
		"pfff",
		"p",
		"P0",
		"P0=12",
		"Pfff=00",
		"P0=11223344556677889900",
		"Z0",
		"Z0,1000",
		"Z0,,1",
		"Z2,10,0",
		"Z2,10,ffffffff",
		"Z0,10,1;X1",
		"Hx1",
		"Hg",
		"Hg3",
		"Hg-2",
		"T3",
		"Tx",
		"vCont",
		"vCont;",
		"vCont;x",
		"vCont;c:9",
		"vCont;cc",
		"cxyz",
		"C",
		"qThreadExtraInfo,",
		"qThreadExtraInfo,9",
		"qRcmd,abc",
		"qRcmd,zz",
	};
	struct vcpu before = *vm_vcpu(r->vm, 0);

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		expect(r, bad[i], "E01");
	expect(r, "qXfer:features:read:other.xml:0,10", "E00");
	expect(r, "qXfer:features:read:target.xml:0", "E00");
	assert_memory_equal(vm_vcpu(r->vm, 0), &before, offsetof(struct vcpu, arch_end));
	assert_false(r->running);
}

TEST(acknowledgment_ends_when_asked)
{
	ask(r, "qC");
	assert_int_equal(r->out[0], '+');
	expect(r, "QStartNoAckMode", "OK");
	assert_int_equal(r->out[0], '+');
	ask(r, "qC");
	assert_int_equal(r->out[0], '$');
}

TEST(bad_checksum_is_asked_for_again)
{
	r->out_len = 0;
	gdb_stub_input(r->stub, (const u8 *)"$qC#00", 6);
	assert_int_equal(r->out_len, 1);
	assert_int_equal(r->out[0], '-');
	expect(r, "qC", "QC1");
	r->out_len = 0;
	gdb_stub_input(r->stub, (const u8 *)"-", 1);
	assert_string_equal(answer(r), "QC1");
}

TEST(memory_is_linear_and_without_side_effects)
{
	u64 pte = le_load(r->ram + RIG_PD, 8);

	memcpy(r->ram + 0x1000, "\x12\x34\x56\x78", 4);
	expect(r, "m1000,4", "12345678");
	expect(r, "mffffffff80001000,2", "1234");
	expect(r, "M1001,2:abcd", "OK");
	expect(r, "mffffffff80001000,4", "12abcd78");
	assert_string_equal(ask_bytes(r, "X1002,3:\0\x01z", 11), "OK");
	expect(r, "m1000,5", "12ab00017a");
	expect(r, "m1000,0", "");
	/* Not mapped; not canonical; a device; ROM cannot be written. */
	expect(r, "m40000000,4", "E14");
	expect(r, "m800000000000,1", "E14");
	expect(r, "ma00000,4", "E14");
	expect(r, "Ma00000,1:00", "E14");
	expect(r, "mfff000,4", "72656164");
	expect(r, "Mfff000,1:00", "E14");
	/* As far as it goes. */
	expect(r, "m1ffffe,4", "0000");
	assert_int_equal(r->device, 0);
	assert_int_equal(le_load(r->ram + RIG_PD, 8), pte);
}

static const char *monitor(struct gdb_rig *r, const char *line)
{
	char text[256] = "qRcmd,";

	for (size_t i = 0; line[i]; i++)
		snprintf(text + 6 + 2 * i, 3, "%02x", (u8)line[i]);
	return ask(r, text);
}

TEST(monitor_switches_memory)
{
	memcpy(r->ram + 0x100000, "abc", 3);
	le_store(r->ram + RIG_PD, 0, 8);
	expect(r, "m100000,3", "E14");
	assert_string_equal(monitor(r, "physical on"), "OK");
	expect(r, "m100000,3", "616263");
	assert_string_equal(monitor(r, "mmio on"), "OK");
	expect(r, "ma00000,4", "88776655");
	assert_int_equal(r->device, 1);
	assert_string_equal(monitor(r, "mmio off"), "OK");
	expect(r, "ma00000,4", "E14");
	assert_string_equal(monitor(r, "physical off"), "OK");
	expect(r, "m100000,3", "E14");
}

/* Was this among what was printed? */
static bool shows(struct gdb_rig *r, const char *text)
{
	char hex[256];

	for (size_t i = 0; text[i]; i++)
		snprintf(hex + 2 * i, 3, "%02x", (u8)text[i]);
	return strstr(r->out, hex) != NULL;
}

TEST(monitor_sets_the_balloon)
{
	struct virtio_balloon_setup setup = { .target = 0 };
	struct phys *phys = phys_new();
	struct loop *loop = loop_new(NULL);
	struct gdb_monitor m = { .vm = NULL, .ram = MiB(64) };
	char line[32], *text = NULL;
	size_t len;
	const struct {
		const char *say, *answer;
		u32 pages; /* of the target, then */
	} steps[] = {
		{ "balloon 48", "", 4096 },
		{ "balloon", "from 1 to 64", 4096 },
		{ "balloon 0", "from 1 to 64", 4096 },
		{ "balloon 65", "from 1 to 64", 4096 },
		{ "balloon 4x", "from 1 to 64", 4096 },
		{ "balloon -1", "from 1 to 64", 4096 },
		{ "balloon 64", "", 0 },
		{ "info balloon", "balloon: actual=64", 0 },
	};

	assert_string_equal(monitor(r, "balloon 10"), "OK");
	assert_true(shows(r, "there is no balloon"));
	m.balloon = virtio_balloon_new(phys, loop, &setup);
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		struct virtio *v = virtio_balloon_core(m.balloon);
		FILE *out = open_memstream(&text, &len);

		strcpy(line, steps[i].say);
		gdb_monitor(&m, line, out);
		fclose(out);
		assert_non_null(strstr(text, steps[i].answer));
		assert_int_equal(*steps[i].answer != 0, len != 0);
		free(text);
		assert_int_equal(virtio_config_read(v, 0, 4), steps[i].pages);
	}
	virtio_balloon_free(m.balloon);
	loop_free(loop);
	phys_free(phys);
}

TEST(monitor_prints)
{
	static const char *const lines[] = { "",          "help",     "info registers",
					     "info cpus", "info mem", "info",
					     "bogus",     "physical", "physical x" };

	for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
		assert_string_equal(monitor(r, lines[i]), "OK");
		assert_int_equal(r->out[1], '$');
		assert_int_equal(r->out[2], 'O');
		assert_int_not_equal(r->out[3], 'K');
	}
	monitor(r, "info mem");
	assert_true(shows(r, "0000000000000000-0000000001000000 -wx\n"));
	assert_true(shows(r, "ffffffff80000000-ffffffff81000000 -wx\n"));
	monitor(r, "info cpus");
	assert_true(shows(r, "* CPU 0 runs at 0000000000001000, CPL 0\n"));
	assert_string_equal(monitor(r, "reset"), "OK");
	assert_int_equal(r->resets, 1);
	assert_int_equal(vm_vcpu(r->vm, 0)->rip, 0xfff0);
	assert_string_equal(monitor(r, "quit"), "OK");
	assert_int_equal(r->quits, 1);
}

/* Page tables that contain themselves map very much. */
TEST(info_mem_is_bounded)
{
	for (unsigned i = 0; i < 512; i++)
		le_store(r->ram + RIG_PML4 + 8 * i, RIG_PML4 | 7, 8);
	assert_string_equal(monitor(r, "info mem"), "OK");
	/* A page in two, so that no range is longer. */
	for (unsigned i = 0; i < 512; i += 2)
		le_store(r->ram + RIG_PML4 + 8 * i, 0, 8);
	assert_string_equal(monitor(r, "info mem"), "OK");
}

TEST(description_comes_in_pieces)
{
	char whole[32768] = "", question[64];
	size_t n = 0;

	for (;;) {
		const char *a;

		snprintf(question, sizeof(question),
			 "qXfer:features:read:target.xml:%zx,100", n);
		a = ask(r, question);
		assert_true(*a == 'm' || *a == 'l');
		memcpy(whole + n, a + 1, strlen(a + 1));
		n += strlen(a + 1);
		if (*a == 'l')
			break;
		assert_int_equal(strlen(a + 1), 0x100);
	}
	assert_non_null(strstr(whole, "</target>"));
	assert_non_null(strstr(whole, "org.gnu.gdb.i386.avx512"));
	assert_non_null(strstr(whole, "name=\"cr3\""));
}

/* ---- registers ---- */

TEST(registers_are_written_and_read)
{
	struct vcpu *v = vm_vcpu(r->vm, 0);

	expect(r, "P0=8877665544332211", "OK");
	assert_int_equal(v->gpr[RAX], 0x1122334455667788);
	expect(r, "p0", "8877665544332211");
	/* RBX is the second, and RIP the 17th. */
	expect(r, "P1=0100000000000000", "OK");
	assert_int_equal(v->gpr[RBX], 1);
	expect(r, "P10=0020000000000000", "OK");
	assert_int_equal(v->rip, 0x2000);
	/* Of the second CPU. */
	expect(r, "Hg2", "OK");
	expect(r, "p10", "0010000000000000");
	expect(r, "P10=0030000000000000", "OK");
	assert_int_equal(vm_vcpu(r->vm, 1)->rip, 0x3000);
	assert_int_equal(v->rip, 0x2000);
}

/* All of them, as many bytes as the description says, and back. */
TEST(all_registers_go_around)
{
	char all[2 * 4096 + 2] = "G";
	struct vcpu *v = vm_vcpu(r->vm, 0);
	struct vcpu *before = malloc(sizeof(*before));

	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = i * 0x0101010101010101;
	le_store(v->xsave + XSAVE_XSTATE_BV, 0xe7, 8);
	for (unsigned i = XSAVE_XMM; i < XSAVE_LEGACY_SIZE - 96; i++)
		v->xsave[i] = (u8)i;
	memcpy(before, v, sizeof(*before));
	snprintf(all + 1, sizeof(all) - 1, "%s", ask(r, "g"));
	memset(v->gpr, 0, 128);
	memset(v->xsave + XSAVE_XMM, 0, 256);
	{
		struct gdb_packet *p = calloc(1, sizeof(*p));
		char *wire = malloc(gdb_wrapped_max(strlen(all)));
		size_t n = gdb_wrap(all, strlen(all), wire);

		r->out_len = 0;
		gdb_stub_input(r->stub, (const u8 *)wire, n);
		assert_string_equal(answer(r), "OK");
		free(wire);
		free(p);
	}
	assert_memory_equal(v->gpr, before->gpr, sizeof(v->gpr));
	assert_memory_equal(v->xsave, before->xsave, XSAVE_AREA_SIZE);
	free(before);
}

static unsigned find_reg(struct gdb_rig *r, const char *name)
{
	struct gdb_regs *regs = gdb_regs_new(vm_vcpu(r->vm, 0));
	size_t len;
	const char *xml = gdb_regs_xml(regs, &len), *at;
	char text[40];
	unsigned n = 0;

	snprintf(text, sizeof(text), "<reg name=\"%s\"", name);
	at = strstr(xml, text);
	assert_non_null(at);
	for (const char *p = xml; (p = strstr(p, "<reg ")) && p < at; p++)
		n++;
	gdb_regs_free(regs);
	return n;
}

static void write_reg(struct gdb_rig *r, const char *name, u64 val, unsigned bytes,
		      const char *want)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "P%x=", find_reg(r, name));

	for (unsigned i = 0; i < bytes; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%02x",
			      (unsigned)(u8)(val >> (8 * i)));
	if (strcmp(ask(r, text), want))
		fail_msg("%s = %llx: %s, want %s", name, (unsigned long long)val,
			 ask(r, text), want);
}

/* What no CPU could be in is refused, and what would need a descriptor. */
TEST(impossible_registers_are_refused)
{
	struct vcpu *v = vm_vcpu(r->vm, 0);

	write_reg(r, "rip", 0x8000000000000000, 8, "E01");
	write_reg(r, "cr0", CR0_PG | CR0_ET, 8, "E01");
	write_reg(r, "cr0", ~UINT64_C(0), 8, "E01");
	write_reg(r, "cr0", v->cr0 | CR0_WP, 8, "OK");
	assert_true(v->cr0 & CR0_WP);
	write_reg(r, "cr4", 0, 8, "E01");
	write_reg(r, "cr4", ~UINT64_C(0), 8, "E01");
	write_reg(r, "efer", EFER_LMA, 8, "E01");
	write_reg(r, "cr3", ~UINT64_C(0), 8, "E01");
	write_reg(r, "dr7", ~UINT64_C(0), 8, "E01");
	write_reg(r, "dr0", 0x1234, 8, "OK");
	write_reg(r, "mxcsr", 0xffffffff, 4, "E01");
	write_reg(r, "mxcsr", 0x1fa0, 4, "OK");
	write_reg(r, "cs", 0x10, 4, "E01");
	write_reg(r, "cpl", 3, 4, "E01");
	write_reg(r, "gdtr_base", 1, 8, "E01");
	write_reg(r, "fs_base", 0x8000000000000000, 8, "E01");
	write_reg(r, "fs_base", 0x1000, 8, "OK");
	assert_int_equal(v->seg[FS].base, 0x1000);
	/* VM86 is not a flag to play with. */
	write_reg(r, "eflags", 0xffffffff, 4, "OK");
	assert_false(rflags_get(v) & RFLAGS_VM);
	assert_true(vcpu_consistent(v));
}

TEST(vector_registers_are_where_they_are)
{
	struct vcpu *v = vm_vcpu(r->vm, 0);

	write_reg(r, "k3", 0x1234, 8, "OK");
	assert_int_equal(le_load(v->xsave + XSAVE_OPMASK + 24, 8), 0x1234);
	write_reg(r, "fctrl", 0x27f, 4, "OK");
	assert_int_equal(le_load(v->xsave + XSAVE_FCW, 2), 0x27f);
	write_reg(r, "ftag", 0xffff, 4, "OK");
	assert_int_equal(v->xsave[XSAVE_FTW], 0);
	write_reg(r, "fop", 0xffff, 4, "OK");
	assert_int_equal(v->fop, 0x7ff);
	assert_int_equal(le_load(v->xsave + XSAVE_XSTATE_BV, 8) & 0x21, 0x21);
}

/* ---- points and running ---- */

TEST(points_of_two_kinds_share_an_address)
{
	const struct debug_points *p = debug_points(r->debug);

	expect(r, "Z0,1000,1", "OK");
	expect(r, "Z1,1000,1", "OK");
	expect(r, "Z1,1000,1", "OK");
	assert_int_equal(p->breaks, 1);
	expect(r, "z0,1000,1", "OK");
	assert_int_equal(p->breaks, 1);
	expect(r, "z1,1000,1", "OK");
	assert_int_equal(p->breaks, 0);
	expect(r, "z1,1000,1", "OK");
	expect(r, "Z4,2000,8", "OK");
	assert_int_equal(p->watches, 1);
	assert_int_equal(p->watch[0].kind, DEBUG_READ | DEBUG_WRITE);
	expect(r, "z4,2000,8", "OK");
	assert_int_equal(p->watches, 0);
}

TEST(points_have_an_end)
{
	char text[32];
	unsigned n = 0;

	for (; n < 2000; n++) {
		snprintf(text, sizeof(text), "Z0,%x,1", n);
		if (strcmp(ask(r, text), "OK"))
			break;
	}
	assert_int_equal(n, DEBUG_BREAKS);
}

TEST(running_is_left_by_control_c)
{
	ask(r, "vCont;c");
	assert_true(r->running);
	assert_false(debug_is_stopped(r->debug));
	r->out_len = 0;
	gdb_stub_input(r->stub, (const u8 *)"\x03", 1);
	assert_string_equal(answer(r), "T02thread:1;");
	assert_false(r->running);
	expect(r, "?", "T05thread:1;");
	ask(r, "c2000");
	assert_int_equal(vm_vcpu(r->vm, 0)->rip, 0x2000);
	gdb_stub_input(r->stub, (const u8 *)"\x03", 1);
	ask(r, "vCont;s:2");
	assert_true(debug_vcpu(r->debug, 1)->step);
	assert_false(debug_vcpu(r->debug, 0)->step);
}

TEST(detaching_leaves_nothing_behind)
{
	expect(r, "Z0,1000,1", "OK");
	expect(r, "D", "OK");
	assert_int_equal(r->hang_ups, 1);
	assert_int_equal(debug_points(r->debug)->breaks, 0);
	assert_true(r->running);
	gdb_stub_attach(r->stub);
	assert_true(gdb_stub_listens(r->stub));
	expect(r, "Z0,1000,1", "OK");
	ask(r, "vCont;c");
	/* The connection is cut while the machine runs. */
	gdb_stub_detach(r->stub);
	assert_int_equal(debug_points(r->debug)->breaks, 0);
	assert_false(debug_is_stopped(r->debug));
}

TEST(killing_ends_the_machine)
{
	ask(r, "k");
	assert_int_equal(r->quits, 1);
	assert_int_equal(r->hang_ups, 1);
}

/* ---- where it listens ---- */

static void places_are_checked(void **state)
{
	static const char *const good[] = {
		"tcp::1234",
		"tcp:localhost:0",
		"tcp:[::1]:65535",
		"tcp::1234,server=on,wait=off",
		"unix:/tmp/x,server,nowait",
	};
	static const char *const bad[] = {
		"",       "1234",       "tcp",      "tcp:",     "tcp::",
		"tcp::x", "tcp::99999", "tcp::-1",  "tcp::1 ",  "udp::1234",
		"unix:",  "stdio",      "tcp::1,x", "tcp:1234", "unix:/x,wait=on",
	};
	char path[200] = "unix:";
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(gdb_check("gdb", good[i], &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_true(gdb_check("gdb", bad[i], &err) < 0);
	memset(path + 5, 'x', 120);
	assert_true(gdb_check("gdb", path, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packet_is_read),
		cmocka_unit_test(packet_too_long_is_refused),
		cmocka_unit_test(packet_that_is_wrapped_comes_back),
		cmocka_unit_test(numbers_are_checked),
		cmocka_unit_test(unknown_commands_are_answered_with_nothing),
		cmocka_unit_test(malformed_commands_change_nothing),
		cmocka_unit_test(acknowledgment_ends_when_asked),
		cmocka_unit_test(bad_checksum_is_asked_for_again),
		cmocka_unit_test(memory_is_linear_and_without_side_effects),
		cmocka_unit_test(monitor_switches_memory),
		cmocka_unit_test(monitor_sets_the_balloon),
		cmocka_unit_test(monitor_prints),
		cmocka_unit_test(info_mem_is_bounded),
		cmocka_unit_test(description_comes_in_pieces),
		cmocka_unit_test(registers_are_written_and_read),
		cmocka_unit_test(all_registers_go_around),
		cmocka_unit_test(impossible_registers_are_refused),
		cmocka_unit_test(vector_registers_are_where_they_are),
		cmocka_unit_test(points_of_two_kinds_share_an_address),
		cmocka_unit_test(points_have_an_end),
		cmocka_unit_test(running_is_left_by_control_c),
		cmocka_unit_test(detaching_leaves_nothing_behind),
		cmocka_unit_test(killing_ends_the_machine),
		cmocka_unit_test(places_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
