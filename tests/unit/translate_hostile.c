/*
 * Programs that are hard for a translator: each must end on every engine as on the
 * interpreter, which is checked against what the manual says. One case for each error
 * that was found, and for each place where one is likely.
 */
#include "translate_box.h"

#include <pthread.h>

#define RUN(prog, level, prep)                                                           \
	struct end r;                                                                    \
	run_program(&(struct program){ #prog, prog, prog##_end, level, prep }, &r)

/* What most want: the end by INT3. */
#define assert_done(r) assert_int_equal((r).vector, VEC_BP)

static u64 ram64(const struct end *r, u32 at)
{
	return le_load(r->ram + at, 8);
}

/* ---- encodings ---- */

/* A REX that is not last does not count; ours, in its place, would not either. */
PROGRAM(rex_before_prefix,
	"mov rbx, 0x60000\n mov rax, 0x1122334455667788\n mov [rbx], rax\n"
	"lea r9, [rbx]\n lea rcx, [rbx + 64]\n xor edx, edx\n xor eax, eax\n"
	".byte 0x48, 0x66, 0x8b, 0x03\n"       /* REX.W ignored: mov ax, [rbx] */
	".byte 0x4c, 0x49, 0x89, 0x41, 0x10\n" /* the second REX: mov [r9 + 16], rax */
	".byte 0x41, 0x66, 0x89, 0x43, 0x20\n" /* mov [rbx + 32], ax */
	"int3");

static void a_rex_that_is_ignored_stays_ignored(void **state)
{
	(void)state;
	RUN(rex_before_prefix, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RAX], 0x7788);
	assert_int_equal(ram64(&r, DATA + 16), 0x7788);
	assert_int_equal(ram64(&r, DATA + 32), 0x7788);
	free(r.ram);
}

/* An opcode that is 0FH itself; and the vector state is live when it comes. */
PROGRAM(opcode_0f,
	"mov rbx, 0x60000\n mov rax, 0x1122334455667788\n mov [rbx], rax\n movq xmm1, "
	"rax\n movq xmm0, rax\n"
	"pslldq xmm0, 5\n palignr xmm0, xmm1, 3\n palignr xmm8, xmm9, 0x7d\n movq mm0, "
	"rax\n"
	"palignr mm5, mm0, 0x7d\n .byte 0x45, 0x0f, 0x3a, 0x0f, 0xed, 0x7d\n palignr "
	"xmm1, [rbx], 0xeb\n"
	"mov r9d, 3\n bswap r9d\n movzx ecx, byte ptr [rbx + 1]\n emms\n int3");

static void an_opcode_that_looks_like_an_escape(void **state)
{
	(void)state;
	RUN(opcode_0f, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RCX], 0x77);
	free(r.ram);
}

PROGRAM(high_bytes,
	"mov rbx, 0x60000\n mov rax, 0x1122334455667788\n mov rcx, rax\n mov rdx, "
	"0x99aabbccddeeff00\n"
	"mov r8, rax\n mov r11, 0x60000\n"
	"mov ah, cl\n xchg ch, dl\n add bh, ah\n mov [rbx + 0x1000], ch\n"
	"mov rbx, 0x60000\n mov dh, [rbx + 0x1000]\n mov [r11 + 8], r8b\n movzx esi, ah\n"
	"mov spl, cl\n mov dil, spl\n mov sil, r8b\n xchg sil, r8b\n"
	"cmp dh, ch\n setne ah\n imul ch\n mul dh\n div cl\n int3");

static void high_byte_registers_are_themselves(void **state)
{
	(void)state;
	RUN(high_bytes, 3, NULL);
	assert_done(r);
	free(r.ram);
}

/* Every operation that LOCK may precede, with operands of all kinds, results and flags
 * kept; the last lies over the end of a page. */
#define LOCKED(op)                                                                       \
	"lock " op " qword ptr [rbx + 8], r9\n pushfq\n"                                 \
	"lock " op " dword ptr [rbx + rcx * 4], r12d\n pushfq\n"                         \
	"lock " op " word ptr [r11 + 32], r10w\n pushfq\n"                               \
	"lock " op " byte ptr [rbx + 41], ah\n pushfq\n"                                 \
	"lock " op " byte ptr [r8 + 45], sil\n pushfq\n"                                 \
	"lock " op " qword ptr [rbx + 48], -0x12345\n pushfq\n"                          \
	"lock " op " byte ptr [rbx + 57], 0x95\n pushfq\n"                               \
	"lock " op " dword ptr [rbx + 0xffe], r13d\n pushfq\n"
