/*
 * The virtio network device, without its thread: the target plays the network's thread,
 * and the peer that sends frames.
 */
#include "net/net.h"
#include "virtio.h"
#include "virtio/net.h"

/* In place of net/net.c. */
struct net {
	struct net_client c;
	u32 sent;
	unsigned asked;
	bool entered;
};

static struct net cable;

int net_attach(struct net *n, const struct net_client *c, struct error *err)
{
	(void)err;
	n->c = *c;
	return 0;
}

void net_detach(struct net *n)
{
	(void)n;
}

void net_kick(struct net *n)
{
	(void)n;
}

/* Half of the time the network's thread is at work. */
bool net_enter(struct net *n)
{
	check(!n->entered);
	n->entered = n->asked++ & 1;
	return n->entered;
}

void net_leave(struct net *n)
{
	check(n->entered);
	n->entered = false;
}

void net_send(struct net *n, struct net_frame *f)
{
	check(f->len <= NET_FRAME_MAX);
	n->sent += f->data[f->len - 1];
}

static void step(void *opaque, u32 val)
{
	u8 buf[9000];
	struct net_frame f = { .data = buf, .len = 14 + val % 8900 };

	(void)opaque;
	cable.c.transmit(cable.c.opaque);
	memset(buf, (int)(val >> 8), sizeof(buf));
	if (val & 1)
		f.off = (struct net_offload){ NET_NEEDS_CSUM,
					      val & 2 ? NET_GSO_TCPV4 : 0,
					      0,
					      (u16)(NET_GSO_MIN + (val >> 17)),
					      0,
					      0 };
	(void)cable.c.receive(cable.c.opaque, &f);
}

static void save(void *opaque, struct state_buf *b)
{
	virtio_net_save(opaque, b, V_DEVFN);
}

static int load(void *opaque, struct state_buf *b, struct error *err)
{
	return virtio_net_load(opaque, b, V_DEVFN, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_net_setup cfg = { .net = &cable, .pairs = 2, .mtu = 1500 };
	struct virtio_net *d;
	struct vfuzz f;

	if (!size)
		return 0;
	cable.asked = 0;
	vfuzz_init(&f);
	d = virtio_net_new(f.phys, &cfg);
	f.step = step;
	f.save = save;
	f.load = load;
	f.opaque = d;
	vfuzz_attach(&f, virtio_net_core(d), data[0]);
	check(!virtio_net_start(d, NULL));
	vfuzz_run(&f, data, size);
	vfuzz_detach(&f);
	virtio_net_free(d);
	vfuzz_fini(&f);
	return 0;
}
