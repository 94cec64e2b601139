/* Names of a guest's functions, from each kind of file, and from files that are none. */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "control/symbols.h"

static struct symbols *parse(const void *data, size_t len)
{
	struct error err = { 0 };
	struct symbols *s = symbols_parse(data, len, "f", &err);

	if (!s)
		fail_msg("%s", err.msg);
	return s;
}

static struct symbols *text(const char *lines)
{
	return parse(lines, strlen(lines));
}

static void refused(const void *data, size_t len, const char *why)
{
	struct error err = { 0 };

	assert_null(symbols_parse(data, len, "f", &err));
	if (!strstr(err.msg, why) || strncmp(err.msg, "-symbols f: ", 12))
		fail_msg("'%s' instead of '%s'", err.msg, why);
}

static void is_at(const struct symbols *s, u64 addr, const char *name, u64 begin)
{
	struct symbol found;

	assert_true(symbols_find(s, addr, &found));
	assert_string_equal(found.name, name);
	assert_true(found.addr == begin);
}

static bool is_nowhere(const struct symbols *s, u64 addr)
{
	struct symbol found;

	return !symbols_find(s, addr, &found);
}

static void an_address_is_in_the_function_before_it(void **state)
{
	struct symbols *s = text("ffffffff81000200 t memcpy\n"
				 "FFFFFFFF81000000 T startup\n"
				 "ffffffffc0000000 t probe\t[virtio_net]\n"
				 "ffffffff81000100 W weak.isra.0");

	(void)state;
	is_at(s, 0xffffffff81000000, "startup", 0xffffffff81000000);
	is_at(s, 0xffffffff810000ff, "startup", 0xffffffff81000000);
	is_at(s, 0xffffffff81000100, "weak.isra.0", 0xffffffff81000100);
	is_at(s, 0xffffffff81000200, "memcpy", 0xffffffff81000200);
	is_at(s, 0xffffffffc0000010, "probe", 0xffffffffc0000000);
	assert_true(is_nowhere(s, 0xffffffff80ffffff));
	assert_true(is_nowhere(s, 0x401000));
	/* Too far from the last one to be part of it. */
	is_at(s, 0xffffffff81000200 + MiB(1) - 1, "memcpy", 0xffffffff81000200);
	assert_true(is_nowhere(s, 0xffffffff81000200 + MiB(1)));
	symbols_free(s);
}

static void data_and_names_that_cannot_be_printed_are_left_out(void **state)
{
	struct symbols *s = text("1000 T f\n2000 D data\n3000 A absolute\n"
				 "4000 t a\"b\n5000 t a\\b\n6000 t a\001b\n7000 t \x80\n"
				 "0 T zero\n");

	(void)state;
	is_at(s, 0x7fff, "f", 0x1000);
	assert_true(is_nowhere(s, 0xfff));
	symbols_free(s);
}

static void of_several_names_one_without_underscore_is_taken(void **state)
{
	struct symbols *s = text("1000 T _text\n1000 T startup_64\n1000 T later\n");
	u64 addr;

	(void)state;
	is_at(s, 0x1000, "startup_64", 0x1000);
	assert_true(symbols_address(s, "startup_64", &addr) && addr == 0x1000);
	assert_false(symbols_address(s, "startup", &addr));
	symbols_free(s);
}

static void text_that_is_no_symbol_file_is_refused(void **state)
{
	static const char *const bad[] = { "hello\n",     "1000 T\n",
					   "1000  T f\n", "1000T f\n",
					   " 1000 T f\n", "g000 T f\n",
					   "1000 TT f\n", "1000 T  f\n",
					   "\n",          "00000000000010000 T f\n" };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i], strlen(bad[i]), "line 1 is not ADDRESS TYPE NAME");
	refused("1000 T f\n2000 T g\nx", 19, "line 3 is not");
	refused("", 0, "no functions");
	refused("1000 D f\n", 9, "no functions");
	refused("0 T f\n0 T g\n", 12, "kptr_restrict");
}

/* ---- ELF ---- */

#define SYMS 6

struct file {
	Elf64_Ehdr eh;
	Elf64_Shdr sh[5]; /* null, code, data, names, symbols */
	char names[32];
	Elf64_Sym sym[SYMS];
};

