/*
 * Packets of gdb's remote serial protocol: bytes to packets and back, and the numbers in
 * them. Knows no commands. What comes in may be anything.
 */
#pragma once

#include "base/types.h"

/* The most that a packet holds, either way, before it is escaped: PacketSize. */
#define GDB_PACKET_MAX 0x4000

enum gdb_event {
	GDB_NOTHING,   /* more bytes are needed */
	GDB_PACKET,    /* p->data has one */
	GDB_BAD,       /* its checksum is wrong */
	GDB_LONG,      /* it is longer than GDB_PACKET_MAX */
	GDB_NAK,       /* the last one sent is wanted again */
	GDB_INTERRUPT, /* Ctrl-C */
};

struct gdb_packet {
	enum { GDB_IDLE, GDB_DATA, GDB_ESCAPED, GDB_SUM1, GDB_SUM2 } state;
	u8 sum, want;
	bool too_long;
	size_t len;
	char data[GDB_PACKET_MAX + 1]; /* without escapes, and a 0 behind */
};

enum gdb_event gdb_packet_byte(struct gdb_packet *p, u8 c);

/* The packet around 'len' bytes, escaped. 'out' has room for gdb_wrapped_max(len). */
size_t gdb_wrap(const char *data, size_t len, char *out);
static inline size_t gdb_wrapped_max(size_t len)
{
	return 2 * len + 4;
}

/* A text in the making; what does not fit in is dropped, and 'full' says so. */
struct gdb_text {
	char data[GDB_PACKET_MAX + 1];
	size_t len;
	bool full;
};

void gdb_text_clear(struct gdb_text *t);
void gdb_text_bytes(struct gdb_text *t, const void *data, size_t len);
__attribute__((format(printf, 2, 3))) void gdb_text_add(struct gdb_text *t,
							const char *fmt, ...);
/* Two hexadecimal digits a byte. */
void gdb_text_hex(struct gdb_text *t, const void *data, size_t len);

/* ---- parsing: *s moves behind what was taken; false leaves it somewhere ---- */

/* One to sixteen hexadecimal digits. */
bool gdb_hex(const char **s, u64 *val);
/* The character must be next. */
bool gdb_char(const char **s, char c);
/* Exactly n bytes of two digits. */
bool gdb_hex_bytes(const char **s, u8 *buf, size_t n);
/* A thread: a number, 0 for any, -1 for all. */
bool gdb_thread(const char **s, i64 *thread);
