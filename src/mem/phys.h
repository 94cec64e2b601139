/*
 * The guest-physical address space: RAM, ROM and MMIO windows.
 *
 * A region belongs to whoever added it. Lookup is by an immutable sorted
 * snapshot that is replaced as a whole when a window moves, so readers take
 * no lock; old snapshots are kept until the map is freed. A map that was seen
 * before uses its old snapshot again, so only PHYS_MAX_MAPS different ones are
 * ever kept; a guest that makes more gets no further windows.
 *
 * Overlap: RAM and ROM may not overlap each other. Where an MMIO window lies
 * over RAM or ROM or over a window that is there already (a guest can put a BAR
 * anywhere), the whole window is hidden until what covers it has gone.
 *
 * RAM pages carry a byte of flags each. PAGE_CODE says that some engine holds
 * decoded or translated instructions of this page: whoever writes to it, CPU or
 * DMA, must call phys_note_write() with the page still marked; phys_write() and
 * phys_store() do. PAGE_WRITERS says that some CPU may write to it without a
 * look at the flags, by an entry of its TLB, until that is taken from it.
 *
 * Threads: everything may be called on any thread, except phys_free() and
 * phys_remove_code_listener(), which need the machine stopped.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"
#include "mem/io.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE  UINT64_C(4096)
#define PAGE_MASK  (~(PAGE_SIZE - 1))

#define PHYS_MAX_MAPS 4096

/* Missing from the headers of older systems: madvise(2), Linux 5.14 and 6.1. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum {
	PAGE_CODE = 1,
	PAGE_WRITERS = 2,
	PAGE_GUARDED = 4,   /* PAGE_CODE, and since then nobody writes without looking */
	PAGE_BACKED = 8,    /* the host has been asked for it, phys_back() */
	PAGE_RELEASED = 16, /* phys_release() took it, but not all 2 MiB around it */
};

#define PHYS_MAX_LISTENERS 64

enum phys_kind { PHYS_NONE, PHYS_RAM, PHYS_ROM, PHYS_MMIO };

struct phys_region {
	gpa_t base;
	u64 len; /* bytes, page multiple for RAM and ROM */
	enum phys_kind kind;
	const char *name;
	u8 *host;                 /* RAM and ROM: host address of 'base' */
	u8 *page_flags;           /* RAM and ROM: one byte a page */
	u64 *code_users;          /* RAM and ROM: by page, which listeners hold code */
	const struct io_ops *ops; /* MMIO */
	void *dev;
};

struct phys;

struct phys *phys_new(void);
void phys_free(struct phys *p);

/*
 * RAM backed by a memfd, from guest-physical 'base'. Memory appears when touched.
 * -ENOMEM when the host refuses the size; -EINVAL for a base or length that is not
 * a page multiple or beyond 2^52; -EBUSY when RAM or ROM is there. 'name' is kept.
 */
int phys_add_ram(struct phys *p, const char *name, gpa_t base, u64 len,
		 struct error *err);
/* ROM with this content, read-only for the guest. Copied. */
int phys_add_rom(struct phys *p, const char *name, gpa_t base, const void *data, u64 len,
		 struct error *err);
/*
 * 'name', 'ops' and 'dev' are kept. 0 also when the window is hidden (see above).
 * -EINVAL when it is empty or wraps round, -ENOSPC after too many different maps.
 */
int phys_add_mmio(struct phys *p, const char *name, gpa_t base, u64 len,
		  const struct io_ops *ops, void *dev, struct error *err);
/*
 * Take away the window of this device at this base (BAR moves). False if there is
 * none. Its device can be called once more by an access that is under way.
 */
bool phys_remove_mmio(struct phys *p, gpa_t base, const struct io_ops *ops,
		      const void *dev);
/* The same for the window or ROM seen at this base, whoever has it. RAM stays. */
bool phys_remove(struct phys *p, gpa_t base);
/* Higher each time the map changes; cached translations of an older map are stale. */
u64 phys_generation(struct phys *p);

/*
 * The region that holds gpa, NULL if none. Valid until phys_free(), but see the
 * generation.
 */
const struct phys_region *phys_find(struct phys *p, gpa_t gpa);

/*
 * Host address of [gpa, gpa + len) when it lies within one RAM region (or ROM, when
 * 'write' is false), else NULL. With 'write' the caller reports with phys_note_write().
 */
void *phys_host(struct phys *p, gpa_t gpa, u64 len, bool write);

/*
 * Copy in and out, across regions; MMIO included (aligned pieces of 1 to 8 bytes).
 * False: part of it is nowhere; that part reads as all ones. Writes to ROM are ignored.
 * For a CPU or a loader. A device's own DMA must not reach MMIO, least of all its own
 * registers with its lock held: it uses phys_dma_read() and phys_dma_write().
 */
