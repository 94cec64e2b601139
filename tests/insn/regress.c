/*
 * One case for each error that the instruction tests have found, in its smallest form:
 * the engine must do what the host's CPU does.
 *
 *   regress [--engine NAME] [CASE...]
 *
 * A case is code and what differs from a fixed state: "reg=value" with values in
 * hexadecimal, from RW (read-write pages), END (behind them), RO (read-only page), CODE
 * (the code itself) if they begin so; "+flag"; "mem:value=bytes"; "at:N" (so many bytes
 * before the end of the code pages). Registers: those of the CPU, fs and gs (bases in
 * 64-bit code), ss, ds, es (selectors), k0 to k7, xmmN, fcw, cc (all status flags).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/hostcpu.h"
#include "engines.h"
#include "gen.h"
#include "host.h"

struct regress {
	const char *name;
	enum mode mode;
	const char *code, *state;
};

/* clang-format off */
static const struct regress cases[] = {
	/* decoding */
	{ "segment_prefix_counts_behind_ignored_rex", MODE64, "48 65 8b 03", "rbx=100 gs=RW" },
	{ "ignored_segment_prefix_keeps_fs", MODE64, "64 3e 48 8b 03", "rbx=100 fs=RW" },
	{ "evex_sib_without_base_ignores_extension", MODE64, "67 62 41 85 85 fb 34 1d 00 21 02 10", "rbx=20 k5=ff" },
	{ "vpcmpestri_ignores_w_in_32bit_code", MODE32, "c4 e3 f9 61 e3 81", "rax=80000005 rdx=3" },
	/* translated code: ESP is another register of the host */
	{ "movsx_esp_from_high_byte", MODE64, "0f be e7", "rbx=8100" },
	{ "crc32_esp_from_high_byte", MODE64, "f2 0f 38 f0 e4", "rax=8100" },
	{ "xchg_esp_with_f3_is_no_pause", MODE64, "f3 94", "rax=1234" },
	{ "pause_with_rex", MODE64, "f3 41 90", "rax=1234" },
	/* integer */
	{ "rotate_register_by_immediate_overflow_flag", MODE64, "c0 c0 03", "rax=91" },
	{ "rotate_memory_by_immediate_overflow_flag", MODE64, "c0 03 03", "rbx=RW mem:RW=91" },
	{ "aad_flags_are_those_of_addition", MODE32, "d5 0a", "rax=1999" },
	{ "cmpxchg32_mismatch_leaves_upper_half", MODE64, "0f b1 d1", "rax=1 rcx=1111111122222222" },
	{ "rdfsbase_ignores_66", MODE64, "66 f3 0f ae c0", "fs=12345678" },
	{ "wrfsbase_ignores_66", MODE64, "66 f3 0f ae d0", "rax=12345678" },
	{ "wrgsbase_canonical_by_paging_mode", MODE64, "f3 48 0f ae d8", "rax=ca7934d25b8330" },
	{ "lar_has_limit_bits", MODE64, "0f 02 c1", "rcx=33" },
	{ "enter_checks_alignment_of_new_top", MODE64, "c8 01 00 00", "rsp=RW+1000 +ac" },
	{ "pop_fs_reads_two_bytes", MODE64, "0f a1", "rsp=END-2 mem:END-2=2b00" },
	/* strings */
	{ "rep_scas_fault_restores_flags", MODE64, "f2 ae", "rdi=END-3 rcx=10 rax=0 mem:END-3=010203 cc=0" },
	{ "rep_scas_trap_restores_flags", MODE64, "f2 ae", "rdi=RW rcx=10 rax=0 mem:RW=010203 cc=0 +tf" },
	{ "cmps_faults_on_destination_first", MODE64, "a6", "rsi=END rdi=RW-1" },
	/* transfers */
	{ "call_stores_before_it_checks_the_target", MODE64, "ff d0", "rax=800000000000 rsp=RW+1000" },
	{ "call_stack_fault_before_target", MODE64, "ff d0", "rax=800000000000 rsp=RO+100" },
	{ "retf_to_compatibility_mode_cuts_rip", MODE64, "48 cb", "rsp=RW+1000 mem:RW+1000=20000000010000001f00000000000000" },
	{ "far_call_to_64bit_code_pushes_flat", MODE32, "9a 10 00 00 10 33 00", "ss=17 rsp=3690" },
	{ "ip_does_not_wrap_at_64k", MODE16, "90", "at:1" },
	{ "limit_before_next_page", MODE16, "b8 01 00", "at:2" },
	{ "limit_before_next_page_32", MODE32, "b8 01 00 00 00", "cs=1f at:2" },
	{ "into_not_taken_traps", MODE32, "ce", "cc=0 +tf" },
	{ "pop_ss_holds_back_single_step", MODE32, "17", "rsp=RW+1000 mem:RW+1000=2b000000 +tf" },
	/* Where Intel's and AMD's processors differ; names above that claim something are of Intel's. */
	{ "near_jump_with_66", MODE64, "66 eb 05", "" },
	{ "near_ret_with_66", MODE64, "66 c3", "rsp=RW+1000 mem:RW+1000=0001001000000000" },
	{ "indirect_call_with_66", MODE64, "66 ff d0", "rax=CODE+20 rsp=RW+1000" },
	{ "loopne_with_repe", MODE64, "f3 e0 05", "rcx=5 cc=40" },
	{ "far_pointer_with_rexw", MODE64, "48 0f b4 03", "rbx=RW mem:RW=11223344550000000000" },
	{ "movsxd_of_16_bits_at_the_end", MODE64, "66 63 03", "rbx=END-2" },
	{ "nop_0d_with_a_register", MODE64, "0f 0d c0", "" },
	{ "ud1_has_a_modrm_byte", MODE64, "0f b9 c0", "at:2" },
	{ "flags_of_div", MODE64, "f7 f1", "rax=100 rdx=0 rcx=3 cc=8d5" },
	{ "flags_of_div_none", MODE64, "48 f7 f9", "rax=100 rdx=0 rcx=3 cc=0" },
	{ "overflow_flag_of_daa", MODE32, "27", "rax=7f cc=0" },
	{ "flags_of_aas", MODE32, "3f", "rax=8506 cc=10" },
	{ "push_fs_of_32_bits", MODE32, "0f a0", "" },
	{ "bound_reads_both", MODE32, "62 03", "rbx=END-4 mem:END-4=00010000 rax=0" },
	{ "sha_unaligned", MODE64, "0f 38 c8 03", "rbx=RW+1" },
	{ "vcvtps2ph_fault_and_exception", MODE64, "c4 e3 79 1d 03 00", "rbx=RO mxcsr=1e80 xmm0=7f7fffff" },
	/* x87 and MMX */
	{ "fdisi_is_no_x87_operation", MODE64, "db e1", "" },
	{ "mmx_store_fault_leaves_tags", MODE64, "0f 7f 03", "rbx=RO ftw=55 fsw=0" },
	{ "fist_unmasked_invalid_is_not_stored", MODE64, "db 13", "rbx=RO fcw=37e ftw=0 fsw=0" },
	{ "fnstsw_to_read_only_memory", MODE64, "dd 3b", "rbx=RO" },
	/* alignment checks */
	{ "ac_before_page_fault", MODE64, "c5 f9 6e 03", "rbx=END+1 +ac" },
	{ "ac_after_canonical", MODE64, "c5 f9 6e 03", "rbx=800000000001 +ac" },
	{ "ac_after_limit", MODE32, "d9 03", "ds=2f rbx=3ffd +ac" },
	{ "ac_of_masked_vector_none", MODE64, "62 f1 7c 49 58 03", "rbx=RW+1 k1=ffff +ac" },
	{ "ac_of_masked_narrow_operand", MODE64, "62 f1 7c 09 5a 03", "rbx=RW+4 k1=ffff +ac" },
	{ "ac_of_broadcast_without_suppression", MODE64, "62 f1 7c 59 14 03", "rbx=RW+1 k1=0 +ac" },
	{ "ac_of_gather_none", MODE64, "62 f2 7d 49 92 0c 03", "rbx=RW+801 k1=1 zmm=0 +ac" },
	{ "ac_of_maskmovdqu", MODE64, "66 0f f7 c1", "rdi=RW+4 xmm1=0 +ac" },
	{ "ac_of_maskmovdqu_halves", MODE64, "66 0f f7 c1", "rdi=RW+8 xmm1=0 +ac" },
	{ "ac_of_vcvtps2ph_none", MODE64, "c4 e3 79 1d 03 00", "rbx=RW+1 +ac" },
	{ "ac_of_fnstenv", MODE64, "d9 33", "rbx=RW+2 +ac" },
	{ "ac_of_frstor", MODE64, "dd 23", "rbx=RW+2 +ac" },
	{ "ac_of_fxsave_before_gp", MODE64, "0f ae 03", "rbx=RW+2 +ac" },
	{ "ac_of_fxsave_aligned_by_4", MODE64, "0f ae 03", "rbx=RW+4 +ac" },
	/* vectors */
	{ "vzeroupper_in_32bit_code_keeps_ymm8", MODE32, "c5 f8 77", "" },
	{ "vzeroall_in_32bit_code_keeps_ymm8", MODE32, "c5 fc 77", "" },
	{ "evex_gather_fault_keeps_upper_mask", MODE64, "62 f2 7d 49 92 0c 03", "rbx=END-4 k1=ffffffffffff0003 zmm=1" },
	{ "vex_gather_fault_spreads_mask", MODE64, "c4 e2 71 92 04 13", "rbx=END zmm=1 xmm1=00000080000000000000008000000000" },
	{ "gather_progress_traps_before_fault", MODE64, "62 f2 7d 49 92 0c 03", "rbx=END-4 k1=3 zmm=1 +tf" },
	{ "xsaveopt_faults_as_a_write", MODE64, "0f ae 33", "rbx=END rax=7 rdx=0" },
	{ "masked_store_beyond_limit", MODE32, "62 f1 7c 49 11 03", "ds=2f rbx=3fe0 k1=ff +ac" },
};
/* clang-format on */

