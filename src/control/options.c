/*
 * The options of `umbra run`: one table for parsing, help and suggestions.
 *
 * Spellings and meanings are those of QEMU's qemu-system-x86_64 (its manual,
 * "Invocation"); both -option and --option, and the value as the next word or behind '='.
 * Options that QEMU has and Umbra does not have yet are known by name, to say so.
 *
 * Only words are looked at here; files and sizes are checked by who uses them. One
 * thread, before there is a machine.
 */
#include "control/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/keyval.h"
#include "control/gdb.h"
#include "control/ports.h"

#define RAM_DEFAULT MiB(512)

enum value { VALUE_NONE, VALUE_NEEDED, VALUE_MAYBE };

struct option {
	const char *name;
	enum value value;
	const char *arg;  /* what the value is, for the help */
	const char *help; /* NULL: not shown */
	/* 'val' is NULL without a value. */
	int (*set)(struct run_options *o, const char *val, struct error *err);
};

/* ---- values ---- */

/* The next of "a=b,c,d=e": key, and value or NULL. False at the end. 'list' is cut up. */
static bool next_item(char **list, const char **key, const char **val)
{
	char *item = strsep(list, ","), *eq;

	if (!item)
		return false;
	eq = strchr(item, '=');
	if (eq)
		*eq++ = 0;
	*key = item;
	*val = eq;
	return true;
}

/* A decimal number without sign from 'min' to 'max'. */
static bool parse_number(const char *s, unsigned min, unsigned max, unsigned *val)
{
	unsigned long long n;
	char *end;

	if (!s || !isdigit((unsigned char)*s))
		return false;
	errno = 0;
	n = strtoull(s, &end, 10);
	if (*end || errno || n < min || n > max)
		return false;
	*val = (unsigned)n;
	return true;
}

static int suffix_shift(char c)
{
	static const char suffixes[] = "BKMGTP";
	const char *at = strchr(suffixes, toupper((unsigned char)c));

	if (!c)
		return 20; /* QEMU: MiB */
	return at ? 10 * (int)(at - suffixes) : -1;
}

bool options_size(const char *s, u64 *bytes)
{
	u64 whole = 0, num = 0, den = 1;
	u128 sum;
	int shift;

	if (!isdigit((unsigned char)*s))
		return false;
	for (; isdigit((unsigned char)*s); s++) {
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, (u64)(*s - '0'), &whole))
			return false;
	}
	if (*s == '.') {
		if (!isdigit((unsigned char)*++s))
			return false;
		for (; isdigit((unsigned char)*s); s++) {
			if (den >= 1000000000)
				continue;
			num = num * 10 + (u64)(*s - '0');
			den *= 10;
		}
	}
	shift = suffix_shift(*s);
	if (shift < 0 || (*s && s[1]))
		return false;
	sum = ((u128)whole << shift) + ((u128)num << shift) / den;
	*bytes = (u64)sum;
	return sum <= UINT64_MAX;
}

static int set_memory(struct run_options *o, const char *val, struct error *err)
{
	char *copy = strdupa(val), *list = copy;
	const char *key, *size;
	bool first = true;

	while (next_item(&list, &key, &size)) {
		if (first && !size)
			size = key;
		else if (strcmp(key, "size"))
			return error_set(err, -EINVAL,
					 "-m %s: '%s' is not supported, only a size is",
					 val, key);
		first = false;
		if (!size || !options_size(size, &o->ram_size))
			return error_set(err, -EINVAL,
					 "-m '%s': a size like 512M or 2G is needed",
					 val);
	}
	return 0;
}

static int set_smp(struct run_options *o, const char *val, struct error *err)
{
	static const char *const keys[] = { "cpus", "sockets", "cores", "threads",
					    "maxcpus" };
	unsigned n[ARRAY_SIZE(keys)] = { 0 };
	char *copy = strdupa(val), *list = copy;
	const char *key, *num;
	unsigned product;
	bool first = true;

	while (next_item(&list, &key, &num)) {
		unsigned i = 0;

		if (first && !num) {
			num = key;
			key = keys[0];
		}
		first = false;
		while (i < ARRAY_SIZE(keys) && strcmp(keys[i], key))
			i++;
		if (i == ARRAY_SIZE(keys))
			return error_set(err, -EINVAL,
					 "-smp %s: '%s' is not one of cpus, sockets, "
					 "cores, threads",
					 val, key);
		if (!parse_number(num, 1, VM_MAX_VCPUS, &n[i]))
			return error_set(err, -EINVAL,
					 "-smp %s: %s is a number from 1 to %u", val, key,
					 VM_MAX_VCPUS);
	}
	product = MAX(n[1], 1u) * MAX(n[2], 1u) * MAX(n[3], 1u);
	o->cpus = n[0] ? n[0] : n[4] ? n[4] : product;
	if (product > VM_MAX_VCPUS || o->cpus % product ||
	    (n[1] && n[2] && n[3] && product != o->cpus))
		return error_set(
			err, -EINVAL,
			"-smp %s: sockets * cores * threads = %u does not make %u CPUs",
			val, product, o->cpus);
	if (n[4] && n[4] != o->cpus)
		return error_set(
			err, -EINVAL,
			"-smp %s: CPUs cannot be added later, so maxcpus is cpus", val);
	o->sockets = n[1];
	o->cores = n[2];
	o->threads = n[3];
	return 0;
}

