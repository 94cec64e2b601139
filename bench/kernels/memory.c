/*
 * Memory: dependent loads in three footprints, copies, string instructions, and code that
 * writes code.
 */
#include <string.h>
#include <sys/mman.h>

#include "kernels.h"

#define LINE 64
#define KiB  ((size_t)1 << 10)
#define MiB  ((size_t)1 << 20)

/* ---- chase: each load gives the address of the next ---- */

static u64 chase(u64 n, size_t size)
{
	u8 *buf = pages(size);
	size_t lines = size / LINE, *order = pages(lines * sizeof(*order));
	u64 state = 11;
	void **p;

	/* One cycle through all lines (Sattolo 1986). */
	for (size_t i = 0; i < lines; i++)
		order[i] = i;
	for (size_t i = lines - 1; i > 0; i--) {
		size_t j = next_random(&state) % i, t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (size_t i = 0; i < lines; i++)
		*(void **)(buf + i * LINE) = buf + order[i] * LINE;
	p = (void **)buf;
	for (n *= 1000; n; n--)
		p = *p;
	return (u64)((u8 *)p - buf);
}

static u64 chase_small(u64 n)
{
	return chase(n, 16 * KiB);
}

static u64 chase_medium(u64 n)
{
	return chase(n, 1 * MiB);
}

static u64 chase_large(u64 n)
{
	return chase(n, 64 * MiB);
}

/* ---- stream: more than the caches near the core hold, 16 bytes at a time ---- */

typedef long long v2 __attribute__((vector_size(16)));

#define STREAM (4 * MiB)

static u64 stream(u64 n)
{
	v2 *from = pages(STREAM), *to = pages(STREAM);

	for (size_t i = 0; i < STREAM / 16; i++)
		from[i] = (v2){ (long long)i, -(long long)i };
	while (n--) {
		v2 *t = from;

		for (size_t i = 0; i < STREAM / 16; i += 4) {
			v2 a = from[i], b = from[i + 1], c = from[i + 2], d = from[i + 3];

			to[i] = a;
			to[i + 1] = b;
			to[i + 2] = c;
			to[i + 3] = d;
		}
		use(to);
		from = to;
		to = t;
	}
	return mix((u64)from[5][0], (u64)from[STREAM / 16 - 1][1]);
}

/* ---- movs, stos: the string instructions, as memcpy and memset in kernels use them ----
 */

static void movs(void *to, const void *from, size_t len)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
}

static void stos(void *to, u64 val, size_t len)
{
	size_t words = len / 8;

	__asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(val) : "memory");
}

static u64 movs_size(u64 n, size_t size, size_t step, size_t steps)
{
	u8 *from = pages(2 * MiB), *to = pages(2 * MiB);

	for (size_t i = 0; i < 2 * MiB; i++)
		from[i] = (u8)(i * 7);
	for (; n; n--)
		for (size_t i = 0; i < steps; i++)
			movs(to + i * step + 3, from + i * step + (n & 7), size);
	return mix(1, to[5]) + to[size - 1];
}

static u64 movs_small(u64 n)
{
	return movs_size(n, 48, 64, 1000);
}

static u64 movs_large(u64 n)
{
	return movs_size(n, 1 * MiB, 0, 1);
}

static u64 stos_size(u64 n, size_t size, size_t step, size_t steps)
{
	u8 *to = pages(2 * MiB);

	for (; n; n--)
		for (size_t i = 0; i < steps; i++)
			stos(to + i * step, n * 0x0101010101010101u, size);
	return mix(1, to[5]) + to[size - 1];
}

static u64 stos_small(u64 n)
{
	return stos_size(n, 48, 64, 1000);
}

static u64 stos_large(u64 n)
{
	return stos_size(n, 1 * MiB, 0, 1);
}

/* ---- smc: write a function, call it, write the next ---- */

static u64 smc(u64 n)
{
	/* mov eax, imm32; ret */
	static const u8 code[] = { 0xb8, 0, 0, 0, 0, 0xc3 };
	u8 *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u64 sum = 0;

	if (page == MAP_FAILED)
		give_up("mmap");
	memcpy(page, code, sizeof(code));
	while (n--) {
		u32 (*f)(void) = (u32(*)(void))(void *)page, val = (u32)n;

		memcpy(page + 1, &val, sizeof(val));
		use(page);
		sum = mix(sum, f());
	}
	return sum;
}

const struct kernel memory_kernels[] = {
	{ "chase-16k", chase_small },
	{ "chase-1m", chase_medium },
	{ "chase-64m", chase_large },
	{ "stream", stream },
	{ "movs-small", movs_small },
	{ "movs-large", movs_large },
	{ "stos-small", stos_small },
	{ "stos-large", stos_large },
	{ "smc", smc },
	{ NULL, NULL },
};
