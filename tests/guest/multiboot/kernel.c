/*
 * A multiboot kernel that says what it found, one line each on COM1, and then does what
 * its command line asks for: exit=N, poweroff, triple, reset, spin.
 *
 * Multiboot Specification 0.6.96 sections 3.2 and 3.3; QEMU docs/specs/fw_cfg. With FLAT
 * it has the address fields, for a file that is not ELF.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef FLAT
#define HEADER_FLAGS "0x10003"
#define ADDRESSES    ".long header, image_start, image_end, bss_end, start\n"
#else
#define HEADER_FLAGS "0x3"
#define ADDRESSES
#endif

__asm__(".section .header, \"ax\"\n"
	"header:\t.long 0x1badb002, " HEADER_FLAGS ", -(0x1badb002 + " HEADER_FLAGS
	")\n\t" ADDRESSES ".globl start\n"
	"start:\n\t"
	/* The state first, before anything changes it. */
	"mov %esp, entry_esp\n\t"
	"pushf\n\tpop entry_flags\n\t"
	"mov %eax, entry_eax\n\t"
	"mov %cs, entry_seg\n\t"
	"mov %ds, entry_seg + 2\n\t"
	"mov %es, entry_seg + 4\n\t"
	"mov %fs, entry_seg + 6\n\t"
	"mov %gs, entry_seg + 8\n\t"
	"mov %ss, entry_seg + 10\n\t"
	"mov %cr0, %eax\n\tmov %eax, entry_cr0\n\t"
	"mov $stack + 16384, %esp\n\t"
	"cld\n\t"
	"push %ebx\n\t"
	"call kernel_main\n"
	"1:\thlt\n\tjmp 1b\n"
	/* Where further CPUs start, copied to page 0: counts itself, and halts. */
	".globl ap_start, ap_end\n"
	".code16\n"
	"ap_start:\tcs lock incw ap_count - ap_start\n"
	"1:\tcli\n\thlt\n\tjmp 1b\n"
	"ap_count:\t.word 0\n"
	"ap_end:\n"
	".code32\n"
	".text\n");

u32 entry_eax, entry_esp, entry_flags, entry_cr0;
u16 entry_seg[6];
u8 stack[16384] __attribute__((aligned(16)));
extern u8 image_start[], bss_end[], ap_start[], ap_end[];

struct info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	u32 syms[4], mmap_length, mmap_addr, drives[2], config, loader_name;
};

struct mod {
	u32 start, end, string, zero;
};

struct mmap {
	u32 size;
	u64 base, len;
	u32 type;
} __attribute__((packed));

/* ---- ports and printing ---- */

static void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static void outl(u16 port, u32 v)
{
	/* It may start DMA. */
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static u32 inl(u16 port)
{
	u32 v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void put(const char *s)
{
	for (; *s; s++)
		outb(0x3f8, (u8)*s);
}

static void put_hex(u32 v)
{
	char buf[9], *p = buf + 8;

	*p = 0;
	do
		*--p = "0123456789abcdef"[v & 15];
	while (v >>= 4);
	put(p);
}

static void say(const char *what, u32 v)
{
	put(what);
	put(" ");
	put_hex(v);
	put("\n");
}

static void say_text(const char *what, const char *text)
{
	put(what);
	put(" [");
	put(text);
	put("]\n");
}

static int same(const char *a, const char *b, u32 n)
{
	while (n--)
		if (*a++ != *b++)
			return 0;
	return 1;
}

/* What follows 'word' on the command line, or NULL. */
static const char *option(const char *line, const char *word)
{
	u32 n = 0;

	while (word[n])
		n++;
	for (; *line; line++) {
		u32 i = 0;

		while (i < n && line[i] == word[i])
			i++;
		if (i == n && line[-1] == ' ')
			return line + n;
	}
	return 0;
}

/* ---- entry and information ---- */

static int outside(u32 addr)
{
	return addr >= 0x1000 && (addr < (u32)image_start || addr >= (u32)bss_end);
}

static void say_entry(const struct info *info)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) gdtr;

	say("eax", entry_eax);
	say("cr0", entry_cr0 & 0x80000001);
	say("if_vm", entry_flags & 0x20200);
	for (u32 i = 0; i < 6; i++) {
		u32 limit = 0, ar = 0;

		__asm__("lsl %1, %0" : "=r"(limit) : "r"((u32)entry_seg[i]));
		__asm__("lar %1, %0" : "=r"(ar) : "r"((u32)entry_seg[i]));
		if (limit != 0xffffffff || (ar & 0xc0f000) != 0xc09000)
			say("bad segment", i);
	}
	__asm__("sgdt %0" : "=m"(gdtr));
	say("info_outside", outside((u32)info) && outside(info->cmdline) &&
				    outside(info->mmap_addr) && outside(gdtr.base) &&
				    outside(entry_esp - 4));
	/* A20: 1 MiB and 0 are not the same. */
	*(volatile u32 *)0x100000 = 0x12345678;
	*(volatile u32 *)0 = 0;
	say("a20", *(volatile u32 *)0x100000);
}