#define LOCKED_ONE(op)                                                                   \
	"lock " op " qword ptr [rbx + 8]\n pushfq\n lock " op                            \
	" byte ptr [r11 + 41]\n pushfq\n lock " op " dword ptr [rbx + 0xffe]\n pushfq\n"
PROGRAM(locked,
	"mov ebp, 60\n mov ebx, 0x60000\n mov r8, rbx\n mov r11, rbx\n mov ecx, 5\n"
	"mov rsi, 0x1122334455667788\n"
	"7: lea rax, [rsi + rbp]\n imul rsi, rax, 0x7654321\n mov r9, rsi\n"
	"mov r10, rax\n rol rax, 23\n mov r12, rax\n mov r13, rsi\n"
	"mov rsp, 0x70000\n" LOCKED("add") LOCKED("or") LOCKED("adc") LOCKED("sbb")
		LOCKED("and") LOCKED("sub") LOCKED("xor") LOCKED_ONE("inc")
			LOCKED_ONE("dec") LOCKED_ONE("not") LOCKED_ONE(
				"neg") "mov edx, 0x70000\n 8: sub edx, 8\n rol rdi, 1\n "
				       "xor rdi, [rdx]\n cmp rdx, rsp\n"
				       "jne 8b\n dec ebp\n jnz 7b\n int3");

static void locked_operations_of_every_kind(void **state)
{
	(void)state;
	RUN(locked, 3, NULL);
	assert_done(r);
	free(r.ram);
}

/* They are translated, and not called out for. */
static void locked_operations_are_in_line(void **state)
{
	struct vcpu_stats s;

	(void)state;
	count_program(&engine_translate_eager,
		      &(struct program){ "locked", locked, locked_end, 3, NULL }, &s);
	/* Those over the end of a page are. */
	assert_in_range(s.call_outs, 60 * 11, 60 * 14);
}

PROGRAM(memory_registers,
	"mov r8, 0x60000\n mov r9, 1\n mov r10, 2\n mov r11, 3\n"
	"xchg r8, r8\n xchg r9, r10\n xchg r9d, r9d\n xadd r10, r10\n xadd r11, r9\n "
	"xadd rax, r11\n"
	"lock xadd [r8], r9\n xchg [r8], r10\n lock cmpxchg [r8], r11\n cmpxchg r9, r9\n"
	"mov eax, 0x80000000\n mov r9d, eax\n movsxd r10, r9d\n cmove r11d, r9d\n"
	"lea r8, [r8 + r9*2 + 5]\n lea r9d, [r8 + r8]\n lea r10w, [r9 + 3]\n lea r11, "
	"[r10d + r9d*8]\n"
	"shld r8, r9, 5\n shrd r10w, r9w, 3\n bt r8, r9\n btc r10, r11\n bsf r8, r10\n "
	"bswap r9\n"
	"bswap r11d\n neg r8b\n not r9w\n rcl r10, cl\n mul r11\n imul r8, r9, 77\n sete "
	"r8b\n"
	"push r8\n push r11\n pop r8\n pop r11\n mov [rsp - 16], r10\n popcnt r9, [rsp - "
	"16]\n int3");

static void registers_kept_in_memory_behave(void **state)
{
	(void)state;
	RUN(memory_registers, 3, NULL);
	assert_done(r);
	free(r.ram);
}

PROGRAM(scratch_addresses,
	"mov r8d, 0x60000\n mov r9d, 16\n mov r10d, 0x60100\n mov r11d, 2\n mov ecx, 8\n"
	"mov [r8 + r9], rcx\n mov [r10 + r11*8], r8\n mov r9, [r8 + r9]\n add [r8 + "
	"rcx*2], rcx\n"
	"add rcx, [r8 + rcx*2]\n lock add [r8 + r11*4 + 0x20], r11\n xchg [r8 + rcx], "
	"rcx\n"
	"cmpxchg [r10 + r11], rcx\n mov rcx, [r10d + r11d*8]\n mov r11, [r8d]\n"
	"add r10, [rip + 1f]\n mov dword ptr [rip + 2f], 0x12345678\n"
	"cmp dword ptr [rip + 2f], 0x12345678\n sete al\n imul rdx, [rip + 1f], -3\n"
	"test byte ptr [rip + 1f], 0x10\n mov ecx, 0x80000001\n sar dword ptr [r8 + 64], "
	"cl\n int3\n"
	".balign 8\n 1: .quad 0x123456789abcdef0\n 2: .quad 0");

static void addresses_in_scratch_registers(void **state)
{
	(void)state;
	RUN(scratch_addresses, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RDX], UINT64_C(0x123456789abcdef0) * (u64)-3);
	free(r.ram);
}

