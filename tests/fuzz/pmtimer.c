/*
 * The power management timer driven by arbitrary accesses and time.
 * Input: a byte for the width, then 2 bytes a step, operation and argument.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "time/pmtimer.h"

static void notify(void *opaque)
{
	struct fuzz_time *t = opaque;

	t->rises++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_time t;
	struct pmtimer *p;

	fuzz_time_init(&t, 1);
	p = pmtimer_new(t.clk, size && data[0] & 1 ? 24 : 32);
	pmtimer_set_notify(p, notify, &t);
	for (size_t i = 1; i + 1 < size && i < 2048; i += 2) {
		unsigned op = data[i] & 15, n = data[i] >> 4;
		u8 v = data[i + 1];

		switch (op) {
		case 0: check(pmtimer_ops.read(p, n & 3, 1) <= 0xff); break;
		case 1: check(pmtimer_ops.read(p, n & 2, 2) <= 0xffff); break;
		case 2: check(pmtimer_ops.read(p, 0, 4) <= UINT32_MAX); break;
		case 3: pmtimer_ops.write(p, n & 3, v, 1); break;
		case 4: pmtimer_status(p); break;
		case 5:
			pmtimer_clear_status(p);
			check(!pmtimer_status(p));
			break;
		case 6:
		case 7: pmtimer_set_enable(p, v & 1); break;
		case 8: FUZZ_SAVE_LOAD(pmtimer, p, 0); break;
		case 9: FUZZ_SAVE_LOAD(pmtimer, p, v); break;
		case 10:
			if (v == 0)
				pmtimer_reset(p);
			break;
		default: fuzz_pass(&t, v); break;
		}
		fuzz_time_check(&t);
	}
	pmtimer_free(p);
	clock_free(t.clk);
	return 0;
}
