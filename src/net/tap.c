/*
 * A tap device of the host: frames go through its kernel.
 *
 * Linux Documentation/networking/tuntap.rst, with IFF_VNET_HDR: offloads pass both ways.
 * Opened by name, where the user may, or given as an open descriptor.
 *
 * Runs on the network's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "net/backend.h"
#include "net/offload.h"

/* Frames read before the guest's have their turn. */
#define READS_MAX 64

struct tap {
	struct net *n;
	int fd;
	int at; /* in the poll set, -1: not */
	u8 buf[NET_FRAME_MAX];
};

static void tap_fill(void *opaque, struct net_poll *p)
{
	struct tap *t = opaque;

	t->at = net_wants(t->n) ? net_poll_add(p, t->fd, POLLIN) : -1;
}

static void tap_ready(void *opaque, const struct net_poll *p)
{
	struct tap *t = opaque;

	if (t->at < 0 || !p->fds[t->at].revents)
		return;
	for (unsigned i = 0; i < READS_MAX && net_wants(t->n); i++) {
		struct virtio_net_hdr h;
		struct iovec iov[2] = { { &h, sizeof(h) }, { t->buf, sizeof(t->buf) } };
		ssize_t len = readv(t->fd, iov, 2);
		struct net_frame f = { .data = t->buf };

		if (len < (ssize_t)sizeof(h))
			return;
		f.len = (u32)(len - (ssize_t)sizeof(h));
		f.off = (struct net_offload){ h.flags & (NET_NEEDS_CSUM | NET_DATA_VALID),
					      h.gso_type,
					      h.hdr_len,
					      h.gso_size,
					      h.csum_start,
					      h.csum_offset };
		net_deliver(t->n, &f);
	}
}

static void tap_send(void *opaque, const struct net_frame *f)
{
	struct tap *t = opaque;
	/* What the guest says here the host's kernel checks itself. */
	struct virtio_net_hdr h = { .flags = f->off.flags & NET_NEEDS_CSUM,
				    .gso_type = f->off.gso_type,
				    .hdr_len = f->off.hdr_len,
				    .gso_size = f->off.gso_size,
				    .csum_start = f->off.csum_start,
				    .csum_offset = f->off.csum_offset };
	struct iovec iov[2] = { { &h, sizeof(h) }, { f->data, f->len } };

	/* Full, or down: a cable loses frames. */
	if (writev(t->fd, iov, 2) < 0)
		return;
}

static void tap_close(void *opaque)
{
	struct tap *t = opaque;

	if (t->fd >= 0)
		close(t->fd);
	free(t);
}

static const struct net_ops tap_ops = {
	.fill = tap_fill,
	.ready = tap_ready,
	.send = tap_send,
	.close = tap_close,
	.offloads = true,
};

static int open_error(int code, struct error *err)
{
	switch (code) {
	case EACCES:
	case EPERM:
		return error_set(err, -code, "tap: no permission to open /dev/net/tun");
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return error_set(err, -code,
				 "tap: this host has no /dev/net/tun: its kernel's "
				 "module tun is needed");
	default: return error_set(err, -code, "tap: /dev/net/tun: %s", strerror(code));
	}
}

static int attach_error(const char *name, int code, struct error *err)
{
	switch (code) {
	case EBUSY:
		return error_set(err, -code, "tap: ifname=%s: another program uses it",
				 name);
	case EPERM:
		return error_set(err, -code,
				 "tap: ifname=%s: no permission: it was not made for "
				 "this user (ip tuntap add %s mode tap user NAME)",
				 name, name);
	case EINVAL:
		return error_set(err, -code,
				 "tap: ifname=%s: is no tap device, or one with several "
				 "queues",
				 name);
	default: return error_set(err, -code, "tap: ifname=%s: %s", name, strerror(code));
	}
}

static int tap_create(struct tap *t, const char *name, struct error *err)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

	if (strlen(name) >= sizeof(r.ifr_name))
		return error_set(err, -EINVAL,
				 "tap: ifname=%s is longer than %zu letters", name,
				 sizeof(r.ifr_name) - 1);
	strcpy(r.ifr_name, name);
	t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->fd < 0)
		return open_error(errno, err);
	/* One made here would be without an address, and gone with us. */
	if (!if_nametoindex(name))
		return error_set(err, -ENODEV,
				 "tap: ifname=%s: there is no such interface (ip tuntap "
				 "add %s mode tap user NAME)",
				 name, name);
	if (ioctl(t->fd, TUNSETIFF, &r))
		return attach_error(name, errno, err);
	return 0;
}

int net_tap_open(struct net_backend *b, struct net *n, const struct net_config *cfg,
		 struct error *err)
{
	struct tap *t = xzalloc(sizeof(*t));
	int size = sizeof(struct virtio_net_hdr), flags;
	struct ifreq r = { 0 };

	t->n = n;
	t->fd = -1;
	b->ops = &tap_ops;
	b->opaque = t;
	if (!cfg->fd && tap_create(t, cfg->ifname ? cfg->ifname : "", err))
		return -EINVAL;
	if (cfg->fd) {
		if (ioctl(cfg->fd, TUNGETIFF, &r))
			return error_set(err, -EINVAL, "tap: fd=%d is no tap device",
					 cfg->fd);
		if (!(r.ifr_flags & IFF_VNET_HDR))
			return error_set(err, -EINVAL,
					 "tap: fd=%d was opened without IFF_VNET_HDR",
					 cfg->fd);
		t->fd = cfg->fd;
		flags = fcntl(t->fd, F_GETFL);
		if (flags < 0 || fcntl(t->fd, F_SETFL, flags | O_NONBLOCK))
			return error_set(err, -errno, "tap: fd=%d: %s", cfg->fd,
					 strerror(errno));
	}
	if (ioctl(t->fd, TUNSETVNETHDRSZ, &size) ||
	    ioctl(t->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		return error_set(err, -errno, "tap: offloads: %s", strerror(errno));
	return 0;
}
