/*
 * Packets of gdb's remote serial protocol.
 *
 * "Debugging with GDB", appendix "gdb Remote Serial Protocol", sections Overview and
 * Packet Acknowledgment: $data#checksum, } escapes, + and - answer. Missing: run-length
 * encoding, notifications, the old sequence numbers. No state but the caller's.
 */
#include "control/gdb_packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"

#define ESCAPE '}'

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* ---- from the wire ---- */

static void begin(struct gdb_packet *p)
{
	p->state = GDB_DATA;
	p->sum = 0;
	p->len = 0;
	p->too_long = false;
}

static void take(struct gdb_packet *p, u8 c)
{
	if (p->len == GDB_PACKET_MAX)
		p->too_long = true;
	else
		p->data[p->len++] = (char)c;
}

static enum gdb_event finish(struct gdb_packet *p, bool good)
{
	p->state = GDB_IDLE;
	p->data[p->len] = 0;
	if (!good)
		return GDB_BAD;
	return p->too_long ? GDB_LONG : GDB_PACKET;
}

static enum gdb_event idle_byte(struct gdb_packet *p, u8 c)
{
	switch (c) {
	case '$': begin(p); return GDB_NOTHING;
	case '-': return GDB_NAK;
	case 3: return GDB_INTERRUPT;
	default: return GDB_NOTHING;
	}
}

/* Inside of a packet; a $ can only be the beginning of another. */
static void data_byte(struct gdb_packet *p, u8 c)
{
	if (c == '$') {
		begin(p);
		return;
	}
	if (c == '#') {
		p->state = GDB_SUM1;
		return;
	}
	p->sum = (u8)(p->sum + c);
	if (p->state == GDB_ESCAPED) {
		p->state = GDB_DATA;
		take(p, c ^ 0x20);
	} else if (c == ESCAPE) {
		p->state = GDB_ESCAPED;
	} else {
		take(p, c);
	}
}

enum gdb_event gdb_packet_byte(struct gdb_packet *p, u8 c)
{
	int d;

	switch (p->state) {
	case GDB_IDLE: return idle_byte(p, c);
	case GDB_SUM1:
		d = digit((char)c);
		if (d < 0)
			return finish(p, false);
		p->want = (u8)(d << 4);
		p->state = GDB_SUM2;
		return GDB_NOTHING;
	case GDB_SUM2:
		d = digit((char)c);
		return finish(p, d >= 0 && (p->want | d) == p->sum);
	default: data_byte(p, c); return GDB_NOTHING;
	}
}

/* ---- to the wire ---- */

size_t gdb_wrap(const char *data, size_t len, char *out)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;
	u8 sum = 0;

	out[n++] = '$';
	for (size_t i = 0; i < len; i++) {
		char c = data[i];

		if (c == '$' || c == '#' || c == ESCAPE || c == '*') {
			out[n++] = ESCAPE;
			c ^= 0x20;
		}
		out[n++] = c;
	}
	for (size_t i = 1; i < n; i++)
		sum = (u8)(sum + (u8)out[i]);
	out[n++] = '#';
	out[n++] = hex[sum >> 4];
	out[n++] = hex[sum & 15];
	return n;
}

void gdb_text_clear(struct gdb_text *t)
{
	t->len = 0;
	t->data[0] = 0;
	t->full = false;
}

void gdb_text_bytes(struct gdb_text *t, const void *data, size_t len)
{
	if (len > GDB_PACKET_MAX - t->len) {
		t->full = true;
		return;
	}
	memcpy(t->data + t->len, data, len);
	t->len += len;
	t->data[t->len] = 0;
}

void gdb_text_add(struct gdb_text *t, const char *fmt, ...)
{
	size_t room = sizeof(t->data) - t->len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->data + t->len, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room) {
		t->data[t->len] = 0;
		t->full = true;
		return;
	}
	t->len += (size_t)n;
}

void gdb_text_hex(struct gdb_text *t, const void *data, size_t len)
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		u8 c = ((const u8 *)data)[i];
		char two[2] = { hex[c >> 4], hex[c & 15] };

		gdb_text_bytes(t, two, 2);
	}
}

/* ---- parsing ---- */

bool gdb_hex(const char **s, u64 *val)
{
	unsigned n = 0;

	*val = 0;
	for (; digit(**s) >= 0; (*s)++) {
		if (++n > 16)
			return false;
		*val = *val << 4 | (u64)digit(**s);
	}
	return n > 0;
}

bool gdb_char(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

bool gdb_hex_bytes(const char **s, u8 *buf, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int hi = digit((*s)[0]), lo = hi < 0 ? -1 : digit((*s)[1]);

		if (lo < 0)
			return false;
		buf[i] = (u8)(hi << 4 | lo);
		*s += 2;
	}
	return true;
}

bool gdb_thread(const char **s, i64 *thread)
{
	u64 n;

	if (gdb_char(s, '-')) {
		*thread = -1;
		return gdb_char(s, '1');
	}
	if (!gdb_hex(s, &n) || n > INT32_MAX)
		return false;
	*thread = (i64)n;
	return true;
}