static int set_backend(struct port_option *p, const char *name, const char *val,
		       struct error *err)
{
	const char *what = val;

	p->path = NULL;
	if (!strncmp(what, "mon:", 4))
		what += 4;
	if (!strcmp(what, "stdio")) {
		p->backend = BACKEND_STDIO;
	} else if (!strcmp(what, "null") || !strcmp(what, "none")) {
		p->backend = BACKEND_NULL;
	} else if (!strncmp(what, "file:", 5)) {
		p->backend = BACKEND_FILE;
		p->path = what + 5;
		if (!*p->path)
			return error_set(err, -EINVAL,
					 "-%s %s: a path is needed behind file:", name,
					 val);
	} else if (!strncmp(what, "chardev:", 8)) {
		p->backend = BACKEND_CHARDEV;
		p->path = what + 8;
	} else {
		return error_set(err, -EINVAL,
				 "-%s %s: one of stdio, file:PATH, null, none, "
				 "chardev:ID is needed",
				 name, val);
	}
	return 0;
}

static int set_serial(struct run_options *o, const char *val, struct error *err)
{
	if (o->serials == PC_SERIALS)
		return error_set(err, -EINVAL,
				 "-serial %s: the machine has only %u serial ports", val,
				 PC_SERIALS);
	return set_backend(&o->serial[o->serials++], "serial", val, err);
}

/* ---- devices ---- */

static int add_device(struct run_options *o, const struct device_args *a,
		      struct error *err)
{
	if (o->devices == DEVICES_MAX)
		return error_set(err, -EINVAL,
				 "-device %s: at most %u devices are possible",
				 device_name(a), DEVICES_MAX);
	o->device[o->devices++] = *a;
	return 0;
}

static int debugcon_twice(const struct run_options *o, const char *option,
			  struct error *err)
{
	if (o->debugcon.backend == BACKEND_DEFAULT)
		return 0;
	return error_set(err, -EINVAL, "%s: there is a debug console already", option);
}

static int set_debugcon(struct run_options *o, const char *val, struct error *err)
{
	struct device_args a;
	int ret = debugcon_twice(o, "-debugcon", err);

	if (!ret)
		ret = set_backend(&o->debugcon, "debugcon", val, err);
	if (ret || !strcmp(val, "none"))
		return ret;
	device_args_default(&a, "isa-debugcon");
	return add_device(o, &a, err);
}

/* help, NAME,help, and how QEMU also has it. */
static bool wants_help(const char *val)
{
	const char *last = strrchr(val, ',');

	last = last ? last + 1 : val;
	return !strcmp(last, "help") || !strcmp(last, "?");
}

static int set_device(struct run_options *o, const char *val, struct error *err)
{
	struct device_args a;
	int ret;

	if (wants_help(val)) {
		size_t n = strcspn(val, ",");

		if (val[n] && !device_help(NULL, strndupa(val, n)) &&
		    !devices_pci_help(NULL, strndupa(val, n)))
			return error_set(err, -EINVAL,
					 "-device %.*s: there is no such device; -device "
					 "help lists them",
					 (int)n, val);
		o->action = RUN_DEVICE_HELP;
		o->device_help = val[n] ? val : NULL;
		return 0;
	}
	if (devices_pci_has(val))
		return devices_pci_add(&o->virtio, WORD_DEVICE, val, err);
	ret = device_args_parse(&a, val, err);
	if (!ret && a.chardev[0]) {
		ret = debugcon_twice(o, "-device isa-debugcon", err);
		/* Found by its name when all options are known. */
		o->debugcon = (struct port_option){ BACKEND_CHARDEV, NULL };
	}
	return ret ? ret : add_device(o, &a, err);
}

static int set_drive(struct run_options *o, const char *val, struct error *err)
{
	return devices_pci_add(&o->virtio, WORD_DRIVE, val, err);
}

