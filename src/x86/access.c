/*
 * Guest memory as instructions see it: the ways behind the inline fast path.
 *
 * SDM volume 3 sections 5.3 (limits), 5.5 (types), 3.3.7.1 (canonical), 6.15 (#AC), 17.2
 * (data breakpoints). A data breakpoint is a trap: the access is done and the match is
 * collected in v->pending_db for the engine to deliver after the instruction.
 * Thread: the owner of the vCPU.
 */
#include "x86/access.h"

#include "mem/phys.h"
#include "x86/cr.h"
#include "x86/debugger.h"
#include "x86/profile.h"
#include "x86/stats.h"
#include "x86/tlbfill.h"
#include "x86/trial.h"

/* No libc here: it may use vector registers while the guest's are live. */
static void copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static bool raise_seg(struct vcpu *v, unsigned sreg)
{
	return raise_err(v, sreg == SS ? VEC_SS : VEC_GP, 0);
}

bool seg_linear_slow(struct vcpu *v, unsigned sreg, u64 off, u64 len, enum access acc,
		     gva_t *lin)
{
	const struct seg *s = &v->seg[sreg];
	u64 last = off + len - 1;

	if (v->code_size == 8) {
		*lin = off + (sreg >= FS ? s->base : 0);
		if (!is_canonical(v, *lin) || !is_canonical(v, *lin + len - 1))
			return raise_seg(v, sreg);
		return true;
	}
	if (s->attr & SEG_UNUSABLE)
		return raise_seg(v, sreg);
	if (!in_real_or_v86(v)) {
		if (s->attr & SEG_CODE) {
			if (acc == ACC_WRITE ||
			    (acc == ACC_READ && !(s->attr & SEG_READABLE)))
				return raise_seg(v, sreg);
		} else if (acc == ACC_WRITE && !(s->attr & SEG_WRITABLE)) {
			return raise_seg(v, sreg);
		}
	}
	if (!(s->attr & SEG_CODE) && (s->attr & SEG_EXPAND_DOWN)) {
		u64 top = s->attr & SEG_DB ? 0xffffffff : 0xffff;

		if (off <= s->limit || last > top)
			return raise_seg(v, sreg);
	} else if (last > s->limit) {
		/* Offsets of 4 GiB segments wrap; bytes beyond come from the bottom. */
		if (s->limit != 0xffffffff || off > 0xffffffff)
			return raise_seg(v, sreg);
	}
	*lin = (u32)(off + s->base);
	return true;
}

/* One page of an access, translated. */
struct piece {
	struct tlb_hit hit;
	gva_t lin;
	unsigned len;
};

/* Linear addresses wrap at 4 GiB outside long mode. */
static gva_t lin_add(const struct vcpu *v, gva_t lin, u64 n)
{
	return in_long_mode(v) ? lin + n : (u32)(lin + n);
}

static bool translate(struct vcpu *v, gva_t lin, unsigned len, enum access acc,
		      enum mmu_idx idx, struct piece *p)
{
	const struct tlb_way *t = &v->tlb.way[idx];
	unsigned slot = tlb_slot(lin);

	p->lin = lin;
	p->len = len;
	if ((acc == ACC_WRITE ? t->entry[slot].write : t->entry[slot].read) ==
	    tlb_tag(lin & PAGE_MASK)) {
		p->hit.host = (u8 *)(lin + t->entry[slot].addend);
		p->hit.gpa = t->info[slot].gpa | (lin & ~PAGE_MASK);
		p->hit.code = false;
		return true;
	}
	return tlb_fill(v, lin, acc, idx, &p->hit);
}

static bool check_canonical(struct vcpu *v, unsigned sreg, gva_t lin, unsigned len)
{
	if (likely(!in_long_mode(v) ||
		   (is_canonical(v, lin) && is_canonical(v, lin + len - 1))))
		return true;
	return raise_seg(v, sreg);
}

static bool check_align(struct vcpu *v, gva_t lin, unsigned size, enum mmu_idx idx)
{
	if (unlikely(v->ac_check && idx == MMU_USER && (lin & (size - 1))))
		return raise_err(v, VEC_AC, 0);
	return true;
}

static void watch(struct vcpu *v, gva_t lin, unsigned len, bool write)
{
	if (unlikely(v->dr[7] & 0xff))
		v->pending_db |= debug_match_data(v, lin, len, write);
	if (unlikely(v->debug != NULL))
		debugger_access(v, lin, len, write ? DEBUG_WRITE : DEBUG_READ);
}

