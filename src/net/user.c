/*
 * User networking: libslirp's TCP/IP stack, which makes ordinary sockets of what the
 * guest sends. Needs no privileges.
 *
 * The guest finds a router and host at 10.0.2.2, a name server at 10.0.2.3, DHCP
 * from 10.0.2.15 on, and the same in fec0::/64; all can be changed. The router's
 * address leads to the host's loopback. libslirp reads no packets of TCP larger than its
 * buffers, but takes what a guest left to be cut, so nothing is cut here.
 * Deliberately missing: SMB, forwarding of IPv6 ports of the host.
 *
 * All calls into libslirp are on the network's thread, but those of opening and closing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "net/backend.h"
#include "net/merge.h"
#include "time/clock.h"

#define TIMERS_MAX 4

struct slirp_timer {
	SlirpTimerCb cb;
	void *opaque;
	i64 at; /* milliseconds; -1: off */
	bool used;
};

struct user {
	struct net *n;
	Slirp *slirp;
	struct net_merge *merge; /* its small frames become large ones */
	struct clock *clk;
	struct slirp_timer timers[TIMERS_MAX];
	struct net_poll *poll; /* inside fill() and ready() */
	bool filled;           /* libslirp expects slirp_pollfds_poll() */
};

/* ---- what libslirp calls ---- */

static ssize_t on_packet(const void *buf, size_t len, void *opaque)
{
	struct user *u = opaque;

	/* It has just made the checksums, or checked them. */
	if (len <= NET_FRAME_MAX)
		net_merge_add(u->merge, buf, (u32)len);
	return (ssize_t)len;
}

static void on_merged(void *opaque, struct net_frame *f)
{
	struct user *u = opaque;

	net_deliver(u->n, f);
}

static void on_guest_error(const char *msg, void *opaque)
{
	(void)opaque;
	guest_bug("net", "%s", msg);
}

static i64 on_clock(void *opaque)
{
	struct user *u = opaque;

	return u->clk ? clock_now(u->clk) : 0;
}

static void *on_timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
	struct user *u = opaque;

	for (unsigned i = 0; i < TIMERS_MAX; i++) {
		struct slirp_timer *t = &u->timers[i];

		if (t->used)
			continue;
		*t = (struct slirp_timer){ cb, cb_opaque, -1, true };
		return t;
	}
	return NULL;
}

static void on_timer_free(void *timer, void *opaque)
{
	struct slirp_timer *t = timer;

	(void)opaque;
	if (t)
		t->used = false;
}

static void on_timer_mod(void *timer, i64 expire_ms, void *opaque)
{
	struct slirp_timer *t = timer;

	(void)opaque;
	if (t)
		t->at = expire_ms;
}

/* Each round asks for all descriptors again. */
static void on_fd_gone(int fd, void *opaque)
{
	struct user *u = opaque;

	(void)fd;
	net_reopened(u->n);
}

/* Those of UDP and ICMP it leaves blocking. */
static void on_fd(int fd, void *opaque)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	on_fd_gone(fd, opaque);
}

static void on_notify(void *opaque)
{
	/* Called on our thread, which is about to look anyway. */
	(void)opaque;
}

static const SlirpCb callbacks = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_fd,
	.unregister_poll_fd = on_fd_gone,
	.notify = on_notify,
};

/* ---- waiting ---- */

static const struct {
	int slirp;
	short poll;
} event_map[] = {
	{ SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT },
	{ SLIRP_POLL_PRI, POLLPRI }, { SLIRP_POLL_ERR, POLLERR },
	{ SLIRP_POLL_HUP, POLLHUP },
};

static int on_add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;
	short e = 0;

	for (size_t i = 0; i < ARRAY_SIZE(event_map); i++)
		if (events & event_map[i].slirp)
			e |= event_map[i].poll;
	return net_poll_add(u->poll, fd, e);
}

static int on_get_revents(int idx, void *opaque)
{
	struct user *u = opaque;
	int events = 0;

	if (idx < 0 || (unsigned)idx >= u->poll->count)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(event_map); i++)
		if (u->poll->fds[idx].revents & event_map[i].poll)
			events |= event_map[i].slirp;
	return events;
}

static void lower_timeout(struct net_poll *p, i64 ms)
{
	ms = MAX(ms, 0);
	if (p->timeout < 0 || ms < p->timeout)
		p->timeout = (int)MIN(ms, 1000000);
}

static void user_flush(void *opaque)
{
	struct user *u = opaque;

	net_merge_flush(u->merge);
}

static void user_fill(void *opaque, struct net_poll *p)
{
	struct user *u = opaque;
	i64 now = on_clock(u) / NSEC_PER_MSEC;
	u32 timeout = UINT32_MAX;

	/* About to wait: what came until now is all there is. */
	user_flush(u);
	for (unsigned i = 0; i < TIMERS_MAX; i++)
		if (u->timers[i].used && u->timers[i].at >= 0)
			lower_timeout(p, u->timers[i].at - now);
	/* The guest does not keep up: read nothing more for it. */
	u->filled = net_wants(u->n);
	if (!u->filled)
		return;
	u->poll = p;
	slirp_pollfds_fill(u->slirp, &timeout, on_add_poll, u);
	u->poll = NULL;
	if (timeout != UINT32_MAX)
		lower_timeout(p, timeout);
}