static void set_bases(struct box *b)
{
	b->v->seg[FS].base = UINT64_C(0xffffffff80060000);
	b->v->seg[GS].base = 0x60800;
	b->v->seg[DS].base = 0x1234; /* counts for nothing */
}

PROGRAM(overrides,
	"mov eax, 0x11\n mov fs:[0x10], rax\n mov gs:[0x10], eax\n mov r8, -0x60000\n"
	"mov r9d, 0x60018\n mov ds:[r9], rax\n mov edi, 0xfffffff0\n"
	"mov gs:[edi + 0x20], al\n mov fs:[r8 + 0x60020], rax\n add rax, gs:[0x10]\n"
	"mov ebx, 0x60000\n mov ecx, 0xfffffff8\n mov byte ptr [ebx + ecx + 0x40], 7\n"
	"lea rdx, fs:[rax + 5]\n lea esi, gs:[r8 + r9]\n int3");

static void segment_overrides_and_short_addresses(void **state)
{
	(void)state;
	RUN(overrides, 3, set_bases);
	assert_done(r);
	assert_int_equal(ram64(&r, DATA + 0x10), 0x11);
	assert_int_equal(r.ram[DATA + 0x810], 0x11);
	assert_int_equal(r.ram[DATA + 0x38], 7);
	free(r.ram);
}

/* ---- the stack ---- */

PROGRAM(stack_ops,
	"push rsp\n pop rax\n mov r12, rsp\n push 0x60008\n pop rsp\n lea rbx, [rsp]\n "
	"mov rsp, r12\n"
	"push rbp\n mov rbp, rsp\n sub rsp, 64\n push qword ptr [rbp]\n push -5\n pop "
	"qword ptr [rsp]\n"
	"mov [rsp], rsp\n xchg rsp, [rsp]\n leave\n"
	"push 1\n push 2\n push 3\n call 1f\n mov r13, rsp\n jmp 2f\n 1: ret 16\n"
	"2: call 3f\n 3: pop r14\n lea rsp, [rsp - 8]\n call 4f\n jmp 5f\n 4: mov rdi, "
	"[rsp]\n"
	"ret\n 5: push fs\n pop rdx\n mov esp, esp\n int3");

static void pushes_pops_calls_and_returns(void **state)
{
	(void)state;
	RUN(stack_ops, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RAX], STACK3 + 0x1000);
	assert_int_equal(r.gpr[RBX], 0x60008);
	free(r.ram);
}

/* The return address goes where the target was: it must have been read before, and once.
 */
PROGRAM(call_overwrites_target,
	"lea rax, [rip + 1f]\n mov [rsp - 8], rax\n call [rsp - 8]\n 2: int3\n"
	"1: mov rbx, [rsp]\n lea rcx, [rip + 2b]\n xor eax, eax\n cmp rbx, rcx\n sete "
	"al\n"
	"lea rdx, [rip + 3f]\n push rdx\n call [rsp]\n int3\n 3: mov rsi, [rsp]\n int3");

static void call_through_the_slot_of_its_return_address(void **state)
{
	(void)state;
	RUN(call_overwrites_target, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RAX], 1);
	free(r.ram);
}

PROGRAM(call_not_canonical,
	"mov rax, 0x0000800000000000\n mov r12, rsp\n mov qword ptr [rsp - 8], 77\n"
	"nop\n 1: call rax\n int3");
PROGRAM(call_memory_not_canonical,
	"mov rax, 0x0000800000000000\n mov [rsp - 8], rax\n 1: call [rsp - 8]\n int3");

/* The return address is written first, RSP changed last. */
static void a_call_that_faults_has_not_moved_rsp(void **state)
{
	(void)state;
	{
		RUN(call_not_canonical, 3, NULL);
		assert_int_equal(r.vector, VEC_GP);
		assert_int_equal(ram64(&r, STACK3 + 0xff8), r.rip + 2);
		assert_int_equal(r.rsp, STACK3 + 0x1000);
		free(r.ram);
	}
	RUN(call_memory_not_canonical, 3, NULL);
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.rsp, STACK3 + 0x1000);
	free(r.ram);
}

PROGRAM(jump_slot0, "mov rax, 0x8000000000000000\n mov rcx, 1\n 1: jmp rax");
PROGRAM(ret_slot0, "mov rax, 0x8000000000000000\n push rax\n 1: ret");
PROGRAM(jump_far_negative, "mov rax, 0x8000000008000000\n call rax");

