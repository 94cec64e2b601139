/*
 * One virtual CPU: its architectural state (I1) and the caches derived from it.
 *
 * The first part, up to 'arch_end', is everything a guest can see of a CPU, in the
 * form snapshots, gdb and tests use; vcpu_desc (x86/vcpu.c) describes it.
 * The second part is derived or belongs to the host side, and is rebuilt by vcpu_sync()
 * after the first was written from outside.
 *
 * Thread: the owning vCPU thread, or any thread while the CPU is stopped; 'events'
 * alone may be set by any thread.
 */
#pragma once

#include "base/types.h"
#include "x86/features.h"
#include "x86/regs.h"
#include "x86/tlb.h"

/* Large enough for x87, SSE, AVX, AVX-512 and PKRU: x86/xsave.h. */
#define XSAVE_AREA_SIZE 2496

struct seg {
	u64 base;
	u32 limit; /* in bytes, after applying G */
	u32 attr;  /* SEG_*, see regs.h */
	u16 sel;
	u16 pad[3];
};

/*
 * How far an access of a segment reaches, in the form that generated code adds and
 * compares: see SEG_BARRED.
 */
struct seg_reach {
	u64 low;  /* the base, barred unless every offset of 16 bits may be accessed */
	i64 room; /* bytes that may be accessed from offset 0 on; -1: not so simple */
	u64 end;  /* base + room */
};

struct dtr {
	u64 base;
	u16 limit;
	u16 pad[3];
};

/* Why an instruction did not complete. Valid after an accessor or operation returned
 * false. */
struct fault {
	u8 vector;
	bool has_error;
	bool soft; /* INT n, INT3, INTO: gate DPL is checked, RIP is behind the
		      instruction */
	bool trap; /* RIP to push is behind the instruction already (#DB trap) */
	u32 error;
	u64 cr2; /* #PF: address */
	u64 dr6; /* #DB: bits to set in DR6 */
};

/* MSRs that are storage with reserved bits, in the order of msr.def (x86/msr.c). */
#define MSR_STORE_COUNT 128

/* What a vCPU thread has been asked to look at. Set by any thread with vcpu_post(). */
enum vcpu_event {
	EV_INTR = 1 << 0, /* the local APIC or PIC may have an interrupt */
	EV_NMI = 1 << 1,
	EV_SMI = 1 << 2,
	EV_INIT = 1 << 3,
	EV_SIPI = 1 << 4,
	EV_STOP = 1 << 5, /* leave run(): pause, reset, exit */
	EV_FLUSH =
		1
		<< 6, /* another CPU changed something this one caches, or is going to */
	EV_TIMER = 1 << 7, /* its APIC's timer may be due */
};

enum activity { ACT_RUNNING, ACT_HLT, ACT_SHUTDOWN, ACT_WAIT_SIPI };

/* After STI and MOV SS: what is held back until the next instruction is done. */
enum { SHADOW_STI = 1, SHADOW_MOVSS = 2 };

/*
 * What the CPU needs from the board: time, local APIC, and MSRs that belong to them.
 * msr_*: 1 done, 0 #GP, -1 not one of mine.
 */
struct vcpu_platform {
	u64 (*tsc)(void *opaque);
	int (*msr_read)(void *opaque, u32 msr, u64 *val);
	int (*msr_write)(void *opaque, u32 msr, u64 val);
	u8 (*cr8_read)(void *opaque);
	void (*cr8_write)(void *opaque, u8 val);
};

struct phys;
struct io_ops;
struct io_ports;
struct cpuid_table;
struct vcpu_stats;
struct profile;
struct native;
struct trial;
struct vcpu_debug;

struct vcpu {
	/* ---- architectural ---- */
	/* Addresses are gpr[base] + gpr[index]: RIP, and a register that is always 0,
	 * have a number too. */
	union {
		u64 gpr[GPR_COUNT];
		struct {
			u64 named[16];
			u64 rip;
			u64 reg_zero;
		};
	};
	u64 cc;    /* the status flags of RFLAGS, in their places (RFLAGS_STATUS) */
	u64 flags; /* the rest of RFLAGS, bit 1 set */
	struct seg seg[SREG_COUNT];
	struct dtr gdtr, idtr;
	u64 cr0, cr2, cr3, cr4, xcr0;
	u64 dr[8]; /* DR0..3, 6, 7; 4 and 5 unused */
	u64 efer;
	u64 pdpte[4]; /* PAE paging: loaded with CR3 (SDM 3 section 4.4.1) */
	u64 msr[MSR_STORE_COUNT];
	u64 fip, fdp; /* x87 last instruction and operand; selectors below */
	u16 fcs, fds, fop;
	u8 cpl;
	u8 activity; /* enum activity */
	u8 shadow;   /* SHADOW_* */
	u8 nmi_blocked;
	u8 sipi_vector;
	u8 pad0;
	u32 pkru;
	u32 pkrs; /* IA32_PKRS */
	u32 pad1;
	u64 pending_db; /* DR6 bits of traps not yet delivered (after MOV SS) */
	u8 xsave[XSAVE_AREA_SIZE] __attribute__((aligned(64)));
	u64 arch_end[0];

