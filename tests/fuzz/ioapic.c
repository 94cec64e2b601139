/*
 * The I/O APIC driven by arbitrary accesses, pins and EOIs.
 * Input: first byte version and wiring, then 4 bytes a step: operation, place, value.
 */
#include "fuzz.h"

#include <stdlib.h>

#include "irq/ioapic.h"

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void sink(void *opaque, u64 addr, u32 data)
{
	unsigned *sent = opaque;

	check((addr & MSI_ADDR_MASK) == MSI_ADDR_BASE);
	check(!(data & ~0xc7ffu));
	++*sent;
}

static void save_load(struct ioapic *io)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	ioapic_save(io, &a);
	check(ioapic_load(io, &a, &err) == 0);
	ioapic_save(io, &b);
	check(a.len == b.len);
	for (size_t i = 0; i < a.len; i++)
		check(a.data[i] == b.data[i]);
	state_buf_fini(&a);
	state_buf_fini(&b);
}

static void step(struct ioapic *io, const uint8_t *p)
{
	static const u16 place[] = { 0x00, 0x10, 0x40, 0x20 };
	u64 off = place[p[1] & 3] + (p[1] >> 2 & 3);
	unsigned bytes = 1u << (p[1] >> 4) % 3;
	u32 val = (u32)(p[2] | p[3] << 8);

	switch (p[0] & 7) {
	case 0:
		if (off % bytes == 0)
			ioapic_ops.read(io, off, bytes);
		break;
	case 1:
		if (off % bytes == 0)
			ioapic_ops.write(io, off, val, bytes);
		break;
	/* The useful ones more often: an entry's low half (bits 15:0 or 31:16) or high
	 * half. */
	case 2:
	case 3:
		ioapic_ops.write(io, 0x00, 0x10 + p[1] % 48, 4);
		ioapic_ops.write(io, 0x10, p[0] & 8 ? val << 16 : val, 4);
		break;
	case 4: ioapic_eoi(io, p[2]); break;
	case 5:
		save_load(io);
		if (p[1] == 0 && p[2] == 0)
			ioapic_reset(io);
		break;
	default: ioapic_set(io, p[1] % 26, p[2] & 1); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned sent = 0;
	struct ioapic_config cfg = {
		.version = size && (data[0] & 1) ? 0x11 : 0x20,
		.active_low = size && (data[0] & 2) ? 0xff0000 : 0,
		.out = { .send = sink, .opaque = &sent },
	};
	struct ioapic *io = ioapic_new(&cfg);
	unsigned steps = 0;

	for (size_t i = 1; i + 3 < size && steps < 2048; i += 4, steps++) {
		step(io, &data[i]);
		/* No step can send more than one message for each pin. */
		check(sent <= (steps + 1) * IOAPIC_PINS);
	}
	ioapic_free(io);
	return 0;
}
