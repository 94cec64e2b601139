/*
 * PCI devices from the command line: -device virtio-..., nvme, ahci with its ide-hd,
 * e1000, and the short forms -drive if=virtio or ide, and -nic.
 *
 * Names and properties are QEMU's. All words are understood before the first file is
 * opened; drives and networks are found by id in any order. One thread, before and after
 * the machine.
 */
#include "control/devices_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "block/block.h"
#include "control/drives.h"
#include "control/nets.h"
#include "control/ports.h"
#include "control/props.h"
#include "control/seed.h"
#include "machine/pc.h"
#include "net/net.h"
#include "pci/pci.h"

/* All properties of all devices; which a device has is in its table. */
struct device_spec {
	char *driver, *id, *addr, *bus, *serial, *drive, *netdev, *mac, *rng;
	char *chardev, *name;
	u8 packed, event_idx, indirect;
	u8 legacy_off, modern_off, write_cache, mq, merge, csum, tso4, guest_csum;
	u64 queues, queue_size, logical, physical, vectors, mtu, target, ports, nr;
	bool reporting, deflate;
};

#define AT(field) offsetof(struct device_spec, field)
#define TEXT(name, field)                                                                \
	{                                                                                \
		name, PROP_TEXT, AT(field), 0, 0                                         \
	}
#define SW(name, field)                                                                  \
	{                                                                                \
		name, PROP_SWITCH, AT(field), 0, 0                                       \
	}
#define NUM(name, field, lo, hi)                                                         \
	{                                                                                \
		name, PROP_NUMBER, AT(field), lo, hi                                     \
	}
#define IGNORED(name)                                                                    \
	{                                                                                \
		name, PROP_IGNORED, 0, 0, 0                                              \
	}

/* clang-format off */
#define COMMON                                                                           \
	TEXT("driver", driver), TEXT("id", id), TEXT("addr", addr), TEXT("bus", bus),    \
	SW("disable-legacy", legacy_off), SW("disable-modern", modern_off),              \
	NUM("vectors", vectors, 0, 2048), IGNORED("bootindex"), IGNORED("iommu_platform"), \
	SW("packed", packed), SW("event_idx", event_idx), SW("indirect_desc", indirect),               \
	IGNORED("ats"), IGNORED("page-per-vq"), IGNORED("romfile"), IGNORED("rombar")

static const struct prop blk_props[] = {
	COMMON,
	TEXT("drive", drive),
	TEXT("serial", serial),
	NUM("num-queues", queues, 1, VIRTIO_BLK_QUEUES_MAX),
	NUM("queue-size", queue_size, 2, 1024),
	{ "logical_block_size", PROP_SIZE, AT(logical), 0, 0 },
	{ "physical_block_size", PROP_SIZE, AT(physical), 0, 0 },
	SW("write-cache", write_cache),
	IGNORED("scsi"), IGNORED("config-wce"), IGNORED("discard"), IGNORED("write-zeroes"),
	IGNORED("iothread"), IGNORED("share-rw"),
	{ 0 },
};

static const struct prop net_props[] = {
	COMMON,
	TEXT("netdev", netdev),
	TEXT("mac", mac),
	SW("mq", mq),
	NUM("queues", queues, 1, VIRTIO_NET_PAIRS_MAX),
	NUM("rx_queue_size", queue_size, 64, 1024),
	NUM("tx_queue_size", queue_size, 64, 1024),
	NUM("host_mtu", mtu, NET_MTU_MIN, NET_MTU_MAX),
	SW("mrg_rxbuf", merge),
	SW("csum", csum), SW("guest_csum", guest_csum),
	SW("host_tso4", tso4), SW("host_tso6", tso4), SW("guest_tso4", tso4),
	SW("guest_tso6", tso4), IGNORED("gso"), IGNORED("tx"), IGNORED("status"),
	{ 0 },
};

static const struct prop rng_props[] = {
	COMMON,
	TEXT("rng", rng),
	{ 0 },
};

static const struct prop balloon_props[] = {
	COMMON,
	{ "free-page-reporting", PROP_BOOL, AT(reporting), 0, 0 },
	{ "deflate-on-oom", PROP_BOOL, AT(deflate), 0, 0 },
	{ "target", PROP_SIZE, AT(target), 0, 0 },
	IGNORED("guest-stats-polling-interval"),
	{ 0 },
};

