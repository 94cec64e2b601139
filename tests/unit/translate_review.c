/*
 * What a review found: addresses at the edge of RIP's reach, code under a mapping that
 * was changed without being invalidated, blocks that end without a jump, vectors across
 * calls of the board, traps before interrupts.
 */
#include "translate_box.h"

#include "cpu/events.h"

/* Not the first of its block, and the reach counted from the block or the page overflows.
 */
PROGRAM(far_rip,
	"mov ecx, 40\n 1: nop\n lea rax, [rip + 0x7fffffff]\n .globl far_rip_a\n "
	"far_rip_a: "
	"lea rbx, [rip + 0x7ffffffc]\n .globl far_rip_b\n far_rip_b: dec ecx\n jnz 1b\n"
	"mov rdx, [rip + 0x7ffffff0]\n .globl far_rip_c\n far_rip_c: int3");
extern const u8 far_rip_a[], far_rip_b[], far_rip_c[];

static void operands_nearly_two_gib_from_rip(void **state)
{
	const struct program p = { "far_rip", far_rip, far_rip_end, 3, NULL };
	struct end r;

	(void)state;
	run_program(&p, &r);
	assert_int_equal(r.gpr[RAX], AT(far_rip_a, far_rip) + 0x7fffffff);
	assert_int_equal(r.gpr[RBX], AT(far_rip_b, far_rip) + 0x7ffffffc);
	/* That far up nothing is mapped. */
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, AT(far_rip_c, far_rip) + 0x7ffffff0);
	free(r.ram);
}

/*
 * 80000h shows 48000h. Code there is warmed up without taking its branch, the page is
 * changed to 49000h with the TLB entry still there, then pushed out by an alias, and the
 * branch taken: from the old page to the new one. Back at the old page, it must not lead
 * there.
 */
PROGRAM(stale, "mov esi, 0x80000\n mov ebp, 0x49010\n mov ebx, 60\n"
	       "1: mov ecx, 1\n call rsi\n call rbp\n dec ebx\n jnz 1b\n"
	       "xor qword ptr [0x13000 + 0x80*8], 0x1000\n"
	       "mov rdi, 0xffffffff80080000\n mov dl, [rdi]\n"
	       "xor ecx, ecx\n call rsi\n"
	       "xor qword ptr [0x13000 + 0x80*8], 0x1000\n invlpg [rsi]\n invlpg [rdi]\n"
	       "xor eax, eax\n call rsi\n int3");

static void stale_prepare(struct box *b)
{
	for (unsigned i = 0; i < 2; i++) {
		static const u8 head[] = { 0x85, 0xc9,         /* test ecx, ecx */
					   0x74, 0x0c, 0xc3 }; /* jz +10h; ret */
		u8 *p = b->ram + CODE2 + 0x1000 * i;

		memcpy(p, head, sizeof(head));
		p[0x10] = 0xb0; /* mov al, 1 + i */
		p[0x11] = (u8)(1 + i);
		p[0x12] = 0xc3;
	}
	poke(b, PT + 0x80 * 8, CODE2 | 0x67, 8);
}

static void a_link_stays_within_its_page(void **state)
{
	const struct program p = { "stale", stale, stale_end, 0, stale_prepare };
	struct end r;

	(void)state;
	run_program(&p, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RAX], 1);
	free(r.ram);
}

/* The local APIC's code may use the host's vector registers, as all code outside the
 * engines. */
static void clobber(void *opaque, u8 val)
{
	(void)opaque;
	(void)val;
	__asm__ volatile("pcmpeqd %%xmm3, %%xmm3" : : : "xmm3");
}

static u8 clobber_read(void *opaque)
{
	clobber(opaque, 0);
	return 5;
}

static void cr8_prepare(struct box *b)
{
	static struct vcpu_platform platform;

	platform = no_platform;
	platform.cr8_write = clobber;
	platform.cr8_read = clobber_read;
	b->v->platform = &platform;
}