static void run_timers(struct user *u)
{
	i64 now = on_clock(u) / NSEC_PER_MSEC;

	for (unsigned i = 0; i < TIMERS_MAX; i++) {
		struct slirp_timer *t = &u->timers[i];

		if (!t->used || t->at < 0 || t->at > now)
			continue;
		t->at = -1;
		t->cb(t->opaque);
	}
}

static void user_ready(void *opaque, const struct net_poll *p)
{
	struct user *u = opaque;

	if (u->filled) {
		/* Only read there. */
		u->poll = (struct net_poll *)(uintptr_t)p;
		slirp_pollfds_poll(u->slirp, 0, on_get_revents, u);
		u->poll = NULL;
	}
	run_timers(u);
}

static void user_send(void *opaque, const struct net_frame *f)
{
	struct user *u = opaque;

	slirp_input(u->slirp, f->data, (int)f->len);
}

static void user_close(void *opaque)
{
	struct user *u = opaque;

	if (u->slirp)
		slirp_cleanup(u->slirp);
	net_merge_free(u->merge);
	free(u);
}

static const struct net_ops user_ops = {
	.fill = user_fill,
	.flush = user_flush,
	.ready = user_ready,
	.send = user_send,
	.close = user_close,
	.big = true,
};

/* ---- configuration ---- */

static int bad(struct error *err, const char *what, const char *val, const char *want)
{
	return error_set(err, -EINVAL, "user network: %s=%s: %s is needed", what, val,
			 want);
}

static int parse_v4(struct in_addr *a, const char *what, const char *val,
		    struct error *err)
{
	if (val && inet_pton(AF_INET, val, a) != 1)
		return bad(err, what, val, "an IPv4 address");
	return 0;
}

static int parse_v6(struct in6_addr *a, const char *what, const char *val,
		    struct error *err)
{
	if (val && inet_pton(AF_INET6, val, a) != 1)
		return bad(err, what, val, "an IPv6 address");
	return 0;
}

/* ADDRESS[/BITS]: cuts the bits off; 'bits' keeps its value without them. */
static int parse_prefix(char *text, unsigned min, unsigned max, unsigned *bits)
{
	char *slash = strchr(text, '/'), *end;
	unsigned long n;

	if (!slash)
		return 0;
	*slash++ = 0;
	n = strtoul(slash, &end, 10);
	if (!*slash || *end || n < min || n > max)
		return -EINVAL;
	*bits = (unsigned)n;
	return 0;
}

static bool in_network(const SlirpConfig *s, struct in_addr a)
{
	return (a.s_addr & s->vnetmask.s_addr) == s->vnetwork.s_addr;
}

static int configure_v4(SlirpConfig *s, const struct net_config *c, struct error *err)
{
	const char *net = c->net ? c->net : "10.0.2.0/24";
	char *text = strdupa(net);
	unsigned bits = 24;
	u32 base;

	if (parse_prefix(text, 8, 29, &bits))
		return bad(err, "net", net, "ADDRESS/BITS with 8 to 29 bits");
	if (parse_v4(&s->vnetwork, "net", text, err))
		return -EINVAL;
	s->vnetmask.s_addr = htonl(~(u32)0 << (32 - bits));
	s->vnetwork.s_addr &= s->vnetmask.s_addr;
	base = ntohl(s->vnetwork.s_addr);
	s->vhost.s_addr = htonl(base | 2);
	s->vnameserver.s_addr = htonl(base | 3);
	s->vdhcp_start.s_addr = htonl(base | (bits <= 28 ? 15 : 4));
	if (bits == 28) /* 15 would be the broadcast address */
		s->vdhcp_start.s_addr = htonl(base | 4);
	if (parse_v4(&s->vhost, "host", c->host, err) ||
	    parse_v4(&s->vnameserver, "dns", c->dns, err) ||
	    parse_v4(&s->vdhcp_start, "dhcpstart", c->dhcpstart, err))
		return -EINVAL;
	if (!in_network(s, s->vhost) || !in_network(s, s->vnameserver) ||
	    !in_network(s, s->vdhcp_start))
		return error_set(
			err, -EINVAL,
			"user network: host, dns and dhcpstart must lie in net=%s", net);
	return 0;
}

static int configure_v6(SlirpConfig *s, const struct net_config *c, struct error *err)
{
	const char *net = c->ipv6_net ? c->ipv6_net : "fec0::/64";
	char *text = strdupa(net);
	unsigned bits = 64;

	if (parse_prefix(text, 1, 126, &bits))
		return bad(err, "ipv6-net", net, "PREFIX/BITS with at most 126 bits");
	if (parse_v6(&s->vprefix_addr6, "ipv6-net", text, err))
		return -EINVAL;
	s->vprefix_len = (u8)bits;
	s->vhost6 = s->vnameserver6 = s->vprefix_addr6;
	s->vhost6.s6_addr[15] |= 2;
	s->vnameserver6.s6_addr[15] |= 3;
	if (parse_v6(&s->vhost6, "ipv6-host", c->ipv6_host, err) ||
	    parse_v6(&s->vnameserver6, "ipv6-dns", c->ipv6_dns, err))
		return -EINVAL;
	return 0;
}