/* ---- reading a case ---- */

static u64 value(const struct test *t, const char *s)
{
	static const struct {
		const char *name;
		u64 base;
	} bases[] = { { "RW", RW_BASE }, { "END", RW_END }, { "RO", RO_BASE } };
	u64 base = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(bases); i++) {
		if (!strncmp(s, bases[i].name, strlen(bases[i].name))) {
			base = bases[i].base;
			s += strlen(bases[i].name);
		}
	}
	if (!strncmp(s, "CODE", 4)) {
		base = t->at;
		s += 4;
	}
	return base + (u64)(*s == '-' ? -(i64)strtoull(s + 1, NULL, 16)
				      : (i64)strtoull(*s == '+' ? s + 1 : s, NULL, 16));
}

static unsigned bytes(const char *hex, u8 *buf, unsigned max)
{
	unsigned n = 0, b;

	while (*hex && n < max) {
		if (*hex == ' ') {
			hex++;
			continue;
		}
		if (sscanf(hex, "%2x", &b) != 1)
			break;
		buf[n++] = (u8)b;
		hex += 2;
	}
	return n;
}

static void set_flag(struct state *s, const char *name)
{
	if (!strcmp(name, "ac"))
		s->flags |= RFLAGS_AC;
	else if (!strcmp(name, "tf"))
		s->flags |= RFLAGS_TF;
}

