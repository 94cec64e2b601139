/* The virtio console, balloon and entropy devices: which is in the first byte. */
#include "host/loop.h"
#include "virtio.h"
#include "virtio/balloon.h"
#include "virtio/console.h"
#include "virtio/rng.h"

enum { CONSOLE, BALLOON, RNG };

struct rig {
	unsigned kind;
	struct loop *loop;
	struct virtio_console *console;
	struct virtio_balloon *balloon;
	struct virtio_rng *rng;
	size_t room;
};

static size_t sink(void *opaque, const u8 *buf, size_t len)
{
	struct rig *r = opaque;
	size_t n = MIN(len, r->room);

	check(!n || buf);
	r->room -= n;
	return n;
}

static void stop(void *opaque)
{
	loop_stop(opaque, 0);
}

/* What was posted to the loop. */
static void run_loop(struct rig *r)
{
	struct loop_work w = { .run = stop, .opaque = r->loop };

	loop_post(r->loop, &w);
	loop_run(r->loop);
}

static void step(void *opaque, u32 val)
{
	struct rig *r = opaque;
	u8 buf[300] = { 0 };
	struct virtio_balloon_stats s;

	run_loop(r);
	switch (r->kind) {
	case CONSOLE:
		r->room = val >> 8 & 0xffff;
		virtio_console_rx(r->console, val & 1, buf, val % sizeof(buf));
		virtio_console_tx_ready(r->console, val & 1);
		virtio_console_set_open(r->console, val & 1, val & 2);
		if (val & 4)
			virtio_console_resize(r->console, (u16)val, 25);
		break;
	case BALLOON:
		virtio_balloon_set_target(r->balloon, val);
		virtio_balloon_poll_stats(r->balloon);
		virtio_balloon_get_stats(r->balloon, &s);
		break;
	default: break;
	}
}

static void save(void *opaque, struct state_buf *b)
{
	struct rig *r = opaque;

	if (r->kind == CONSOLE)
		virtio_console_save(r->console, b, V_DEVFN);
	else if (r->kind == BALLOON)
		virtio_balloon_save(r->balloon, b, V_DEVFN);
}

static int load(void *opaque, struct state_buf *b, struct error *err)
{
	struct rig *r = opaque;

	if (r->kind == CONSOLE)
		return virtio_console_load(r->console, b, V_DEVFN, err);
	return r->kind == BALLOON ? virtio_balloon_load(r->balloon, b, V_DEVFN, err) : 0;
}

static struct virtio *make(struct rig *r, struct phys *phys)
{
	struct virtio_console_port ports[2] = {
		{ .console = true, .host_open = true, .out = { sink, r } },
		{ .name = "a port", .out = { sink, r } },
	};
	struct virtio_balloon_setup balloon = { .reporting = true, .target = MiB(1) };

	switch (r->kind) {
	case CONSOLE:
		r->console = virtio_console_new(phys, r->loop, ports, 2);
		return virtio_console_core(r->console);
	case BALLOON:
		r->balloon = virtio_balloon_new(phys, r->loop, &balloon);
		return virtio_balloon_core(r->balloon);
	default: r->rng = virtio_rng_new(phys, r->loop); return virtio_rng_core(r->rng);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = { 0 };
	struct vfuzz f;

	if (size < 2)
		return 0;
	vfuzz_init(&f);
	r.kind = data[0] % 3;
	r.loop = loop_new(NULL);
	f.step = step;
	f.save = save;
	f.load = load;
	f.opaque = &r;
	vfuzz_attach(&f, make(&r, f.phys), data[1]);
	vfuzz_run(&f, data + 1, size - 1);
	run_loop(&r);
	vfuzz_detach(&f);
	virtio_console_free(r.console);
	virtio_balloon_free(r.balloon);
	virtio_rng_free(r.rng);
	loop_free(r.loop);
	vfuzz_fini(&f);
	return 0;
}
