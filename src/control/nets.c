/*
 * Networks by name: -netdev, -nic, -object filter-dump, in QEMU's spelling.
 *
 * Deliberately missing: the hub (-net), bridges and scripts of tap, sockets that are not
 * Unix's. One thread, before and after the machine.
 */
#include "control/nets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "control/props.h"
#include "net/net.h"

#define NETS_MAX 8

struct spec {
	/* What was said. */
	char *type, *id, *mac, *model;
	u8 restricted, ipv4, ipv6, server;
	char *net, *host, *dhcpstart, *dns, *ipv6_net, *ipv6_host, *ipv6_dns;
	char *ipv6_prefix, *ipv6_prefixlen;
	char *hostname, *domainname, *tftp, *bootfile, *pcap;
	struct prop_list hostfwd, guestfwd;
	u64 mtu, fd;
	char *ifname, *script, *downscript;
	char *addr_type, *addr_path, *local_type, *local_path, *remote_type, *remote_path;
	/* What it means. */
	enum net_kind kind;
	bool taken;
	struct net *open;
};

struct nets {
	unsigned count;
	struct spec spec[NETS_MAX];
};

#define AT(field) offsetof(struct spec, field)
#define TEXT(name, field)                                                                \
	{                                                                                \
		name, PROP_TEXT, AT(field), 0, 0                                         \
	}
#define SW(name, field)                                                                  \
	{                                                                                \
		name, PROP_SWITCH, AT(field), 0, 0                                       \
	}

/* Together; which of them a type has is in 'types'. */
static const struct prop props[] = {
	TEXT("type", type),
	TEXT("id", id),
	TEXT("mac", mac),
	TEXT("model", model),
	SW("restrict", restricted),
	SW("ipv4", ipv4),
	SW("ipv6", ipv6),
	SW("server", server),
	TEXT("net", net),
	TEXT("host", host),
	TEXT("dhcpstart", dhcpstart),
	TEXT("dns", dns),
	TEXT("ipv6-net", ipv6_net),
	TEXT("ipv6-prefix", ipv6_prefix),
	TEXT("ipv6-prefixlen", ipv6_prefixlen),
	TEXT("ipv6-host", ipv6_host),
	TEXT("ipv6-dns", ipv6_dns),
	TEXT("hostname", hostname),
	TEXT("domainname", domainname),
	TEXT("tftp", tftp),
	TEXT("bootfile", bootfile),
	TEXT("pcap", pcap),
	{ "hostfwd", PROP_LIST, AT(hostfwd), 0, 0 },
	{ "guestfwd", PROP_LIST, AT(guestfwd), 0, 0 },
	{ "mtu", PROP_NUMBER, AT(mtu), 576, NET_MTU_MAX },
	{ "fd", PROP_NUMBER, AT(fd), 3, 1 << 20 },
	TEXT("ifname", ifname),
	TEXT("script", script),
	TEXT("downscript", downscript),
	{ "vhost", PROP_IGNORED, 0, 0, 0 },
	{ "vnet_hdr", PROP_IGNORED, 0, 0, 0 },
	{ "sndbuf", PROP_IGNORED, 0, 0, 0 },
	TEXT("addr.type", addr_type),
	TEXT("addr.path", addr_path),
	TEXT("local.type", local_type),
	TEXT("local.path", local_path),
	TEXT("remote.type", remote_type),
	TEXT("remote.path", remote_path),
	{ 0 },
};

static const struct {
	const char *name;
	enum net_kind kind;
} types[] = {
	{ "user", NET_USER },   { "tap", NET_TAP },   { "stream", NET_STREAM },
	{ "dgram", NET_DGRAM }, { "none", NET_NONE },
};

static int find_type(struct spec *s, const char *option, const char *text,
		     struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (!s->type || strcmp(s->type, types[i].name))
			continue;
		s->kind = types[i].kind;
		return 0;
	}
	return error_set(err, -EINVAL,
			 "%s %s: the network is user, tap, stream, dgram or none", option,
			 text);
}

static bool is_unix(const char *type)
{
	return !type || !strcmp(type, "unix");
}

