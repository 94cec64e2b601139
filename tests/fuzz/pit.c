/*
 * The 8254 and port 61h driven by arbitrary accesses, gates and time.
 * Input: 2 bytes a step, operation and argument.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "time/pit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_time t;
	struct pit *p;

	fuzz_time_init(&t, 1);
	p = pit_new(t.clk, fuzz_line(&t, 0));
	for (size_t i = 0; i + 1 < size && i < 2048; i += 2) {
		unsigned op = data[i] & 15, n = data[i] >> 4 & 3;
		u8 v = data[i + 1];

		switch (op) {
		case 0:
		case 1:
		case 2: pit_ops.write(p, n, v, 1); break;
		case 3: pit_ops.write(p, 3, v, 1); break;
		case 4:
		case 5: check(pit_ops.read(p, n, 1) <= 0xff); break;
		case 6: pit_port61_ops.write(p, 0, v, 1); break;
		case 7: check(pit_port61_ops.read(p, 0, 1) <= 0x3f); break;
		case 8:
			/* Counter 2's GATE is port 61h's. */
			if (n < 2)
				pit_set_gate(p, n, v & 1);
			break;
		case 9: pit_out(p, n); break;
		case 10: FUZZ_SAVE_LOAD(pit, p, 0); break;
		case 11: FUZZ_SAVE_LOAD(pit, p, v << 2 | n); break;
		case 12: pit_cut_irq0(p, v & 1); break;
		case 13:
			if (v == 0)
				pit_reset(p);
			break;
		default: fuzz_pass(&t, v); break;
		}
		fuzz_time_check(&t);
	}
	pit_free(p);
	clock_free(t.clk);
	return 0;
}
