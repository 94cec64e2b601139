/*
 * String instructions that kernels and C libraries use all the time: REP MOVS and STOS,
 * and single MOVS, STOS and LODS, forward, with addresses as wide as the mode has them.
 *
 * Code calls a piece, one for each operation and operand size. It looks the operands up
 * in the TLB, and where each lies in one page has the host's instruction do it. Otherwise
 * it goes on as the call out that it was called instead of. Pieces for 32-bit code want
 * registers whose upper halves are 0, as they nearly always are. SDM volume 2, REP. At
 * most a page is moved at a time, so that events need no look in between.
 *
 * With addresses of 16 bits (based code) neither operand may go beyond FFFFh; what is
 * behind their 16 bits stays in the registers. The source's segment comes in r9. With 32
 * bits based code has none. Thread: the owner of the vCPU.
 */
#include "engine/interp/ops.h"
#include "engine/translate/front.h"
#include "host/execmem.h"

/* struct tlb_entry's size as a shift. */
#define ENTRY_SHIFT 5
_Static_assert(sizeof(struct tlb_entry) == 1u << ENTRY_SHIFT, "the code shifts by it");

#define PIECE_SIZE 512

static i32 save_slot(const struct translator *t, unsigned i)
{
	return FRAME(t, save) + 8 * (i32)i;
}

struct piece {
	struct translator *t;
	struct emit e;
	u8 *fail[12];
	unsigned fails;
	unsigned shift; /* of the operand size */
	bool rep;
	unsigned addr; /* enum tr_string_addr */
};

/* To the call out unless the condition holds that 'cond' is the opposite of. */
static void fail_if(struct piece *p, unsigned cond)
{
	p->fail[p->fails++] = emit_jcc(&p->e, cond);
}

enum { COND_NZ = 5, COND_A = 7 };

static void save(struct piece *p)
{
	struct emit *e = &p->e;

	emit_store(e, H_RAX, save_slot(p->t, SAVE_RAX));
	emit_store(e, H_R10, save_slot(p->t, SAVE_R10));
	emit_store(e, H_R11, save_slot(p->t, SAVE_R11));
	e8(e, 0x9f); /* lahf */
	e8(e, 0x0f); /* seto al */
	e8(e, 0x90);
	e8(e, 0xc0);
	emit_store(e, H_RAX, save_slot(p->t, SAVE_FLAGS));
}

static void restore(struct piece *p)
{
	struct emit *e = &p->e;

	emit_load(e, H_RAX, save_slot(p->t, SAVE_FLAGS));
	e8(e, 0x04); /* add al, 7fh: OF from the 1 or 0 in AL */
	e8(e, 0x7f);
	e8(e, 0x9e); /* sahf */
	emit_load(e, H_RAX, save_slot(p->t, SAVE_RAX));
}

/* r11 = offset of the way of the TLB that explicit accesses use now. */
static void load_way(struct piece *p)
{
	struct emit *e = &p->e;

	e8(e, 0x44); /* movzx r11d, byte [mmu_idx] */
	e8(e, 0x0f);
	e8(e, 0xb6);
	emit_at(e, H_R11 & 7, VCPU(p->t, mmu_idx));
	e8(e, 0x4d); /* imul r11, r11, imm32 */
	e8(e, 0x69);
	e8(e, 0xdb);
	e32(e, sizeof(struct tlb_way));
}

/* dst = addend of the operand at 'addr', all of which is in one page. */
static void find(struct piece *p, unsigned dst, unsigned addr, size_t tag)
{
	struct emit *e = &p->e;
	i32 tlb = VCPU(p->t, tlb);

	emit_rorx(e, H_R9, addr, PAGE_SHIFT - ENTRY_SHIFT);
	emit_and_imm(e, H_R9, (TLB_SIZE - 1) << ENTRY_SHIFT);
	emit_rr(e, 0x03, H_R9, H_R11);
	emit_mov_rr(e, H_RAX, addr);
	emit_op_index1(e, 0x03, H_RAX, H_R9, tlb + (i32)tag);
	if (p->rep) {
		emit_cmp_imm(e, H_RAX, PAGE_SIZE - 1);
		fail_if(p, COND_A);
		emit_lea_sib(e, true, H_RAX, H_RAX, H_RCX, p->shift, 0);
		emit_cmp_imm(e, H_RAX, PAGE_SIZE);
	} else {
		emit_cmp_imm(e, H_RAX, (i32)(PAGE_SIZE - (1u << p->shift)));
	}
	fail_if(p, COND_A);
	emit_op_index1(e, 0x8b, dst, H_R9, tlb + (i32)offsetof(struct tlb_entry, addend));
}

