/* ELF kernels: nothing in one crashes the loader or makes it write outside memory. */
#include "fuzz.h"

#include <elf.h>

#include "boot_file.h"

#define LOAD 0x200000

struct file {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	u32 note[3];
	char name[4];
	u64 entry;
	u8 code[64];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct file good = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_entry = LOAD,
			.e_phoff = offsetof(struct file, ph),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 3 },
		.ph = { { .p_type = PT_LOAD,
			  .p_offset = offsetof(struct file, code),
			  .p_paddr = LOAD,
			  .p_filesz = 64,
			  .p_memsz = 0x2000 },
			{ .p_type = PT_NOTE,
			  .p_offset = offsetof(struct file, note),
			  .p_filesz = 24 },
			{ .p_type = PT_LOAD,
			  .p_offset = offsetof(struct file, code),
			  .p_paddr = LOAD + 0x4000,
			  .p_filesz = 1,
			  .p_memsz = 1 } },
		.note = { 4, 8, 18 },
		.name = "Xen",
		.entry = LOAD + 8,
	};

	fuzz_boot((const u8 *)&good, sizeof(good), data, size);
	return 0;
}