	/* ---- derived: vcpu_sync() ---- */
	u8 code_size;  /* 2, 4 or 8: default operand and address size of CS */
	u8 stack_size; /* 2, 4 or 8: width of the stack pointer */
	u8 mmu_idx;    /* enum mmu_idx of explicit data accesses now */
	bool la57;
	bool ac_check;   /* alignment is checked now: CR0.AM, EFLAGS.AC, CPL 3 */
	bool step_check; /* TF, code breakpoints, a debugger's step: one instruction at a
			    time */
	u8 phys_bits;
	u8 paging;              /* enum paging_mode (x86/walk.h) */
	u64 phys_reserved;      /* bits above MAXPHYADDR in a table entry */
	u32 seg_ok[SREG_COUNT]; /* SEG_R_OK, SEG_W_OK (x86/access.h) */
	/* 0: every 32-bit offset may be read and written. Else SEG_BARRED, which no
	 * linear address has: added to one it makes it one that is found nowhere. */
	u64 seg_bar[SREG_COUNT];
	struct seg_reach reach[2][SREG_COUNT]; /* for reads, for writes */
	/* 0: a load sets its selector and base, and the limit is and stays 64 KiB. */
	u32 seg_plain[SREG_COUNT];

	struct fault fault;
	u32 events;    /* enum vcpu_event; atomic */
	bool vec_live; /* guest vector state is in the host's registers
			  (engine/interp/native.c) */
	bool shutdown; /* triple fault */
	u8 halt_req;

	/* ---- host side ---- */
	unsigned index; /* 0 is the boot CPU */
	struct phys *phys;
	struct io_ports *ports;
	/* Local APIC window, seen by this CPU alone and before anything else there. */
	u64 apic_page; /* guest-physical; counts when apic_ops is set */
	const struct io_ops *apic_ops;
	void *apic;
	const struct vcpu_platform *platform;
	void *platform_opaque;
	const struct cpuid_table *cpuid; /* what CPUID answers; shared, immutable */
	u32 features[FEATURE_WORDS];     /* the same as bits: cpu_has() */
	struct vcpu_stats *stats;
	struct profile
		*profile; /* NULL, or more than counters is wanted (x86/profile.h) */
	u8 doing;         /* enum doing */
	void *engine;     /* the engine's own */
	/* Engine: this linear page, or TLB_FLUSHED_*, may now translate differently. It
	 * may be a piece of one of up to 1 << shift bytes. May be NULL. */
	void (*tlb_flushed)(struct vcpu *v, u64 page, unsigned shift);
	/*
	 * Board: this page becomes code, so take from all other CPUs what lets them write
	 * to it unseen. Owning thread, at a safe point: between blocks, holding nothing.
	 * NULL: there are none.
	 */
	void (*guard_others)(struct vcpu *v, u64 page);
	/* Board: somebody spins; let another thread run. Vectors parked. May be NULL. */
	void (*relax)(struct vcpu *v);
	u32 pauses; /* PAUSE instructions since then */
	/* Engine: an entry with copies changes or goes: make 'copies' 0. */
	void (*tlb_dropped)(struct vcpu *v, struct tlb_info *info);
	/* Engine: this guest-physical page becomes code: whatever else than the TLB lets
	 * this CPU write there must not any more. May be NULL. */
	void (*code_protected)(struct vcpu *v, u64 page);
	/* Engine: move live vector state to v->xsave. Called through vcpu_park(). */
	void (*vec_park)(struct vcpu *v);
	struct native *native;    /* stubs for vector and x87 instructions
				     (engine/interp/native.c) */
	struct vcpu_debug *debug; /* NULL, or what a debugger wants (x86/debugger.h) */
	const u64 *cuts; /* NULL, or offsets in a page where blocks begin: its breakpoints
			  */
	struct trial *trial; /* NULL, or this is a stand-in whose writes are taken back
				(x86/trial.h) */
	struct tlb_walks walks;
	struct tlb tlb;
};

