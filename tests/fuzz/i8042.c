/*
 * The keyboard controller driven by arbitrary accesses, keys and mouse movement.
 * Input: 2 bytes a step, operation and argument.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "dev/i8042.h"

struct outputs {
	struct i8042 *k;
	u64 resets;
};

static void reset(void *opaque)
{
	((struct outputs *)opaque)->resets++;
}

static void a20(void *opaque, bool open)
{
	check(i8042_a20_open(((struct outputs *)opaque)->k) == open);
}

/* Whatever happened, the output buffer runs dry. */
static void drain(struct i8042 *k)
{
	unsigned n = 0;

	while (i8042_status_ops.read(k, 0, 1) & 1) {
		i8042_data_ops.read(k, 0, 1);
		check(++n <= 80);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outputs o = { 0 };
	struct fuzz_time t;

	fuzz_time_init(&t, 2);
	o.k = i8042_new(fuzz_line(&t, 0), fuzz_line(&t, 1), size & 1,
			(struct i8042_outputs){ reset, a20, &o });
	for (size_t i = 0; i + 1 < size && i < 4096; i += 2) {
		unsigned op = data[i] & 15, n = data[i] >> 4;
		u8 v = data[i + 1];
		u8 codes[16] = { v, 0xf0, v };

		switch (op) {
		case 0:
		case 1: i8042_data_ops.write(o.k, 0, v, 1); break;
		case 2:
		case 3: i8042_status_ops.write(o.k, 0, v, 1); break;
		case 4: i8042_port92_ops.write(o.k, 0, v, 1); break;
		case 5: i8042_port92_ops.read(o.k, 0, 1); break;
		case 6: i8042_status_ops.read(o.k, 0, 1); break;
		case 7: i8042_key(o.k, codes, n); break;
		case 8: i8042_mouse(o.k, (i8)v * (int)n, v - 128, (u8)n); break;
		case 9: /* mouse command */
			i8042_status_ops.write(o.k, 0, 0xd4, 1);
			i8042_data_ops.write(o.k, 0, v, 1);
			break;
		case 10: FUZZ_SAVE_LOAD(i8042, o.k, 0); break;
		case 11: FUZZ_SAVE_LOAD(i8042, o.k, v << 4 | n); break;
		case 12: drain(o.k); break;
		case 13:
			if (v == 0)
				i8042_reset(o.k);
			break;
		default: i8042_data_ops.read(o.k, 0, 1); break;
		}
	}
	check(o.resets <= size);
	i8042_free(o.k);
	clock_free(t.clk);
	return 0;
}