static const struct prop console_props[] = {
	COMMON,
	NUM("max_ports", ports, 1, 511),
	{ 0 },
};

static const struct prop port_props[] = {
	TEXT("driver", driver), TEXT("id", id), TEXT("bus", bus),
	TEXT("chardev", chardev), TEXT("name", name), NUM("nr", nr, 0, 511),
	{ 0 },
};

static const struct prop nvme_props[] = {
	TEXT("driver", driver), TEXT("id", id), TEXT("addr", addr), TEXT("bus", bus),
	TEXT("drive", drive),
	TEXT("serial", serial),
	NUM("max_ioqpairs", queues, 1, NVME_QUEUES_MAX + 1),
	{ "logical_block_size", PROP_SIZE, AT(logical), 0, 0 },
	SW("write-cache", write_cache),
	IGNORED("msix_qsize"), IGNORED("bootindex"), IGNORED("physical_block_size"),
	IGNORED("mdts"), IGNORED("aerl"), IGNORED("share-rw"), IGNORED("romfile"), IGNORED("rombar"),
	{ 0 },
};

static const struct prop ahci_props[] = {
	TEXT("driver", driver), TEXT("id", id), TEXT("addr", addr), TEXT("bus", bus),
	IGNORED("romfile"), IGNORED("rombar"),
	{ 0 },
};

static const struct prop e1000_props[] = {
	TEXT("driver", driver), TEXT("id", id), TEXT("addr", addr), TEXT("bus", bus),
	TEXT("netdev", netdev),
	TEXT("mac", mac),
	IGNORED("bootindex"), IGNORED("romfile"), IGNORED("rombar"),
	{ 0 },
};

static const struct prop hd_props[] = {
	TEXT("driver", driver), TEXT("id", id), TEXT("bus", bus),
	TEXT("drive", drive),
	TEXT("serial", serial),
	SW("write-cache", write_cache),
	IGNORED("unit"), IGNORED("bootindex"), IGNORED("rotation_rate"), IGNORED("share-rw"),
	{ 0 },
};

static const struct type {
	const char *name;
	const struct prop *props;
	enum pcidevices_kind kind;
	const char *help;
	bool plain; /* not virtio: without suffixes */
} types[] = {
	{ "virtio-blk", blk_props, PCIDEVICES_BLK, "a disk: drive=ID", false },
	{ "virtio-net", net_props, PCIDEVICES_NET, "a network card: netdev=ID", false },
	{ "virtio-rng", rng_props, PCIDEVICES_RNG, "random numbers of the host", false },
	{ "virtio-serial", console_props, PCIDEVICES_CONSOLE, "a bus for virtconsole and virtserialport", false },
	{ "virtio-balloon", balloon_props, PCIDEVICES_BALLOON, "memory that the guest gives back", false },
	{ "nvme", nvme_props, PCIDEVICES_NVME, "a disk, NVMe: drive=ID", true },
	{ "ahci", ahci_props, PCIDEVICES_AHCI, "a SATA adapter for ide-hd: id=ID", true },
	{ "e1000", e1000_props, PCIDEVICES_E1000, "a network card of Intel: netdev=ID", true },
};
/* clang-format on */

static const char *const suffixes[] = { "", "-pci", "-pci-transitional",
					"-pci-non-transitional", "-device" };
enum { SUFFIX_TRANSITIONAL = 2, SUFFIX_MODERN = 3, SUFFIX_MMIO = 4 };

/* 'len' letters of 'name'. */
static const struct type *find_type(const char *name, size_t len, unsigned *suffix)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		size_t n = strlen(types[i].name);

		if (len < n || strncmp(name, types[i].name, n))
			continue;
		for (*suffix = 0; *suffix < (types[i].plain ? 1 : ARRAY_SIZE(suffixes));
		     ++*suffix)
			if (strlen(suffixes[*suffix]) == len - n &&
			    !strncmp(suffixes[*suffix], name + n, len - n))
				return &types[i];
	}
	return NULL;
}

/* A disk on an ahci. */
static bool is_hd(const char *text)
{
	size_t n = strcspn(text, ",");

	return n == 6 && !strncmp(text, "ide-hd", n);
}

