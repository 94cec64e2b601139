/*
 * Integer kernels: loops, tables, calls, a switch, an allocator; no floating point.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* ---- sieve: byte stores with a stride, a counting loop ---- */

#define SIEVE 500000

static u64 sieve(u64 n)
{
	u8 *composite = pages(SIEVE);
	u64 sum = 0;

	while (n--) {
		u32 count = 0;

		memset(composite, 0, SIEVE);
		use(composite);
		for (u32 i = 2; i < SIEVE; i++) {
			if (composite[i])
				continue;
			count++;
			for (u64 j = (u64)i * i; j < SIEVE; j += i)
				composite[j] = 1;
		}
		sum = mix(sum, count);
	}
	return sum;
}

/* ---- hash: multiply, xor, shift over a buffer ---- */

#define HASH (64 << 10)

static u64 hash(u64 n)
{
	u64 *buf = pages(HASH), state = 1, sum = 0;

	for (size_t i = 0; i < HASH / 8; i++)
		buf[i] = next_random(&state);
	while (n--) {
		u64 a = sum, b = ~sum;

		for (size_t i = 0; i < HASH / 8; i += 2) {
			a = (a ^ buf[i]) * 0xff51afd7ed558ccdu;
			b = (b ^ buf[i + 1]) * 0xc4ceb9fe1a85ec53u;
			a ^= a >> 33;
			b ^= b >> 29;
		}
		sum = mix(a, b);
	}
	return sum;
}

/* ---- sort: unpredictable branches, recursion ---- */

#define SORT 50000

static void sort_range(u32 *lo, u32 *hi)
{
	while (hi - lo > 12) {
		u32 pivot = lo[(hi - lo) / 2];
		u32 *i = lo, *j = hi - 1;

		while (i <= j) {
			while (*i < pivot)
				i++;
			while (*j > pivot)
				j--;
			if (i <= j) {
				u32 t = *i;

				*i++ = *j;
				*j-- = t;
			}
		}
		sort_range(lo, j + 1);
		lo = i;
	}
	for (u32 *i = lo + 1; i < hi; i++) {
		u32 val = *i, *j = i;

		for (; j > lo && j[-1] > val; j--)
			*j = j[-1];
		*j = val;
	}
}

static u64 sort(u64 n)
{
	u32 *a = pages(SORT * sizeof(*a));
	u64 state = 3, sum = 0;

	while (n--) {
		for (size_t i = 0; i < SORT; i++)
			a[i] = (u32)next_random(&state);
		sort_range(a, a + SORT);
		for (size_t i = 0; i < SORT; i += 997)
			sum = mix(sum, a[i]);
	}
	return sum;
}

/* ---- crc: a chain of table loads, one byte after the other ---- */

