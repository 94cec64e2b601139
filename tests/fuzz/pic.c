/*
 * The 8259A pair driven by arbitrary accesses, pins and INTA cycles.
 * Input: 2 bytes a step, operation and argument.
 */
#include "fuzz.h"

#include <stdlib.h>

#include "irq/pic.h"

static void intr_set(void *chip, unsigned pin, bool level)
{
	bool *intr = chip;

	(void)pin;
	*intr = level;
}

static void check(bool ok)
{
	if (!ok)
		abort();
}

/* What was saved loads, and is the same when saved again. */
static void save_load(struct pic *p)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	pic_save(p, &a);
	check(pic_load(p, &a, &err) == 0);
	pic_save(p, &b);
	check(a.len == b.len);
	for (size_t i = 0; i < a.len; i++)
		check(a.data[i] == b.data[i]);
	state_buf_fini(&a);
	state_buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool intr = false;
	struct pic *p = pic_new((struct irq_line){ .set = intr_set, .chip = &intr });

	for (size_t i = 0; i + 1 < size && i < 4096; i += 2) {
		unsigned op = data[i] & 15, port = data[i] >> 4 & 1, v = data[i + 1];

		switch (op) {
		case 0: pic_master_ops.read(p, port, 1); break;
		case 1: pic_slave_ops.read(p, port, 1); break;
		case 2:
		case 3: pic_master_ops.write(p, port, v, 1); break;
		case 4:
		case 5: pic_slave_ops.write(p, port, v, 1); break;
		case 6: pic_elcr_ops.write(p, port, v, 1); break;
		case 7: pic_elcr_ops.read(p, port, 1); break;
		case 8:
			v = (unsigned)pic_take(p);
			check(v <= 255);
			break;
		case 9: save_load(p); break;
		case 10:
			if (v == 0)
				pic_reset(p);
			break;
		default: pic_set(p, v & 31, v & 0x80); break;
		}
		check(intr == pic_intr(p));
	}
	pic_free(p);
	return 0;
}
