/*
 * Output of the guests on COM1, and the end by ACPI.
 *
 * 16550 data sheet; ACPI 6.3 section 4.8.3.2 (PM1 control).
 */
#include <stdarg.h>

#include "rt.h"

#define COM1   0x3f8
#define PM_CNT 0x604
#define SLP_S5 (7 << 10 | 1 << 13)

struct out {
	char *p, *end; /* into memory, or NULL: to COM1 */
};

static void put(struct out *o, char c)
{
	if (o->p) {
		if (o->p < o->end)
			*o->p++ = c;
		return;
	}
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, (u8)c);
}

static void put_string(struct out *o, const char *s)
{
	for (; *s; s++)
		put(o, *s);
}

static void put_hex(struct out *o, u64 v)
{
	unsigned shift = 60;

	while (shift && !(v >> shift))
		shift -= 4;
	for (;; shift -= 4) {
		put(o, "0123456789abcdef"[v >> shift & 15]);
		if (!shift)
			return;
	}
}

static void put_decimal(struct out *o, u32 v)
{
	char buf[12];
	unsigned n = sizeof(buf);

	buf[--n] = 0;
	do
		buf[--n] = (char)('0' + v % 10);
	while (v /= 10);
	put_string(o, buf + n);
}

/* %s %c %d %u %x, and %x with l or ll. */
static void put_args(struct out *o, const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		unsigned longs = 0;
		int d;

		if (*fmt != '%') {
			put(o, *fmt);
			continue;
		}
		while (*++fmt == 'l')
			longs++;
		switch (*fmt) {
		case 's': put_string(o, va_arg(args, const char *)); break;
		case 'c': put(o, (char)va_arg(args, int)); break;
		case 'x':
			put_hex(o, longs == 0   ? va_arg(args, unsigned)
				   : longs == 1 ? va_arg(args, unsigned long)
						: va_arg(args, unsigned long long));
			break;
		case 'u': put_decimal(o, va_arg(args, unsigned)); break;
		case 'd':
			d = va_arg(args, int);
			if (d < 0)
				put(o, '-');
			put_decimal(o, d < 0 ? -(u32)d : (u32)d);
			break;
		default: put(o, *fmt); break;
		}
	}
}

void print(const char *fmt, ...)
{
	struct out o = { NULL, NULL };
	va_list args;

	va_start(args, fmt);
	put_args(&o, fmt, args);
	va_end(args);
}

void print_to(char *buf, size_t size, const char *fmt, va_list args)
{
	struct out o = { buf, buf + size - 1 };

	put_args(&o, fmt, args);
	*o.p = 0;
}

void power_off(void)
{
	for (;;)
		outw(PM_CNT, SLP_S5);
}