static int set_seed(struct run_options *o, const char *val, struct error *err)
{
	for (unsigned i = 0; i < o->virtio.count; i++)
		if (o->virtio.word[i].kind == WORD_SEED)
			return error_set(err, -EINVAL,
					 "--seed %s: there is one already, %s", val,
					 o->virtio.word[i].text);
	return devices_pci_add(&o->virtio, WORD_SEED, val, err);
}

static int set_netdev(struct run_options *o, const char *val, struct error *err)
{
	return devices_pci_add(&o->virtio, WORD_NETDEV, val, err);
}

static int set_nic(struct run_options *o, const char *val, struct error *err)
{
	return devices_pci_add(&o->virtio, WORD_NIC, val, err);
}

/* The form of old: with "user", a card too; cards by themselves are -nic's. */
static int set_net(struct run_options *o, const char *val, struct error *err)
{
	if (!strncmp(val, "nic", 3) && (!val[3] || val[3] == ','))
		return error_set(err, -EINVAL,
				 "-net %s: say -nic user,... for network and card", val);
	return devices_pci_add(&o->virtio, WORD_NIC, val, err);
}

static int set_object(struct run_options *o, const char *val, struct error *err)
{
	return devices_pci_add(&o->virtio, WORD_OBJECT, val, err);
}

static int set_pcap(struct run_options *o, const char *val, struct error *err)
{
	return devices_pci_add(&o->virtio, WORD_PCAP, val, err);
}

static int set_snapshot(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	return devices_pci_add(&o->virtio, WORD_SNAPSHOT, "-snapshot", err);
}

static int set_chardev(struct run_options *o, const char *val, struct error *err)
{
	static const struct {
		const char *name;
		enum backend backend;
	} backends[] = {
		{ "stdio", BACKEND_STDIO },
		{ "file", BACKEND_FILE },
		{ "null", BACKEND_NULL },
	};
	struct chardev_option *c = &o->chardev[o->chardevs];
	struct keyval kv;
	int ret = 0;

	/* Files and nothing may be for either. */
	if (strncmp(val, "stdio", 5) &&
	    devices_pci_add(&o->virtio, WORD_CHARDEV, val, err))
		return -EINVAL;
	if (ports_has(val))
		return 0;
	if (o->chardevs == CHARDEVS_MAX)
		return error_set(err, -EINVAL, "-chardev %s: at most %u are possible",
				 val, CHARDEVS_MAX);
	*c = (struct chardev_option){ 0 };
	keyval_init(&kv, val);
	keyval_next(&kv);
	for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
		if (!kv.val && !strcmp(kv.key, backends[i].name))
			c->backend = backends[i].backend;
	if (!c->backend)
		ret = error_set(err, -EINVAL,
				"-chardev %s: one of stdio, file, null is needed", val);
	while (!ret && keyval_next(&kv)) {
		bool id = !strcmp(kv.key, "id");
		char *to = id ? c->id : c->path;
		size_t room = id ? sizeof(c->id) : sizeof(c->path);

		if ((!strcmp(kv.key, "mux") || !strcmp(kv.key, "signal")) &&
		    c->backend == BACKEND_STDIO)
			continue;
		if (!id && (strcmp(kv.key, "path") || c->backend != BACKEND_FILE))
			ret = error_set(err, -EINVAL,
					"-chardev %s: there is no property '%s'", val,
					kv.key);
		else if (!kv.val || !*kv.val || strlen(kv.val) >= room)
			ret = error_set(err, -EINVAL,
					"-chardev %s: %s is empty or too long", val,
					kv.key);
		else
			strcpy(to, kv.val);
	}
	keyval_fini(&kv);
	if (!ret && !c->id[0])
		ret = error_set(err, -EINVAL, "-chardev %s: id= is needed", val);
	if (!ret && c->backend == BACKEND_FILE && !c->path[0])
		ret = error_set(err, -EINVAL, "-chardev %s: path= is needed", val);
	for (unsigned i = 0; !ret && i < o->chardevs; i++)
		if (!strcmp(o->chardev[i].id, c->id))
			ret = error_set(err, -EINVAL,
					"-chardev %s: there is one with id %s already",
					val, c->id);
	o->chardevs += !ret;
	return ret;
}

