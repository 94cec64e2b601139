/*
 * The smallest guest that triple-faults: a PVH kernel (Xen's x86/HVM direct boot ABI) whose
 * first act is an invalid instruction, with an empty IDT.
 */
	.code32
	.globl	_start
_start:
	mov	$0x12345678, %eax
	lidt	idt
	ud2
	hlt

idt:	.word	0
	.long	0

	.section .note.pvh, "a", @note
	.long	4, 4, 18	/* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.long	_start

	.section .note.GNU-stack, "", @progbits