PROGRAM(cr8,
	"mov ecx, 40\n 1: mov eax, 3\n movd xmm3, eax\n mov cr8, rax\n movd ebx, xmm3\n"
	"movd xmm3, ebx\n mov rax, cr8\n movd edx, xmm3\n dec ecx\n jnz 1b\n int3");

static void vectors_survive_the_task_priority_register(void **state)
{
	const struct program p = { "cr8", cr8, cr8_end, 0, cr8_prepare };
	struct end r;

	(void)state;
	run_program(&p, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RAX], 5);
	assert_int_equal(r.gpr[RBX], 3);
	assert_int_equal(r.gpr[RDX], 3);
	free(r.ram);
}

/* It ends its block, but nothing jumps: what is translated next must not be run into. */
PROGRAM(cr2, "mov ecx, 60\n xor ebx, ebx\n 1: mov cr2, rcx\n inc ebx\n jmp 2f\n .skip "
	     "32, 0xcc\n"
	     "2: dec ecx\n jnz 1b\n mov rax, cr2\n int3");

static void what_follows_a_write_of_cr2(void **state)
{
	const struct program p = { "cr2", cr2, cr2_end, 0, NULL };
	struct end r;

	(void)state;
	run_program(&p, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RAX], 1);
	assert_int_equal(r.gpr[RBX], 60);
	free(r.ram);
}

/* The first of a block to need the registers, and they are parked again behind it. */
PROGRAM(parked,
	"mov ecx, 60\n xor ebx, ebx\n 1: mov eax, 3\n movd xmm3, eax\n mov cr8, rax\n"
	"movdqu [0x300000], xmm2\n movdqu [0x60000], xmm3\n add ebx, [0x60000]\n"
	"dec ecx\n jnz 1b\n int3");

static void vectors_behind_a_store_to_a_device(void **state)
{
	const struct program p = { "parked", parked, parked_end, 0, cr8_prepare };
	struct end r;

	(void)state;
	run_program(&p, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RBX], 60 * 3);
	free(r.ram);
}

/* CR0.TS comes and goes and comes while the registers stay live. */
PROGRAM(switched, "mov ecx, 60\n mov rdx, cr0\n or edx, 8\n 1: mov cr0, rdx\n test ecx, "
		  "ecx\n jz 2f\n"
		  "clts\n jmp 2f\n 2: movd xmm3, ecx\n dec ecx\n jns 1b\n int3");
/* FWAIT does not ask for TS without MP, but uses the registers. */
PROGRAM(waited, "mov ecx, 60\n mov rax, cr0\n mov edx, eax\n or edx, 8\n and edx, ~2\n"
		"1: mov cr0, rdx\n fwait\n test ecx, ecx\n jz 2f\n clts\n jmp 2f\n 2: "
		"movd xmm3, ecx\n"
		"mov cr0, rax\n dec ecx\n jns 1b\n int3");

static void task_switched_is_seen_with_live_registers(void **state)
{
	const struct program p[] = { { "switched", switched, switched_end, 0, NULL },
				     { "waited", waited, waited_end, 0, NULL } };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
		struct end r;

		run_program(&p[i], &r);
		assert_int_equal(r.vector, VEC_NM);
		assert_int_equal(r.gpr[RCX], 0);
		free(r.ram);
	}
}

static void a_pending_trap_comes_before_an_interrupt(void **state)
{
	struct box *b = box_new();

	(void)state;
	b->v->flags |= RFLAGS_IF;
	assert_true(vcpu_event_ready(b->v, EV_INTR));
	b->v->pending_db = DR6_BT;
	assert_false(vcpu_event_ready(b->v, EV_INTR | EV_NMI));
	assert_true(vcpu_event_ready(b->v, EV_INTR | EV_STOP));
	box_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operands_nearly_two_gib_from_rip),
		cmocka_unit_test(a_link_stays_within_its_page),
		cmocka_unit_test(vectors_survive_the_task_priority_register),
		cmocka_unit_test(what_follows_a_write_of_cr2),
		cmocka_unit_test(vectors_behind_a_store_to_a_device),
		cmocka_unit_test(task_switched_is_seen_with_live_registers),
		cmocka_unit_test(a_pending_trap_comes_before_an_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