/* A port of the console before it; *console: a terminal. */
static bool is_port(const char *text, bool *console)
{
	size_t n = strcspn(text, ",");

	*console = n == 11 && !strncmp(text, "virtconsole", n);
	return *console || (n == 14 && !strncmp(text, "virtserialport", n));
}

bool devices_pci_has(const char *text)
{
	unsigned suffix;
	bool console;

	if (is_port(text, &console) || is_hd(text))
		return true;
	return find_type(text, strcspn(text, ","), &suffix);
}

int devices_pci_add(struct virtio_words *w, enum virtio_word kind, const char *text,
		    struct error *err)
{
	if (w->count == VIRTIO_WORDS_MAX)
		return error_set(
			err, -EINVAL,
			"%s: at most %u drives, networks and devices are possible", text,
			VIRTIO_WORDS_MAX);
	w->word[w->count].kind = kind;
	w->word[w->count++].text = text;
	return 0;
}

void devices_pci_list(FILE *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		fprintf(out, "  %s%s%*s %s\n", types[i].name,
			types[i].plain ? "" : "-pci",
			(int)((types[i].plain ? 18 : 14) - strlen(types[i].name)), "",
			types[i].help);
	fputs("  virtio-*-device    the same virtio devices over MMIO instead of PCI\n",
	      out);
	fprintf(out,
		"  %-18s a terminal (hvc) on the virtio-serial before it: chardev=ID\n",
		"virtconsole");
	fprintf(out, "  %-18s a port on it: chardev=ID,name=NAME\n", "virtserialport");
	fprintf(out, "  %-18s a SATA disk: drive=ID, also bus=ide.N or bus=AHCI.N\n",
		"ide-hd");
}

bool devices_pci_help(FILE *out, const char *name)
{
	unsigned suffix;
	const struct type *t = find_type(name, strlen(name), &suffix);
	const struct prop *props = t ? t->props : is_hd(name) ? hd_props : NULL;

	if (props && out)
		for (const struct prop *p = props; p->name; p++)
			if (p->kind != PROP_IGNORED && strcmp(p->name, "driver"))
				fprintf(out, "  %s\n", p->name);
	return props;
}

/* ---- properties ---- */

static int bad(const char *text, const char *what, struct error *err)
{
	return error_set(err, -EINVAL, "-device %s: %s", text, what);
}

/* SLOT[.FUNCTION], hexadecimal. */
static int parse_addr(struct pcidevices_config *c, const struct device_spec *s,
		      const char *text, struct error *err)
{
	unsigned long slot, fn = 0;
	char *end;

	if (s->bus && strcmp(s->bus, "pcie.0") && strcmp(s->bus, "pci.0"))
		return bad(text, "the only bus is pcie.0", err);
	if (!s->addr)
		return 0;
	slot = strtoul(s->addr, &end, 16);
	if (*end == '.')
		fn = strtoul(end + 1, &end, 16);
	if (*end || slot < 1 || slot > 0x1e || fn > 7)
		return bad(text, "addr is a slot from 1 to 1e, or SLOT.FUNCTION", err);
	c->devfn = PCI_DEVFN(slot, fn);
	return 0;
}

/* Over MMIO: a place instead of a slot. */
static int parse_place(struct pcidevices_config *c, const struct device_spec *s,
		       const char *text, struct error *err)
{
	static const char bus[] = "virtio-mmio-bus.";
	char *end;

	c->mmio = true;
	if (s->addr || s->legacy_off || s->modern_off || s->vectors)
		return bad(text,
			   "addr, disable-legacy, disable-modern and vectors are those "
			   "of the device with -pci at its end",
			   err);
	if (!s->bus)
		return 0;
	if (!strncmp(s->bus, bus, sizeof(bus) - 1)) {
		const char *digits = s->bus + sizeof(bus) - 1;
		unsigned long n = strtoul(digits, &end, 10);

		if (*digits >= '0' && *digits <= '9' && !*end && n < VIRTIO_MMIO_PLACES) {
			c->place = (u8)(n + 1);
			return 0;
		}
	}
	return bad(text, "bus is virtio-mmio-bus.N, N from 0 to 7", err);
}

static bool parse_mac(const char *s, u8 *mac)
{
	char end;

	return sscanf(s, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1],
		      &mac[2], &mac[3], &mac[4], &mac[5], &end) == 6 &&
	       !(mac[0] & 1);
}

