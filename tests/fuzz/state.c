/*
 * The loader of state streams: any bytes, alone or as damage to a good record.
 * Input: 1 byte, what to do; then the stream, or the damage as place and value.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "state/save.h"

struct thing_state {
	u64 wide;
	u32 index;
	u16 regs[5];
	u8 flag, small;
};

static const struct state_field thing_fields[] = {
	STATE_FIELD(struct thing_state, wide, 1),
	STATE_FIELD(struct thing_state, index, 1),
	STATE_ARRAY(struct thing_state, regs, 1),
	STATE_FIELD(struct thing_state, flag, 1),
	STATE_FIELD(struct thing_state, small, 2),
	{ 0 },
};

static bool thing_valid(const void *state)
{
	const struct thing_state *s = state;

	return s->index < 16 && s->flag <= 1;
}

static const struct state_desc thing_desc = {
	.name = "thing",
	.size = sizeof(struct thing_state),
	.version = 2,
	.fields = thing_fields,
	.valid = thing_valid,
};

static void check(bool ok)
{
	if (!ok)
		abort();
}

/* Either refused and nothing changed, or a valid state that saves and loads again. */
static void load(struct state_buf *b)
{
	static const struct thing_state before = { .wide = 1, .index = 2, .flag = 1 };
	struct thing_state s = before, again;
	struct state_buf out = { 0 };
	struct error err = { 0 };

	if (state_load(b, &thing_desc, 5, &s, &err)) {
		check(err.msg[0] != 0);
		check(!memcmp(&s, &before, sizeof(s)));
		return;
	}
	check(thing_valid(&s));
	state_save(&out, &thing_desc, 5, &s);
	check(state_load(&out, &thing_desc, 5, &again, NULL) == 0);
	check(!memcmp(&s, &again, sizeof(s)));
	state_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct thing_state sample = { .wide = 7,
						   .index = 15,
						   .regs = { 1, 2, 3 } };
	struct state_buf b = { 0 };

	if (!size)
		return 0;
	if (data[0] & 1) {
		b.data = malloc(size);
		check(b.data != NULL);
		memcpy(b.data, data + 1, size - 1);
		b.len = b.cap = size - 1;
	} else {
		state_save(&b, &thing_desc, 5, &sample);
		for (size_t i = 1; i + 1 < size && i < 16; i += 2)
			b.data[data[i] % b.len] = data[i + 1];
		if (data[0] & 2)
			b.len -= data[0] >> 2;
	}
	load(&b);
	check(b.pos <= b.len);
	state_buf_fini(&b);
	return 0;
}