/* Replace chardev:ID by what it is. */
static int find_chardev(const struct run_options *o, struct port_option *p,
			const char *option, struct error *err)
{
	if (p->backend != BACKEND_CHARDEV)
		return 0;
	for (unsigned i = 0; i < o->chardevs; i++) {
		const struct chardev_option *c = &o->chardev[i];

		if (strcmp(c->id, p->path))
			continue;
		p->backend = c->backend;
		p->path = c->backend == BACKEND_FILE ? c->path : NULL;
		return 0;
	}
	return error_set(err, -EINVAL, "%s: there is no -chardev with id '%s'", option,
			 p->path);
}

static int find_chardevs(struct run_options *o, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < o->serials && !ret; i++)
		ret = find_chardev(o, &o->serial[i], "-serial", err);
	for (unsigned i = 0; i < o->devices; i++)
		if (o->device[i].chardev[0])
			o->debugcon.path = o->device[i].chardev;
	return ret ? ret : find_chardev(o, &o->debugcon, "-device isa-debugcon", err);
}

static int set_fw_cfg(struct run_options *o, const char *val, struct error *err)
{
	if (o->fw_cfgs == FWFILES_MAX)
		return error_set(err, -EINVAL, "-fw_cfg %s: at most %u are possible", val,
				 FWFILES_MAX);
	o->fw_cfg[o->fw_cfgs++] = val;
	return fwfiles_check(val, err);
}

/* ---- the machine ---- */

/* Properties of QEMU's machines that can only be what they are. */
static const struct {
	const char *name;
	enum { ANY, ONLY_OFF, ONLY_ON } can;
} machine_fixed[] = {
	{ "acpi", ONLY_ON },       { "dump-guest-core", ANY }, { "fd-bootchk", ANY },
	{ "graphics", ANY },       { "hmat", ONLY_OFF },       { "kernel-irqchip", ANY },
	{ "kernel_irqchip", ANY }, { "mem-merge", ANY },       { "nvdimm", ONLY_OFF },
	{ "pic", ONLY_ON },        { "sata", ONLY_OFF },       { "smbus", ONLY_OFF },
	{ "smm", ONLY_OFF },       { "suppress-vmdesc", ANY }, { "usb", ONLY_OFF },
	{ "vmport", ONLY_OFF },
};

/* One of "a:b:c" is what we do. */
static int check_accel(const char *option, const char *val, struct error *err)
{
	char *list = strdupa(val ? val : ""), *one;

	while ((one = strsep(&list, ":")))
		if (!strcmp(one, "tcg"))
			return 0;
	return error_set(err, -EINVAL,
			 "%s%s is not supported yet; tcg is the name for what Umbra does",
			 option, val ? val : "");
}

static int set_accel(struct run_options *o, const char *val, struct error *err)
{
	(void)o;
	/* What follows, like thread=multi, is about how and not what. */
	return check_accel("-accel ", strndupa(val, strcspn(val, ",")), err);
}

static int fixed_property(const char *key, const char *val, struct error *err)
{
	bool on = false;

	for (size_t i = 0; i < ARRAY_SIZE(machine_fixed); i++) {
		if (strcmp(key, machine_fixed[i].name))
			continue;
		if (machine_fixed[i].can == ANY || (val && !strcmp(val, "auto")))
			return 0;
		if (keyval_bool(val, &on) && on == (machine_fixed[i].can == ONLY_ON))
			return 0;
		return error_set(err, -EINVAL, "-machine %s=%s: it can only be %s", key,
				 val ? val : "",
				 machine_fixed[i].can == ONLY_ON ? "on" : "off");
	}
	return error_set(err, -EINVAL, "-machine: '%s' is not a property of this machine",
			 key);
}

static int machine_property(struct run_options *o, const char *key, const char *val,
			    struct error *err)
{
	const struct {
		const char *name;
		bool *off;
	} chips[] = {
		{ "pit", &o->no_pit },
		{ "hpet", &o->no_hpet },
		{ "i8042", &o->no_i8042 },
	};
	bool on;

	if (!strcmp(key, "accel"))
		return check_accel("-machine accel=", val, err);
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		if (strcmp(key, chips[i].name))
			continue;
		if (!keyval_bool(val, &on))
			return error_set(err, -EINVAL, "-machine %s=%s: on or off", key,
					 val ? val : "");
		*chips[i].off = !on;
		return 0;
	}
	return fixed_property(key, val, err);
}

static int set_no_hpet(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->no_hpet = true;
	return 0;
}

static int set_nodefaults(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->nodefaults = true;
	return 0;
}