static int queue_size(const struct device_spec *s, const char *text, u16 *size,
		      struct error *err)
{
	if (s->queue_size && !is_pow2(s->queue_size))
		return bad(text, "queue sizes are powers of two", err);
	*size = (u16)MIN(s->queue_size, (u64)VQ_SIZE_MAX);
	return 0;
}

static bool block_size_ok(u64 n)
{
	return !n || (is_pow2(n) && n >= 512 && n <= 32768);
}

static int set_blk(struct devices_pci *d, struct pcidevices_config *c,
		   const struct device_spec *s, const char *text, struct error *err)
{
	int n;

	if (!s->drive)
		return bad(text, "drive=ID is needed", err);
	if (!block_size_ok(s->logical) || !block_size_ok(s->physical))
		return bad(text, "block sizes are powers of two from 512 to 32768", err);
	n = drives_take(d->drives, s->drive, err);
	if (n < 0 || queue_size(s, text, &c->blk.queue_size, err))
		return -EINVAL;
	if (c->blk.queue_size && c->blk.queue_size < 4)
		return bad(text, "queue-size is at least 4", err);
	c->backend = (unsigned)n;
	c->blk.queues = (unsigned)s->queues;
	c->blk.logical_block = (u32)s->logical;
	c->blk.physical_block = (u32)s->physical;
	c->blk.serial = s->serial ? s->serial : drives_serial(d->drives, c->backend);
	c->blk.write_cache_off = s->write_cache == SWITCH_OFF ||
				 (s->write_cache == SWITCH_AUTO &&
				  drives_writethrough(d->drives, c->backend));
	return 0;
}

static int set_nvme(struct devices_pci *d, struct pcidevices_config *c,
		    const struct device_spec *s, const char *text, struct error *err)
{
	int n;

	if (!s->drive)
		return bad(text, "drive=ID is needed", err);
	if (s->logical && (!is_pow2(s->logical) || s->logical < 512 || s->logical > 4096))
		return bad(text, "logical_block_size is 512, 1024, 2048 or 4096", err);
	n = drives_take(d->drives, s->drive, err);
	if (n < 0)
		return -EINVAL;
	c->backend = (unsigned)n;
	c->nvme.queues = (unsigned)s->queues;
	c->nvme.logical_block = (u32)s->logical;
	c->nvme.serial = s->serial ? s->serial : drives_serial(d->drives, c->backend);
	c->nvme.write_cache_off = s->write_cache == SWITCH_OFF ||
				  (s->write_cache == SWITCH_AUTO &&
				   drives_writethrough(d->drives, c->backend));
	return 0;
}

static int set_net(struct devices_pci *d, struct pcidevices_config *c,
		   const struct device_spec *s, const char *text, struct error *err)
{
	int n;

	if (!s->netdev)
		return bad(text, "netdev=ID is needed", err);
	n = nets_take(d->nets, s->netdev, err);
	if (n < 0 || queue_size(s, text, &c->net.queue_size, err))
		return -EINVAL;
	if (s->mac && !parse_mac(s->mac, c->net.mac))
		return bad(text, "mac is an address like 52:54:00:12:34:56", err);
	c->backend = (unsigned)n;
	c->net.pairs = s->queues ? (unsigned)s->queues : s->mq == SWITCH_OFF;
	c->net.mtu = (u16)s->mtu;
	c->net.no_merge = s->merge == SWITCH_OFF;
	c->net.no_offload = s->csum == SWITCH_OFF || s->guest_csum == SWITCH_OFF ||
			    s->tso4 == SWITCH_OFF;
	return 0;
}

static int set_e1000(struct devices_pci *d, struct pcidevices_config *c,
		     const struct device_spec *s, const char *text, struct error *err)
{
	int n;

	if (!s->netdev)
		return bad(text, "netdev=ID is needed", err);
	n = nets_take(d->nets, s->netdev, err);
	if (n < 0)
		return -EINVAL;
	if (s->mac && !parse_mac(s->mac, c->e1000.mac))
		return bad(text, "mac is an address like 52:54:00:12:34:56", err);
	c->backend = (unsigned)n;
	return 0;
}

static struct pcidevices_config *new_device(struct devices_pci *d, const char *text,
					    struct error *err)
{
	if (d->count < PCIDEVICES_MAX)
		return &d->cfg[d->count++];
	bad(text, "there are no more slots", err);
	return NULL;
}