/* zmm=N: vector indexes in all registers are N, N, ... after a 0. */
static void set_indexes(struct state *s, u32 n)
{
	for (unsigned r = 0; r < 16; r++) {
		u32 index[4] = { 0, n, n, n };

		memcpy(s->xsave + XSAVE_XMM + r * 16, index, 16);
	}
}

static void set(struct test *t, const char *name, const char *val)
{
	static const char *const gpr[] = { "rax", "rcx", "rdx", "rbx",
					   "rsp", "rbp", "rsi", "rdi" };
	static const char *const sreg[] = { "es", "cs", "ss", "ds" };
	struct state *s = &t->start;
	u64 v = value(t, val);

	for (unsigned i = 0; i < ARRAY_SIZE(gpr); i++)
		if (!strcmp(name, gpr[i]))
			s->gpr[i] = v;
	for (unsigned i = 0; i < ARRAY_SIZE(sreg); i++)
		if (!strcmp(name, sreg[i]))
			s->sel[i] = (u16)v;
	if (!strcmp(name, "fs"))
		s->fs_base = v;
	else if (!strcmp(name, "gs"))
		s->gs_base = v;
	else if (!strcmp(name, "mxcsr"))
		memcpy(s->xsave + XSAVE_MXCSR, &v, 4);
	else if (!strcmp(name, "cc"))
		s->flags = (s->flags & ~(u64)RFLAGS_STATUS) | v;
	else if (!strcmp(name, "fcw"))
		memcpy(s->xsave + XSAVE_FCW, &v, 2);
	else if (!strcmp(name, "fsw"))
		memcpy(s->xsave + XSAVE_FSW, &v, 2);
	else if (!strcmp(name, "ftw"))
		s->xsave[XSAVE_FTW] = (u8)v;
	else if (!strcmp(name, "zmm"))
		set_indexes(s, (u32)v);
	else if (name[0] == 'k')
		memcpy(s->xsave + XSAVE_OPMASK + (name[1] - '0') * 8, &v, 8);
	else if (!strncmp(name, "xmm", 3)) {
		memset(s->xsave + XSAVE_XMM + (name[3] - '0') * 16, 0, 16);
		bytes(val, s->xsave + XSAVE_XMM + (name[3] - '0') * 16, 16);
	}
}