static int set_machine(struct run_options *o, const char *val, struct error *err)
{
	char *copy = strdupa(val), *list = copy;
	const char *key, *type;
	bool first = true;
	int ret;

	while (next_item(&list, &key, &type)) {
		bool name = first && !type;

		first = false;
		if (name) {
			type = key;
		} else if (strcmp(key, "type")) {
			ret = machine_property(o, key, type, err);
			if (ret)
				return ret;
			continue;
		}
		if (type && !strcmp(type, "help"))
			o->action = RUN_MACHINE_HELP;
		else if (!type || (strcmp(type, "q35") && strcmp(type, "pc")))
			return error_set(
				err, -EINVAL,
				"-machine %s: the machine is q35, or pc, the same one",
				val);
	}
	return 0;
}

/* YYYY-MM-DD, or that with THH:MM:SS. */
static bool parse_date(const char *s, i64 *date)
{
	struct tm tm = { 0 }, norm;
	const char *end = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);

	if (!end) {
		tm = (struct tm){ 0 };
		end = strptime(s, "%Y-%m-%d", &tm);
	}
	if (!end || *end || tm.tm_year < 70)
		return false;
	/* The 31st of February becomes another day. */
	norm = tm;
	*date = timegm(&norm);
	return norm.tm_mday == tm.tm_mday && norm.tm_mon == tm.tm_mon;
}

static int set_rtc(struct run_options *o, const char *val, struct error *err)
{
	char *copy = strdupa(val), *list = copy;
	const char *key, *what;

	while (next_item(&list, &key, &what)) {
		if (!strcmp(key, "clock") && what && !strcmp(what, "host"))
			continue;
		if (!strcmp(key, "driftfix") && what && !strcmp(what, "none"))
			continue;
		if (strcmp(key, "base"))
			return error_set(err, -EINVAL,
					 "-rtc %s: '%s' is not supported, base= and "
					 "clock=host are",
					 val, key);
		if (what && !strcmp(what, "utc"))
			o->rtc_base = RTC_BASE_UTC;
		else if (what && !strcmp(what, "localtime"))
			o->rtc_base = RTC_BASE_LOCAL;
		else if (what && parse_date(what, &o->rtc_date))
			o->rtc_base = RTC_BASE_DATE;
		else
			return error_set(
				err, -EINVAL,
				"-rtc %s: base is utc, localtime, or a date like "
				"2024-02-29T12:00:00",
				val);
	}
	return 0;
}

static int set_stats(struct run_options *o, const char *val, struct error *err)
{
	if (!val || !strcmp(val, "text"))
		o->stats = STATS_TEXT;
	else if (!strcmp(val, "json"))
		o->stats = STATS_JSON;
	else
		return error_set(err, -EINVAL, "--stats=%s: text or json is needed", val);
	return 0;
}

static int set_path(const char **path, const char *name, const char *val,
		    struct error *err)
{
	if (!*val)
		return error_set(err, -EINVAL, "-%s: an empty file name", name);
	*path = val;
	return 0;
}

static int set_profile(struct run_options *o, const char *val, struct error *err)
{
	return set_path(&o->profile, "profile", val, err);
}

/* FILE, or FILE,offset=N: the file's name may have commas. */
static int set_symbols(struct run_options *o, const char *val, struct error *err)
{
	static const char key[] = ",offset=";
	const char *at = strstr(val, key);
	char *end;

	o->symbols = val;
	o->symbols_len = at ? (size_t)(at - val) : strlen(val);
	o->symbols_moved = at != NULL;
	if (at) {
		const char *number = at + sizeof(key) - 1;

		errno = 0;
		o->symbols_offset = strtoull(number, &end, 0);
		if (!isdigit((unsigned char)*number) || *end || errno)
			return error_set(err, -EINVAL,
					 "-symbols %s: offset is a number of bytes, like "
					 "0x1c00000",
					 val);
	}
	return o->symbols_len ? 0
			      : error_set(err, -EINVAL, "-symbols: an empty file name");
}

static int set_perfmap(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->perfmap = true;
	return 0;
}

static int set_name(struct run_options *o, const char *val, struct error *err)
{
	if (strchr(val, ',') || strchr(val, '='))
		return error_set(err, -EINVAL, "-name %s: only a plain name is supported",
				 val);
	o->name = val;
	return 0;
}

static int set_kernel(struct run_options *o, const char *val, struct error *err)
{
	return set_path(&o->kernel, "kernel", val, err);
}

static int set_initrd(struct run_options *o, const char *val, struct error *err)
{
	return set_path(&o->initrd, "initrd", val, err);
}

static int set_append(struct run_options *o, const char *val, struct error *err)
{
	(void)err;
	o->append = val;
	return 0;
}

static int set_cpu(struct run_options *o, const char *val, struct error *err)
{
	(void)err;
	o->cpu = val;
	if (!strcmp(val, "help") || !strcmp(val, "?"))
		o->action = RUN_CPU_HELP;
	return 0;
}