/* The last console that was made; a new one when there is none. */
static struct pcidevices_config *port_bus(struct devices_pci *d, const char *text,
					  struct error *err)
{
	struct pcidevices_config *c;

	for (unsigned i = d->count; i-- > 0;)
		if (d->cfg[i].kind == PCIDEVICES_CONSOLE)
			return &d->cfg[i];
	c = new_device(d, text, err);
	if (c)
		*c = (struct pcidevices_config){ .kind = PCIDEVICES_CONSOLE,
						 .name = "virtio-serial-pci",
						 .legacy = true };
	return c;
}

static int set_port(struct devices_pci *d, const char *text, bool console,
		    struct error *err)
{
	struct pcidevices_config *c = port_bus(d, text, err);
	struct virtio_console_port *p;
	struct device_spec *s;

	if (!c)
		return -EINVAL;
	/* Port 0 is for a console: without one it stays unused, as Linux expects. */
	if (!console && !c->ports)
		c->ports = 1;
	if (console && c->ports == 1 && !c->port[0].console && !c->port[0].opaque)
		c->ports = 0;
	if (c->ports == VIRTIO_CONSOLE_PORTS_MAX)
		return bad(text, "the virtio-serial has no port left", err);
	p = &c->port[c->ports];
	s = &d->port_spec[(c - d->cfg) * VIRTIO_CONSOLE_PORTS_MAX + c->ports++];
	if (props_parse(s, port_props, "-device", text, "driver", err))
		return -EINVAL;
	p->console = console;
	p->name = s->name;
	if (!s->chardev)
		return bad(text, "chardev=ID is needed", err);
	return ports_take(d->ports, s->chardev, p, err);
}

/* The adapter of q35, made when something is connected to it. */
#define ICH9_AHCI PCI_DEVFN(0x1f, 2)

static struct pcidevices_config *builtin_ahci(struct devices_pci *d, const char *text,
					      struct error *err)
{
	struct pcidevices_config *c;

	for (unsigned i = 0; i < d->count; i++)
		if (d->cfg[i].kind == PCIDEVICES_AHCI && d->cfg[i].devfn == ICH9_AHCI)
			return &d->cfg[i];
	c = new_device(d, text, err);
	if (c)
		*c = (struct pcidevices_config){ .kind = PCIDEVICES_AHCI,
						 .name = "ahci",
						 .devfn = ICH9_AHCI };
	return c;
}

static int free_port(const struct pcidevices_config *c)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (!c->drive[i])
			return (int)i;
	return -1;
}

/* 'bus' is ide.N or AHCI.N; NULL: the next free port of the built-in one. */
static struct pcidevices_config *find_ahci(struct devices_pci *d, const char *bus,
					   unsigned *port, const char *text,
					   struct error *err)
{
	const char *dot = bus ? strrchr(bus, '.') : NULL;
	struct pcidevices_config *c = NULL;
	int n = -1;

	if (!bus || !strncmp(bus, "ide.", 4)) {
		c = builtin_ahci(d, text, err);
		if (!c)
			return NULL;
	}
	for (unsigned i = 0; dot && !c && i < d->count; i++)
		if (d->cfg[i].kind == PCIDEVICES_AHCI && d->cfg[i].id &&
		    strlen(d->cfg[i].id) == (size_t)(dot - bus) &&
		    !strncmp(d->cfg[i].id, bus, (size_t)(dot - bus)))
			c = &d->cfg[i];
	if (!bus)
		n = free_port(c);
	else if (dot && dot[1] >= '0' && dot[1] < '0' + AHCI_PORTS && !dot[2])
		n = dot[1] - '0';
	if (!c || n < 0) {
		bad(text,
		    bus ? "bus is ide.N, or ID.N of an -device ahci,id=ID, N 0 to 5"
			: "all ports of the SATA adapter are taken",
		    err);
		return NULL;
	}
	if (c->drive[n]) {
		bad(text, "the port is taken", err);
		return NULL;
	}
	*port = (unsigned)n;
	return c;
}

