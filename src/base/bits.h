/* Bits, fields, alignment and unaligned little-endian access. */
#pragma once

#include "base/types.h"

#define BIT(n)       (UINT64_C(1) << (n))
#define BITS(hi, lo) ((~UINT64_C(0) >> (63 - (hi))) & (~UINT64_C(0) << (lo)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))
#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define container_of(ptr, type, member)                                                  \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* The field (hi..lo) of v, moved down to bit 0. */
static inline u64 bits_get(u64 v, unsigned hi, unsigned lo)
{
	return (v & BITS(hi, lo)) >> lo;
}

/* v with its field (hi..lo) replaced by the low bits of x. */
static inline u64 bits_put(u64 v, unsigned hi, unsigned lo, u64 x)
{
	return (v & ~BITS(hi, lo)) | ((x << lo) & BITS(hi, lo));
}

static inline u64 align_down(u64 v, u64 a)
{
	return v & ~(a - 1);
}

static inline u64 align_up(u64 v, u64 a)
{
	return (v + a - 1) & ~(a - 1);
}

static inline bool is_pow2(u64 v)
{
	return v && !(v & (v - 1));
}

/* All ones in the low 'size' bytes; size is 1, 2, 4 or 8. */
static inline u64 size_mask(unsigned size)
{
	return ~UINT64_C(0) >> (64 - 8 * size);
}

/*
 * Little-endian loads and stores of 1, 2, 4 or 8 bytes at any alignment. One
 * host access each (hence volatile), so an aligned access is atomic as the guest expects.
 */
typedef u16 __attribute__((may_alias, aligned(1))) ua16;
typedef u32 __attribute__((may_alias, aligned(1))) ua32;
typedef u64 __attribute__((may_alias, aligned(1))) ua64;

static inline u64 le_load(const void *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile u8 *)p;
	case 2: return *(const volatile ua16 *)p;
	case 4: return *(const volatile ua32 *)p;
	default: return *(const volatile ua64 *)p;
	}
}

static inline void le_store(void *p, u64 v, unsigned size)
{
	switch (size) {
	case 1: *(volatile u8 *)p = (u8)v; break;
	case 2: *(volatile ua16 *)p = (u16)v; break;
	case 4: *(volatile ua32 *)p = (u32)v; break;
	default: *(volatile ua64 *)p = v; break;
	}
}
