/*
 * Break- and watchpoints of a debugger outside the machine: which ones an instruction or
 * an access hits.
 *
 * They are not those of SDM volume 3 chapter 17 (debugreg.c), but take the same ways: an
 * access to a watched page misses the TLB, and is complete when the CPU stops. Page
 * walks, instruction fetches and devices are not watched. Thread: the owner of the vCPU.
 */
#include "x86/debugger.h"

bool debugger_stops_at(struct vcpu *v, gva_t lin)
{
	struct vcpu_debug *d = v->debug;

	for (unsigned i = 0; i < d->points->breaks; i++) {
		if (d->points->at[i] == lin) {
			d->stop = DEBUG_BREAK;
			return true;
		}
	}
	return false;
}

/* Do [a, a + n) and [b, b + m) overlap? Modulo 2^64, so that what wraps is right too. */
static bool overlap(u64 a, u64 n, u64 b, u64 m)
{
	return a - b < m || b - a < n;
}

void debugger_access(struct vcpu *v, gva_t lin, unsigned len, unsigned kind)
{
	struct vcpu_debug *d = v->debug;

	if (d->stop != DEBUG_NONE)
		return;
	for (unsigned i = 0; i < d->points->watches; i++) {
		const struct debug_watch *w = &d->points->watch[i];

		if ((w->kind & kind) && overlap(lin, len, w->lin, w->len)) {
			d->stop = DEBUG_WATCH;
			d->watch = i;
			d->lin = lin;
			/* Until vcpu_mode_changed() says the same. */
			v->step_check = true;
			return;
		}
	}
}

bool debugger_page_watched(const struct vcpu *v, gva_t lin)
{
	const struct debug_points *p = v->debug->points;

	for (unsigned i = 0; i < p->watches; i++)
		if (overlap(lin & ~UINT64_C(0xfff), 0x1000, p->watch[i].lin,
			    p->watch[i].len))
			return true;
	return false;
}
