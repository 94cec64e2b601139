/*
 * The devices that can be added to the board, as one table.
 *
 * Names and properties are QEMU's. Each entry knows how its device is placed and wired;
 * the device itself, in dev/, does not. Ports are taken first come, first served: the
 * board's chips are there before. No locks: machine stopped.
 */
#include "machine/devices.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/keyval.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/testdev.h"
#include "machine/layout.h"
#include "mem/io.h"
#include "mem/phys.h"

enum kind { KIND_PORT, KIND_SIZE, KIND_BYTE, KIND_CHARDEV };

struct property {
	const char *name; /* NULL at the end */
	enum kind kind;
	u32 value; /* the default */
	u32 max;
	const char *help;
};

struct device_type {
	const char *name;
	const char *help;
	bool needs_chardev;
	struct property property[DEVICE_PROPERTIES_MAX + 1];
	/* Make it and place it; on failure it is gone again. */
	void *(*new)(const struct device_args *a, const struct device_board *board,
		     struct error *err);
	void (*free)(void *dev);
	void (*reset)(void *dev); /* NULL: there is nothing to reset or to save */
	void (*save)(void *dev, struct state_buf *b);
	int (*load)(void *dev, struct state_buf *b, struct error *err);
};

/* ---- each device ---- */

static int place(const struct device_args *a, const struct device_board *board, u32 port,
		 u32 len, const struct io_ops *ops, void *dev, struct error *err)
{
	const char *name = device_name(a), *owner;
	int ret;

	if (port + len > 0x10000)
		return error_set(err, -EINVAL,
				 "-device %s: %u ports from %xh on go beyond ffffh", name,
				 len, port);
	ret = io_ports_add(board->ports, (u16)port, (u16)len, name, ops, dev, &owner);
	if (ret == -EBUSY)
		return error_set(err, ret,
				 "-device %s: its ports %xh to %xh are not free, %s has "
				 "one of them",
				 name, port, port + len - 1, owner ? owner : "another");
	if (ret)
		return error_set(err, ret, "-device %s: no more ports can be placed",
				 name);
	return 0;
}

enum { EXIT_IOBASE, EXIT_IOSIZE };

static void *exit_new(const struct device_args *a, const struct device_board *board,
		      struct error *err)
{
	struct debugexit *d = debugexit_new(board->exit, board->opaque);

	if (!place(a, board, a->number[EXIT_IOBASE], a->number[EXIT_IOSIZE],
		   &debugexit_ops, d, err))
		return d;
	debugexit_free(d);
	return NULL;
}

static void exit_free(void *dev)
{
	debugexit_free(dev);
}

enum { DEBUGCON_IOBASE, DEBUGCON_READBACK, DEBUGCON_CHARDEV };

static void *debugcon_make(const struct device_args *a, const struct device_board *board,
			   struct error *err)
{
	struct debugcon *d = debugcon_new(a->sink, (u8)a->number[DEBUGCON_READBACK]);

	if (!place(a, board, a->number[DEBUGCON_IOBASE], DEBUGCON_PORTS, &debugcon_ops, d,
		   err))
		return d;
	debugcon_free(d);
	return NULL;
}

static void debugcon_unmake(void *dev)
{
	debugcon_free(dev);
}

static void *test_new(const struct device_args *a, const struct device_board *board,
		      struct error *err)
{
	struct irq_line gsi[TESTDEV_LINES];
	struct testdev *t;

	for (unsigned i = 0; i < TESTDEV_LINES; i++)
		gsi[i] = board->gsi(board->opaque, i);
	t = testdev_new(board->phys, gsi);
	if (!place(a, board, PORT_TEST_LATCH, TESTDEV_PORTS, &testdev_latch_ops, t,
		   err) &&
	    !place(a, board, PORT_TEST_FLUSH, TESTDEV_PORTS, &testdev_flush_ops, t,
		   err) &&
	    !place(a, board, PORT_TEST_BYTES, TESTDEV_PORTS, &testdev_bytes_ops, t,
		   err) &&
	    !place(a, board, PORT_TEST_LINES, TESTDEV_LINES, &testdev_line_ops, t, err) &&
	    !phys_add_mmio(board->phys, "pc-testdev", LAYOUT_TEST_MMIO, TESTDEV_MMIO_SIZE,
			   &testdev_mmio_ops, t, err))
		return t;
	/* The board is not going to be used. */
	testdev_free(t);
	return NULL;
}

static void test_free(void *dev)
{
	testdev_free(dev);
}

static void test_reset(void *dev)
{
	testdev_reset(dev);
}

static void test_save(void *dev, struct state_buf *b)
{
	testdev_save(dev, b);
}

static int test_load(void *dev, struct state_buf *b, struct error *err)
{
	return testdev_load(dev, b, err);
}

