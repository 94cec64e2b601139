/*
 * Joining TCP segments of one flow into large frames, so that a guest handles one frame
 * and not forty.
 */
#pragma once

#include "net/net.h"

struct net_merge;

/*
 * 'emit' gets frames in the order in which they came; it may change them. 'trusted':
 * their checksums are right; otherwise those are looked at, and wrong ones are left to
 * the guest.
 */
struct net_merge *net_merge_new(void (*emit)(void *opaque, struct net_frame *f),
				void *opaque, bool trusted);
void net_merge_free(struct net_merge *m);

/* A frame with all its checksums. Joined to the one before, kept, or emitted. */
void net_merge_add(struct net_merge *m, const u8 *data, u32 len);
/* Nothing more comes for now. */
void net_merge_flush(struct net_merge *m);