static struct file elf(void)
{
	struct file f = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB },
			.e_machine = EM_X86_64,
			.e_shoff = offsetof(struct file, sh),
			.e_shentsize = sizeof(Elf64_Shdr),
			.e_shnum = 5 },
		.sh = { [1] = { .sh_type = SHT_PROGBITS, .sh_flags = SHF_EXECINSTR },
			[2] = { .sh_type = SHT_PROGBITS, .sh_flags = SHF_WRITE },
			[3] = { .sh_type = SHT_STRTAB,
				.sh_offset = offsetof(struct file, names),
				.sh_size = 32 },
			[4] = { .sh_type = SHT_SYMTAB,
				.sh_link = 3,
				.sh_offset = offsetof(struct file, sym),
				.sh_size = SYMS * sizeof(Elf64_Sym) } },
		.names = "\0main\0entry\0table\0",
		.sym = { [1] = { .st_name = 1,
				 .st_info = STT_FUNC,
				 .st_shndx = 1,
				 .st_value = 0x1000 },
			 [2] = { .st_name = 6,
				 .st_info = STT_NOTYPE,
				 .st_shndx = 1,
				 .st_value = 0x2000 },
			 [3] = { .st_name = 12,
				 .st_info = STT_NOTYPE,
				 .st_shndx = 2,
				 .st_value = 0x3000 },
			 [4] = { .st_name = 12,
				 .st_info = STT_OBJECT,
				 .st_shndx = 2,
				 .st_value = 0x4000 },
			 [5] = { .st_name = 1, .st_info = STT_FUNC, .st_shndx = 0 } },
	};

	return f;
}

static void elf_gives_functions_and_labels_in_code(void **state)
{
	struct file f = elf();
	struct symbols *s = parse(&f, sizeof(f));

	(void)state;
	is_at(s, 0x1fff, "main", 0x1000);
	is_at(s, 0x5000, "entry", 0x2000);
	assert_true(is_nowhere(s, 0xfff));
	symbols_free(s);
	/* A name that is not there, and one that goes to the end of the names. */
	f.sym[2].st_name = 32;
	memset(f.names + 1, 'x', sizeof(f.names) - 1);
	s = parse(&f, sizeof(f));
	is_at(s, 0x2000, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0x1000);
	symbols_free(s);
}

static void elf_that_is_cut_off_is_refused(void **state)
{
	struct file f = elf();

	(void)state;
	for (size_t len = 4; len < sizeof(f); len++)
		refused(&f, len, len < sizeof(f.eh) ? "header is cut off" : "cut off");
	f.sh[4].sh_offset = ~UINT64_C(0);
	refused(&f, sizeof(f), "symbol table is cut off");
	f = elf();
	f.sh[3].sh_size = ~UINT64_C(0) - 8;
	refused(&f, sizeof(f), "symbol table is cut off");
	f = elf();
	f.sh[4].sh_link = 5;
	refused(&f, sizeof(f), "symbol table is cut off");
	f = elf();
	f.eh.e_shoff = ~UINT64_C(0);
	refused(&f, sizeof(f), "section headers are cut off");
	f = elf();
	f.eh.e_shentsize = 8;
	refused(&f, sizeof(f), "section headers are cut off");
	f = elf();
	f.eh.e_ident[EI_CLASS] = ELFCLASS32;
	refused(&f, sizeof(f), "not for x86-64");
	f = elf();
	f.sh[4].sh_type = SHT_NULL;
	refused(&f, sizeof(f), "no functions");
}

static void files_that_cannot_be_read_are_named(void **state)
{
	struct error err = { 0 };

	(void)state;
	assert_null(symbols_load("/nosuch", &err));
	assert_string_equal(err.msg, "-symbols /nosuch: No such file or directory");
	err = (struct error){ 0 };
	assert_null(symbols_load("/tmp", &err));
	assert_string_equal(err.msg, "-symbols /tmp: Is a directory");
	err = (struct error){ 0 };
	assert_null(symbols_load("/dev/zero", &err));
	assert_string_equal(err.msg, "-symbols /dev/zero: not a regular file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_is_in_the_function_before_it),
		cmocka_unit_test(data_and_names_that_cannot_be_printed_are_left_out),
		cmocka_unit_test(of_several_names_one_without_underscore_is_taken),
		cmocka_unit_test(text_that_is_no_symbol_file_is_refused),
		cmocka_unit_test(elf_gives_functions_and_labels_in_code),
		cmocka_unit_test(elf_that_is_cut_off_is_refused),
		cmocka_unit_test(files_that_cannot_be_read_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
