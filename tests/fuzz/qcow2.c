/*
 * A qcow2 that anybody may have made, opened, checked, repaired, read and written:
 * nothing crashes, hangs, or takes more memory than it should.
 *
 * Input: changes to a sound image, 6 bytes each (place, kind, value), up to a byte FFh;
 * then operations of 4 bytes. An input that starts with "QFI" is an image by itself.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "../unit/fake_disk.h"
#include "base/log.h"
#include "block/node.h"
#include "block/qcow2.h"
#include "block/qcow2_tool.h"

enum { DISK = 1 << 20 };

static u8 *sound;
static u64 sound_size;

/* With a backing file, data, compressed data, a snapshot, shared clusters. */
static void make_sound(void)
{
	const struct block_env env = { .host = &fake_host };
	const struct qcow2_create c = { .size = DISK,
					.cluster_size = 512,
					.backing_name = "base",
					.backing_format = "raw" };
	struct block_config cfg = { .file = "disk",
				    .format = "qcow2",
				    .host = &fake_host };
	static u8 buf[8192];
	struct block_node *file;
	struct error err = { 0 };
	struct block *b;

	fake_make("base", NULL, DISK / 2);
	fake_make("disk", NULL, 0);
	if (file_open(&file, &env, "disk", FILE_WRITE, &err) ||
	    qcow2_create(file, &c, &err))
		abort();
	node_close(file);
	if (block_open(&b, &cfg, &err))
		abort();
	for (unsigned i = 0; i < 4; i++)
		if (block_write(b, i * 50000 / 512 * 512, buf, sizeof(buf), 0))
			abort();
	if (qcow2_write_compressed(block_node_of(b), 300 * 512, buf) ||
	    qcow2_snapshot_create(block_node_of(b), "s", 0, 0, &err) ||
	    block_write(b, 0, buf, 2048, 0) || block_close(b))
		abort();
	sound_size = fake_find("disk")->size;
	sound = malloc(sound_size);
	if (!sound)
		abort();
	memcpy(sound, fake_find("disk")->data, sound_size);
}

/* Where damage is interesting: the header and the tables it names. */
static u64 place(u16 at)
{
	static const u8 tables[] = { 0, H_L1_OFFSET, H_REFTABLE_OFFSET,
				     H_SNAPSHOTS_OFFSET };
	unsigned table = at >> 14;
	u64 base = table ? be_load(sound + tables[table], 8) : 0;

	if (at & 0x2000 && table && table < 3)
		base = be_load(sound + base + (at >> 4 & 0xf8), 8) & ENTRY_OFFSET;
	return (base + (at & 0x1ff)) % (sound_size - 8);
}

static size_t change(u8 *disk, const uint8_t *data, size_t size)
{
	size_t i = 1, end = size ? 1 + (data[0] & 7) * 6u : 0;

	for (; i < end && i + 6 <= size; i += 6) {
		u64 at = place((u16)le_load(data + i + 1, 2));
		u64 val = data[i + 4] | (u64)data[i + 5] << 8;

		switch (data[i] & 7) {
		case 0: disk[at] = (u8)val; break;
		case 1: be_store(disk + at, val, 4); break;
		case 2: be_store(disk + align_down(at, 8), val << 9, 8); break;
		case 3:
			be_store(disk + align_down(at, 8), val << 9 | ENTRY_COPIED, 8);
			break;
		case 4:
			be_store(disk + align_down(at, 8), val << 48 | (val & 0xff) << 9,
				 8);
			break;
		case 5: memset(disk + at, (int)val, MIN(sound_size - at, 512u)); break;
		case 6:
			be_store(disk + align_down(at, 8), UINT64_MAX << (val & 63), 8);
			break;
		default: disk[at] ^= (u8)(1u << (val & 7)); break;
		}
	}
	return i;
}

static void use(struct block *b, const uint8_t *data, size_t size)
{
	static u8 buf[65536];
	struct error err = { 0 };
	unsigned steps = 0;

	for (size_t i = 0; i + 4 <= size && steps < 40; i += 4, steps++) {
		u64 disk = block_size(b);
		u64 off = (le_load(data + i + 1, 2) << 9) % (disk + 512);
		u64 len = (data[i + 3] + UINT64_C(1)) << 9;
		struct block_extent e;

		len = MIN(len, sizeof(buf));
		switch (data[i] % 10) {
		case 0:
		case 1: (void)block_read(b, off, buf, len); break;
		case 2:
		case 3: (void)block_write(b, off, buf, len, 0); break;
		case 4:
			(void)block_zero(b, off, len, data[i] & 16 ? BLOCK_UNMAP : 0);
			break;
		case 5: (void)block_discard(b, off, len); break;
		case 6: (void)block_sync(b); break;
		case 7:
			if (off < disk)
				(void)block_node_of(b)->ops->status(
					block_node_of(b), off, MIN(len, disk - off), &e);
			break;
		case 8:
			if (!block_readonly(b))
				(void)qcow2_snapshot_create(block_node_of(b), "f", 0, 0,
							    &err);
			break;
		default:
			if (!block_readonly(b) && data[i] & 16)
				(void)qcow2_snapshot_apply(block_node_of(b), "s", &err);
			else if (!block_readonly(b))
				(void)qcow2_snapshot_delete(block_node_of(b), "s", &err);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct block_config cfg = {
		.file = "disk", .format = "qcow2", .discard = true, .host = &fake_host
	};
	struct error err = { 0 };
	struct block *b;
	size_t used = 0;

	if (!sound) {
		log_set_level(LOG_ERROR);
		make_sound();
	}
	if (size > 8 && !memcmp(data, "QFI", 3)) {
		fake_make("disk", data, size);
	} else {
		fake_make("disk", sound, sound_size);
		used = change(fake_find("disk")->data, data, size);
	}
	used = MIN(used, size);
	cfg.check = true;
	cfg.readonly = true;
	if (!block_open(&b, &cfg, &err)) {
		struct qcow2_check c = { .fix = QCOW2_FIX_NONE };

		(void)qcow2_check(block_node_of(b), &c);
		block_close(b);
	}
	cfg.readonly = size & 1;
	cfg.check = false;
	if (!block_open(&b, &cfg, &err)) {
		use(b, data + used, size - used);
		(void)block_close(b);
	}
	cfg.check = true;
	cfg.readonly = false;
	if (size & 2 && !block_open(&b, &cfg, &err)) {
		struct qcow2_check c = { .fix = QCOW2_FIX_ALL };

		(void)qcow2_check(block_node_of(b), &c);
		(void)block_close(b);
	}
	return 0;
}