static void connect_hd(struct devices_pci *d, struct pcidevices_config *c, unsigned port,
		       unsigned drive, const struct device_spec *s)
{
	c->drive[port] = drive + 1;
	c->ahci.disk[port].serial =
		s && s->serial ? s->serial : drives_serial(d->drives, drive);
	c->ahci.disk[port].write_cache_off =
		s && s->write_cache ? s->write_cache == SWITCH_OFF
				    : drives_writethrough(d->drives, drive);
}

static int set_hd(struct devices_pci *d, const char *text, struct error *err)
{
	struct pcidevices_config *c;
	struct device_spec s = { 0 }, *kept;
	unsigned port;
	int n = -1, ret = props_parse(&s, hd_props, "-device", text, "driver", err);

	if (!ret && !s.drive)
		ret = bad(text, "drive=ID is needed", err);
	if (ret)
		goto fail;
	n = drives_take(d->drives, s.drive, err);
	c = n < 0 ? NULL : find_ahci(d, s.bus, &port, text, err);
	if (!c)
		goto fail;
	kept = &d->port_spec[(c - d->cfg) * VIRTIO_CONSOLE_PORTS_MAX + port];
	*kept = s;
	connect_hd(d, c, port, (unsigned)n, kept);
	return 0;
fail:
	props_fini(&s, hd_props);
	return -EINVAL;
}

static int set_device(struct devices_pci *d, const char *text, struct error *err)
{
	struct pcidevices_config *c;
	struct device_spec *s;
	const struct type *t;
	unsigned suffix;
	bool console;

	if (is_port(text, &console))
		return set_port(d, text, console, err);
	if (is_hd(text))
		return set_hd(d, text, err);
	c = new_device(d, text, err);
	if (!c)
		return -EINVAL;
	s = &d->spec[c - d->cfg];
	t = find_type(text, strcspn(text, ","), &suffix);
	c->kind = t->kind;
	if (props_parse(s, t->props, "-device", text, "driver", err) ||
	    (suffix == SUFFIX_MMIO ? parse_place : parse_addr)(c, s, text, err))
		return -EINVAL;
	c->name = s->driver;
	c->id = s->id;
	/* Auto is transitional, as on QEMU's root bus. */
	c->legacy = suffix == SUFFIX_TRANSITIONAL ||
		    (suffix != SUFFIX_MODERN && s->legacy_off != SWITCH_ON);
	c->without = (s->packed == SWITCH_OFF ? BIT(VIRTIO_F_RING_PACKED) : 0) |
		     (s->event_idx == SWITCH_OFF ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0) |
		     (s->indirect == SWITCH_OFF ? BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0);
	if (s->modern_off == SWITCH_ON)
		return bad(text, "a device without the modern interface is not possible",
			   err);
	switch (t->kind) {
	case PCIDEVICES_BLK: return set_blk(d, c, s, text, err);
	case PCIDEVICES_NET: return set_net(d, c, s, text, err);
	case PCIDEVICES_E1000: return set_e1000(d, c, s, text, err);
	case PCIDEVICES_NVME: return set_nvme(d, c, s, text, err);
	case PCIDEVICES_BALLOON:
		c->balloon.reporting = s->reporting;
		c->balloon.deflate_on_oom = s->deflate;
		c->balloon.target = s->target;
		return 0;
	default: return 0;
	}
}

/* ---- short forms ---- */

static bool is_net(const char *model, bool *mmio)
{
	unsigned suffix;
	const struct type *t = find_type(model, strlen(model), &suffix);

	*mmio = t && suffix == SUFFIX_MMIO;
	return !strcmp(model, "virtio") || (t && t->kind == PCIDEVICES_NET);
}

static int set_nic(struct devices_pci *d, const char *text, struct error *err)
{
	struct nic nic = { 0 };
	int ret = nets_add_nic(d->nets, text, &nic, err);
	struct pcidevices_config *c;

	if (ret <= 0)
		return ret;
	ret = 0;
	c = new_device(d, text, err);
	if (!c) {
		ret = -EINVAL;
		goto out;
	}
	if (nic.model && !strcmp(nic.model, "e1000"))
		*c = (struct pcidevices_config){ .kind = PCIDEVICES_E1000,
						 .name = "e1000" };
	else
		*c = (struct pcidevices_config){ .kind = PCIDEVICES_NET,
						 .name = "virtio-net-pci",
						 .legacy = true };
	c->backend = (unsigned)nic.net;
	if (c->kind == PCIDEVICES_NET && nic.model && !is_net(nic.model, &c->mmio))
		ret = error_set(err, -EINVAL, "-nic %s: model is virtio-net-pci or e1000",
				text);
	if (!ret && nic.mac &&
	    !parse_mac(nic.mac, c->kind == PCIDEVICES_NET ? c->net.mac : c->e1000.mac))
		ret = error_set(err, -EINVAL,
				"-nic %s: mac is an address like 52:54:00:12:34:56",
				text);
out:
	free(nic.mac);
	free(nic.model);
	return ret;
}