static void jumps_to_addresses_that_mean_none(void **state)
{
	(void)state;
	{
		RUN(jump_slot0, 3, NULL);
		assert_int_equal(r.vector, VEC_GP);
		assert_int_equal(r.rip, CODE + 17);
		free(r.ram);
	}
	{
		RUN(ret_slot0, 3, NULL);
		assert_int_equal(r.vector, VEC_GP);
		assert_int_equal(r.rip, CODE + 11);
		assert_int_equal(r.rsp, STACK3 + 0xff8);
		free(r.ram);
	}
	RUN(jump_far_negative, 3, NULL);
	assert_int_equal(r.vector, VEC_GP);
	free(r.ram);
}

/* ---- addresses at the edges ---- */

#define EDGE(name, address, text)                                                        \
	PROGRAM(edge_##name,                                                             \
		"mov rbx, " address "\n mov ecx, 5\n stc\n 1: " text "\n int3");         \
	static void edge_##name##_faults(void **state)                                   \
	{                                                                                \
		(void)state;                                                             \
		RUN(edge_##name, 3, NULL);                                               \
		assert_in_set(r.vector,                                                  \
			      ((LargestIntegralType[]){ VEC_GP, VEC_PF, VEC_SS }), 3);   \
		assert_int_equal(r.gpr[RCX], 5);                                         \
		assert_int_equal(r.flags & 1, 1);                                        \
		free(r.ram);                                                             \
	}

EDGE(read_sign, "0x8000000000000000", "mov rax, [rbx]")
EDGE(write_sign, "0x8000000000000000", "mov [rbx], rax")
EDGE(below_sign, "0x7fffffffffffffff", "mov al, [rbx]")
EDGE(above_sign, "0x8000000000000001", "add [rbx], rcx")
EDGE(vector_sign, "0x8000000000000ff0", "movups xmm0, [rbx]")
EDGE(store_low_end, "0x7ffffffffffc", "mov [rbx], rcx")
EDGE(first_high, "0xffff7fffffffffff", "mov ax, [rbx]")
EDGE(rmw_sign, "0x8000000000000000", "lock xadd [rbx], rcx")
EDGE(push_sign, "0x8000000000000008", "mov rsp, rbx; push rcx; nop")

/* 64-byte lines of the last page, which is mapped here. */
static void map_last_page(struct box *b)
{
	/* The top 2 GiB are the RAM from 0: the last page is beyond it; put it at DATA.
	 */
	poke(b, PD + 511 * 8, 0x15000 | 0x27, 8);
	poke(b, 0x15000 + 511 * 8, DATA | 0x67, 8);
	tlb_flush_all(b->v);
}

PROGRAM(wraps_round, "mov rbx, -8\n mov rax, 0x1111\n mov [rbx], rax\n mov rcx, [rbx]\n "
		     "mov ecx, [rbx + 4]\n"
		     "inc dword ptr [rbx + 4]\n 1: mov rdx, [rbx + 4]\n int3");

static void accesses_at_the_top_do_not_wrap_by_accident(void **state)
{
	(void)state;
	RUN(wraps_round, 0, map_last_page);
	/* Bytes from address 0 on: they are mapped. */
	assert_done(r);
	assert_int_equal(ram64(&r, DATA + 0xff8), 0x100001111);
	free(r.ram);
}

/* ---- faults ---- */

static void no_page_2(struct box *b)
{
	set_pte(b, DATA + 0x1000, 0);
	poke(b, DATA, 0x5050505050505050, 8);
}

PROGRAM(fault_in_middle,
	"mov rbx, 0x60000\n mov r9, 7\n mov rsi, 0x61000\n mov eax, 5\n xor edx, edx\n"
	"add eax, 0x7ffffffb\n mov [rbx], eax\n mov r9, 8\n 1: add rsi, [rsi + rdx]\n"
	"mov r9, 9\n mov [rbx], r9\n int3");
PROGRAM(fault_crossing_read,
	"mov rbx, 0x60ffd\n mov ecx, 1\n cmp ecx, 2\n 1: mov rcx, [rbx]\n int3");
PROGRAM(fault_crossing_write,
	"mov rbx, 0x60ffd\n mov rcx, -1\n cmp ecx, 2\n 1: mov [rbx], rcx\n int3");
PROGRAM(fault_crossing_rmw,
	"mov rbx, 0x60ffd\n mov rcx, -1\n cmp ecx, 2\n 1: lock sub [rbx], rcx\n int3");

static void a_fault_in_the_middle_is_exact(void **state)
{
	(void)state;
	{
		RUN(fault_in_middle, 3, no_page_2);
		assert_int_equal(r.vector, VEC_PF);
		assert_int_equal(r.cr2, DATA + 0x1000);
		assert_int_equal(r.gpr[R9], 8);
		assert_int_equal(r.flags & RFLAGS_STATUS,
				 RFLAGS_OF | RFLAGS_SF | RFLAGS_PF | RFLAGS_AF);
		free(r.ram);
	}
	{
		RUN(fault_crossing_read, 3, no_page_2);
		assert_int_equal(r.cr2, DATA + 0x1000);
		assert_int_equal(r.gpr[RCX], 1);
		free(r.ram);
	}
	{
		RUN(fault_crossing_write, 3, no_page_2);
		assert_int_equal(r.cr2, DATA + 0x1000);
		assert_int_equal(ram64(&r, DATA + 0xff8), 0);
		free(r.ram);
	}
	RUN(fault_crossing_rmw, 3, no_page_2);
	assert_int_equal(r.cr2, DATA + 0x1000);
	assert_int_equal(ram64(&r, DATA + 0xff8), 0);
	free(r.ram);
}

PROGRAM(divide_error, "mov r8, 0x60000\n mov r9, 0\n mov rax, 7\n mov rdx, 0\n mov r11, "
		      "3\n stc\n 1: div r9\n int3");
PROGRAM(divide_memory, "mov r8, 0x60000\n mov r10, 9\n mov eax, 1\n mov rdx, 8\n mov "
		       "rcx, 0x55\n sub ecx, ecx\n"
		       "1: idiv dword ptr [r8 + rcx]\n int3");
PROGRAM(misaligned, "mov rbx, 0x60008\n mov rcx, 5\n stc\n movaps xmm1, [rbx + 8]\n"
		    "1: movaps xmm0, [rbx]\n int3");
PROGRAM(misaligned_store, "mov r8, 0x60008\n mov rcx, 5\n 1: movaps [r8], xmm0\n int3");
PROGRAM(cmpxchg16, "mov r8, 0x60008\n mov rcx, 5\n lock cmpxchg16b [r8 + 8]\n"
		   "1: lock cmpxchg16b [r8]\n int3");
PROGRAM(simd_exception,
	"mov rbx, 0x60000\n mov dword ptr [rbx], 0x1d80\n ldmxcsr [rbx]\n xorps xmm0, "
	"xmm0\n"
	"mov eax, 0x3f800000\n movd xmm1, eax\n 1: divss xmm1, xmm0\n int3");

#define HOST_FAULT(prog, want)                                                           \
	do {                                                                             \
		RUN(prog, 3, NULL);                                                      \
		assert_int_equal(r.vector, want);                                        \
		free(r.ram);                                                             \
	} while (0)

static void what_faults_on_the_host_faults_in_the_guest(void **state)
{
	(void)state;
	HOST_FAULT(divide_error, VEC_DE);
	HOST_FAULT(divide_memory, VEC_DE);
	HOST_FAULT(misaligned, VEC_GP);
	HOST_FAULT(misaligned_store, VEC_GP);
	HOST_FAULT(cmpxchg16, VEC_GP);
	HOST_FAULT(simd_exception, VEC_XM);
}

/* ---- what is not RAM ---- */

/* A device whose registers count what is done to them. */
static u64 count_read(void *dev, u64 off, unsigned size)
{
	u64 *n = dev;

	return ++*n * 0x0101010101010101 + off * size;
}

static void count_write(void *dev, u64 off, u64 val, unsigned size)
{
	u64 *n = dev;

	*n += val + off + size;
}

static const struct io_ops count_ops = { count_read, count_write,
					 IO_1 | IO_2 | IO_4 | IO_8 };
static u64 count;

static void device_behind(struct box *b)
{
	struct error err = { "" };

	count = 0;
	assert_int_equal(phys_add_mmio(b->phys, "count", MiB(64), 0x1000, &count_ops,
				       &count, &err),
			 0);
	poke(b, PT + ((DATA >> 12) + 1) * 8, MiB(64) | 0x67, 8);
	tlb_flush_all(b->v);
}

PROGRAM(straddles,
	"mov ebx, 0x61000\n mov rax, 0x1111111111111111\n mov r9, rax\n stc\n"
	"mov rax, [rbx - 4]\n mov [rbx - 4], rax\n add [rbx - 2], r9d\n adc r9, [rbx]\n"
	"lock xadd [rbx - 6], rcx\n mov [rbx + 8], r9b\n movups xmm0, [rbx - 8]\n"
	"movups [rbx - 3], xmm0\n xchg [rbx + 16], rdx\n mov r12, rsp\n lea rsp, [rbx + "
	"4]\n"
	"push rax\n push r9\n pop rdi\n pop rsi\n mov rsp, r12\n lea rdi, [rbx - 16]\n"
	"mov esi, 0x60000\n mov ecx, 4\n rep movsq\n inc byte ptr [rbx]\n cmpxchg [rbx - "
	"1], r8w\n"
	"int3");

static void operands_with_a_device_behind(void **state)
{
	(void)state;
	RUN(straddles, 3, device_behind);
	assert_done(r);
	free(r.ram);
}

static void device_code(struct box *b)
{
	device_behind(b);
	/* mov eax, imm32, of which two bytes are the device's. */
	b->ram[DATA + 0xffd] = 0xb8;
}

PROGRAM(code_in_device, "mov ebx, 0x60ffd\n xor eax, eax\n jmp rbx");

static void an_instruction_that_reaches_into_a_device(void **state)
{
	(void)state;
	RUN(code_in_device, 3, device_code);
	free(r.ram);
}

/* ---- vectors ---- */

PROGRAM(vzero, "vpcmpeqd ymm0, ymm0, ymm0\n vmovaps ymm15, ymm0\n vmovaps ymm3, ymm0\n"
	       "xor eax, eax\n xor ecx, ecx\n xgetbv\n" /* parks */
	       "jmp 1f\n 1: vzeroupper\n jmp 2f\n 2: int3");

static void vzeroupper_needs_the_registers(void **state)
{
	static const u8 zero[256];

	(void)state;
	if (!__builtin_cpu_supports("avx2"))
		skip();
	RUN(vzero, 3, NULL);
	assert_done(r);
	assert_memory_equal(r.ymm, zero, 256);
	assert_int_equal(r.xmm[0], 0xff);
	free(r.ram);
}

static void task_switched(struct box *b)
{
	b->v->cr0 |= CR0_TS;
	vcpu_sync(b->v);
}

PROGRAM(clts_between, "mov rax, cr0\n and rax, ~8\n mov cr0, rax\n pcmpeqd xmm0, xmm0\n "
		      "or rax, 8\n mov cr0, rax\n"
		      "clts\n paddd xmm0, xmm0\n mov cr0, rax\n mov ecx, 3\n 1: paddd "
		      "xmm0, xmm0\n int3");

static void task_switched_flag_is_seen_at_once(void **state)
{
	(void)state;
	RUN(clts_between, 0, task_switched);
	assert_int_equal(r.vector, VEC_NM);
	assert_int_equal(r.gpr[RCX], 3);
	free(r.ram);
}

static void no_crossing_page(struct box *b)
{
	no_page_2(b);
}

PROGRAM(evex,
	"mov rbx, 0x60fc0\n mov eax, 0xff\n kmovw k1, eax\n vpternlogd zmm0, zmm0, zmm0, "
	"0xff\n"
	"vmovdqu32 [rbx + 32]{k1}, zmm0\n vpaddd zmm1{k1}{z}, zmm0, dword ptr [rbx + "
	"60]{1to16}\n"
	"mov r9, rbx\n vpaddd zmm17, zmm0, [r9]\n vmovdqa64 zmm2, [r9]\n kmovw r10d, k1\n"
	"vpextrd [r9 + 4], xmm17, 1\n vmovd r11d, xmm17\n 1: vmovdqu32 zmm3, [rbx + "
	"32]\n int3");

static void evex_enabled(struct box *b)
{
	b->cpuid.xcr0 = 0xe7;
	b->v->xcr0 = 0xe7;
	no_crossing_page(b);
	vcpu_sync(b->v);
}

static void masks_and_broadcasts(void **state)
{
	(void)state;
	if (!__builtin_cpu_supports("avx512f"))
		skip();
	RUN(evex, 3, evex_enabled);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, DATA + 0x1000);
	free(r.ram);
}