static int set_engine(struct run_options *o, const char *val, struct error *err)
{
	(void)err;
	o->engine = val;
	if (!strcmp(val, "help"))
		o->action = RUN_ENGINE_HELP;
	return 0;
}

static int set_gdb(struct run_options *o, const char *val, struct error *err)
{
	if (o->gdb)
		return error_set(err, -EINVAL, "-gdb %s: there is one already, %s", val,
				 o->gdb);
	o->gdb = val;
	return gdb_check("gdb", val, err);
}

static int set_gdb_default(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	return set_gdb(o, "tcp::1234", err);
}

static int set_hold(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->hold = true;
	return 0;
}

static int set_no_reboot(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->no_reboot = true;
	return 0;
}

static int set_verbose(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->verbose = true;
	return 0;
}

static int set_help(struct run_options *o, const char *val, struct error *err)
{
	(void)val;
	(void)err;
	o->action = RUN_HELP;
	return 0;
}

/* What the machine is anyway. */
static int set_nothing(struct run_options *o, const char *val, struct error *err)
{
	(void)o;
	(void)val;
	(void)err;
	return 0;
}

/* ---- the table ---- */

/* clang-format off */
static const struct option options[] = {
	{ "kernel",    VALUE_NEEDED, "FILE", "boot this kernel: Linux bzImage, multiboot, PVH or ELF", set_kernel },
	{ "initrd",    VALUE_NEEDED, "FILE", "its initial RAM disk; multiboot modules: \"FILE ARGS,FILE ARGS\"", set_initrd },
	{ "append",    VALUE_NEEDED, "TEXT", "kernel command line", set_append },
	{ "m",         VALUE_NEEDED, "SIZE", "memory: 512 (MiB), 512M, 1.5G; default 512M", set_memory },
	{ "smp",       VALUE_NEEDED, "N", "CPUs; also cpus=,sockets=,cores=,threads=", set_smp },
	{ "cpu",       VALUE_NEEDED, "MODEL", "CPU model, then ,+FEATURE or ,-FEATURE; help lists", set_cpu },
	{ "engine",    VALUE_NEEDED, "NAME", "what executes instructions: auto, or one that help lists", set_engine },
	{ "machine",   VALUE_NEEDED, "q35", "the machine, also pc; then ,pit=off ,hpet=off ,i8042=off", set_machine },
	{ "M",         VALUE_NEEDED, NULL, NULL, set_machine },
	{ "accel",     VALUE_NEEDED, "tcg", "accepted: that is what we do", set_accel },
	{ "device",    VALUE_NEEDED, "NAME,...", "add a device with properties; help lists them", set_device },
	{ "serial",    VALUE_NEEDED, "WHERE", "next serial port: stdio, file:PATH, null, chardev:ID", set_serial },
	{ "chardev",   VALUE_NEEDED, "KIND,id=ID", "a place to print to: stdio, null, or file,path=PATH", set_chardev },
	{ "debugcon",  VALUE_NEEDED, "WHERE", "debug port e9h, like -serial", set_debugcon },
	{ "fw_cfg",    VALUE_NEEDED, "NAME,...", "a file in the firmware configuration device: file=FILE or string=TEXT", set_fw_cfg },
	{ "drive",     VALUE_NEEDED, "file=F,...", "a disk image; also format=,if=virtio|ide|none,id=,readonly=,cache=,snapshot=", set_drive },
	{ "seed",      VALUE_NEEDED, "USERDATA", "a disk for cloud-init: a file or directory; also meta-data=,network-config=", set_seed },
	{ "snapshot",  VALUE_NONE,   NULL, "throw away what is written to disks", set_snapshot },
	{ "nic",       VALUE_NEEDED, "user,...", "network and card: user, tap, stream, dgram, none; hostfwd=tcp::2222-:22", set_nic },
	{ "netdev",    VALUE_NEEDED, "user,id=ID", "a network by itself, for -device virtio-net-pci,netdev=ID", set_netdev },
	{ "net",       VALUE_NEEDED, NULL, NULL, set_net },
	{ "object",    VALUE_NEEDED, NULL, NULL, set_object },
	{ "pcap",      VALUE_NEEDED, "FILE", "record what passes the first network", set_pcap },
	{ "nodefaults", VALUE_NONE,  NULL, "no serial port that was not asked for", set_nodefaults },
	{ "no-hpet",   VALUE_NONE,   NULL, NULL, set_no_hpet },
	{ "nographic", VALUE_NONE,   NULL, "console on standard input and output; always so", set_nothing },
	{ "no-reboot", VALUE_NONE,   NULL, "end when the guest reboots", set_no_reboot },
	{ "rtc",       VALUE_NEEDED, "base=X", "real-time clock: utc, localtime, or a date", set_rtc },
	{ "gdb",       VALUE_NEEDED, "WHERE", "wait for gdb: tcp:HOST:PORT, tcp::PORT, unix:PATH", set_gdb },
	{ "s",         VALUE_NONE,   NULL, "the same as -gdb tcp::1234", set_gdb_default },
	{ "S",         VALUE_NONE,   NULL, "stop before the first instruction, for gdb", set_hold },
	{ "name",      VALUE_NEEDED, "NAME", "name shown in messages", set_name },
	{ "stats",     VALUE_MAYBE,  "text|json", "statistics on standard error at the end", set_stats },
	{ "profile",   VALUE_NEEDED, "FILE", "write to FILE which functions of the guest take time", set_profile },
	{ "symbols",   VALUE_NEEDED, "FILE", "their names: System.map, kallsyms, or vmlinux; then ,offset=N", set_symbols },
	{ "perfmap",   VALUE_NONE,   NULL, "tell perf the names of code, in /tmp/perf-PID.map", set_perfmap },
	{ "verbose",   VALUE_NONE,   NULL, "say more; with a command, show the guest's console", set_verbose },
	{ "help",      VALUE_NONE,   NULL, "this text", set_help },
	{ "h",         VALUE_NONE,   NULL, NULL, set_help },
};

