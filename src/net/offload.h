/*
 * Checksums and segmentation that a guest left to the device.
 *
 * Offloads come from a guest or a peer: net_offload_valid() first.
 */
#pragma once

#include "net/net.h"

/* Everything that 'off' points to lies within the frame, and the kinds are known. */
bool net_offload_valid(const struct net_frame *f);

/* Complete the checksum, if one is missing. */
void net_checksum(struct net_frame *f);

/*
 * Cut a TCP frame into segments of gso_size bytes, with all checksums, and give each to
 * 'emit'. A frame that is none, or whose headers are wrong, is not emitted: false.
 */
bool net_segment(const struct net_frame *f,
		 void (*emit)(void *opaque, struct net_frame *f), void *opaque);

/* The Internet checksum's sum of 'len' bytes, not yet folded or inverted. */
u64 net_sum(const u8 *p, u32 len);
u16 net_fold(u64 sum);