/* Translate [lin, lin+len), at most two pages. p[1].len is 0 when one was enough. */
static bool translate_span(struct vcpu *v, gva_t lin, unsigned len, enum access acc,
			   enum mmu_idx idx, struct piece p[2])
{
	unsigned first = (unsigned)MIN((u64)len, PAGE_SIZE - (lin & ~PAGE_MASK));

	p[1].len = 0;
	if (!translate(v, lin, first, acc, idx, &p[0]))
		return false;
	if (first == len)
		return true;
	return translate(v, lin_add(v, lin, first), len - first, acc, idx, &p[1]);
}

/* One access to what is not RAM. */
static u64 bus_load(struct vcpu *v, gpa_t gpa, unsigned size)
{
	u64 val;
	u8 was;

	if (unlikely(v->trial)) {
		v->trial->impure = true;
		return 0;
	}
	vcpu_park(v);
	v->stats->mmio_reads++;
	was = profile_doing(v, DOING_DEVICES);
	if ((gpa & PAGE_MASK) == v->apic_page && v->apic_ops)
		val = io_read(v->apic_ops, v->apic, gpa & ~PAGE_MASK, size);
	else
		val = phys_load(v->phys, gpa, size);
	profile_doing(v, was);
	return val;
}

/* RAM comes here too, when a read-modify-write crosses pages. */
static void trial_store(struct vcpu *v, gpa_t gpa, u64 val, unsigned size)
{
	bool apic = (gpa & PAGE_MASK) == v->apic_page && v->apic_ops;
	u8 *host = apic ? NULL : phys_host(v->phys, gpa, size, true);

	if (!host)
		v->trial->impure = true;
	else if (trial_write(v->trial, host, gpa, size, false))
		le_store(host, val, size);
}

static void bus_store(struct vcpu *v, gpa_t gpa, u64 val, unsigned size)
{
	u8 was;

	if (unlikely(v->trial)) {
		trial_store(v, gpa, val, size);
		return;
	}
	vcpu_park(v);
	v->stats->mmio_writes++;
	was = profile_doing(v, DOING_DEVICES);
	if ((gpa & PAGE_MASK) == v->apic_page && v->apic_ops)
		io_write(v->apic_ops, v->apic, gpa & ~PAGE_MASK, val, size);
	else
		phys_store(v->phys, gpa, val, size);
	profile_doing(v, was);
}

/* The largest naturally aligned access at gpa within len bytes. */
static unsigned bus_size(gpa_t gpa, unsigned len)
{
	unsigned size = 8;

	while (size > len || (gpa & (size - 1)))
		size /= 2;
	return size;
}

static void bus_read(struct vcpu *v, gpa_t gpa, u8 *buf, unsigned len)
{
	for (unsigned n = 0, size; n < len; n += size) {
		u64 val;

		size = bus_size(gpa + n, len - n);
		val = bus_load(v, gpa + n, size);
		copy(buf + n, &val, size);
	}
}

static void bus_write(struct vcpu *v, gpa_t gpa, const u8 *buf, unsigned len)
{
	for (unsigned n = 0, size; n < len; n += size) {
		u64 val = 0;

		size = bus_size(gpa + n, len - n);
		copy(&val, buf + n, size);
		bus_store(v, gpa + n, val, size);
	}
}

static void piece_read(struct vcpu *v, const struct piece *p, u8 *buf)
{
	if (p->hit.host) {
		if (unlikely(v->trial))
			trial_read(v->trial, p->hit.host, p->hit.gpa, p->len);
		copy(buf, p->hit.host, p->len);
		return;
	}
	bus_read(v, p->hit.gpa, buf, p->len);
}

static void piece_write(struct vcpu *v, const struct piece *p, const u8 *buf)
{
	if (p->hit.host) {
		if (unlikely(v->trial) &&
		    !trial_write(v->trial, p->hit.host, p->hit.gpa, p->len, false))
			return;
		copy(p->hit.host, buf, p->len);
		if (p->hit.code)
			phys_note_write(v->phys, p->hit.gpa, p->len);
		return;
	}
	bus_write(v, p->hit.gpa, buf, p->len);
}

bool lin_read_slow(struct vcpu *v, unsigned sreg, gva_t lin, unsigned size,
		   enum mmu_idx idx, u64 *val)
{
	struct piece p[2];

	if (!check_canonical(v, sreg, lin, size) || !check_align(v, lin, size, idx) ||
	    !translate_span(v, lin, size, ACC_READ, idx, p))
		return false;
	watch(v, lin, size, false);
	if (likely(!p[1].len)) {
		if (unlikely(v->trial) && p[0].hit.host)
			trial_read(v->trial, p[0].hit.host, p[0].hit.gpa, size);
		*val = p[0].hit.host ? le_load(p[0].hit.host, size)
				     : bus_load(v, p[0].hit.gpa, size);
		return true;
	}
	*val = 0;
	piece_read(v, &p[0], (u8 *)val);
	piece_read(v, &p[1], (u8 *)val + p[0].len);
	return true;
}

