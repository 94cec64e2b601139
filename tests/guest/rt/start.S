/*
 * Entry of a guest, in 32-bit protected mode without paging (Xen public/arch-x86/hvm/
 * start_info.h), the stubs of all vectors, and the ways into other code and back.
 *
 * SDM volume 3 sections 10.8.5 (entering long mode), 6.12 and 6.14 (frames).
 */
#ifdef __x86_64__
#define W64 1
#endif

#define KCODE 0x08
#define KDATA 0x10

	.section .note.pvh, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start
start:
	cld
	cli
	lgdt boot_gdtr
	ljmp $KCODE32_BOOT, $1f
1:	mov $KDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	lldt %ax
	mov $stack_top, %esp
#ifdef W64
	/* Identity map of 4 GiB for the kernel, but for the third: the first GiB for users. */
	mov $boot_pd, %edi
	xor %ecx, %ecx
2:	mov %ecx, %eax
	shl $21, %eax
	or $0x83, %eax
	mov %ecx, %edx
	shr $9, %edx
	cmp $2, %edx
	jne 3f
	and $0x3fffffff, %eax
	or $4, %eax
3:	mov %eax, (%edi, %ecx, 8)
	movl $0, 4(%edi, %ecx, 8)
	inc %ecx
	cmp $2048, %ecx
	jb 2b
	mov $boot_pdpt, %edi
	mov $boot_pd + 7, %eax
	mov $4, %ecx
4:	mov %eax, (%edi)
	add $4096, %eax
	add $8, %edi
	loop 4b
	movl $boot_pdpt + 7, boot_pml4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xa0, %eax		/* PAE, PGE */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x900, %eax		/* LME, NXE */
	wrmsr
	mov $0x80010033, %eax	/* PG, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	ljmp $KCODE, $5f
	.code64
5:	mov $stack_top, %rsp
	mov %ebx, %ebx
	push %rbx
	push %rbx
	call rt_init
	pop %rdi
	call rt_main
#else
	mov $0x31, %eax		/* NE, ET, PE */
	mov %eax, %cr0
	xor %eax, %eax
	mov %eax, %cr4
	sub $8, %esp
	push %ebx
	call rt_init
	call rt_main
#endif
	ud2

#ifdef W64
	.set KCODE32_BOOT, 0x18
#else
	.set KCODE32_BOOT, KCODE
#endif

	.data
	.balign 8
boot_gdt:
	.quad 0
#ifdef W64
	.quad 0x00af9b000000ffff
#else
	.quad 0x00cf9b000000ffff
#endif
	.quad 0x00cf93000000ffff
	.quad 0x00cf9b000000ffff
boot_gdtr:
	.word 31
	.long boot_gdt, 0

	.bss
	.balign 4096
#ifdef W64
	.globl boot_pml4, boot_pdpt, boot_pd
boot_pml4:	.skip 4096
boot_pdpt:	.skip 4096
boot_pd:	.skip 4 * 4096
#endif
	.skip 16384
stack_top:

/* ---- vectors ---- */

	.text
	.altmacro
	.macro ENTRY_OF n
stub_\n:
	.if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17) || (\n == 21)
	.else
	push $0
	.endif
	push $\n
	jmp trap_common
	.section .rodata
#ifdef W64
	.quad stub_\n
#else
	.long stub_\n
#endif
	.text
	.endm

	.section .rodata
	.balign 8
	.globl trap_entry
trap_entry:
	.text
	.set i, 0
	.rept 256
	ENTRY_OF %i
	.set i, i + 1
	.endr

#ifdef W64
trap_common:
	push %rax
	push %rbx
	push %rcx
	push %rdx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap_handle
	mov %rax, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rdx
	pop %rcx
	pop %rbx
	pop %rax
	add $16, %rsp
	iretq

	/* word enter_regs(ip, cs, flags, sp, ss, rdi) */
	.globl enter_regs
enter_regs:
	pushf
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, enter_sp(%rip)
	push %r8
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	mov %r9, %rdi
	iretq

	.globl leave
leave:
	mov $KDATA, %eax	/* a trap from user mode left a null one */
	mov %eax, %ss
	mov %rdi, %rax
	mov enter_sp(%rip), %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	popf
	ret

	.globl user_exit
user_exit:
	int $0x80
#else
trap_common:
	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $KDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov %esp, %eax
	and $-16, %esp
	sub $12, %esp
	push %eax
	call trap_handle
	mov %eax, %esp
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

	/* word enter_regs(ip, cs, flags, sp, ss, data selector); v86: with four more words */
	.globl enter_regs
enter_regs:
	mov %esp, %eax
	pushf
	push %ebx
	push %ebp
	push %esi
	push %edi
	mov %esp, enter_sp
	mov 24(%eax), %edx
	testl $0x20000, 12(%eax)
	jz 1f
	push %edx
	push %edx
	push %edx
	push %edx
1:	push 20(%eax)
	push 16(%eax)
	push 12(%eax)
	push 8(%eax)
	push 4(%eax)
	testl $0x20000, 12(%eax)
	jnz 2f
	mov %edx, %ds
	mov %edx, %es
2:	iret

	.globl leave
leave:
	mov 4(%esp), %eax
	mov enter_sp, %esp
	pop %edi
	pop %esi
	pop %ebp
	pop %ebx
	popf
	ret

	.globl user_exit
user_exit:
	int $0x80
#endif

	.bss
	.balign 8
enter_sp:
	.skip 8

	.section .note.GNU-stack, "", @progbits