static int check(const struct spec *s, const char *option, const char *text,
		 struct error *err)
{
	if (!is_unix(s->addr_type) || !is_unix(s->local_type) || !is_unix(s->remote_type))
		return error_set(err, -EINVAL,
				 "%s %s: only sockets of type unix are supported", option,
				 text);
	if ((s->script && strcmp(s->script, "no")) ||
	    (s->downscript && strcmp(s->downscript, "no")))
		return error_set(err, -EINVAL,
				 "%s %s: scripts are not run, say script=no", option,
				 text);
	if (s->kind == NET_STREAM && !s->addr_path && !s->fd)
		return error_set(err, -EINVAL, "%s %s: addr.path= or fd= is needed",
				 option, text);
	if (s->kind == NET_DGRAM && !s->local_path && !s->fd)
		return error_set(err, -EINVAL, "%s %s: local.path= or fd= is needed",
				 option, text);
	if (s->kind == NET_TAP && !s->ifname && !s->fd)
		return error_set(err, -EINVAL, "%s %s: ifname= or fd= is needed", option,
				 text);
	return 0;
}

/* The number of a new one, or -errno. */
static int add(struct nets *n, const char *option, const char *text, struct error *err)
{
	struct spec *s = &n->spec[n->count];
	char id[32];
	int ret;

	if (n->count == NETS_MAX)
		return error_set(err, -EINVAL, "%s %s: at most %u networks are possible",
				 option, text, NETS_MAX);
	n->count++;
	ret = props_parse(s, props, option, text, "type", err);
	if (!ret)
		ret = find_type(s, option, text, err);
	if (!ret)
		ret = check(s, option, text, err);
	if (ret)
		return ret;
	if (!s->id) {
		snprintf(id, sizeof(id), "net%u", n->count - 1);
		s->id = xstrdup(id);
	}
	for (unsigned i = 0; i + 1 < n->count; i++)
		if (!strcmp(n->spec[i].id, s->id))
			return error_set(err, -EINVAL,
					 "%s %s: there is a network %s already", option,
					 text, s->id);
	return (int)n->count - 1;
}

int nets_add(struct nets *n, const char *text, struct error *err)
{
	int i = add(n, "-netdev", text, err);

	if (i < 0)
		return i;
	if (n->spec[i].mac || n->spec[i].model)
		return error_set(
			err, -EINVAL,
			"-netdev %s: mac and model belong to the device or to -nic",
			text);
	return 0;
}

int nets_add_nic(struct nets *n, const char *text, struct nic *nic, struct error *err)
{
	int i;

	if (!strcmp(text, "none"))
		return 0;
	i = add(n, "-nic", text, err);
	if (i < 0)
		return i;
	n->spec[i].taken = true;
	nic->net = i;
	nic->mac = n->spec[i].mac ? xstrdup(n->spec[i].mac) : NULL;
	nic->model = n->spec[i].model ? xstrdup(n->spec[i].model) : NULL;
	return 1;
}

struct dump {
	char *type, *id, *netdev, *file;
};

static const struct prop dump_props[] = {
	{ "qom-type", PROP_TEXT, offsetof(struct dump, type), 0, 0 },
	{ "id", PROP_TEXT, offsetof(struct dump, id), 0, 0 },
	{ "netdev", PROP_TEXT, offsetof(struct dump, netdev), 0, 0 },
	{ "file", PROP_TEXT, offsetof(struct dump, file), 0, 0 },
	{ "maxlen", PROP_IGNORED, 0, 0, 0 },
	{ 0 },
};

int nets_add_dump(struct nets *n, const char *text, struct error *err)
{
	struct dump d = { 0 };
	int ret;

	if (strncmp(text, "filter-dump,", 12))
		return error_set(err, -EINVAL,
				 "-object %s: only filter-dump is supported", text);
	ret = props_parse(&d, dump_props, "-object", text, "qom-type", err);
	if (!ret && (!d.netdev || !d.file))
		ret = error_set(err, -EINVAL, "-object %s: netdev= and file= are needed",
				text);
	for (unsigned i = 0; !ret && i < n->count; i++) {
		struct spec *s = &n->spec[i];

		if (strcmp(s->id, d.netdev))
			continue;
		free(s->pcap);
		s->pcap = xstrdup(d.file);
		goto out;
	}
	if (!ret)
		ret = error_set(err, -EINVAL,
				"-object %s: there is no -netdev with id '%s'", text,
				d.netdev);
out:
	props_fini(&d, dump_props);
	return ret;
}