/* Options whose value "none" is what we have. */
static const char *const only_none[] = {
	"audio", "display", "monitor", "parallel", "vga", "vnc", NULL,
};

/* Options of QEMU without value that ask for what we have. */
static const char *const accepted[] = { "no-user-config", "no-fd-bootchk", NULL };

/* Other options of QEMU. */
static const char *const missing[] = {
	"acpitable", "action", "add-fd", "audiodev", "bios", "blockdev", "boot",
	"cdrom", "compat", "d", "daemonize", "enable-kvm", "fda",
	"fdb", "fsdev", "full-screen", "global", "hda", "hdb", "hdc", "hdd",
	"icount", "incoming", "iscsi", "k", "L", "loadvm", "mem-path", "mem-prealloc", "mon",
	"msg", "no-acpi", "no-shutdown", "numa", "only-migratable",
	"option-rom", "overcommit", "pflash", "pidfile", "plugin", "preconfig", "qmp",
	"qmp-pretty", "readconfig", "runas", "sandbox", "sd", "set", "singlestep", "smbios",
	"spice", "tb-size", "tpmdev", "trace", "usb", "usbdevice", "uuid", "virtfs",
	"watchdog", "watchdog-action", "writeconfig", NULL,
};
/* clang-format on */

static bool is_in(const char *word, const char *const *names)
{
	for (; *names; names++)
		if (!strcmp(word, *names))
			return true;
	return false;
}

static const struct option *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (!strcmp(name, options[i].name))
			return &options[i];
	return NULL;
}

/* ---- suggestions ---- */

#define WORD_MAX 24

/* Letters to insert, delete, replace or swap with the next to get from a to b. */
static unsigned distance(const char *a, const char *b)
{
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];
	size_t n = strlen(a), m = strlen(b);

	if (n > WORD_MAX || m > WORD_MAX)
		return WORD_MAX;
	for (size_t i = 0; i <= n; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= m; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		for (size_t j = 1; j <= m; j++) {
			unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);

			best = MIN(best, d[i - 1][j] + 1);
			best = MIN(best, d[i][j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
			    a[i - 2] == b[j - 1])
				best = MIN(best, d[i - 2][j - 2] + 1);
			d[i][j] = best;
		}
	}
	return d[n][m];
}

const char *options_nearest(const char *word, const char *const *names)
{
	/* One letter of three may be wrong, and of a short word one. */
	unsigned best = MAX((unsigned)strlen(word) / 3, 1u) + 1;
	const char *nearest = NULL;

	for (; *names; names++) {
		unsigned d = distance(word, *names);

		if (d < best && d < strlen(*names)) {
			best = d;
			nearest = *names;
		}
	}
	return nearest;
}