static int drive_device(struct devices_pci *d, unsigned n, const char *text,
			struct error *err)
{
	struct pcidevices_config *c;
	unsigned port;

	if (drives_is_ide(d->drives, n)) {
		c = find_ahci(d, NULL, &port, text, err);
		if (!c)
			return -EINVAL;
		drives_take_number(d->drives, n);
		connect_hd(d, c, port, n, NULL);
		return 0;
	}
	if (!drives_is_virtio(d->drives, n))
		return 0;
	c = new_device(d, text, err);
	if (!c)
		return -EINVAL;
	drives_take_number(d->drives, n);
	*c = (struct pcidevices_config){
		.kind = PCIDEVICES_BLK,
		.name = "virtio-blk-pci",
		.legacy = true,
		.backend = n,
		.blk = { .serial = drives_serial(d->drives, n),
			 .write_cache_off = drives_writethrough(d->drives, n) },
	};
	return 0;
}

static int set_drive(struct devices_pci *d, const char *text, struct error *err)
{
	int ret = drives_add(d->drives, text, err);

	return ret ? ret : drive_device(d, drives_count(d->drives) - 1, text, err);
}

/*
 * The disk of cloud-init, behind all others so that these keep their names in the guest.
 * Nobody may see or change the file in memory: it is named by its descriptor, until the
 * drives are open.
 */
static int set_seed(struct devices_pci *d, const char *text, int *fd, struct error *err)
{
	char drive[80];

	*fd = seed_open(text, err);
	if (*fd < 0)
		return *fd;
	snprintf(drive, sizeof(drive),
		 "file=/proc/self/fd/%d,format=raw,readonly=on,serial=cidata", *fd);
	return set_drive(d, drive, err);
}

static const char *find_seed(const struct virtio_words *w)
{
	for (unsigned i = 0; i < w->count; i++)
		if (w->word[i].kind == WORD_SEED)
			return w->word[i].text;
	return NULL;
}

static int open_backends(struct devices_pci *d, const char *seed, struct clock *clk,
			 struct error *err)
{
	int fd = -1, ret = seed ? set_seed(d, seed, &fd, err) : 0;

	if (!ret)
		ret = drives_open(d->drives, err);
	if (fd >= 0)
		close(fd);
	if (ret || nets_open(d->nets, clk, err) || ports_open(d->ports, err))
		return -EINVAL;
	return 0;
}

/* ---- all words ---- */

/*
 * In three rounds, so that an id may come before what has it; the devices among
 * themselves keep their order, which is that of their slots.
 */
static int parse_word(struct devices_pci *d, unsigned round, enum virtio_word kind,
		      const char *text, struct error *err)
{
	switch (kind) {
	case WORD_DRIVE: return round == 0 ? set_drive(d, text, err) : 0;
	case WORD_NETDEV: return round == 0 ? nets_add(d->nets, text, err) : 0;
	case WORD_NIC: return round == 1 ? set_nic(d, text, err) : 0;
	case WORD_DEVICE: return round == 1 ? set_device(d, text, err) : 0;
	case WORD_CHARDEV: return round == 0 ? ports_add_chardev(d->ports, text, err) : 0;
	case WORD_OBJECT: return round == 2 ? nets_add_dump(d->nets, text, err) : 0;
	case WORD_PCAP:
		if (round == 2)
			nets_set_pcap(d->nets, text);
		return 0;
	case WORD_SEED: return 0; /* after all others */
	default:
		if (round == 2)
			drives_snapshot(d->drives);
		return 0;
	}
}

