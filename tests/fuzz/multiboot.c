/* Multiboot kernels, flat and ELF: nothing in one crashes the loader or makes it write
 * outside memory. */
#include "fuzz.h"

#include <elf.h>

#include "boot_file.h"

#define LOAD 0x100000

struct file {
	Elf32_Ehdr eh;
	Elf32_Phdr ph[2];
	u32 header[8];
	u8 code[64];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct file flat, elf = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB },
			.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_entry = LOAD + offsetof(struct file, code),
			.e_phoff = offsetof(struct file, ph),
			.e_phentsize = sizeof(Elf32_Phdr),
			.e_phnum = 2 },
		.ph = { { .p_type = PT_LOAD,
			  .p_paddr = LOAD,
			  .p_filesz = sizeof(struct file),
			  .p_memsz = 0x3000 },
			{ .p_type = PT_LOAD,
			  .p_paddr = 0x8000,
			  .p_filesz = 16,
			  .p_memsz = 0x10000 } },
		.header = { 0x1badb002, 3, -(0x1badb002 + 3) },
	};

	flat.header[0] = 0x1badb002;
	flat.header[1] = 0x10003;
	flat.header[2] = -(0x1badb002u + 0x10003u);
	flat.header[3] = LOAD + offsetof(struct file, header);
	flat.header[4] = LOAD;
	flat.header[6] = LOAD + 0x2000;
	flat.header[7] = LOAD + offsetof(struct file, code);
	/* A second byte says which, so that all choices of fuzz_boot() are there for
	 * both. */
	if (size)
		fuzz_boot(data[0] & 1 ? (const u8 *)&flat : (const u8 *)&elf,
			  sizeof(struct file), data + 1, size - 1);
	return 0;
}
