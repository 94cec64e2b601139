/*
 * The benchmark kernels: small programs in one binary, each with one subject.
 *
 * `kernel NAME N` runs one N times and prints what it took. The work and the result
 * depend on N only, so that the sums of two machines must be equal.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct kernel {
	const char *name;
	/* Do the work N times; a sum of the results, or leave through give_up() or
	 * skip(). */
	u64 (*run)(u64 n);
};

/* One list per file, ended by a NULL name. */
extern const struct kernel integer_kernels[], float_kernels[], memory_kernels[];
extern const struct kernel path_kernels[], process_kernels[], thread_kernels[];

/* Say why and exit: with 1, or with 77, which means that this CPU cannot do it. */
_Noreturn void give_up(const char *what);
_Noreturn void skip(const char *why);

u64 now_ns(void); /* CLOCK_MONOTONIC */

/* Anonymous memory that is touched already. */
void *pages(size_t size);

/* A number to print beside the times, in the order of the calls. */
void note(const char *name, u64 val);

/* Xorshift (Marsaglia 2003): the same sequence everywhere. State must not be 0. */
static inline u64 next_random(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* One more number into a sum. */
static inline u64 mix(u64 sum, u64 val)
{
	return (sum ^ val) * 0x9e3779b97f4a7c15u + (sum >> 29);
}

/* The compiler must assume that memory, and this pointer, are used here. */
static inline void use(const void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}
