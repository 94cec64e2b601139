/*
 * The same loop in each mode of the processor, for bench/modes: calls, memory, shifts,
 * branches that go both ways.
 *
 * A multiboot 1 kernel, flat. Its command line ends in "MODE COUNT": r real mode, p 16-bit
 * protected mode, w 32-bit, q 64-bit; the loop runs COUNT times 1000. It says "start" and
 * "end" on COM1, and leaves by isa-debug-exit at f4h.
 */
#define LOW    0x20000 /* the 16-bit part: segment 2000h */
#define DATA16 0x4000  /* no page of code */

/* 16 instructions a round; in 'bx' and 'si' of the mode's size. */
#define WORK(name, ax, bx, si, cx, dx, push_bx)                                          \
name:	mov $1000, cx;									\
1:	call 9f;									\
	add ax, (si);									\
	adc ax, 8(si);									\
	dec cx;										\
	jnz 1b;										\
	dec dx;										\
	jnz name;									\
	ret;										\
9:	push push_bx;									\
	mov 16(si), ax;									\
	mov ax, bx;									\
	shl $3, bx;									\
	xor bx, ax;									\
	add cx, ax;									\
	mov ax, 16(si);									\
	test $1, %al;									\
	jz 3f;										\
	not ax;										\
3:	pop push_bx;									\
	ret

	.section .header, "a"
	.balign 4
header:	.long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
	.long header, load_start, load_end, bss_end, start

	.text
	.code32
	.globl start
start:	cld
	cli
	mov $stack_top, %esp
	lgdt gdtr
	ljmp $0x08, $1f
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov 16(%ebx), %ebp	/* command line; find its end */
	mov $low_load, %esi
	mov $LOW, %edi
	mov $low_size, %ecx
	rep movsb
	mov %ebp, %esi
2:	lodsb
	test %al, %al
	jnz 2b
	dec %esi		/* the digits, from behind */
3:	dec %esi
	cmpb $' ', (%esi)
	jne 3b
	movzbl -1(%esi), %ebp	/* the mode */
	inc %esi
	xor %edx, %edx
4:	lodsb
	sub $'0', %al
	jb 5f
	movzbl %al, %eax
	imul $10, %edx
	add %eax, %edx
	jmp 4b
5:	mov %edx, count
	mov $said_start, %esi
	call say
	cmp $'r', %ebp
	je real
	cmp $'p', %ebp
	je prot16
	cmp $'q', %ebp
	je long
	mov count, %edx
	mov $data, %esi
	call work32
done:	mov $said_end, %esi
	call say
	xor %eax, %eax
	out %al, $0xf4
6:	hlt
	jmp 6b

say:	lodsb
	test %al, %al
	jz 8f
	mov %al, %ah
7:	mov $0x3fd, %dx
	in %dx, %al
	test $0x20, %al
	jz 7b
	mov $0x3f8, %dx
	mov %ah, %al
	out %al, %dx
	jmp say
8:	ret

WORK(work32, %eax, %ebx, %esi, %ecx, %edx, %ebx)

real:	mov count, %edx
	ljmp $0x18, $(to_real - low_base)
prot16:	mov count, %edx
	ljmp $0x18, $(in_prot16 - low_base)

back:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $stack_top, %esp
	jmp done

/* An identity map of the first 1 GiB, in pages of 2 MiB. */
long:	mov $pd, %edi
	mov $0x83, %eax
1:	mov %eax, (%edi)
	movl $0, 4(%edi)
	add $0x200000, %eax
	add $8, %edi
	cmp $pd + 4096, %edi
	jb 1b
	movl $pd + 3, pdpt
	movl $pdpt + 3, pml4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0x20, %eax
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80000001, %eax
	mov %eax, %cr0
	ljmp $0x28, $1f
	.code64
1:	mov count(%rip), %edx
	mov $data, %esi
	call work64
	ljmp *far_done(%rip)
WORK(work64, %eax, %ebx, %rsi, %ecx, %edx, %rbx)

	.section .low, "ax"
	.code16
low_base:
to_real:
	mov $0x20, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov %cr0, %eax
	and $0xfe, %al
	mov %eax, %cr0
	ljmp $(LOW / 16), $(1f - low_base)
1:	mov %cs, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0xf000, %sp
	mov $DATA16, %si
	call work16
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x08, $back
in_prot16:
	mov $0x20, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0xf000, %sp
	mov $DATA16, %si
	call work16
	ljmpl $0x08, $back
WORK(work16, %ax, %bx, %si, %cx, %dx, %bx)
low_end:
	.set low_size, low_end - low_base

	.data
far_done:
	.long done, 8
count:	.long 0
said_start:
	.asciz "start\n"
said_end:
	.asciz "end\n"
	.balign 8
gdt:	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
	.quad 0x00009b020000ffff, 0x000093020000ffff, 0x00af9b000000ffff
gdtr:	.word gdtr - gdt - 1
	.long gdt

	.bss
	.balign 4096
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4096
data:	.skip 4096
	.skip 4096
stack_top:
