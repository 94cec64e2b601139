/* The virtio block device; the host does or fails what was asked for. */
#include <errno.h>

#include "../unit/fake_block.c"
#include "virtio.h"
#include "virtio/blk.h"

struct rig {
	struct fake_block *disk;
	struct virtio_blk *d;
};

static void step(void *opaque, u32 val)
{
	struct rig *r = opaque;

	r->disk->fail = val & 1 ? -EIO : 0;
	r->disk->can_try = val & 2;
	fake_block_run(r->disk);
}

static void save(void *opaque, struct state_buf *b)
{
	struct rig *r = opaque;

	virtio_blk_save(r->d, b, V_DEVFN);
}

static int load(void *opaque, struct state_buf *b, struct error *err)
{
	struct rig *r = opaque;

	return virtio_blk_load(r->d, b, V_DEVFN, err);
}

/*
 * Saving and loading wait for what is in flight, and so do resets by ports or over MMIO:
 * that is this thread's to do.
 */
static void before(struct vfuzz *f, struct rig *r, const uint8_t *d)
{
	unsigned what = d[0] & 15;

	if (what == 14 || what == 11 || (f->m && (what == 7 || what == 15)))
		fake_block_run(r->disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vfuzz f;
	struct rig r;
	struct virtio_blk_setup cfg = { .queues = 2 };

	if (!size)
		return 0;
	vfuzz_init(&f);
	r.disk = fake_block_new(64 << 10);
	cfg.block = fake_block_handle(r.disk);
	r.d = virtio_blk_new(f.phys, &cfg);
	f.step = step;
	f.save = save;
	f.load = load;
	f.opaque = &r;
	vfuzz_attach(&f, virtio_blk_core(r.d), data[0]);
	vfuzz_start(&f, data[0]);
	for (size_t i = 1; i + V_STEP <= size && i < 512 * V_STEP; i += V_STEP) {
		before(&f, &r, data + i);
		vfuzz_one(&f, data + i);
	}
	fake_block_run(r.disk);
	vfuzz_detach(&f);
	virtio_blk_free(r.d);
	fake_block_free(r.disk);
	vfuzz_fini(&f);
	return 0;
}
