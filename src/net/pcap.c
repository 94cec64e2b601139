/*
 * Frames written to a file for Wireshark and tcpdump.
 *
 * The classic libpcap format, version 2.4, link type Ethernet, with nanoseconds (magic
 * a1b23c4d). The time is the machine's. A file that cannot be written ends the recording
 * with one message.
 *
 * Runs on the thread of its network.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "net/backend.h"
#include "time/clock.h"

#define SNAP_LEN 262144

struct pcap {
	FILE *file;
	char *path;
	struct clock *clk;
	bool failed;
};

static void put(struct pcap *p, const void *data, size_t len)
{
	if (p->failed || fwrite(data, 1, len, p->file) == len)
		return;
	p->failed = true;
	log_error("%s: %s; frames are not recorded any more", p->path, strerror(errno));
}

int pcap_open(struct pcap **out, const char *path, struct clock *clk, struct error *err)
{
	u8 head[24] = { 0 };
	struct pcap *p;
	FILE *f = fopen(path, "we");

	if (!f)
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	p = *out = xzalloc(sizeof(*p));
	p->file = f;
	p->path = xstrdup(path);
	p->clk = clk;
	le_store(head, 0xa1b23c4d, 4);
	le_store(head + 4, 2, 2);
	le_store(head + 6, 4, 2);
	le_store(head + 16, SNAP_LEN, 4);
	le_store(head + 20, 1, 4); /* Ethernet */
	put(p, head, sizeof(head));
	return 0;
}

void pcap_close(struct pcap *p)
{
	if (!p)
		return;
	if (fclose(p->file) && !p->failed)
		log_error("%s: %s", p->path, strerror(errno));
	free(p->path);
	free(p);
}

void pcap_frame(struct pcap *p, const u8 *data, u32 len)
{
	i64 now = p->clk ? clock_epoch_ns(p->clk) : 0;
	u8 head[16];

	le_store(head, (u64)(now / NSEC_PER_SEC), 4);
	le_store(head + 4, (u64)(now % NSEC_PER_SEC), 4);
	le_store(head + 8, len, 4);
	le_store(head + 12, len, 4);
	put(p, head, sizeof(head));
	put(p, data, len);
}

void pcap_flush(struct pcap *p)
{
	if (!p->failed && fflush(p->file))
		put(p, "", 1); /* says why */
}
