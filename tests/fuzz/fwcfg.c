/*
 * The firmware configuration device with arbitrary accesses and DMA requests.
 * Input: 10 bytes a step: operation, size or place, 8 bytes of value.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "dev/fwcfg.h"
#include "fuzz_time.h"
#include "mem/phys.h"

#define RAM    0x10000
#define CANARY 0x8000 /* nobody is told of this page */

static int source(void *opaque, u64 off, void *buf, u64 len)
{
	(void)opaque;
	check(off + len <= 5000);
	memset(buf, 7, len);
	return 0;
}

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	(void)dev;
	(void)off;
	(void)size;
	abort(); /* DMA must not come here */
}

static void mmio_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)val;
	mmio_read(dev, off, size);
}

static const struct io_ops mmio_ops = { mmio_read, mmio_write,
					IO_1 | IO_2 | IO_4 | IO_8 };

/* A request somewhere in memory, from the value: control bits, key, length, place. */
static void request(struct phys *phys, struct fwcfg *f, u8 where, const u8 *v)
{
	static const u64 places[] = { 0,       0x1000,     RAM - 4,    RAM,
				      0x20000, 0xffffffff, UINT64_MAX, CANARY - 64 };
	static const u32 lengths[] = { 0, 1, 4, 64, 4096, 5000, 1 << 20, UINT32_MAX };
	u64 to = places[v[2] & 7] + (v[3] & 31);
	u32 len = lengths[v[4] & 7] + v[5];
	u32 at = (where & 0x7f) * 16u;

	if (to < CANARY && to + len > CANARY)
		len = (u32)(CANARY - to);
	phys_store(phys, at, __builtin_bswap32((u32)v[1] << 16 | v[0]), 4);
	phys_store(phys, at + 4, __builtin_bswap32(len), 4);
	phys_store(phys, at + 8, __builtin_bswap32((u32)(to >> 32)), 4);
	phys_store(phys, at + 12, __builtin_bswap32((u32)to), 4);
	io_write(&fwcfg_dma_ops, f, 4, __builtin_bswap32(at), 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct phys *phys = phys_new();
	struct error err = { 0 };
	struct fwcfg *f;

	check(!phys_add_ram(phys, "ram", 0, RAM, &err));
	check(!phys_add_mmio(phys, "mmio", 0x20000, 0x1000, &mmio_ops, NULL, &err));
	f = fwcfg_new(phys);
	fwcfg_set_int(f, FWCFG_NB_CPUS, 4, 2);
	fwcfg_set_source(f, FWCFG_INITRD_DATA, 5000, source, NULL);
	check(!fwcfg_set_file(f, "opt/file", "content", 7, &err));
	phys_store(phys, CANARY, 0x1122334455667788, 8);
	for (size_t i = 0; i + 10 <= size && i < 2000; i += 10) {
		unsigned n = 1u << (data[i + 1] & 3);
		const u8 *v = data + i + 2;

		switch (data[i] & 7) {
		case 0: io_write(&fwcfg_ops, f, 0, le_load(v, 8) & 0xffff, 2); break;
		case 1:
			check(io_read(&fwcfg_ops, f, data[i + 1] >> 7, MIN(n, 2u)) <=
			      0xffff);
			break;
		case 2: io_write(&fwcfg_ops, f, 1, v[0], 1); break;
		case 3: io_write(&fwcfg_dma_ops, f, 0, le_load(v, 8), 8); break;
		case 4:
			io_write(&fwcfg_dma_ops, f, (data[i + 1] >> 2) & (8 - n),
				 le_load(v, 8) & size_mask(n), n);
			break;
		case 5: FUZZ_SAVE_LOAD(fwcfg, f, v[0]); break;
		default: request(phys, f, data[i + 1], v); break;
		}
		/* Only what may point anywhere can have come here. */
		if ((data[i] & 7) >= 5)
			check(phys_load(phys, CANARY, 8) == 0x1122334455667788);
		phys_store(phys, CANARY, 0x1122334455667788, 8);
	}
	fwcfg_free(f);
	phys_free(phys);
	return 0;
}
