/*
 * Where a vCPU's thread spends its time, and which guest code makes it leave translated
 * code: what the thread notes, for whoever samples it (cpu/profile.c).
 *
 * A note of what it is doing is one store, made always. Everything else is only there
 * when v->profile is. Thread: the owner's; 'sampled' and 'ns' are written in its signal
 * handler and by nobody else.
 */
#pragma once

#include "x86/vcpu.h"

enum doing {
	DOING_LOOP, /* finds code, links it, looks at events */
	DOING_CODE, /* seen by where it is, never noted */
	DOING_INTERPRET,
	DOING_DECODE,
	DOING_TRANSLATE,
	DOING_FILL, /* of the TLB: page walks */
	DOING_DEVICES,
	DOING_DIRECT, /* going to and coming from a process of direct execution */
	DOING_WAIT,   /* for an event: going to sleep and waking up */
	DOING_COUNT,
};

enum spot_kind {
	SPOT_TIME,     /* ns in which it was seen there */
	SPOT_LOOP,     /* code was looked for by the loop, that of this address */
	SPOT_CALL_OUT, /* an instruction was executed for translated code */
	SPOT_TRAP,     /* user code that ran directly trapped */
	SPOT_KINDS,
};

/* Guest code: 16 bytes of linear addresses, as functions mostly begin at such. */
#define SPOT_SIZE 16
#define SPOT_USED 1 /* bits in its address */
#define SPOT_USER 2 /* CPL 3 */

struct spot {
	u64 lin;
	u64 count[SPOT_KINDS];
};

#define SPOTS (1u << 15)

struct spots {
	struct spot *spot;    /* SPOTS of them, by hash */
	u64 lost[SPOT_KINDS]; /* found no room */
};

struct profile {
	u64 ns[DOING_COUNT]; /* by samples */
	u64 cpu_ns;          /* CPU time of the threads, ended ones or at the last look */
	u64 direct_ns;       /* and of processes of direct execution */
	struct spots sampled, noted; /* .spot NULL: not wanted */
	/* Translated code was made: what is to be told of it. NULL: nobody wants to know.
	 * Vectors parked. */
	void (*code_made)(void *opaque, const struct vcpu *v, u64 exec, u32 size,
			  u64 lin);
	void *code_opaque;
};

/* What this thread does from now on; returns what it did. */
static inline u8 profile_doing(struct vcpu *v, enum doing what)
{
	u8 was = v->doing;

	/* The signal handler looks at any time. */
	__atomic_store_n(&v->doing, (u8)what, __ATOMIC_RELAXED);
	return was;
}

void spot_add(struct spots *s, u64 lin, bool user, enum spot_kind kind, u64 n);
void profile_note_spot(struct vcpu *v, u64 lin, enum spot_kind kind);

/* The vCPU is at this linear address. */
static inline void profile_note(struct vcpu *v, u64 lin, enum spot_kind kind)
{
	if (unlikely(v->profile != NULL))
		profile_note_spot(v, lin, kind);
}
