/*
 * The test device and words of -device, driven by arbitrary bytes.
 * Input: text up to the first NUL, then 4 bytes a step.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "dev/testdev.h"
#include "fuzz_time.h"
#include "machine/devices.h"
#include "mem/phys.h"

static void words(const uint8_t *data, size_t size)
{
	struct device_args a;
	struct error err = { 0 };
	char text[128];

	size = MIN(size, sizeof(text) - 1);
	memcpy(text, data, size);
	text[size] = 0;
	if (device_args_parse(&a, text, &err))
		check(err.msg[0]);
	else
		check(device_name(&a) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct io_ops *const ops[] = { &testdev_latch_ops,
						    &testdev_bytes_ops,
						    &testdev_flush_ops, &testdev_line_ops,
						    &testdev_mmio_ops };
	static const u32 len[] = { TESTDEV_PORTS, TESTDEV_PORTS, TESTDEV_PORTS,
				   TESTDEV_LINES, TESTDEV_MMIO_SIZE };
	struct irq_line gsi[TESTDEV_LINES];
	struct phys *phys = phys_new();
	struct error err = { 0 };
	struct fuzz_time t;
	struct testdev *d;
	size_t i;

	words(data, size);
	fuzz_time_init(&t, TESTDEV_LINES);
	check(!phys_add_ram(phys, "ram", 0, 0x10000, &err));
	for (i = 0; i < TESTDEV_LINES; i++)
		gsi[i] = fuzz_line(&t, (unsigned)i);
	d = testdev_new(phys, gsi);
	for (i = 0; i + 4 <= size && i < 1000; i += 4) {
		unsigned which = data[i] % 6, n = 1u << (data[i] >> 6);
		u64 off = (u64)le_load(data + i + 1, 2) * 4;
		u64 val = data[i + 3] * UINT64_C(0x0101010101010101);

		if (which == 5) {
			if (data[i + 3] < 16)
				FUZZ_SAVE_LOAD(testdev, d, data[i + 3]);
			continue;
		}
		off = off % len[which] & ~(u64)(n - 1);
		if (off + n > len[which])
			continue;
		io_write(ops[which], d, off, val & size_mask(n), n);
		check(!(io_read(ops[which], d, off, n) & ~size_mask(n)));
	}
	testdev_free(d);
	phys_free(phys);
	clock_free(t.clk);
	return 0;
}