/* ---- code that changes ---- */

PROGRAM(smc_ahead, "lea rbx, [rip + 1f]\n mov eax, 1\n mov byte ptr [rbx + 1], 9\n 1: "
		   "mov eax, 5\n mov r8d, eax\n"
		   "mov ecx, 30\n 3: lea rdx, [rip + 2f]\n inc byte ptr [rdx + 1]\n 2: "
		   "mov al, 0\n movzx esi, al\n add rdi, rsi\n"
		   "loop 3b\n int3");

static void code_changed_ahead_is_seen(void **state)
{
	(void)state;
	RUN(smc_ahead, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[R8], 9);
	assert_int_equal(r.gpr[RDI], 30 * 31 / 2);
	free(r.ram);
}

/* The code behind is of another block; what is written is data of the same page. */
PROGRAM(smc_data_beside, "mov ecx, 100\n 1: inc qword ptr [rip + 2f]\n lea rax, [rip + "
			 "3f]\n call rax\n dec ecx\n jnz 1b\n"
			 "mov rax, [rip + 2f]\n int3\n .balign 8\n 2: .quad 0\n 3: ret");

static void data_beside_code(void **state)
{
	(void)state;
	RUN(smc_data_beside, 3, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RAX], 100);
	free(r.ram);
}

/* Another thread changes the bytes all the time. */
struct changer {
	u8 *byte;
	int stop; /* atomic */
};