bool lin_write_slow(struct vcpu *v, unsigned sreg, gva_t lin, unsigned size,
		    enum mmu_idx idx, u64 val)
{
	struct piece p[2];

	if (!check_canonical(v, sreg, lin, size) || !check_align(v, lin, size, idx) ||
	    !translate_span(v, lin, size, ACC_WRITE, idx, p))
		return false;
	watch(v, lin, size, true);
	if (likely(!p[1].len)) {
		if (p[0].hit.host) {
			if (unlikely(v->trial) && !trial_write(v->trial, p[0].hit.host,
							       p[0].hit.gpa, size, false))
				return true;
			le_store(p[0].hit.host, val, size);
			if (p[0].hit.code)
				phys_note_write(v->phys, p[0].hit.gpa, size);
		} else {
			bus_store(v, p[0].hit.gpa, val, size);
		}
		return true;
	}
	piece_write(v, &p[0], (const u8 *)&val);
	piece_write(v, &p[1], (const u8 *)&val + p[0].len);
	return true;
}

static bool read_bytes(struct vcpu *v, unsigned sreg, gva_t lin, enum mmu_idx idx,
		       void *buf, unsigned len)
{
	struct piece p[2];

	if (!check_canonical(v, sreg, lin, len) ||
	    !translate_span(v, lin, len, ACC_READ, idx, p))
		return false;
	watch(v, lin, len, false);
	piece_read(v, &p[0], buf);
	if (p[1].len)
		piece_read(v, &p[1], (u8 *)buf + p[0].len);
	return true;
}

bool mem_read_bytes(struct vcpu *v, unsigned sreg, u64 off, void *buf, unsigned len)
{
	gva_t lin;

	return seg_linear_slow(v, sreg, off, len, ACC_READ, &lin) &&
	       read_bytes(v, sreg, lin, v->mmu_idx, buf, len);
}

bool mem_write_bytes(struct vcpu *v, unsigned sreg, u64 off, const void *buf,
		     unsigned len)
{
	struct piece p[2];
	gva_t lin;

	if (!seg_linear_slow(v, sreg, off, len, ACC_WRITE, &lin) ||
	    !translate_span(v, lin, len, ACC_WRITE, v->mmu_idx, p))
		return false;
	watch(v, lin, len, true);
	piece_write(v, &p[0], buf);
	if (p[1].len)
		piece_write(v, &p[1], (const u8 *)buf + p[0].len);
	return true;
}

static bool probe(struct vcpu *v, unsigned sreg, u64 off, unsigned len, enum access acc)
{
	struct piece p[2];
	gva_t lin;

	return seg_linear_slow(v, sreg, off, len, acc, &lin) &&
	       translate_span(v, lin, len, acc, v->mmu_idx, p);
}

bool mem_probe_write(struct vcpu *v, unsigned sreg, u64 off, unsigned len)
{
	return probe(v, sreg, off, len, ACC_WRITE);
}

bool mem_probe_read(struct vcpu *v, unsigned sreg, u64 off, unsigned len)
{
	return probe(v, sreg, off, len, ACC_READ);
}

bool rmw_begin(struct vcpu *v, unsigned sreg, u64 off, unsigned size, struct rmw *m)
{
	const struct tlb_way *t = &v->tlb.way[v->mmu_idx];
	struct piece p[2];
	gva_t lin;

	if (!seg_linear(v, sreg, off, size, ACC_WRITE, &lin))
		return false;
	m->direct = true;
	m->note = false;
	if (likely(t->entry[tlb_slot(lin)].write == tlb_tag(lin & PAGE_MASK) &&
		   in_page(lin, size) && !(v->ac_check && (lin & (size - 1))))) {
		m->p = (void *)(lin + t->entry[tlb_slot(lin)].addend);
		return true;
	}
	if (!check_canonical(v, sreg, lin, size) ||
	    !check_align(v, lin, size, v->mmu_idx) ||
	    !translate_span(v, lin, size, ACC_WRITE, v->mmu_idx, p))
		return false;
	watch(v, lin, size, true);
	if (unlikely(v->debug != NULL))
		debugger_access(v, lin, size, DEBUG_READ);
	m->gpa = p[0].hit.gpa;
	m->size = (u8)size;
	m->first = (u8)p[0].len;
	if (likely(!p[1].len && p[0].hit.host)) {
		m->p = p[0].hit.host;
		m->note = p[0].hit.code;
		if (likely(!v->trial))
			return true;
		trial_read(v->trial, p[0].hit.host, p[0].hit.gpa, size);
		if (trial_write(v->trial, p[0].hit.host, p[0].hit.gpa, size, false))
			return true;
		m->p = m->buf;
		return true;
	}
	m->direct = false;
	m->p = m->buf;
	piece_read(v, &p[0], m->buf);
	if (p[1].len) {
		m->gpa2 = p[1].hit.gpa;
		piece_read(v, &p[1], m->buf + p[0].len);
	}
	return true;
}