static inline bool cpu_has(const struct vcpu *v, enum cpu_feature f)
{
	return v->features[f / 32] >> (f % 32) & 1;
}

static inline u64 rflags_get(const struct vcpu *v)
{
	return v->cc | v->flags;
}

/*
 * Store RFLAGS as is. What may change is the caller's business; calls
 * vcpu_mode_changed() when a flag that modes depend on did.
 */
void rflags_set(struct vcpu *v, u64 rflags);

static inline bool in_long_mode(const struct vcpu *v)
{
	return v->efer & EFER_LMA;
}

static inline bool in_64bit(const struct vcpu *v)
{
	return v->code_size == 8;
}

static inline bool in_protected(const struct vcpu *v)
{
	return v->cr0 & CR0_PE;
}

static inline bool in_v86(const struct vcpu *v)
{
	return v->flags & RFLAGS_VM;
}

/* Real mode or virtual-8086 mode. */
static inline bool in_real_or_v86(const struct vcpu *v)
{
	return !in_protected(v) || in_v86(v);
}

static inline unsigned vcpu_iopl(const struct vcpu *v)
{
	return (v->flags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;
}

/* In 16-bit code too IP goes on behind FFFFh, to be caught by the segment's limit. */
static inline u64 ip_mask(const struct vcpu *v)
{
	return size_mask(v->code_size == 8 ? 8 : 4);
}

static inline bool is_canonical(const struct vcpu *v, u64 a)
{
	unsigned shift = v->la57 ? 64 - 57 : 64 - 48;

	return (u64)((i64)(a << shift) >> shift) == a;
}

/* Ask the owner to look; the caller also kicks it (cpu/vm.h does both). Any thread. */
static inline void vcpu_post(struct vcpu *v, u32 events)
{
	__atomic_or_fetch(&v->events, events, __ATOMIC_SEQ_CST);
}

static inline u32 vcpu_events(const struct vcpu *v)
{
	return __atomic_load_n(&v->events, __ATOMIC_ACQUIRE);
}

/*
 * Raise an exception: fill v->fault and return false, so that the caller can
 * 'return raise_vec(...)'. Nothing is delivered until the engine calls except_deliver().
 */
bool raise_vec(struct vcpu *v, enum vector vector);
bool raise_err(struct vcpu *v, enum vector vector, u32 error);
static inline bool raise_gp0(struct vcpu *v)
{
	return raise_err(v, VEC_GP, 0);
}
bool raise_ud(struct vcpu *v);
bool raise_db(struct vcpu *v, u64 dr6, bool trap);

/* State after power-up or INIT (SDM 3 table 10-1). CPUID table and host side are kept. */
void vcpu_reset(struct vcpu *v, bool init);

/* Start of an application processor at vector * 4 KiB, after INIT (SDM 3 section 8.4.3).
 */
void vcpu_sipi(struct vcpu *v, u8 vector);

/* Recompute everything derived, and drop all cached translations. */
void vcpu_sync(struct vcpu *v);
/* Recompute paging and la57: after CR0, CR4 or EFER changed. The caller flushes. */
void vcpu_paging_changed(struct vcpu *v);
/* Recompute code_size, stack_size, mmu_idx, ac_check, step_check: after CPL, CS, SS,
 * flags changed. */
void vcpu_mode_changed(struct vcpu *v);

/*
 * Before any code that may use the host's vector registers (libc, devices): the guest's
 * state moves to v->xsave and the host gets its own defaults back.
 */
static inline void vcpu_park(struct vcpu *v)
{
	if (v->vec_live)
		v->vec_park(v);
}

/* Could the architecture and this CPU's features get into this state? */
bool vcpu_consistent(const struct vcpu *v);

struct error;
struct state_buf;
struct state_desc;
/* Describes the architectural part; use vcpu_save() and vcpu_load(). */
extern const struct state_desc vcpu_desc;
/* Stopped, and pulled from its engine. */
void vcpu_save(const struct vcpu *v, struct state_buf *b);
/*
 * 0, with the derived part rebuilt. -EINVAL: the stream is refused; v is unchanged, or in
 * its power-up state when the stream was well-formed but of a CPU with more features.
 */
int vcpu_load(struct vcpu *v, struct state_buf *b, struct error *err);