static void emit_host(struct piece *p, unsigned opcode)
{
	struct emit *e = &p->e;

	if (p->shift == 1)
		e8(e, 0x66);
	if (p->rep)
		e8(e, 0xf3);
	if (p->shift == 3)
		e8(e, 0x48);
	e8(e, p->shift ? opcode + 1 : opcode);
}

/* To the call out unless the registers that address have 32 bits. */
static void check_narrow(struct piece *p, bool src, bool dst)
{
	struct emit *e = &p->e;

	emit_mov_imm(e, H_R9, 0);
	if (src)
		emit_rr(e, 0x0b, H_R9, H_RSI); /* or */
	if (dst)
		emit_rr(e, 0x0b, H_R9, H_RDI);
	if (p->rep)
		emit_rr(e, 0x0b, H_R9, H_RCX);
	e8(e, 0x49); /* shr r9, 32 */
	e8(e, 0xc1);
	e8(e, 0xe9);
	e8(e, 32);
	fail_if(p, COND_NZ);
}

static const struct {
	u8 reg, slot;
} saved[] = { { H_RSI, SAVE_RSI }, { H_RDI, SAVE_RDI }, { H_RCX, SAVE_RCX } };

/* Segments' bases, barred where one has not all of 64 KiB: add or sub. */
static void source_base(struct piece *p, unsigned opcode)
{
	emit_load(&p->e, H_R9, save_slot(p->t, SAVE_SEG));
	e8(&p->e, 0x49); /* op rsi, [r9] */
	e8(&p->e, opcode);
	e8(&p->e, 0x31);
}

static void destination_base(struct piece *p, unsigned opcode)
{
	emit_op_at(&p->e, opcode, H_RDI,
		   VCPU(p->t, reach[1][ES]) + (i32)offsetof(struct seg_reach, low));
}

/* The offset's 16 bits, if all of the operand is in them. */
static void low_offset(struct piece *p, unsigned reg)
{
	struct emit *e = &p->e;

	emit_movzx16(e, reg, reg);
	if (p->rep)
		emit_lea_sib(e, true, H_RAX, reg, H_RCX, p->shift, 0);
	else
		emit_lea(e, true, H_RAX, reg, 1 << p->shift);
	emit_cmp_imm(e, H_RAX, 0x10000);
	fail_if(p, COND_A);
}

static void low_begin(struct piece *p)
{
	struct emit *e = &p->e;

	emit_store(e, H_R9, save_slot(p->t, SAVE_SEG));
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		emit_store(e, saved[i].reg, save_slot(p->t, saved[i].slot));
	if (p->rep)
		emit_movzx16(e, H_RCX, H_RCX);
}

static void low_addresses(struct piece *p, bool src, bool dst)
{
	if (src) {
		low_offset(p, H_RSI);
		source_base(p, 0x03); /* add */
	}
	if (dst) {
		low_offset(p, H_RDI);
		destination_base(p, 0x03);
	}
}

static void low_end(struct piece *p, bool src, bool dst)
{
	struct emit *e = &p->e;

	if (src)
		source_base(p, 0x2b); /* sub */
	if (dst)
		destination_base(p, 0x2b);
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++) {
		emit_load(e, H_R9, save_slot(p->t, saved[i].slot));
		emit_mov_sized(e, 2, H_R9, saved[i].reg);
		emit_mov_rr(e, saved[i].reg, H_R9);
	}
}

static void low_fail(struct piece *p)
{
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		emit_load(&p->e, saved[i].reg, save_slot(p->t, saved[i].slot));
}

/* The opcodes of their 8-bit forms. */
static const u8 opcodes[] = {
	[TR_MOVS] = 0xa4,     [TR_STOS] = 0xaa,     [TR_LODS] = 0xac,
	[TR_REP_MOVS] = 0xa4, [TR_REP_STOS] = 0xaa,
};

