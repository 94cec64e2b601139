/* Flags of additions and comparisons done by other means, and compare-and-swap by size.
 */
#pragma once

#include "engine/interp/interp.h"

#define FLAGS_OF(name, text)                                                             \
	static inline void flags_of_##name(struct vcpu *v, u64 a, u64 b, unsigned size)  \
	{                                                                                \
		u32 ax;                                                                  \
		switch (size) {                                                          \
		case 1:                                                                  \
			__asm__(text "b %b2, %b0\n\tlahf\n\tseto %%al"                   \
				: "+q"(a), "=&a"(ax)                                     \
				: "q"(b)                                                 \
				: "cc");                                                 \
			break;                                                           \
		case 2:                                                                  \
			__asm__(text "w %w2, %w0\n\tlahf\n\tseto %%al"                   \
				: "+r"(a), "=&a"(ax)                                     \
				: "r"(b)                                                 \
				: "cc");                                                 \
			break;                                                           \
		case 4:                                                                  \
			__asm__(text "l %k2, %k0\n\tlahf\n\tseto %%al"                   \
				: "+r"(a), "=&a"(ax)                                     \
				: "r"(b)                                                 \
				: "cc");                                                 \
			break;                                                           \
		default:                                                                 \
			__asm__(text "q %2, %0\n\tlahf\n\tseto %%al"                     \
				: "+r"(a), "=&a"(ax)                                     \
				: "r"(b)                                                 \
				: "cc");                                                 \
			break;                                                           \
		}                                                                        \
		v->cc = cc_from_ax(ax);                                                  \
	}

FLAGS_OF(compare, "cmp")
FLAGS_OF(add, "add")

/* Atomic; *expected becomes what was found. Any alignment. */
static inline bool cas(void *p, unsigned size, u64 *expected, u64 want)
{
	u64 old = *expected;
	bool ok;

	switch (size) {
	case 1:
		__asm__ volatile("lock cmpxchgb %b3, %1"
				 : "=@ccz"(ok), "+m"(*(u8 *)p), "+a"(old)
				 : "q"(want)
				 : "memory");
		old &= 0xff;
		break;
	case 2:
		__asm__ volatile("lock cmpxchgw %w3, %1"
				 : "=@ccz"(ok), "+m"(*(ua16 *)p), "+a"(old)
				 : "r"(want)
				 : "memory");
		old &= 0xffff;
		break;
	case 4:
		__asm__ volatile("lock cmpxchgl %k3, %1"
				 : "=@ccz"(ok), "+m"(*(ua32 *)p), "+a"(old)
				 : "r"(want)
				 : "memory");
		old &= 0xffffffff;
		break;
	default:
		__asm__ volatile("lock cmpxchgq %3, %1"
				 : "=@ccz"(ok), "+m"(*(ua64 *)p), "+a"(old)
				 : "r"(want)
				 : "memory");
		break;
	}
	*expected = old;
	return ok;
}
