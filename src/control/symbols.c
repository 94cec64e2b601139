/*
 * Symbol files: lines "ADDRESS TYPE NAME [MODULE]" as nm(1) and proc_kallsyms print them,
 * or ELF: System V ABI, "Symbol Table"; 64 bits, little-endian.
 *
 * Functions alone are kept. The file may be anything: every offset is checked, and names
 * that could not be printed are left out. What is missing: ELF files of 32 bits, sizes of
 * functions, data. Any thread, no state.
 */
#include "control/symbols.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"

#define BYTES_MAX GiB(1)
/* What is further from a beginning is no part of that function. */
#define REACH     MiB(1)

struct entry {
	u64 addr;
	const char *name; /* in 'names' while there is no more to come */
	size_t at;
};

struct symbols {
	struct entry *entry; /* ascending, one for each address */
	size_t count, cap;
	char *names;
	size_t names_len, names_cap;
};

static bool printable(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == '"' || name[i] == '\\')
			return false;
	return len != 0;
}

/* 'array' with room for 'need' of 'size' bytes. NULL: no memory, and it is as it was. */
static void *grown(void *array, size_t *cap, size_t need, size_t size)
{
	if (need <= *cap)
		return array;
	need = MAX(need, *cap * 2);
	array = reallocarray(array, need, size);
	if (array)
		*cap = need;
	return array;
}

/* False: no memory. */
static bool add(struct symbols *s, u64 addr, const char *name, size_t len)
{
	struct entry *entry;
	char *names;

	if (!printable(name, len))
		return true;
	entry = grown(s->entry, &s->cap, s->count + 1, sizeof(*entry));
	if (!entry)
		return false;
	s->entry = entry;
	names = grown(s->names, &s->names_cap, s->names_len + len + 1, 1);
	if (!names)
		return false;
	s->names = names;
	s->entry[s->count++] = (struct entry){ .addr = addr, .at = s->names_len };
	memcpy(s->names + s->names_len, name, len);
	s->names[s->names_len + len] = 0;
	s->names_len += len + 1;
	return true;
}

/* Of several names of one place one without underscores in front comes first. */
static int by_address(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	if ((*x->name == '_') != (*y->name == '_'))
		return *x->name == '_' ? 1 : -1;
	return x->at < y->at ? -1 : x->at > y->at;
}

static void sort(struct symbols *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->count; i++)
		s->entry[i].name = s->names + s->entry[i].at;
	if (s->count)
		qsort(s->entry, s->count, sizeof(*s->entry), by_address);
	for (size_t i = 0; i < s->count; i++)
		if (!n || s->entry[n - 1].addr != s->entry[i].addr)
			s->entry[n++] = s->entry[i];
	s->count = n;
}

static int no_memory(const char *name, struct error *err)
{
	return error_set(err, -ENOMEM, "-symbols %s: out of memory", name);
}

/* ---- text ---- */

static const char *word_end(const char *p, const char *end)
{
	while (p < end && *p != ' ' && *p != '\t')
		p++;
	return p;
}

/* "ffffffff81000000 T _text". False: it is no such line. */
static bool split(const char *p, const char *end, u64 *addr, char *type,
		  const char **name, size_t *len)
{
	const char *number = p;

	*addr = 0;
	for (; p < end && p - number < 16; p++) {
		unsigned digit = *p >= '0' && *p <= '9'   ? (unsigned)(*p - '0')
				 : *p >= 'a' && *p <= 'f' ? (unsigned)(*p - 'a' + 10)
				 : *p >= 'A' && *p <= 'F' ? (unsigned)(*p - 'A' + 10)
							  : 16;

		if (digit == 16)
			break;
		*addr = *addr << 4 | digit;
	}
	if (p == number || end - p < 4 || p[0] != ' ' || p[2] != ' ')
		return false;
	*type = p[1];
	*name = p + 3;
	*len = (size_t)(word_end(*name, end) - *name);
	return *len != 0;
}

static int parse_text(struct symbols *s, const char *p, const char *end, const char *file,
		      struct error *err)
{
	unsigned line = 0;
	bool any = false;

	while (p < end) {
		const char *stop = memchr(p, '\n', (size_t)(end - p)), *name;
		size_t len;
		char type;
		u64 addr;

		line++;
		if (!stop)
			stop = end;
		if (!split(p, stop, &addr, &type, &name, &len))
			return error_set(err, -EINVAL,
					 "-symbols %s: line %u is not ADDRESS TYPE NAME, "
					 "and it is "
					 "no ELF file of 64 bits",
					 file, line);
		any |= addr != 0;
		if (memchr("tTwW", type, 4) && addr && !add(s, addr, name, len))
			return no_memory(file, err);
		p = stop + 1;
	}
	if (line && !any)
		return error_set(
			err, -EINVAL,
			"-symbols %s: all addresses are 0: kernel.kptr_restrict hid them",
			file);
	return 0;
}

/* ---- ELF ---- */

/* A part of the file as a table, copied out as it need not be aligned. */
struct table {
	const u8 *data;
	u64 len;
};

static bool take(const struct table *file, u64 off, u64 len, struct table *t)
{
	if (off > file->len || len > file->len - off)
		return false;
	*t = (struct table){ file->data + off, len };
	return true;
}

