/*
 * The gdb stub and a client that says anything. Input: bytes as they come, except that
 * "$text#" at the beginning of a line of text is given its right checksum, so that most
 * get through; a byte FFh makes the CPUs stop, FEh makes the client go and come back.
 */
#include "fuzz.h"

#include "../unit/gdb_rig.h"

static void packet(struct gdb_rig *r, const uint8_t *data, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	u8 sum = 0, tail[3] = { '#' };

	for (size_t i = 0; i < len; i++)
		sum = (u8)(sum + data[i]);
	tail[1] = (u8)hex[sum >> 4];
	tail[2] = (u8)hex[sum & 15];
	gdb_stub_input(r->stub, (const u8 *)"$", 1);
	gdb_stub_input(r->stub, data, len);
	gdb_stub_input(r->stub, tail, 3);
}

/* Up to a line's end, # or end. */
static size_t line_length(const uint8_t *data, size_t size)
{
	size_t n = 0;

	while (n < size && data[n] != '\n' && data[n] != '#' && data[n] < 0xfe)
		n++;
	return n;
}

static void check(struct gdb_rig *r, bool mmio)
{
	for (unsigned i = 0; i < RIG_CPUS; i++)
		if (!vcpu_consistent(vm_vcpu(r->vm, i)))
			abort();
	if (r->device && !mmio)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* To make a machine takes longer than what is done with it. */
	static struct gdb_rig *r;
	/* "mmio", as it stands in a monitor command: devices may be reached then. */
	bool mmio = size && memmem(data, size, "6d6d696f", 8);

	if (r)
		gdb_rig_reset(r);
	else
		r = gdb_rig_new();
	for (size_t i = 0; i < size;) {
		size_t n;

		if (data[i] == 0xff) {
			debug_pause(r->debug);
			i++;
		} else if (data[i] == 0xfe) {
			gdb_stub_detach(r->stub);
			gdb_stub_attach(r->stub);
			i++;
		} else if (data[i] == '$') {
			n = line_length(data + i + 1, size - i - 1);
			packet(r, data + i + 1, n);
			i += n + 1;
		} else {
			gdb_stub_input(r->stub, data + i, 1);
			i++;
		}
		check(r, mmio);
	}
	return 0;
}
