/* Frames with arbitrary headers and offloads: valid ones are cut, joined and summed. */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "fuzz.h"
#include "net/merge.h"
#include "net/offload.h"

static void emit(void *opaque, struct net_frame *f)
{
	(void)opaque;
	if (!net_offload_valid(f))
		abort();
}

/* A head of 16 bytes (length, offloads), then the frame's first bytes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static u8 buf[NET_FRAME_MAX];
	struct net_merge *m = net_merge_new(emit, NULL, size & 1);

	for (unsigned i = 0; i < 64 && size > 80; i++) {
		struct net_frame f = { .data = buf };

		f.len = (u32)le_load(data, 4) % (NET_FRAME_MAX + 1);
		f.off = (struct net_offload){ data[4],
					      data[5],
					      (u16)le_load(data + 6, 2),
					      (u16)le_load(data + 8, 2),
					      (u16)le_load(data + 10, 2),
					      (u16)le_load(data + 12, 2) };
		memcpy(buf, data + 16, 64);
		if (f.len >= 14)
			net_merge_add(m, buf, f.len);
		if (net_offload_valid(&f)) {
			if (f.off.gso_type && f.off.gso_size > 64)
				net_segment(&f, emit, NULL);
			net_checksum(&f);
		}
		data += 80;
		size -= 80;
	}
	net_merge_flush(m);
	net_merge_free(m);
	return 0;
}
