/*
 * The common pieces of generated code: entering, leaving, and calling C for one
 * instruction.
 *
 * System V ABI x86-64: RBX, RBP, R12 to R15 are the caller's. While translated code runs
 * rsp is the shadow stack; C code runs on the stack of who called 'enter'.
 */
#include "engine/translate/translate.h"

#include "host/execmem.h"

#define PIECES_SIZE 2048

/* Guest registers that live in host registers, and where. */
static const struct {
	u8 guest, host;
} homes[] = {
	{ RAX, H_RAX }, { RCX, H_RCX }, { RDX, H_RDX }, { RBX, H_RBX },
	{ RSP, H_R8 },  { RBP, H_RBP }, { RSI, H_RSI }, { RDI, H_RDI },
	{ R12, H_R12 }, { R13, H_R13 }, { R14, H_R14 }, { R15, H_R15 },
};

static void save_gprs(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
		emit_store(e, homes[i].host, e->gpr + 8 * homes[i].guest);
}

/* RAX last: it carries the flags until then. */
static void load_gprs(struct emit *e)
{
	for (unsigned i = ARRAY_SIZE(homes); i-- > 0;)
		emit_load(e, homes[i].host, e->gpr + 8 * homes[i].guest);
}

/* flags_in to EFLAGS; destroys RAX. */
static void load_flags(struct emit *e, const struct translator *t)
{
	emit_load(e, H_RAX, FRAME(t, flags_in));
	e8(e, 0x04); /* add al, 7fh: OF from the 1 or 0 in AL */
	e8(e, 0x7f);
	e8(e, 0x9e); /* sahf */
}

/* EFLAGS to flags_out; destroys R9. */
static void save_flags(struct emit *e, const struct translator *t)
{
	e8(e, 0x9c); /* pushfq */
	e8(e, 0x41);
	e8(e, 0x59); /* pop r9 */
	emit_store(e, H_R9, FRAME(t, flags_out));
}

static void push_reg(struct emit *e, unsigned reg)
{
	if (reg >> 3)
		e8(e, 0x41);
	e8(e, 0x50 | (reg & 7));
}

static void pop_reg(struct emit *e, unsigned reg)
{
	if (reg >> 3)
		e8(e, 0x41);
	e8(e, 0x58 | (reg & 7));
}