static void *change(void *arg)
{
	struct changer *c = arg;

	while (!__atomic_load_n(&c->stop, __ATOMIC_SEQ_CST)) {
		__atomic_store_n(c->byte, 0x05, __ATOMIC_SEQ_CST);
		__atomic_store_n(c->byte, 0xc8, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* BSWAP EAX or SYSCALL, which is not enabled; on the host it would be exit(99). */
PROGRAM(changing, "mov eax, 60\n mov edi, 99\n .byte 0x0f, 0xc8\n int3");

static void bytes_that_change_while_they_are_decoded(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++) {
		const struct engine *e = all_engines[i];
		struct box *b = engine_box_new(e);
		struct changer c = { .byte = b->ram + CODE + 11 };
		pthread_t thread;
		struct end r;

		pthread_create(&thread, NULL, change, &c);
		for (unsigned n = 0; n < 60; n++) {
			engine_box_start(e, b, 3);
			b->v->efer &= ~(u64)EFER_SCE;
			memcpy(b->ram + CODE, changing,
			       (size_t)(changing_end - changing));
			engine_box_run(e, b, &r);
			free(r.ram);
			assert_in_set(r.vector,
				      ((LargestIntegralType[]){ VEC_BP, VEC_UD }), 2);
		}
		__atomic_store_n(&c.stop, 1, __ATOMIC_SEQ_CST);
		pthread_join(thread, NULL);
		engine_box_free(e, b);
	}
}

/* Two pages of code, one linear page that shows one or the other. */
static void two_code_pages(struct box *b)
{
	for (unsigned i = 0; i < 2; i++) {
		u8 *p = b->ram + CODE2 + 0x1000 * i;

		p[0] = 0xb0; /* mov al, 1 + i */
		p[1] = (u8)(1 + i);
		p[2] = 0x48; /* add rbx, rax */
		p[3] = 0x01;
		p[4] = 0xc3;
		p[5] = 0xeb; /* jmp +0 */
		p[6] = 0;
		p[7] = 0xc3; /* ret */
	}
	poke(b, PT + 0x80 * 8, (CODE2 + 0x1000) | 0x67, 8);
}

PROGRAM(remap, "xor ebx, ebx\n xor eax, eax\n mov ecx, 60\n mov esi, 0x80000\n"
	       "1: call rsi\n xor qword ptr [0x13000 + 0x80*8], 0x1000\n invlpg [rsi]\n "
	       "dec ecx\n jnz 1b\n"
	       "mov ecx, 60\n 2: call rsi\n xor qword ptr [0x13000 + 0x80*8], 0x1000\n "
	       "mov rax, cr3\n"
	       "mov cr3, rax\n xor eax, eax\n dec ecx\n jnz 2b\n int3");

static void remap_prepare(struct box *b)
{
	two_code_pages(b);
	poke(b, PT + 0x80 * 8, (CODE2 | 0x67), 8);
	poke(b, CODE2 + 3, 0x01, 1);
}

static void a_page_remapped_under_a_loop(void **state)
{
	(void)state;
	/* 48000h and 49000h differ in bit 12. */
	RUN(remap, 0, remap_prepare);
	assert_done(r);
	assert_int_equal(r.gpr[RBX], 60 * 3);
	free(r.ram);
}

PROGRAM(protect, "mov ecx, 40\n mov esi, 0x48000\n 1: call rsi\n dec ecx\n jnz 1b\n"
		 "bts qword ptr [0x13000 + 0x48*8], 63\n invlpg [rsi]\n mov edx, 7\n 2: "
		 "call rsi\n int3");

static void two_pages(struct box *b)
{
	two_code_pages(b);
}

static void code_that_may_not_be_executed_any_more(void **state)
{
	(void)state;
	RUN(protect, 0, two_pages);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.error, 0x11);
	assert_int_equal(r.rip, CODE2);
	free(r.ram);
}

/* An instruction across two pages, and a block that ends with a page. */
static void at_page_end(struct box *b)
{
	static const u8 code[] = { 0xff, 0xc0, /* inc eax */
				   0x48, 0xbb, 1, 2, 3,
				   4,    5,    6, 7, 8, /* mov rbx, imm64 */
				   0xff, 0xc9,          /* dec ecx */
				   0x75, 0xf0,          /* jnz */
				   0xcc };

	memcpy(b->ram + CODE2 + 0x1000 - 4, code, sizeof(code));
	memcpy(b->ram + CODE2 + 0x3000 - 2, code, 2);
	b->ram[CODE2 + 0x3000] = 0xcc;
}

PROGRAM(page_end, "mov ecx, 40\n xor eax, eax\n mov esi, 0x48ffc\n jmp rsi");
PROGRAM(page_end_exact, "mov ecx, 40\n xor eax, eax\n mov esi, 0x4affe\n jmp rsi");

static void blocks_at_the_end_of_a_page(void **state)
{
	(void)state;
	{
		RUN(page_end, 3, at_page_end);
		assert_done(r);
		assert_int_equal(r.gpr[RAX], 40);
		assert_int_equal(r.gpr[RBX], 0x0807060504030201);
		free(r.ram);
	}
	RUN(page_end_exact, 3, at_page_end);
	assert_done(r);
	assert_int_equal(r.rip, CODE2 + 0x3001);
	free(r.ram);
}

/* ---- flags that end things ---- */

PROGRAM(trap_flag, "mov ecx, 50\n 1: dec ecx\n jnz 1b\n pushfq\n or dword ptr [rsp], "
		   "0x100\n popfq\n 2: nop\n"
		   "mov eax, 1\n int3");

static void single_step_from_translated_code(void **state)
{
	(void)state;
	RUN(trap_flag, 3, NULL);
	assert_int_equal(r.vector, VEC_DB);
	assert_int_equal(r.gpr[RAX], 0);
	free(r.ram);
}

static void watch_data(struct box *b)
{
	b->v->dr[0] = DATA + 8;
	b->v->dr[7] = 1 | 0xdu << 16; /* writes, 4 bytes */
	vcpu_sync(b->v);
}

PROGRAM(watchpoint, "mov ebx, 0x60000\n mov ecx, 3\n mov [rbx], ecx\n mov ecx, 4\n mov "
		    "[rbx + 8], ecx\n 1: mov ecx, 5\n"
		    "mov ecx, 6\n mov ecx, 7\n int3");

static void a_data_breakpoint_traps_behind_the_access(void **state)
{
	(void)state;
	RUN(watchpoint, 3, watch_data);
	assert_int_equal(r.vector, VEC_DB);
	assert_int_equal(r.gpr[RCX], 4);
	free(r.ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rex_that_is_ignored_stays_ignored),
		cmocka_unit_test(an_opcode_that_looks_like_an_escape),
		cmocka_unit_test(high_byte_registers_are_themselves),
		cmocka_unit_test(locked_operations_of_every_kind),
		cmocka_unit_test(locked_operations_are_in_line),
		cmocka_unit_test(registers_kept_in_memory_behave),
		cmocka_unit_test(addresses_in_scratch_registers),
		cmocka_unit_test(segment_overrides_and_short_addresses),
		cmocka_unit_test(pushes_pops_calls_and_returns),
		cmocka_unit_test(call_through_the_slot_of_its_return_address),
		cmocka_unit_test(a_call_that_faults_has_not_moved_rsp),
		cmocka_unit_test(jumps_to_addresses_that_mean_none),
		cmocka_unit_test(edge_read_sign_faults),
		cmocka_unit_test(edge_write_sign_faults),
		cmocka_unit_test(edge_below_sign_faults),
		cmocka_unit_test(edge_above_sign_faults),
		cmocka_unit_test(edge_vector_sign_faults),
		cmocka_unit_test(edge_store_low_end_faults),
		cmocka_unit_test(edge_first_high_faults),
		cmocka_unit_test(edge_rmw_sign_faults),
		cmocka_unit_test(edge_push_sign_faults),
		cmocka_unit_test(accesses_at_the_top_do_not_wrap_by_accident),
		cmocka_unit_test(a_fault_in_the_middle_is_exact),
		cmocka_unit_test(what_faults_on_the_host_faults_in_the_guest),
		cmocka_unit_test(operands_with_a_device_behind),
		cmocka_unit_test(an_instruction_that_reaches_into_a_device),
		cmocka_unit_test(vzeroupper_needs_the_registers),
		cmocka_unit_test(task_switched_flag_is_seen_at_once),
		cmocka_unit_test(masks_and_broadcasts),
		cmocka_unit_test(code_changed_ahead_is_seen),
		cmocka_unit_test(data_beside_code),
		cmocka_unit_test(bytes_that_change_while_they_are_decoded),
		cmocka_unit_test(a_page_remapped_under_a_loop),
		cmocka_unit_test(code_that_may_not_be_executed_any_more),
		cmocka_unit_test(blocks_at_the_end_of_a_page),
		cmocka_unit_test(single_step_from_translated_code),
		cmocka_unit_test(a_data_breakpoint_traps_behind_the_access),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
