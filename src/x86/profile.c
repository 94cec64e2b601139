/*
 * Counting by guest address: a hash table that forgets nothing and takes no more when a
 * place and its neighbours are full.
 *
 * Guest code decides what comes in, so a search is bounded. Thread: see profile.h. No
 * libc: it is called with the guest's vector registers live.
 */
#include "x86/profile.h"

#define NEIGHBOURS 16

void spot_add(struct spots *s, u64 lin, bool user, enum spot_kind kind, u64 n)
{
	u64 key = (lin & -(u64)SPOT_SIZE) | SPOT_USED | (user ? SPOT_USER : 0);
	unsigned i = (unsigned)(key * UINT64_C(0x9e3779b97f4a7c15) >> 49);

	_Static_assert(SPOTS == 1u << (64 - 49), "the hash");
	for (unsigned k = 0; k < NEIGHBOURS; k++, i = (i + 1) % SPOTS) {
		struct spot *t = &s->spot[i];

		if (t->lin != key) {
			if (t->lin)
				continue;
			t->lin = key;
		}
		t->count[kind] += n;
		return;
	}
	s->lost[kind] += n;
}

void profile_note_spot(struct vcpu *v, u64 lin, enum spot_kind kind)
{
	struct profile *p = v->profile;

	if (!p->noted.spot)
		return;
	spot_add(&p->noted, lin, v->cpl == 3, kind, 1);
}
