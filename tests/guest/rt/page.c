/*
 * Page tables for the paging cases. SDM volume 3 sections 4.1.2 (switching modes), 4.3
 * to 4.5.
 *
 * The kernel's map of 32-bit guests is of 4 KiB pages: 64 MiB at 0 for CPL 0, the same
 * page tables at ALIAS32 for all. In 64-bit guests that is start.S's; with 5 levels one
 * more table goes on top.
 */
#include "page.h"

struct path path;

static PAGED u64 tables[PATH_MAX][512];

u64 entry_get(unsigned level)
{
	if (paging == PAGING_32)
		return *(volatile u32 *)path.entry[level];
	return *(volatile u64 *)path.entry[level];
}

void entry_set(unsigned level, u64 val)
{
	if (paging == PAGING_32)
		*(volatile u32 *)path.entry[level] = (u32)val;
	else
		*(volatile u64 *)path.entry[level] = val;
}

void path_set(unsigned leaf, u64 pa, u64 bits)
{
	for (unsigned i = 0; i < leaf; i++)
		entry_set(i, (word)tables[i + 1] | ALL);
	entry_set(leaf, pa | bits | (path.shift[leaf] > 12 ? PS : 0));
	flush_tlb();
}

unsigned phys_bits(void)
{
	return cpuid(0x80000008, 0).a & 0xff;
}

#if W64

enum paging paging = PAGING_4;
extern u64 boot_pml4[512];
static PAGED u64 top5[512];

/* By way of compatibility mode, as LA57 changes only outside long mode. */
void switch_levels(word cr3, word cr4);
__asm__(".text\n"
	"switch_levels:\n\t"
	"mov %rsp, %r11\n\t"
	"push $0x68\n\t" /* KCODE32 */
	"lea 1f(%rip), %rax\n\t"
	"push %rax\n\t"
	"lretq\n\t"
	".code32\n"
	"1:\tmov %cr0, %eax\n\t"
	"btr $31, %eax\n\t"
	"mov %eax, %cr0\n\t"
	"mov %esi, %cr4\n\t"
	"mov %edi, %cr3\n\t"
	"bts $31, %eax\n\t"
	"mov %eax, %cr0\n\t"
	"ljmp $0x08, $2f\n\t"
	".code64\n"
	"2:\tmov %r11, %rsp\n\t"
	"ret\n");

void paging_on(enum paging mode, bool pse)
{
	word cr4 = CR4_PAE | CR4_PGE;

	(void)pse;
	if (mode == PAGING_5) {
		/* Entry 0 is what there was; the path starts in the lower table. */
		top5[0] = (word)boot_pml4 | ALL;
		switch_levels((word)top5, cr4 | CR4_LA57);
	} else {
		switch_levels((word)boot_pml4, cr4);
	}
	paging = mode;
	wrmsr(EFER, (rdmsr(EFER) & ~(u64)EFER_SCE) | EFER_NXE);
	path = (struct path){ .levels = 4, .shift = { 39, 30, 21, 12 } };
	path.va = 2ul << 39;
	path.entry[0] = &boot_pml4[2];
	for (unsigned i = 1; i < 4; i++)
		path.entry[i] = &tables[i][0];
	if (mode == PAGING_5) {
		/* Through entry 1 of the top table, a path of five levels. */
		path = (struct path){ .levels = 5, .shift = { 48, 39, 30, 21, 12 } };
		path.va = 1ul << 48;
		path.entry[0] = &top5[1];
		for (unsigned i = 1; i < 5; i++)
			path.entry[i] = &tables[i][0];
	}
}

word user_offset(word lin)
{
	return lin;
}

#else

enum paging paging;
#define KERNEL_MIB 64
static PAGED u8 kernel_tables[KERNEL_MIB / 2][4096]; /* PAE needs twice as many */
static PAGED u32 directory[1024];
static PAGED u64 directories[4][512];
static __attribute__((aligned(32))) u64 pointers[4];

static void user_segments(u32 base)
{
	set_gdt(UCODE32, descriptor(base, 0xfffff, D_KCODE | D_DPL(3) | D_DB | D_G));
	set_gdt(UDATA, descriptor(base, 0xfffff, D_KDATA | D_DPL(3) | D_DB | D_G));
}

word user_offset(word lin)
{
	return lin - ALIAS32;
}

static void fill_kernel(bool pae)
{
	for (u32 page = 0; page < KERNEL_MIB * 256; page++) {
		if (pae)
			((u64 *)(void *)kernel_tables)[page] = (u64)page << 12 | ALL;
		else
			((u32 *)(void *)kernel_tables)[page] = page << 12 | ALL;
	}
	for (u32 i = 0; i < KERNEL_MIB / (pae ? 2 : 4); i++) {
		u32 table = (u32)kernel_tables[i];

		if (pae) {
			directories[0][i] = table | P | RW;
			directories[2][i] = table | ALL;
		} else {
			directory[i] = table | P | RW;
			directory[ALIAS32 / 0x400000 + i] = table | ALL;
		}
	}
	for (u32 i = 0; i < 4; i++)
		pointers[i] = (u32)directories[i] | P;
}

void paging_on(enum paging mode, bool pse)
{
	bool pae = mode == PAGING_PAE;

	paging_off();
	paging = mode;
	fill_kernel(pae);
	user_segments(ALIAS32);
	path.va = 0x40000000;
	if (pae) {
		path.levels = 2;
		path.shift[0] = 21;
		path.entry[0] = &directories[1][0];
	} else {
		path.levels = 2;
		path.shift[0] = 22;
		path.entry[0] = &directory[0x40000000 / 0x400000];
	}
	path.shift[1] = 12;
	path.entry[1] = tables[1];
	write_cr4((pae ? CR4_PAE : 0) | (pse ? CR4_PSE : 0) | CR4_PGE);
	if (HAS_NX)
		wrmsr(EFER, pae ? EFER_NXE : 0);
	write_cr3(pae ? (u32)pointers : (u32)directory);
	write_cr0(read_cr0() | BIT(31) | CR0_WP);
}

void paging_off(void)
{
	write_cr0(read_cr0() & ~(word)(BIT(31) | CR0_WP));
	write_cr4(0);
	user_segments(0);
}

#endif
