/*
 * The event timers driven by arbitrary accesses and time.
 * Input: a byte for the configuration, then 4 bytes a step: operation, register, value.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "time/hpet.h"

static void msi_send(void *sink, u64 addr, u32 data)
{
	struct fuzz_time *t = sink;

	check(addr <= UINT32_MAX);
	(void)data;
	t->rises++;
}

static void legacy_changed(void *opaque, bool on)
{
	(void)opaque;
	(void)on;
}

/* Registers that exist come up more often than not. */
static u64 offset_of(u8 v)
{
	static const u16 regs[] = { 0x00, 0x10, 0x20, 0xf0 };

	switch (v >> 6) {
	case 0: return regs[v & 3] + (v & 4);
	case 1: return v * 4;
	default: return 0x100 + 0x20 * (v >> 5 & 3) + 8 * ((v >> 1) % 3) + 4 * (v & 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hpet_config c = { .legacy_changed = legacy_changed };
	struct fuzz_time t;
	struct hpet *h;

	fuzz_time_init(&t, 8);
	c.timers = size ? data[0] & 15 : 3;
	c.periodic = size ? data[0] >> 4 : 1;
	c.route_cap = 0x00ff000f;
	if (size && data[0] & 0x20)
		c.msi = (struct hpet_msi){ .send = msi_send, .sink = &t };
	for (unsigned i = 0; i < HPET_GSIS; i++)
		c.gsi[i] = fuzz_line(&t, i);
	c.legacy[0] = fuzz_line(&t, HPET_GSIS);
	c.legacy[1] = fuzz_line(&t, HPET_GSIS + 1);
	h = hpet_new(t.clk, &c);
	for (size_t i = 1; i + 3 < size && i < 2048; i += 4) {
		unsigned op = data[i] & 15, shift = data[i] >> 4;
		u64 off = offset_of(data[i + 1]);
		u64 val = (u64)(data[i + 2] | data[i + 3] << 8);

		switch (op) {
		case 0:
		case 1: hpet_ops.write(h, off, val << 2 * shift, 4); break;
		case 2:
		case 3:
		case 4: hpet_ops.write(h, off & ~UINT64_C(7), val << 4 * shift, 8); break;
		case 5:
		case 6: check(hpet_ops.read(h, off, 4) <= UINT32_MAX); break;
		case 7: hpet_ops.read(h, off, 8); break;
		case 8: /* a comparator a little ahead */
			hpet_ops.write(h, 0x108 + 0x20 * (shift & 7),
				       hpet_ops.read(h, 0xf0, 8) + val, 8);
			break;
		case 9: FUZZ_SAVE_LOAD(hpet, h, 0); break;
		case 10: FUZZ_SAVE_LOAD(hpet, h, (unsigned)val); break;
		case 11:
			if (val == 0)
				hpet_reset(h);
			break;
		case 12: hpet_ops.write(h, 0x10, val & 3, 8); break;
		default: fuzz_pass(&t, data[i + 1]); break;
		}
		fuzz_time_check(&t);
	}
	hpet_free(h);
	clock_free(t.clk);
	return 0;
}