bool phys_read(struct phys *p, gpa_t gpa, void *buf, u64 len);
bool phys_write(struct phys *p, gpa_t gpa, const void *buf, u64 len);

/*
 * The same for DMA, RAM and ROM only: false, with nothing written, when a part of it
 * is anything else.
 */
bool phys_dma_read(struct phys *p, gpa_t gpa, void *buf, u64 len);
bool phys_dma_write(struct phys *p, gpa_t gpa, const void *buf, u64 len);

/* As the CPU does it: what is nowhere reads as all ones and ignores writes. */
static inline void phys_read_all(struct phys *p, gpa_t gpa, u8 *buf, u64 len)
{
	for (u64 i = 0; i < len; i++)
		buf[i] = 0xff;
	(void)!phys_read(p, gpa, buf, len);
}

static inline void phys_write_all(struct phys *p, gpa_t gpa, const u8 *buf, u64 len)
{
	(void)!phys_write(p, gpa, buf, len);
}

/*
 * One CPU access of 1, 2, 4 or 8 bytes, not crossing a page. Nothing there: all ones,
 * ignored.
 */
u64 phys_load(struct phys *p, gpa_t gpa, unsigned size);
void phys_store(struct phys *p, gpa_t gpa, u64 val, unsigned size);

/*
 * A CPU is about to touch this page of RAM, 'off' bytes into the region, that has not
 * PAGE_BACKED: have the host provide it with those around it. A fault for each would take
 * it longer, ten times as long under some hypervisors.
 */
void phys_back(const struct phys_region *r, u64 off);

/* The same for whoever is about to write [gpa, gpa + len) by DMA; no RAM: nothing. */
void phys_back_range(struct phys *p, gpa_t gpa, u64 len);

/*
 * The guest needs what is in these pages no more: the host gets them back, and they are
 * zero when they are touched again. It keeps some of a large page that a disk is using
 * just then. False, and nothing is done: that is not RAM of one region, or the host
 * refuses.
 */
bool phys_release(struct phys *p, gpa_t gpa, u64 len);

/* Flags byte of the page that holds gpa, NULL when it is not RAM or ROM. */
u8 *phys_page_flags(struct phys *p, gpa_t gpa);

/* Who holds decoded code. */
struct code_listener {
	/* Called on the writing thread, after the write. */
	void (*written)(void *opaque, gpa_t gpa, u64 len);
	/*
	 * Called by phys_mark_code(): take from all CPUs what lets them write to this
	 * page without a look at its flags. When it returns, what they wrote that way
	 * can be read. NULL: there is no CPU.
	 */
	void (*guard)(void *opaque, gpa_t page);
	void *opaque;
	struct code_listener *next; /* phys.c only, and the next one */
	u64 user;                   /* its bit in code_users */
};
/* -ENOSPC when there are PHYS_MAX_LISTENERS. */
int phys_add_code_listener(struct phys *p, struct code_listener *l);
void phys_remove_code_listener(struct phys *p, struct code_listener *l);

/*
 * l will hold code of the page that holds gpa: to be called before its bytes are
 * decoded. From then on l hears of every write that the decoding does not see. May
 * wait for other CPUs, so no lock is held. False when it is not RAM or ROM.
 */
bool phys_mark_code(struct phys *p, struct code_listener *l, gpa_t gpa);
/* l holds no code of this page any more. */
void phys_unmark_code(struct phys *p, struct code_listener *l, gpa_t gpa);

/*
 * A CPU is about to write to the page with these flags, now or by an entry of its TLB as
 * long as nobody takes that away. False: it must report each write.
 */
static inline bool phys_page_writer(u8 *flags)
{
	u8 f = __atomic_load_n(flags, __ATOMIC_ACQUIRE);

	if (f & PAGE_CODE)
		return false;
	/*
	 * Set already: if PAGE_CODE comes right now its setter finds PAGE_WRITERS, and
	 * waits for this CPU's next safe point.
	 */
	if (f & PAGE_WRITERS)
		return true;
	return !(__atomic_fetch_or(flags, PAGE_WRITERS, __ATOMIC_SEQ_CST) & PAGE_CODE);
}

/*
 * Somebody wrote [gpa, gpa+len): tell the listeners that hold code of a page of it.
 */
void phys_note_write(struct phys *p, gpa_t gpa, u64 len);

/* The memfd of the RAM region that starts at 'base' (owned by the map), -1 if none. */
int phys_ram_fd(struct phys *p, gpa_t base);

/*
 * Bytes of RAM in total, and each RAM region in order of address: index from 0, NULL at
 * the end.
 */
u64 phys_ram_size(struct phys *p);
const struct phys_region *phys_ram_region(struct phys *p, unsigned index);