/* QEMU's, counted up in the last byte. */
static void default_macs(struct devices_pci *d)
{
	static const u8 none[6];
	u8 mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

	for (unsigned i = 0; i < d->count; i++) {
		struct pcidevices_config *c = &d->cfg[i];
		u8 *to = c->kind == PCIDEVICES_E1000 ? c->e1000.mac : c->net.mac;

		if (c->kind != PCIDEVICES_NET && c->kind != PCIDEVICES_E1000)
			continue;
		if (!memcmp(to, none, 6))
			memcpy(to, mac, 6);
		mac[5]++;
	}
}

/* ATA knows no disk that cannot be written to. */
static int open_hds(struct devices_pci *d, struct pcidevices_config *c, struct error *err)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		struct block *b;

		if (!c->drive[i])
			continue;
		b = drives_block(d->drives, c->drive[i] - 1);
		if (block_readonly(b))
			return error_set(err, -EINVAL,
					 "-drive id=%s: a SATA disk cannot be read-only; "
					 "say snapshot=on for readonly=on, or use nvme",
					 drives_id(d->drives, c->drive[i] - 1));
		c->ahci.disk[i].block = b;
	}
	return 0;
}

int devices_pci_init(struct devices_pci *d, const struct virtio_words *w,
		     struct clock *clk, struct error *err)
{
	*d = (struct devices_pci){
		.drives = drives_new(),
		.nets = nets_new(),
		.ports = ports_new(),
		.port_spec = xzalloc(PCIDEVICES_MAX * VIRTIO_CONSOLE_PORTS_MAX *
				     sizeof(struct device_spec)),
		.spec = xzalloc(PCIDEVICES_MAX * sizeof(struct device_spec))
	};
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < w->count; i++)
			if (parse_word(d, round, w->word[i].kind, w->word[i].text, err))
				return -EINVAL;
	default_macs(d);
	for (unsigned i = 0; i < d->count; i++)
		if (d->cfg[i].kind == PCIDEVICES_CONSOLE && !d->cfg[i].ports)
			d->cfg[i].ports = 1;
	if (open_backends(d, find_seed(w), clk, err))
		return -EINVAL;
	for (unsigned i = 0; i < d->count; i++) {
		struct pcidevices_config *c = &d->cfg[i];

		if (c->kind == PCIDEVICES_BLK)
			c->blk.block = drives_block(d->drives, c->backend);
		else if (c->kind == PCIDEVICES_NVME)
			c->nvme.block = drives_block(d->drives, c->backend);
		else if (c->kind == PCIDEVICES_AHCI && open_hds(d, c, err))
			return -EINVAL;
		else if (c->kind == PCIDEVICES_NET)
			c->net.net = nets_net(d->nets, c->backend);
		else if (c->kind == PCIDEVICES_E1000)
			c->e1000.net = nets_net(d->nets, c->backend);
	}
	return 0;
}

int devices_pci_attach(struct devices_pci *d, struct pc *pc, struct error *err)
{
	struct vm_idle idle = nets_idle(d->nets);

	vm_on_idle(pc_vm(pc), &idle);
	for (unsigned i = 0; i < d->count; i++) {
		struct virtio_console *v = pcidevices_console(pc_pcidevices(pc), i);

		for (unsigned k = 0; v && k < d->cfg[i].ports; k++)
			if (ports_attach(d->ports, &d->cfg[i].port[k], v, k, pc_loop(pc),
					 err))
				return -EINVAL;
	}
	return 0;
}

void devices_pci_detach(struct devices_pci *d)
{
	ports_detach(d->ports);
}

void devices_pci_fini(struct devices_pci *d)
{
	const unsigned port_specs = PCIDEVICES_MAX * VIRTIO_CONSOLE_PORTS_MAX;

	for (unsigned i = 0; d->spec && i < d->count; i++) {
		const struct device_spec *s = &d->spec[i];
		unsigned suffix;
		const struct type *t =
			s->driver ? find_type(s->driver, strlen(s->driver), &suffix)
				  : NULL;

		if (t)
			props_fini(&d->spec[i], t->props);
	}
	for (unsigned i = 0; d->port_spec && i < port_specs; i++)
		props_fini(&d->port_spec[i],
			   d->cfg[i / VIRTIO_CONSOLE_PORTS_MAX].kind == PCIDEVICES_AHCI
				   ? hd_props
				   : port_props);
	free(d->spec);
	free(d->port_spec);
	ports_free(d->ports);
	nets_free(d->nets);
	drives_free(d->drives);
	*d = (struct devices_pci){ 0 };
}