/* [ADDR]:PORT at *at, up to 'stop' or the end. */
static bool parse_end(const char **at, char stop, struct in_addr *addr, unsigned *port)
{
	const char *colon = strchr(*at, ':');
	char *text, *end;
	unsigned long n;

	if (!colon)
		return false;
	text = strndupa(*at, (size_t)(colon - *at));
	if (*text && inet_pton(AF_INET, text, addr) != 1)
		return false;
	n = strtoul(colon + 1, &end, 10);
	if (end == colon + 1 || *end != stop || n > 65535)
		return false;
	*port = (unsigned)n;
	*at = end + (stop != 0);
	return true;
}

/* (tcp|udp|):[HOST]:PORT-[GUEST]:PORT */
static int add_hostfwd(struct user *u, const char *text, struct error *err)
{
	struct in_addr host = { .s_addr = INADDR_ANY }, guest = { .s_addr = 0 };
	const char *at = text;
	unsigned hport, gport;
	bool udp = !strncmp(at, "udp:", 4);

	if (udp || !strncmp(at, "tcp:", 4))
		at += 4;
	else if (*at == ':')
		at++;
	else
		return bad(err, "hostfwd", text,
			   "tcp or udp, then :[ADDR]:PORT-[ADDR]:PORT");
	if (!parse_end(&at, '-', &host, &hport) || !parse_end(&at, 0, &guest, &gport) ||
	    !gport)
		return bad(err, "hostfwd", text, "tcp:[ADDR]:PORT-[ADDR]:PORT");
	if (slirp_add_hostfwd(u->slirp, udp, host, (int)hport, guest, (int)gport) < 0)
		return error_set(err, -errno, "user network: hostfwd=%s: %s", text,
				 strerror(errno));
	return 0;
}

/* tcp:ADDR:PORT-(cmd:COMMAND|unix:PATH) */
static int add_guestfwd(struct user *u, const char *text, struct error *err)
{
	struct in_addr guest = { .s_addr = 0 };
	const char *at = text;
	unsigned port;
	int ret;

	if (!strncmp(at, "tcp:", 4))
		at += 4;
	if (!parse_end(&at, '-', &guest, &port) || !guest.s_addr || !port)
		return bad(err, "guestfwd", text,
			   "tcp:ADDR:PORT-cmd:COMMAND or -unix:PATH");
	if (!strncmp(at, "cmd:", 4))
		ret = slirp_add_exec(u->slirp, at + 4, &guest, (int)port);
	else if (!strncmp(at, "unix:", 5))
		ret = slirp_add_unix(u->slirp, at + 5, &guest, (int)port);
	else
		return bad(err, "guestfwd", text,
			   "tcp:ADDR:PORT-cmd:COMMAND or -unix:PATH");
	if (ret < 0)
		return error_set(
			err, -EINVAL,
			"user network: guestfwd=%s: that address is taken or not "
			"in the network",
			text);
	return 0;
}

int net_user_open(struct net_backend *b, struct net *n, const struct net_config *cfg,
		  struct error *err)
{
	struct user *u = xzalloc(sizeof(*u));
	SlirpConfig s = {
		.version = SLIRP_CONFIG_VERSION_MAX,
		.restricted = cfg->restricted,
		.in_enabled = !cfg->no_ipv4,
		.in6_enabled = !cfg->no_ipv6,
		.vhostname = cfg->hostname,
		.vdomainname = cfg->domainname,
		.tftp_path = cfg->tftp,
		.bootfile = cfg->bootfile,
		.if_mtu = cfg->mtu,
		.if_mru = cfg->mtu,
	};

	u->n = n;
	u->clk = cfg->clk;
	u->merge = net_merge_new(on_merged, u, true);
	b->ops = &user_ops;
	b->opaque = u;
	/* Connects and waits, starts processes, reads files. */
	b->waits = cfg->guestfwds || cfg->tftp;
	if (cfg->no_ipv4 && cfg->no_ipv6)
		return error_set(err, -EINVAL,
				 "user network: ipv4=off and ipv6=off leave nothing");
	if (configure_v4(&s, cfg, err) || configure_v6(&s, cfg, err))
		return -EINVAL;
	u->slirp = slirp_new(&s, &callbacks, u);
	if (!u->slirp)
		return error_set(err, -EINVAL, "user network: libslirp refuses");
	for (unsigned i = 0; i < cfg->hostfwds; i++)
		if (add_hostfwd(u, cfg->hostfwd[i], err))
			return -EINVAL;
	for (unsigned i = 0; i < cfg->guestfwds; i++)
		if (add_guestfwd(u, cfg->guestfwd[i], err))
			return -EINVAL;
	return 0;
}
