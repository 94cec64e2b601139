/*
 * The common pieces of generated code: entering, leaving, and calling C for one
 * instruction.
 *
 * System V ABI x86-64: RBX, RBP, R12 to R15 are the caller's. The vcpu is aligned to 64
 * bytes and rsp is the vcpu, so a call to C wants one more word below the return address.
 */
#include "engine/translate/translate.h"

#include "host/execmem.h"

#define PIECES_SIZE 1024

/* Guest registers that live in host registers, and where. */
static const struct {
	u8 guest, host;
} homes[] = {
	{ RAX, H_RAX }, { RCX, H_RCX }, { RDX, H_RDX }, { RBX, H_RBX },
	{ RSP, H_R8 },  { RBP, H_RBP }, { RSI, H_RSI }, { RDI, H_RDI },
	{ R12, H_R12 }, { R13, H_R13 }, { R14, H_R14 }, { R15, H_R15 },
};

static i32 gpr_off(unsigned guest)
{
	return VCPU(gpr) + 8 * (i32)guest;
}

static void save_gprs(struct emit *e, i32 bias)
{
	for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
		emit_store_rsp(e, homes[i].host, gpr_off(homes[i].guest) + bias);
}

/* RAX last: it carries the flags until then. */
static void load_gprs(struct emit *e, i32 bias)
{
	for (unsigned i = ARRAY_SIZE(homes); i-- > 0;)
		emit_load_rsp(e, homes[i].host, gpr_off(homes[i].guest) + bias);
}

/* flags_in to EFLAGS; destroys RAX. */
static void load_flags(struct emit *e, const struct translator *t, i32 bias)
{
	emit_load_rsp(e, H_RAX, FRAME(t, flags_in) + bias);
	e8(e, 0x04); /* add al, 7fh: OF from the 1 or 0 in AL */
	e8(e, 0x7f);
	e8(e, 0x9e); /* sahf */
}

/* EFLAGS to flags_out; destroys R9. */
static void save_flags(struct emit *e, const struct translator *t, i32 bias)
{
	e8(e, 0x9c); /* pushfq */
	e8(e, 0x41);
	e8(e, 0x59); /* pop r9 */
	emit_store_rsp(e, H_R9, FRAME(t, flags_out) + bias);
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

static void back_to_c(struct emit *e, const struct translator *t)
{
	emit_load_rsp(e, H_RSP, FRAME(t, host_rsp));
	for (unsigned i = ARRAY_SIZE(callers); i-- > 0;)
		pop_reg(e, callers[i]);
	e8(e, 0xc3);
}

/*
 * A piece that calls u64 function(struct vcpu *v, argument), and goes back, or leaves when
 * the result is not 0. Called with the argument in r11 and the offset of the
 * instruction's block from the page in r10. The return address is on the stack:
 * everything is 8 further up.
 */
static u64 emit_call_piece(struct emit *e, const struct translator *t, u64 function)
{
	u64 piece = emit_exec(e);
	u8 *skip;

	save_gprs(e, 8);
	save_flags(e, t, 8);
	emit_load_rsp(e, H_R9, FRAME(t, page_lin) + 8);
	emit_lea_sib(e, true, H_R9, H_R9, H_R10, 0, 0);
	emit_store_rsp(e, H_R9, VCPU(rip) + 8);
	emit_lea(e, true, H_RDI, H_RSP, 8);
	emit_mov_rr(e, H_RSI, H_R11);
	emit_lea(e, true, H_RSP, H_RSP, -8);
	emit_mov_imm(e, H_RAX, function);
	e8(e, 0xff); /* call rax */
	e8(e, 0xd0);
	emit_lea(e, true, H_RSP, H_RSP, 8);
	e8(e, 0x48); /* test rax, rax */
	e8(e, 0x85);
	e8(e, 0xc0);
	skip = emit_jcc(e, 5); /* jnz */
	load_flags(e, t, 8);
	load_gprs(e, 8);
	e8(e, 0xc3);
	emit_patch(skip, e->p);
	emit_lea(e, true, H_RSP, H_RSP, 8);
	back_to_c(e, t);
	return piece;
}

bool pieces_emit(struct translator *t)
{
	u8 *start;
	u8 *exec = execmem_alloc(t->mem, PIECES_SIZE, 64, &start);
	struct emit e = { .p = start, .end = start + PIECES_SIZE };

	if (!exec)
		return false;
	e.exec_delta = (i64)((u64)exec - (u64)start);
	t->exec_delta = e.exec_delta;

	/* void enter(struct vcpu *v, u64 code) */
	t->enter = emit_exec(&e);
	for (unsigned i = 0; i < ARRAY_SIZE(callers); i++)
		push_reg(&e, callers[i]);
	emit_mov_rr(&e, H_R11, H_RSI);
	emit_mov_rr(&e, H_R10, H_RSP);
	emit_mov_rr(&e, H_RSP, H_RDI);
	emit_store_rsp(&e, H_R10, FRAME(t, host_rsp));
	load_flags(&e, t, 0);
	load_gprs(&e, 0);
	e8(&e, 0x41); /* jmp r11 */
	e8(&e, 0xff);
	e8(&e, 0xe3);

	/* Jumped to with RIP in r9. */
	t->leave_at = emit_exec(&e);
	emit_store_rsp(&e, H_R9, VCPU(rip));
	t->leave = emit_exec(&e);
	save_gprs(&e, 0);
	save_flags(&e, t, 0);
	back_to_c(&e, t);

	t->call_out = emit_call_piece(&e, t, (u64)translate_call_out);
	t->group_miss = emit_call_piece(&e, t, (u64)translate_group_miss);
	return !e.full;
}