static void say_info(const struct info *info)
{
	const struct mod *mod = (const struct mod *)info->mods_addr;

	say("flags", info->flags & 0x24d);
	say("mem_lower", info->mem_lower);
	say("mem_upper", info->mem_upper);
	say_text("loader", (const char *)info->loader_name);
	say_text("cmdline", (const char *)info->cmdline);
	say("mods", info->mods_count);
	for (u32 i = 0; i < info->mods_count; i++) {
		const u8 *p = (const u8 *)mod[i].start;
		u32 sum = 0;

		while (p < (const u8 *)mod[i].end)
			sum += *p++;
		say_text("mod", (const char *)mod[i].string);
		say("mod_len", mod[i].end - mod[i].start);
		say("mod_sum", sum);
		say("mod_place", outside(mod[i].start) && !(mod[i].start & 0xfff));
	}
	for (u32 at = 0; at < info->mmap_length;) {
		const struct mmap *m = (const struct mmap *)(info->mmap_addr + at);

		put("mmap ");
		put_hex((u32)m->base);
		say("", (u32)m->len);
		at += m->size + 4;
	}
}

/* ---- fw_cfg ---- */

static u32 fw_read(u16 key, u32 bytes)
{
	u32 v = 0;

	outw(0x510, key);
	for (u32 i = 0; i < bytes; i++)
		v |= (u32)inb(0x511) << (8 * i);
	return v;
}

static u32 swap(u32 v)
{
	return __builtin_bswap32(v);
}

static u32 fw_dma(u32 control, u32 len, void *to)
{
	static volatile u32 request[4];

	request[0] = swap(control);
	request[1] = swap(len);
	request[2] = 0;
	request[3] = swap((u32)to);
	outl(0x514, 0);
	outl(0x518, swap((u32)request));
	return swap(request[0]);
}

static void say_fw_cfg(int hostile)
{
	static struct {
		u32 size;
		u16 key, zero;
		char name[56];
	} files[64];
	static char text[64];
	u32 count = 0;
	u16 cpus = 0;

	say("fw_signature", fw_read(0, 4));
	say("fw_id", fw_read(1, 4));
	say("fw_ram", fw_read(3, 4));
	say("fw_cpus", fw_read(5, 2));
	outb(0x70, 0x5f); /* where a PC's set-up has the count, less one */
	say("cmos_cpus", inb(0x71) + 1u);
	say("fw_dma_signature", inl(0x514));
	say("fw_dma_error", fw_dma(5 << 16 | 8 | 2, 2, &cpus));
	say("fw_dma_cpus", cpus);
	if (hostile) {
		/* To memory that is not there, to a chip, for longer than anything is. */
		say("fw_dma_nowhere", fw_dma(5 << 16 | 8 | 2, 2, (void *)0xd0000000));
		say("fw_dma_ioapic", fw_dma(5 << 16 | 8 | 2, 2, (void *)0xfec00000));
		say("fw_dma_long", fw_dma(5 << 16 | 8 | 2, 0xfff00000, text));
		say("fw_dma_write", fw_dma(5 << 16 | 8 | 16, 2, &cpus));
	}
	fw_dma(0x19 << 16 | 8 | 2, 4, &count);
	count = swap(count);
	fw_dma(2, count * 64, files);
	for (u32 i = 0; i < count; i++) {
		u32 n = swap(files[i].size);

		if (!same(files[i].name, "opt/", 4) || n >= sizeof(text))
			continue;
		fw_dma((u32)(u16)(files[i].key << 8 | files[i].key >> 8) << 16 | 8 | 2, n,
		       text);
		text[n] = 0;
		say_text(files[i].name, text);
	}
}