static const u8 callers[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static bool c_keeps(unsigned host)
{
	for (unsigned i = 0; i < ARRAY_SIZE(callers); i++)
		if (callers[i] == host)
			return true;
	return false;
}

static void back_to_c(struct emit *e, const struct translator *t)
{
	emit_load(e, H_RSP, FRAME(t, host_rsp));
	for (unsigned i = ARRAY_SIZE(callers); i-- > 0;)
		pop_reg(e, callers[i]);
	e8(e, 0xc3);
}

/* Call function(v, argument in rsi) on the stack of C. The return address of the piece is
 * on the shadow stack; shadow_rsp is above it, where the stack is once the code is left.
 */
static void emit_c_call(struct emit *e, const struct translator *t, u64 function)
{
	emit_mov_imm(e, H_RDI, (u64)(uintptr_t)t->v);
	emit_lea_rsp(e, H_R9, 8);
	emit_store(e, H_R9, FRAME(t, shadow_rsp));
	emit_load(e, H_RSP, FRAME(t, host_rsp));
	/* Six registers and a return address are on it. */
	emit_lea_rsp(e, H_RSP, -8);
	emit_mov_imm(e, H_RAX, function);
	e8(e, 0xff); /* call rax */
	e8(e, 0xd0);
}

static void emit_c_return(struct emit *e, const struct translator *t)
{
	emit_load(e, H_RSP, FRAME(t, shadow_rsp));
	emit_lea_rsp(e, H_RSP, -8);
	load_flags(e, t);
}

/* To the code in r11, with the guest's state. */
static void emit_start(struct emit *e, const struct translator *t)
{
	emit_load(e, H_RSP, FRAME(t, shadow_rsp));
	load_flags(e, t);
	load_gprs(e);
	e8(e, 0x41); /* jmp r11 */
	e8(e, 0xff);
	e8(e, 0xe3);
}

/*
 * A piece that calls u64 function(struct vcpu *v, argument), and goes back, leaves when
 * the result is 1, or goes on with the code at what else it is. Called with the argument
 * in r11 and the offset of the instruction's block from the page in r10.
 */
static u64 emit_call_piece(struct emit *e, const struct translator *t, u64 function)
{
	u64 piece = emit_exec(e);
	u8 *skip, *elsewhere;

	save_gprs(e);
	save_flags(e, t);
	emit_load(e, H_R9, FRAME(t, page_lin));
	emit_lea_sib(e, true, H_R9, H_R9, H_R10, 0, 0);
	emit_store(e, H_R9, VCPU(t, rip));
	emit_mov_rr(e, H_RSI, H_R11);
	emit_c_call(e, t, function);
	e8(e, 0x48); /* test rax, rax */
	e8(e, 0x85);
	e8(e, 0xc0);
	skip = emit_jcc(e, 5); /* jnz */
	emit_c_return(e, t);
	load_gprs(e);
	e8(e, 0xc3);
	emit_patch(skip, e->p);
	emit_mov_rr(e, H_R11, H_RAX);
	e8(e, 0x48); /* dec rax */
	e8(e, 0xff);
	e8(e, 0xc8);
	elsewhere = emit_jcc(e, 5); /* jnz */
	back_to_c(e, t);
	emit_patch(elsewhere, e->p);
	emit_start(e, t);
	return piece;
}

/* The piece that calls translate_memo_fill(), with the memo's number in r10. r9 stays,
 * and so do the registers that C keeps. */
static u64 emit_memo_piece(struct emit *e, const struct translator *t)
{
	u64 piece = emit_exec(e);

	for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
		if (!c_keeps(homes[i].host))
			emit_store(e, homes[i].host, e->gpr + 8 * homes[i].guest);
	emit_store(e, H_R9, FRAME(t, addr));
	save_flags(e, t);
	emit_mov_rr(e, H_RSI, H_R10);
	emit_c_call(e, t, (u64)translate_memo_fill);
	emit_c_return(e, t);
	for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
		if (!c_keeps(homes[i].host))
			emit_load(e, homes[i].host, e->gpr + 8 * homes[i].guest);
	emit_load(e, H_R9, FRAME(t, addr));
	e8(e, 0xc3);
	return piece;
}

bool pieces_emit(struct translator *t)
{
	u8 *start, *flat;
	u8 *exec = execmem_alloc(t->mem, PIECES_SIZE, 64, &start);
	struct emit e = { .p = start, .end = start + PIECES_SIZE, .gpr = VCPU(t, gpr) };

	if (!exec)
		return false;
	e.exec_delta = (i64)((u64)exec - (u64)start);
	t->exec_delta = e.exec_delta;

	/* void enter(u64 code) */
	t->enter = emit_exec(&e);
	for (unsigned i = 0; i < ARRAY_SIZE(callers); i++)
		push_reg(&e, callers[i]);
	emit_mov_rr(&e, H_R11, H_RDI);
	emit_store(&e, H_RSP, FRAME(t, host_rsp));
	emit_start(&e, t);

	/* Where the bottom of the shadow stack returns to: the target is in r9. The whole
	 * pair goes. */
	t->lost_return = emit_exec(&e);
	emit_lea_rsp(&e, H_RSP, 8);
	flat = emit_jmp_short(&e);
	/* The same with the key of based code in r9. */
	t->leave_key = emit_exec(&e);
	emit_load(&e, H_R10, FRAME(t, cs_neg));
	emit_lea_sib(&e, true, H_R9, H_R9, H_R10, 0, 0);
	/* Jumped to with RIP in r9. */
	emit_patch_short(&e, flat);
	t->leave_at = emit_exec(&e);
	emit_store(&e, H_R9, VCPU(t, rip));
	t->leave = emit_exec(&e);
	save_gprs(&e);
	save_flags(&e, t);
	emit_store(&e, H_RSP, FRAME(t, shadow_rsp));
	back_to_c(&e, t);

	t->call_out = emit_call_piece(&e, t, (u64)translate_call_out);
	t->group_miss = emit_call_piece(&e, t, (u64)translate_group_miss);
	t->memo_fill = emit_memo_piece(&e, t);
	return !e.full && string_pieces(t);
}
