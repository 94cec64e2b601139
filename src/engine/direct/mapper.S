/*
 * The only code in the process of guest user code that is not the guest's: its second
 * thread, the mapper, which carries out the VMM's mmap() and munmap(). Position
 * independent, copied to MAPPER_TEXT of the shared memory (mapper.h).
 *
 * It believes nothing that guest code can write: its orders are in memory that is
 * read-only here, all the rest is in registers. Guest code is stopped while it works.
 */
#include "engine/direct/mapper.h"

#define SYS_futex 202
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

	.intel_syntax noprefix
	.section .rodata
	.balign 64
	.globl direct_mapper, direct_mapper_end
	.globl direct_trial_tsc, direct_trial_pmc, direct_trial_break, direct_trial_bases, direct_trial_nt
direct_mapper:
	.set order, direct_mapper + MAPPER_ORDER
	.set ctl, direct_mapper + MAPPER_CTL

	/* That it is there is reported like an order. */
	xor ebx, ebx
	jmp 3f
1:	lea rdi, [rip + order + ORDER_SEQ]
	mov esi, FUTEX_WAIT
	mov edx, ebx
	xor r10d, r10d
	mov eax, SYS_futex
	syscall
	mov eax, [rip + order + ORDER_SEQ]
	cmp eax, ebx
	je 1b
	mov ebx, eax
	lea r12, [rip + order + ORDER_FIRST]
	mov r13d, [rip + order + ORDER_COUNT]
2:	test r13d, r13d
	jz 3f
	mov rax, [r12]
	mov rdi, [r12 + 8]
	mov rsi, [r12 + 16]
	mov rdx, [r12 + 24]
	mov r10, [r12 + 32]
	mov r8, [r12 + 40]
	mov r9, [r12 + 48]
	syscall
	cmp rax, -4095
	jb 4f
	mov dword ptr [rip + ctl + CTL_FAILED], 1
4:	add r12, ORDER_BYTES
	dec r13d
	jmp 2b
3:	mov [rip + ctl + CTL_DONE], ebx
	lea rdi, [rip + ctl + CTL_DONE]
	mov esi, FUTEX_WAKE
	mov edx, 1
	mov eax, SYS_futex
	syscall
	jmp 1b

	/* What process_trial() has the guest's thread execute. */
direct_trial_tsc:
	rdtsc
	int3
direct_trial_pmc:
	rdpmc
	int3
direct_trial_break:
	nop
	nop
	int3
direct_trial_bases:
	wrfsbase rax
	int3
	wrgsbase rax
	int3
direct_trial_nt:
	push rax
	popfq
	ud2
direct_mapper_end:

	.section .note.GNU-stack, "", @progbits