static void emit_piece(struct piece *p, unsigned op)
{
	struct emit *e = &p->e;
	bool src = op == TR_MOVS || op == TR_LODS || op == TR_REP_MOVS,
	     dst = op != TR_LODS;

	save(p);
	if (p->addr == TR_ADDR16)
		low_begin(p);
	/* test byte [flags + 1], DF */
	e8(e, 0xf6);
	emit_at(e, 0, VCPU(p->t, flags) + 1);
	e8(e, RFLAGS_DF >> 8);
	fail_if(p, COND_NZ);
	if (p->addr == TR_ADDR32)
		check_narrow(p, src, dst);
	if (p->rep) {
		emit_cmp_imm(e, H_RCX, (i32)(PAGE_SIZE >> p->shift));
		fail_if(p, COND_A);
	}
	if (p->addr == TR_ADDR16)
		low_addresses(p, src, dst);
	load_way(p);
	if (dst)
		find(p, H_R10, H_RDI, offsetof(struct tlb_entry, write));
	if (src)
		find(p, H_R11, H_RSI, offsetof(struct tlb_entry, read));
	if (dst)
		emit_rr(e, 0x03, H_RDI, H_R10);
	if (src)
		emit_rr(e, 0x03, H_RSI, H_R11);
	emit_load(e, H_RAX, save_slot(p->t, SAVE_RAX));
	emit_host(p, opcodes[op]);
	if (op == TR_LODS)
		emit_store(e, H_RAX, save_slot(p->t, SAVE_RAX));
	if (dst)
		emit_rr(e, 0x2b, H_RDI, H_R10);
	if (src)
		emit_rr(e, 0x2b, H_RSI, H_R11);
	/* From the last page to the first. */
	if (p->addr == TR_ADDR32 && dst)
		emit_lea(e, false, H_RDI, H_RDI, 0);
	if (p->addr == TR_ADDR32 && src)
		emit_lea(e, false, H_RSI, H_RSI, 0);
	if (p->addr == TR_ADDR16)
		low_end(p, src, dst);
	restore(p);
	e8(e, 0xc3);
	for (unsigned i = 0; i < p->fails; i++)
		emit_patch(p->fail[i], e->p);
	if (p->addr == TR_ADDR16)
		low_fail(p);
	emit_load(e, H_R10, save_slot(p->t, SAVE_R10));
	emit_load(e, H_R11, save_slot(p->t, SAVE_R11));
	restore(p);
	emit_jmp(e, p->t->call_out);
}

static bool string_piece(struct translator *t, unsigned op, unsigned shift, unsigned addr)
{
	u8 *w, *exec = execmem_alloc(t->mem, PIECE_SIZE, 64, &w);
	struct piece p = { .t = t,
			   .e = { .p = w,
				  .end = w + PIECE_SIZE,
				  .exec_delta = t->exec_delta,
				  .gpr = VCPU(t, gpr) },
			   .shift = shift,
			   .rep = op >= TR_REP_MOVS,
			   .addr = addr };

	if (!exec)
		return false;
	emit_piece(&p, op);
	t->string[op][shift][addr] = (u64)(uintptr_t)exec;
	return !p.e.full;
}

bool string_pieces(struct translator *t)
{
	for (unsigned op = 0; op < TR_STRING_OPS; op++)
		for (unsigned shift = 0; shift < 4; shift++)
			for (unsigned addr = 0; addr < (shift < 3 ? 3u : 1u); addr++)
				if (!string_piece(t, op, shift, addr))
					return false;
	return true;
}

static int op_of(const struct insn *in)
{
	bool rep = in->flags & (INSN_REP | INSN_REPNE);

	if (in->fn == op_movs)
		return rep ? TR_REP_MOVS : TR_MOVS;
	if (in->fn == op_stos)
		return rep ? TR_REP_STOS : TR_STOS;
	if (in->fn == op_lods && !rep)
		return TR_LODS;
	return -1;
}

bool string_plan(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;
	int op = op_of(in);

	bool src = op != TR_STOS && op != TR_REP_STOS;

	if (op < 0 || (in->flags & INSN_LOCK) || f->t->options.slow)
		return false;
	if (f->based ? in->adsize != 2
		     : in->adsize != slot_size(p) || (src && in->seg >= FS) ||
			       (src && f->narrow && in->seg == CS))
		return false;
	p->written = 1u << RAX | 1u << RCX | 1u << RSI | 1u << RDI;
	/* The call out has to find them. */
	p->flags = FLAGS_READ;
	return true;
}

void string_insn(struct front *f, const struct plan *p)
{
	struct emit *e = &f->e;

	emit_mov_imm(e, H_R10, p->start);
	emit_mov_imm(e, H_R11, (u64)p->in);
	if (f->based)
		emit_mov_imm(e, H_R9, (u64)(uintptr_t)&f->t->v->reach[0][p->in->seg].low);
	emit_call(e, f->t->string[op_of(p->in)][__builtin_ctz(p->in->opsize)]
				 [f->based    ? TR_ADDR16
				  : f->narrow ? TR_ADDR32
					      : TR_ADDR64]);
	f->in_slot = -1;
}