static bool header(const struct table *heads, u64 index, Elf64_Shdr *h)
{
	struct table t;

	if (index >= heads->len / sizeof(*h) ||
	    !take(heads, index * sizeof(*h), sizeof(*h), &t))
		return false;
	memcpy(h, t.data, sizeof(*h));
	return true;
}

static bool is_function(const struct table *heads, const Elf64_Sym *sym)
{
	unsigned type = ELF64_ST_TYPE(sym->st_info);
	Elf64_Shdr in;

	if (type == STT_FUNC)
		return sym->st_value != 0;
	/* Assembly says no more than the section. */
	return type == STT_NOTYPE && sym->st_value && header(heads, sym->st_shndx, &in) &&
	       (in.sh_flags & SHF_EXECINSTR);
}

static bool add_table(struct symbols *s, const struct table *heads,
		      const struct table *syms, const struct table *names)
{
	for (u64 off = 0; off + sizeof(Elf64_Sym) <= syms->len;
	     off += sizeof(Elf64_Sym)) {
		const char *name;
		Elf64_Sym sym;

		memcpy(&sym, syms->data + off, sizeof(sym));
		if (sym.st_name >= names->len || !is_function(heads, &sym))
			continue;
		name = (const char *)names->data + sym.st_name;
		if (!add(s, sym.st_value, name, strnlen(name, names->len - sym.st_name)))
			return false;
	}
	return true;
}

static int parse_elf(struct symbols *s, const u8 *data, size_t len, const char *name,
		     struct error *err)
{
	struct table file = { data, len }, heads, syms, names;
	Elf64_Shdr h, strings;
	Elf64_Ehdr eh;

	if (len < sizeof(eh))
		return error_set(err, -EINVAL, "-symbols %s: the ELF header is cut off",
				 name);
	memcpy(&eh, data, sizeof(eh));
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh.e_machine != EM_X86_64)
		return error_set(err, -EINVAL,
				 "-symbols %s: an ELF file, but not for x86-64", name);
	if (eh.e_shentsize != sizeof(h) ||
	    !take(&file, eh.e_shoff, (u64)eh.e_shnum * sizeof(h), &heads))
		return error_set(err, -EINVAL,
				 "-symbols %s: the section headers are cut off", name);
	for (u64 i = 0; header(&heads, i, &h); i++) {
		if (h.sh_type != SHT_SYMTAB)
			continue;
		if (!header(&heads, h.sh_link, &strings) ||
		    !take(&file, h.sh_offset, h.sh_size, &syms) ||
		    !take(&file, strings.sh_offset, strings.sh_size, &names))
			return error_set(err, -EINVAL,
					 "-symbols %s: its symbol table is cut off",
					 name);
		if (!add_table(s, &heads, &syms, &names))
			return no_memory(name, err);
	}
	return 0;
}

/* ---- all ---- */

struct symbols *symbols_parse(const u8 *data, size_t len, const char *name,
			      struct error *err)
{
	struct symbols *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		ret = no_memory(name, err);
	else if (len >= SELFMAG && !memcmp(data, ELFMAG, SELFMAG))
		ret = parse_elf(s, data, len, name, err);
	else
		ret = parse_text(s, (const char *)data, (const char *)data + len, name,
				 err);
	if (!ret && !s->count)
		ret = error_set(err, -EINVAL, "-symbols %s: there are no functions in it",
				name);
	if (ret) {
		symbols_free(s);
		return NULL;
	}
	sort(s);
	return s;
}

/* Files of proc have no size. -errno. */
static int read_all(int fd, u8 **data, size_t *len)
{
	size_t cap = 0;

	for (;;) {
		ssize_t n;
		u8 *bigger;

		if (*len == BYTES_MAX)
			return -EFBIG;
		bigger = grown(*data, &cap, *len + KiB(64), 1);
		if (!bigger)
			return -ENOMEM;
		*data = bigger;
		n = read(fd, *data + *len, MIN(cap - *len, BYTES_MAX - *len));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : 0;
		*len += (size_t)n;
	}
}

struct symbols *symbols_load(const char *path, struct error *err)
{
	/* One that waits for a writer is no file. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret;
	struct symbols *s = NULL;
	u8 *data = NULL;
	size_t len = 0;
	struct stat st;

	if (fd < 0) {
		error_set(err, -errno, "-symbols %s: %s", path, strerror(errno));
		return NULL;
	}
	if (!fstat(fd, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
		error_set(err, -EINVAL, "-symbols %s: not a regular file", path);
		goto out;
	}
	ret = read_all(fd, &data, &len);
	if (ret)
		error_set(err, ret, "-symbols %s: %s", path, strerror(-ret));
	else
		s = symbols_parse(data, len, path, err);
out:
	free(data);
	close(fd);
	return s;
}

void symbols_free(struct symbols *s)
{
	if (!s)
		return;
	free(s->entry);
	free(s->names);
	free(s);
}

bool symbols_find(const struct symbols *s, u64 addr, struct symbol *found)
{
	size_t lo = 0, hi = s->count;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (s->entry[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || addr - s->entry[lo - 1].addr >= REACH)
		return false;
	*found = (struct symbol){ s->entry[lo - 1].addr, s->entry[lo - 1].name };
	return true;
}

bool symbols_address(const struct symbols *s, const char *name, u64 *addr)
{
	for (size_t i = 0; i < s->count; i++) {
		if (strcmp(s->entry[i].name, name))
			continue;
		*addr = s->entry[i].addr;
		return true;
	}
	return false;
}