static void apply(struct box *b, struct test *t, const char *state)
{
	char text[256], *save, *word;

	snprintf(text, sizeof(text), "%s", state);
	for (word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *val = strchr(word, '=');
		u8 data[64];

		if (val)
			*val++ = 0;
		if (*word == '+')
			set_flag(&t->start, word + 1);
		else if (!strncmp(word, "at:", 3))
			t->at = ARENA + CODE_SIZE - strtoull(word + 3, NULL, 16);
		else if (!strncmp(word, "mem:", 4))
			box_poke(b, value(t, word + 4), data,
				 bytes(val, data, sizeof(data)));
		else
			set(t, word, val);
	}
}

/* ---- running ---- */

static void make_test(struct box *b, const struct regress *c, struct test *t)
{
	u8 int3[512];
	struct rng rng = { 7 };
	u64 bv = STATE_XCR0;
	u32 mxcsr = 0x1f80;
	u16 fcw = 0x37f, fsw = 0;

	memset(int3, 0xcc, sizeof(int3));
	box_poke(b, ARENA, int3, sizeof(int3));
	box_poke(b, ARENA + CODE_SIZE - sizeof(int3), int3, sizeof(int3));
	box_fill(b, &rng);
	memset(t, 0, sizeof(*t));
	t->mode = c->mode;
	do
		gen_state(&rng, &t->start, c->mode);
	while (memcmp(t->start.xsave + XSAVE_XSTATE_BV, &bv, 8) ||
	       t->start.flags & (RFLAGS_TF | RFLAGS_AC | RFLAGS_DF));
	t->start.sel[CS] = c->mode == MODE64   ? SEL_CS64
			   : c->mode == MODE32 ? SEL_CS32
					       : SEL_LDT_CS16;
	for (unsigned i = 0; i < 6 && c->mode != MODE64; i++)
		if (i != CS)
			t->start.sel[i] = c->mode == MODE32 ? SEL_DS : SEL_LDT_DS16;
	memcpy(t->start.xsave + XSAVE_MXCSR, &mxcsr, 4);
	memcpy(t->start.xsave + XSAVE_FCW, &fcw, 2);
	memcpy(t->start.xsave + XSAVE_FSW, &fsw, 2);
	t->start.gpr[RSP] = c->mode == MODE16 ? 0x2000 : RW_BASE + 0x2000;
	t->at = ARENA + 0x100;
	t->len = bytes(c->code, t->code, sizeof(t->code));
	apply(b, t, c->state);
	t->start.rip = t->at - sel_base(t->start.sel[CS]);
	for (unsigned i = 0; i < t->len && t->at + i < ARENA + CODE_SIZE; i++)
		box_poke(b, t->at + i, &t->code[i], 1);
}

static bool host_can(struct box *b, const struct test *t)
{
	return host_has_mode(t->mode) &&
	       form_decode(t->mode, t->code, t->len, &((struct test *)(uintptr_t)t)->d) &&
	       isa_present(b->features, &t->d.zi);
}

static bool wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return argc == 1;
}

int main(int argc, char **argv)
{
	const struct engine *engine = engine_by_name("interp");
	static struct host_cpu cpu;
	static struct test t;
	struct box b = { 0 };
	int bad = 0;

	if (argc > 2 && !strcmp(argv[1], "--engine")) {
		engine = engine_by_name(argv[2]);
		argc -= 2;
		argv += 2;
	}
	b.guest = engine ? guest_open(engine) : NULL;
	if (!b.guest || !host_open())
		return 77;
	hostcpu_read(&cpu);
	b.features = cpu.features;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct regress *c = &cases[i];

		if (!wanted(c->name, argc, argv))
			continue;
		make_test(&b, c, &t);
		if (!host_can(&b, &t)) {
			printf("skip %s: not on this host\n", c->name);
			continue;
		}
		test_run(&b, &t);
		if (t.diff || argc > 1)
			test_print(&t);
		printf("%sok %s\n", t.diff ? "not " : "", c->name);
		bad |= t.diff != NULL;
	}
	guest_close(b.guest);
	return bad;
}