void nets_set_pcap(struct nets *n, const char *path)
{
	if (!n->count || n->spec[0].pcap)
		return;
	n->spec[0].pcap = xstrdup(path);
}

int nets_take(struct nets *n, const char *id, struct error *err)
{
	for (unsigned i = 0; i < n->count; i++) {
		if (strcmp(n->spec[i].id, id))
			continue;
		if (n->spec[i].taken)
			return error_set(err, -EINVAL,
					 "network %s is used by two devices", id);
		n->spec[i].taken = true;
		return (int)i;
	}
	return error_set(err, -EINVAL, "there is no -netdev with id '%s'", id);
}

static int open_one(struct spec *s, struct clock *clk, struct error *err)
{
	struct net_config cfg = {
		.kind = s->kind,
		.id = s->id,
		.pcap = s->pcap,
		.clk = clk,
		.restricted = s->restricted == SWITCH_ON,
		.no_ipv4 = s->ipv4 == SWITCH_OFF,
		.no_ipv6 = s->ipv6 == SWITCH_OFF,
		.net = s->net,
		.host = s->host,
		.dhcpstart = s->dhcpstart,
		.dns = s->dns,
		.ipv6_net = s->ipv6_net,
		.ipv6_host = s->ipv6_host,
		.ipv6_dns = s->ipv6_dns,
		.hostname = s->hostname,
		.domainname = s->domainname,
		.tftp = s->tftp,
		.bootfile = s->bootfile,
		.mtu = (unsigned)s->mtu,
		.fd = (int)s->fd,
		.ifname = s->ifname,
	};
	char *prefix = NULL;
	int ret;

	if (s->ipv6_prefix && asprintf(&prefix, "%s/%s", s->ipv6_prefix,
				       s->ipv6_prefixlen ? s->ipv6_prefixlen : "64") < 0)
		abort();
	if (prefix)
		cfg.ipv6_net = prefix;
	for (unsigned i = 0; i < s->hostfwd.count; i++)
		cfg.hostfwd[cfg.hostfwds++] = s->hostfwd.item[i];
	for (unsigned i = 0; i < s->guestfwd.count; i++)
		cfg.guestfwd[cfg.guestfwds++] = s->guestfwd.item[i];
	if (s->kind == NET_STREAM && s->server == SWITCH_ON)
		cfg.local = s->addr_path;
	else if (s->kind == NET_STREAM)
		cfg.peer = s->addr_path;
	if (s->kind == NET_DGRAM) {
		cfg.local = s->local_path;
		cfg.peer = s->remote_path;
	}
	ret = net_open(&s->open, &cfg, err);
	free(prefix);
	return ret;
}

int nets_open(struct nets *n, struct clock *clk, struct error *err)
{
	for (unsigned i = 0; i < n->count; i++) {
		if (!n->spec[i].taken)
			return error_set(err, -EINVAL,
					 "-netdev id=%s: no -device uses it; say -device "
					 "virtio-net-pci,netdev=%s",
					 n->spec[i].id, n->spec[i].id);
		if (open_one(&n->spec[i], clk, err))
			return -EINVAL;
	}
	return 0;
}

struct net *nets_net(const struct nets *n, int number)
{
	return n->spec[number].open;
}

/* A CPU waits in the place of one of them; others have their own threads. */
static bool idle_begin(void *opaque, struct vm_wait *w)
{
	struct nets *n = opaque;
	struct net_wait nw;

	for (unsigned i = 0; i < n->count; i++) {
		if (!net_stand_in(n->spec[i].open, w->wake, &nw))
			continue;
		w->fds = nw.fds;
		w->count = nw.count;
		w->timeout = nw.timeout;
		w->of = n->spec[i].open;
		return true;
	}
	return false;
}

static void idle_end(void *opaque, const struct vm_wait *w)
{
	(void)opaque;
	net_stood_in(w->of);
}

struct vm_idle nets_idle(struct nets *n)
{
	return (struct vm_idle){ idle_begin, idle_end, n };
}

struct nets *nets_new(void)
{
	return xzalloc(sizeof(struct nets));
}

void nets_free(struct nets *n)
{
	if (!n)
		return;
	for (unsigned i = 0; i < n->count; i++) {
		net_close(n->spec[i].open);
		props_fini(&n->spec[i], props);
	}
	free(n);
}