static const struct device_type types[] = {
	{
		.name = "isa-debug-exit",
		.help = "a port that ends Umbra with status (value << 1) | 1",
		.property = { { "iobase", KIND_PORT, 0x501, 0xffff, "first port" },
			      { "iosize", KIND_SIZE, 2, 8, "how many ports" } },
		.new = exit_new,
		.free = exit_free,
	},
	{
		.name = "isa-debugcon",
		.help = "a port that prints the bytes written to it",
		.needs_chardev = true,
		.property = { { "iobase", KIND_PORT, PORT_DEBUGCON, 0xffff, "the port" },
			      { "readback", KIND_BYTE, 0xe9, 0xff, "what a read gives" },
			      { "chardev", KIND_CHARDEV, 0, 0,
				"id of the -chardev it prints to" } },
		.new = debugcon_make,
		.free = debugcon_unmake,
	},
	{
		.name = "pc-testdev",
		.help = "for tests: latch e0h, page flush e4h, GSIs 2000h, memory "
			"ff000000h",
		.new = test_new,
		.free = test_free,
		.reset = test_reset,
		.save = test_save,
		.load = test_load,
	},
};

/* ---- words ---- */

static const struct device_type *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcmp(name, types[i].name))
			return &types[i];
	return NULL;
}

static void set_type(struct device_args *a, const struct device_type *type)
{
	*a = (struct device_args){ .type = type };
	for (unsigned i = 0; type->property[i].name; i++)
		a->number[i] = type->property[i].value;
}

void device_args_default(struct device_args *a, const char *name)
{
	set_type(a, find(name));
}

const char *device_name(const struct device_args *a)
{
	return a->type->name;
}

static int set_property(struct device_args *a, const char *key, const char *val,
			struct error *err)
{
	const struct property *p = a->type->property;
	const char *name = a->type->name;
	u64 n;

	if (!strcmp(key, "id"))
		return 0;
	while (p->name && strcmp(p->name, key))
		p++;
	if (!p->name)
		return error_set(err, -EINVAL,
				 "-device %s: there is no property '%s'; -device %s,help "
				 "lists them",
				 name, key, name);
	if (p->kind == KIND_CHARDEV) {
		if (!val || !*val || strlen(val) >= sizeof(a->chardev))
			return error_set(err, -EINVAL,
					 "-device %s: %s= needs the id of a -chardev",
					 name, key);
		strcpy(a->chardev, val);
		return 0;
	}
	if (!keyval_number(val, p->max, &n) || (p->kind == KIND_SIZE && !n))
		return error_set(err, -EINVAL,
				 "-device %s: %s=%s: a number from %u to 0x%x is needed",
				 name, key, val ? val : "", p->kind == KIND_SIZE, p->max);
	a->number[p - a->type->property] = (u32)n;
	return 0;
}

int device_args_parse(struct device_args *a, const char *text, struct error *err)
{
	const struct device_type *type = NULL;
	struct keyval kv;
	int ret = 0;

	keyval_init(&kv, text);
	keyval_next(&kv);
	/* QEMU takes the name with or without its key. */
	if (!kv.val || !strcmp(kv.key, "driver"))
		type = find(kv.val ? kv.val : kv.key);
	if (!type) {
		ret = error_set(err, -EINVAL,
				"-device %s: there is no such device; -device help lists "
				"them",
				kv.val ? kv.val : kv.key);
		goto out;
	}
	set_type(a, type);
	while (!ret && keyval_next(&kv))
		ret = set_property(a, kv.key, kv.val, err);
	if (!ret && type->needs_chardev && !a->chardev[0])
		ret = error_set(err, -EINVAL,
				"-device %s: chardev=ID is needed, with a -chardev of "
				"this id",
				type->name);
out:
	keyval_fini(&kv);
	return ret;
}

void devices_help(FILE *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		fprintf(out, "  %-15s %s\n", types[i].name, types[i].help);
	fputs("\n`-device NAME,help` lists the properties of one.\n", out);
}

bool device_help(FILE *out, const char *name)
{
	const struct device_type *type = find(name);

	if (!type || !out)
		return type != NULL;
	fprintf(out, "%s: %s\n", type->name, type->help);
	for (const struct property *p = type->property; p->name; p++) {
		fprintf(out, "  %-9s %s", p->name, p->help);
		if (p->kind != KIND_CHARDEV)
			fprintf(out, "; default 0x%x", p->value);
		fputc('\n', out);
	}
	fprintf(out, "  %-9s %s\n", "id", "a name; not used");
	return true;
}

/* ---- on a board ---- */

int device_new(struct device *d, const struct device_args *a,
	       const struct device_board *board, struct error *err)
{
	d->dev = a->type->new (a, board, err);
	if (!d->dev)
		return -EINVAL;
	d->type = a->type;
	return 0;
}

void device_free(struct device *d)
{
	if (d->dev)
		d->type->free(d->dev);
	d->dev = NULL;
}

void device_reset(struct device *d)
{
	if (d->type->reset)
		d->type->reset(d->dev);
}

void device_save(struct device *d, struct state_buf *b)
{
	if (d->type->save)
		d->type->save(d->dev, b);
}

int device_load(struct device *d, struct state_buf *b, struct error *err)
{
	return d->type->load ? d->type->load(d->dev, b, err) : 0;
}