void rmw_end(struct vcpu *v, struct rmw *m)
{
	if (likely(m->direct)) {
		if (unlikely(m->note))
			phys_note_write(v->phys, m->gpa, m->size);
		return;
	}
	bus_write(v, m->gpa, m->buf, m->first);
	if (m->first < m->size)
		bus_write(v, m->gpa2, m->buf + m->first, m->size - m->first);
}

void *mem_fast_ptr(struct vcpu *v, unsigned sreg, u64 off, unsigned len, enum access acc)
{
	struct piece p;
	gva_t lin;

	if (!seg_linear(v, sreg, off, len, acc, &lin) || !in_page(lin, len) ||
	    v->ac_check)
		return NULL;
	if (in_long_mode(v) && !is_canonical(v, lin))
		return NULL;
	if ((v->dr[7] & 0xff) || (debugger_watches(v) && debugger_page_watched(v, lin)) ||
	    (v->trial && acc == ACC_WRITE))
		return NULL;
	if (!translate(v, lin, len, acc, v->mmu_idx, &p) || p.hit.code)
		return NULL;
	return p.hit.host;
}

bool lin_read_as(struct vcpu *v, enum mmu_idx idx, unsigned sreg, gva_t lin,
		 unsigned size, u64 *val)
{
	return lin_read_slow(v, sreg, lin, size, idx, val);
}

bool lin_write_as(struct vcpu *v, enum mmu_idx idx, unsigned sreg, gva_t lin,
		  unsigned size, u64 val)
{
	return lin_write_slow(v, sreg, lin, size, idx, val);
}

bool sys_read(struct vcpu *v, gva_t lin, unsigned size, u64 *val)
{
	return lin_read_slow(v, DS, lin, size, MMU_KERNEL, val);
}

bool sys_write(struct vcpu *v, gva_t lin, unsigned size, u64 val)
{
	return lin_write_slow(v, DS, lin, size, MMU_KERNEL, val);
}

bool sys_bits(struct vcpu *v, gva_t lin, u8 set, u8 clear)
{
	struct piece p;
	u64 val;

	if (!check_canonical(v, DS, lin, 1) ||
	    !translate(v, lin, 1, ACC_WRITE, MMU_KERNEL, &p))
		return false;
	watch(v, lin, 1, true);
	if (unlikely(!p.hit.host)) {
		val = bus_load(v, p.hit.gpa, 1);
		bus_store(v, p.hit.gpa, (val | set) & (u8)~clear, 1);
		return true;
	}
	if (unlikely(v->trial)) {
		trial_read(v->trial, p.hit.host, p.hit.gpa, 1);
		if (!trial_write(v->trial, p.hit.host, p.hit.gpa, 1, false))
			return true;
	}
	if (set)
		__atomic_fetch_or(p.hit.host, set, __ATOMIC_SEQ_CST);
	if (clear)
		__atomic_fetch_and(p.hit.host, (u8)~clear, __ATOMIC_SEQ_CST);
	if (p.hit.code)
		phys_note_write(v->phys, p.hit.gpa, 1);
	return true;
}

bool sys_read_bytes(struct vcpu *v, gva_t lin, void *buf, unsigned len)
{
	return read_bytes(v, DS, lin, MMU_KERNEL, buf, len);
}

bool sys_probe_write(struct vcpu *v, gva_t lin, unsigned len)
{
	struct piece p[2];

	return check_canonical(v, DS, lin, len) &&
	       translate_span(v, lin, len, ACC_WRITE, MMU_KERNEL, p);
}

bool fetch_translate(struct vcpu *v, gva_t lin, gpa_t *gpa)
{
	const struct tlb_way *t = &v->tlb.way[v->mmu_idx];
	struct tlb_hit hit;

	if (likely(t->entry[tlb_slot(lin)].exec == tlb_tag(lin & PAGE_MASK))) {
		*gpa = t->info[tlb_slot(lin)].gpa | (lin & ~PAGE_MASK);
		return true;
	}
	if (in_long_mode(v) && !is_canonical(v, lin))
		return raise_gp0(v);
	if (!tlb_fill(v, lin, ACC_EXEC, v->mmu_idx, &hit))
		return false;
	*gpa = hit.gpa;
	return true;
}
