/*
 * The real-time clock driven by arbitrary accesses and time.
 * Input: 2 bytes a step, operation and argument.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "time/rtc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_time t;
	struct rtc *r;

	fuzz_time_init(&t, 1);
	if (size)
		clock_set_epoch_ns(t.clk, (data[0] - 128) * (INT64_C(1) << 54));
	r = rtc_new(t.clk, fuzz_line(&t, 0),
		    size > 1 ? (data[1] - 128) * (INT64_C(1) << 24) : 0);
	for (size_t i = 0; i + 1 < size && i < 2048; i += 2) {
		unsigned op = data[i] & 15, n = data[i] >> 4;
		u8 v = data[i + 1];

		switch (op) {
		case 0: rtc_ops.write(r, n & 3, v, 1); break;
		case 1: check(rtc_ops.read(r, n & 3, 1) <= 0xff); break;
		case 2:
		case 3:
		case 4:
		case 5:
			rtc_ops.write(r, 0, n, 1);
			rtc_ops.write(r, 1, v, 1);
			break;
		case 6:
		case 7:
			rtc_ops.write(r, 0, n, 1);
			rtc_ops.read(r, 1, 1);
			break;
		case 8: rtc_set_cmos(r, v << 4 | n, v); break;
		case 9: rtc_get_cmos(r, v << 1); break;
		case 10: FUZZ_SAVE_LOAD(rtc, r, 0); break;
		case 11: FUZZ_SAVE_LOAD(rtc, r, v << 4 | n); break;
		case 12: rtc_cut_irq(r, v & 1); break;
		case 13:
			if (v == 0)
				rtc_reset(r);
			break;
		default: fuzz_pass(&t, v); break;
		}
		fuzz_time_check(&t);
	}
	rtc_free(r);
	clock_free(t.clk);
	return 0;
}