/* ---- CPUID ---- */

static void cpuid(u32 leaf, u32 *r)
{
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "a"(leaf), "c"(0));
}

static void say_cpuid(void)
{
	u32 r[4], name[4];

	cpuid(0, r);
	name[0] = r[1];
	name[1] = r[3];
	name[2] = r[2];
	name[3] = 0;
	say_text("vendor", (const char *)name);
	say("level", r[0]);
	cpuid(1, r);
	say("signature", r[0]);
	say("features_c", r[2]);
	say("features_d", r[3]);
	cpuid(0x80000000, r);
	say("xlevel", r[0]);
	cpuid(0x80000001, r);
	say("xfeatures_c", r[2]);
	say("xfeatures_d", r[3]);
}

/* ---- other devices ---- */

static void say_testdev(void)
{
	volatile u32 *mem = (volatile u32 *)0xff000000;

	outl(0xe0, 0x11223344);
	outb(0xe1, 0x55);
	say("latch", inl(0xe0));
	say("latch_bytes", inl(0xe8));
	outl(0xe4, 0x400000);
	mem[3] = 0xcafe;
	say("scratch", mem[3]);
	/* GSI 5, seen by the PIC: unmasked by nobody, but requested. */
	outb(0x2005, 1);
	outb(0x20, 0x0a);
	say("irr", inb(0x20) & 0x20);
	outb(0x2005, 0);
}

static void start_cpus(u32 count)
{
	volatile u32 *apic = (volatile u32 *)0xfee00000;
	volatile u16 *started;
	u8 *to = 0;

	__asm__("" : "+r"(to)); /* page 0 is a place like any other */
	for (u32 i = 0; i < (u32)(ap_end - ap_start); i++)
		to[i] = ap_start[i];
	started = (volatile u16 *)(to + (ap_end - ap_start) - 2);
	apic[0xf0 / 4] = 0x1ff;
	apic[0x300 / 4] = 0xc4500;
	apic[0x300 / 4] = 0xc4600; /* page 0 */
	for (u32 i = 0; i < 10000000 && *started != count - 1; i++)
		inb(0x80);
	say("started", *started + 1u);
}

static void end(const char *line)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) none = { 0, 0 };
	const char *digits = option(line, "exit=");
	u32 n = 0;

	if (digits) {
		while (*digits >= '0' && *digits <= '9')
			n = n * 10 + (u32)(*digits++ - '0');
		outl(0xf4, n);
		put("not ended\n");
	}
	if (option(line, "triple"))
		__asm__ volatile("lidt %0\n\tud2" : : "m"(none));
	if (option(line, "reset"))
		outb(0xcf9, 6);
	if (option(line, "poweroff"))
		outw(0x604, 7 << 10 | 1 << 13);
}

void kernel_main(const struct info *info);

void kernel_main(const struct info *info)
{
	const char *line = (const char *)info->cmdline;

	say_entry(info);
	say_info(info);
	say_fw_cfg(option(line, "hostile") != 0);
	if (option(line, "cpuid"))
		say_cpuid();
	if (option(line, "testdev"))
		say_testdev();
	if (option(line, "pit")) {
		outb(0x43, 0xe2); /* read back: status of counter 0 */
		say("pit", inb(0x40));
		say("kbd", inb(0x64));
		say("hpet", *(volatile u32 *)0xfed00000);
	}
	if (option(line, "debugcon")) {
		say("e9", inb(0xe9));
		outb(0xe9, 'D');
		outb(0xe9, '\n');
	}
	if (fw_read(5, 2) > 1)
		start_cpus(fw_read(5, 2));
	put("done\n");
	end(line);
}
