/*
 * A guest to debug: from PVH's 32-bit entry to 64-bit mode, a loop over a function and a
 * variable, and a reset. 'forever' is entered when a debugger says so.
 */
	.code32
	.globl	_start
_start:
	lgdt	gdtr
	movl	$pdpt + 7, pml4
	movl	$pd + 7, pdpt
	movl	$0x83, %eax		/* 2 MiB pages, 64 of them */
	mov	$pd, %edi
	mov	$64, %ecx
1:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	1b
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx
	mov	$0x100, %eax		/* EFER.LME */
	xor	%edx, %edx
	wrmsr
	mov	%cr0, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr0
	ljmp	$8, $main

	.code64
	.globl	main, add, total, forever
	.type	main, @function
	.type	add, @function
main:
	mov	$stack, %esp
	xor	%ebx, %ebx
2:	mov	%ebx, %edi
	call	add
	inc	%ebx
	cmp	$1000, %ebx
	jne	2b
	mov	$0xcf9, %dx		/* reset */
	mov	$6, %al
	out	%al, %dx
	hlt

add:
	add	%edi, total
	cvtsi2sd total, %xmm1
	ret

forever:
	incl	total
	jmp	forever

	.data
	.balign	8
gdt:	.quad	0, 0x00af9b000000ffff
gdtr:	.word	15
	.long	gdt
total:	.long	0

	.bss
	.balign	4096
pml4:	.skip	4096
pdpt:	.skip	4096
pd:	.skip	4096
	.skip	4096
stack:

	.section .note.pvh, "a", @note
	.long	4, 4, 18	/* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.long	_start

	.section .note.GNU-stack, "", @progbits