static int unknown(const char *word, const char *name, struct error *err)
{
	const char
		*names[ARRAY_SIZE(options) + ARRAY_SIZE(only_none) + ARRAY_SIZE(missing)];
	const char *nearest;
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		names[n++] = options[i].name;
	for (size_t i = 0; only_none[i]; i++)
		names[n++] = only_none[i];
	for (size_t i = 0; missing[i]; i++)
		names[n++] = missing[i];
	names[n] = NULL;
	nearest = options_nearest(name, names);
	if (nearest)
		return error_set(err, -EINVAL, "unknown option '%s': is -%s meant?", word,
				 nearest);
	return error_set(err, -EINVAL,
			 "unknown option '%s': `umbra run --help` lists them", word);
}

/* ---- parsing ---- */

/* Options that are not in the table. *used counts the words taken. */
static int parse_other(const char *word, const char *name, const char *inline_val,
		       const char *next, int *used, struct error *err)
{
	const char *val = inline_val ? inline_val : next;

	if (is_in(name, accepted))
		return 0;
	if (is_in(name, only_none)) {
		if (val && !strcmp(val, "none")) {
			*used += !inline_val;
			return 0;
		}
		return error_set(err, -EINVAL,
				 "-%s %s is not supported yet, only -%s none", name,
				 val ? val : "", name);
	}
	if (is_in(name, missing))
		return error_set(err, -EINVAL, "-%s is not supported yet", name);
	return unknown(word, name, err);
}

/* argv[0] is an option. Returns how many words it takes, or -errno. */
static int parse_option(struct run_options *o, char **argv, struct error *err)
{
	const char *word = argv[0], *name = word + 1 + (word[1] == '-'),
		   *eq = strchr(name, '=');
	const char *val = eq ? eq + 1 : NULL;
	const struct option *opt;
	int used = 1, ret;

	if (eq)
		name = strndupa(name, (size_t)(eq - name));
	opt = find(name);
	if (!opt) {
		ret = parse_other(word, name, val, argv[1], &used, err);
		return ret ? ret : used;
	}
	if (opt->value == VALUE_NONE && val)
		return error_set(err, -EINVAL, "-%s takes no value", name);
	if (opt->value == VALUE_NEEDED && !val) {
		val = argv[used++];
		if (!val)
			return error_set(err, -EINVAL, "-%s needs a value%s%s", name,
					 opt->arg ? ": " : "", opt->arg ? opt->arg : "");
	}
	ret = opt->set(o, val, err);
	return ret ? ret : used;
}

static int check(struct run_options *o, struct error *err)
{
	int ret = find_chardevs(o, err);
	unsigned stdio = o->debugcon.backend == BACKEND_STDIO;

	if (ret)
		return ret;

	for (unsigned i = 0; i < o->serials; i++)
		stdio += o->serial[i].backend == BACKEND_STDIO;
	if (stdio > 1)
		return error_set(err, -EINVAL, "stdio can be used for only one device");
	if (o->symbols && !o->profile && !o->perfmap)
		return error_set(err, -EINVAL,
				 "-symbols: only -profile and -perfmap show them");
	if (o->hold && !o->gdb)
		return error_set(err, -EINVAL,
				 "-S: nobody could let the machine go; -s or -gdb is "
				 "needed too");
	if (!o->command)
		return 0;
	if (stdio)
		return error_set(err, -EINVAL,
				 "standard input and output belong to the command, not "
				 "to a serial port");
	if (o->serials > 1)
		return error_set(err, -EINVAL,
				 "-serial: the second port is needed to run a command");
	return 0;
}

int options_parse(struct run_options *o, int argc, char **argv, struct error *err)
{
	int i = 1;

	*o = (struct run_options){ .ram_size = RAM_DEFAULT, .cpus = 1 };
	while (i < argc) {
		int used;

		if (!strcmp(argv[i], "--")) {
			o->command = argv + i + 1;
			if (!*o->command)
				return error_set(err, -EINVAL,
						 "a command is needed behind --");
			break;
		}
		if (argv[i][0] != '-' || !argv[i][1])
			return error_set(err, -EINVAL,
					 "'%s' is not an option; a command for the guest "
					 "goes behind --",
					 argv[i]);
		used = parse_option(o, argv + i, err);
		if (used < 0)
			return used;
		if (o->action != RUN_MACHINE)
			return 0;
		i += used;
	}
	return check(o, err);
}

void options_help(FILE *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *opt = &options[i];
		char left[40];

		if (!opt->help)
			continue;
		snprintf(left, sizeof(left), "%s-%s%s%s",
			 opt->value == VALUE_MAYBE ? "-" : "", opt->name,
			 opt->value == VALUE_MAYBE ? "="
			 : opt->arg                ? " "
						   : "",
			 opt->arg ? opt->arg : "");
		fprintf(out, "  %-18s %s\n", left, opt->help);
	}
}
