/* Symbol files: nothing in one crashes the parser, and what it finds can be printed. */
#include "fuzz.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "control/symbols.h"

struct file {
	Elf64_Ehdr eh;
	Elf64_Shdr sh[3];
	char names[16];
	Elf64_Sym sym[2];
};

static void parse(const u8 *data, size_t len)
{
	/* Its end is the end of the memory. */
	u8 *copy = malloc(len ? len : 1);
	struct error err = { 0 };
	struct symbols *s;
	struct symbol found;

	memcpy(copy, data, len);
	s = symbols_parse(copy, len, "file", &err);
	free(copy);
	if (!s && !err.msg[0])
		abort();
	for (u64 addr = 1; s && addr; addr <<= 1)
		if (symbols_find(s, addr, &found) &&
		    (found.addr > addr || !strlen(found.name) ||
		     strpbrk(found.name, "\"\\\n ")))
			abort();
	symbols_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct file f = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB },
			.e_machine = EM_X86_64,
			.e_shoff = offsetof(struct file, sh),
			.e_shentsize = sizeof(Elf64_Shdr),
			.e_shnum = 3 },
		.sh = { [1] = { .sh_type = SHT_STRTAB,
				.sh_flags = SHF_EXECINSTR,
				.sh_offset = offsetof(struct file, names),
				.sh_size = 16 },
			[2] = { .sh_type = SHT_SYMTAB,
				.sh_link = 1,
				.sh_offset = offsetof(struct file, sym),
				.sh_size = 2 * sizeof(Elf64_Sym) } },
		.names = "\0main",
		.sym = { [1] = { .st_name = 1, .st_shndx = 1, .st_value = 0x1000 } },
	};

	/* As text or whatever it is, and as changes of a good file: place, value. */
	parse(data, size);
	for (size_t i = 0; i + 3 <= size && i < 96; i += 3)
		((u8 *)&f)[(data[i] | data[i + 1] << 8) % sizeof(f)] = data[i + 2];
	parse((const u8 *)&f, sizeof(f));
	return 0;
}