static u64 crc(u64 n)
{
	u8 *buf = pages(HASH);
	u64 state = 5;
	u32 table[256], sum = 0;

	for (u32 i = 0; i < 256; i++) {
		u32 c = i;

		for (unsigned bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
		table[i] = c;
	}
	for (size_t i = 0; i < HASH; i++)
		buf[i] = (u8)next_random(&state);
	while (n--) {
		u32 c = ~sum;

		for (size_t i = 0; i < HASH; i++)
			c = c >> 8 ^ table[(c ^ buf[i]) & 255];
		sum = ~c;
	}
	return sum;
}

/* ---- bytecode: an interpreter's switch, indirect jumps ---- */

enum {
	BC_PUSH,
	BC_LOAD,
	BC_STORE,
	BC_ADD,
	BC_MUL,
	BC_XOR,
	BC_SHR,
	BC_LESS,
	BC_JUMPZ,
	BC_JUMP,
	BC_END
};

/* i = 0; while (i < 10000) { x = x * 31 + (x >> 7 ^ i); i = i + 1; } */
static const u16 program[] = {
	BC_PUSH,  0,        BC_STORE, 0,       BC_LOAD, 0,       BC_PUSH, 10000,
	BC_LESS,  BC_JUMPZ, 36,       BC_LOAD, 1,       BC_PUSH, 31,      BC_MUL,
	BC_LOAD,  1,        BC_PUSH,  7,       BC_SHR,  BC_LOAD, 0,       BC_XOR,
	BC_ADD,   BC_STORE, 1,        BC_LOAD, 0,       BC_PUSH, 1,       BC_ADD,
	BC_STORE, 0,        BC_JUMP,  4,       BC_END,
};

static u64 bytecode_run(const u16 *code, u64 x)
{
	u64 var[2] = { 0, x }, stack[8], *sp = stack;
	const u16 *pc = code;

	for (;;) {
		switch (*pc++) {
		case BC_PUSH: *sp++ = *pc++; break;
		case BC_LOAD: *sp++ = var[*pc++]; break;
		case BC_STORE: var[*pc++] = *--sp; break;
		case BC_ADD:
			sp--;
			sp[-1] += *sp;
			break;
		case BC_MUL:
			sp--;
			sp[-1] *= *sp;
			break;
		case BC_XOR:
			sp--;
			sp[-1] ^= *sp;
			break;
		case BC_SHR:
			sp--;
			sp[-1] >>= *sp;
			break;
		case BC_LESS:
			sp--;
			sp[-1] = sp[-1] < *sp;
			break;
		case BC_JUMPZ: pc = *--sp ? pc + 1 : code + *pc; break;
		case BC_JUMP: pc = code + *pc; break;
		default: return var[1];
		}
	}
}

static u64 bytecode(u64 n)
{
	u64 sum = 1;

	while (n--) {
		use(program);
		sum = bytecode_run(program, sum);
	}
	return sum;
}

/* ---- embedded: what small controllers do: a list, a matrix, a scanner ---- */

#define LIST   64
#define MATRIX 12

struct item {
	struct item *next;
	u16 key, val;
};

static struct item *list_reverse(struct item *list)
{
	struct item *done = NULL;

	while (list) {
		struct item *next = list->next;

		list->next = done;
		done = list;
		list = next;
	}
	return done;
}

static struct item *list_sort(struct item *list)
{
	struct item *sorted = NULL;

	while (list) {
		struct item *next = list->next, **at = &sorted;

		while (*at && (*at)->key < list->key)
			at = &(*at)->next;
		list->next = *at;
		*at = list;
		list = next;
	}
	return sorted;
}

static u64 matrix_multiply(const u16 *a, const u16 *b, u32 *c)
{
	u64 sum = 0;

	for (unsigned i = 0; i < MATRIX; i++) {
		for (unsigned j = 0; j < MATRIX; j++) {
			u32 cell = 0;

			for (unsigned k = 0; k < MATRIX; k++)
				cell += (u32)a[i * MATRIX + k] * b[k * MATRIX + j];
			c[i * MATRIX + j] = cell;
			sum += cell >> 3;
		}
	}
	return sum;
}

/* Counts states: 0 between numbers, 1 integer, 2 fixed, 3 with exponent, 4 not a number.
 */
static void scan(const char *s, u32 *kinds)
{
	unsigned kind = 0;

	for (;; s++) {
		bool digit = *s >= '0' && *s <= '9';

		switch (kind) {
		case 0: kind = digit ? 1 : *s == '.' ? 2 : 4; break;
		case 1: kind = digit ? 1 : *s == '.' ? 2 : *s == 'e' ? 3 : 4; break;
		case 2: kind = digit ? 2 : *s == 'e' ? 3 : 4; break;
		case 3: kind = digit || *s == '-' ? 3 : 4; break;
		default: break;
		}
		if (*s == ',')
			kind = 0;
		kinds[kind]++;
		if (!*s)
			return;
	}
}

static u64 embedded(u64 n)
{
	static const char text[] =
		"123,4.75,6e-3,.5,words,8812e7,+,17,99.125e-12,x1,0,3.14159";
	static struct item items[LIST];
	static u16 a[MATRIX * MATRIX], b[MATRIX * MATRIX];
	static u32 c[MATRIX * MATRIX];
	u64 state = 7, sum = 0;

	while (n--) {
		u32 kinds[5] = { 0 };
		struct item *list = NULL;

		for (unsigned i = 0; i < LIST; i++) {
			items[i] =
				(struct item){ list, (u16)next_random(&state), (u16)i };
			list = &items[i];
		}
		list = list_reverse(list_sort(list_reverse(list)));
		for (struct item *i = list; i; i = i->next)
			sum = sum * 31 + i->val;
		for (unsigned i = 0; i < MATRIX * MATRIX; i++) {
			a[i] = (u16)(sum + i);
			b[i] = (u16)(sum >> 16) ^ (u16)i;
		}
		sum = mix(sum, matrix_multiply(a, b, c));
		scan(text, kinds);
		for (unsigned i = 0; i < 5; i++)
			sum = mix(sum, kinds[i]);
	}
	return sum;
}

/* ---- fib: calls and returns ---- */

__attribute__((noinline, noclone)) static u32 fib_of(u32 n)
{
	u32 val;

	if (n < 2)
		return n;
	val = fib_of(n - 1) + fib_of(n - 2);
	/* Keeps gcc from unrolling the recursion into a loop. */
	use(&val);
	return val;
}

static u64 fib(u64 n)
{
	u64 sum = 0;

	while (n--)
		sum = mix(sum, fib_of(22));
	return sum;
}

/* ---- tree: malloc, free, and pointers that are compared ---- */

#define TREE 4000

struct node {
	struct node *child[2];
	u64 key;
};

static u64 tree_free(struct node *t, u64 depth)
{
	u64 sum;

	if (!t)
		return 0;
	sum = t->key * depth + tree_free(t->child[0], depth + 1) +
	      tree_free(t->child[1], depth + 1);
	free(t);
	return sum;
}

static u64 tree(u64 n)
{
	u64 state = 9, sum = 0;

	while (n--) {
		struct node *root = NULL;

		for (unsigned i = 0; i < TREE; i++) {
			u64 key = next_random(&state);
			struct node **at = &root;

			while (*at)
				at = &(*at)->child[(*at)->key < key];
			*at = calloc(1, sizeof(**at));
			if (!*at)
				give_up("calloc");
			(*at)->key = key;
		}
		sum = mix(sum, tree_free(root, 1));
	}
	return sum;
}

const struct kernel integer_kernels[] = {
	{ "sieve", sieve }, { "hash", hash },         { "sort", sort },
	{ "crc", crc },     { "bytecode", bytecode }, { "embedded", embedded },
	{ "fib", fib },     { "tree", tree },         { NULL, NULL },
};
