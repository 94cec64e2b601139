/*
 * A pin, as a value: who to tell and which input of theirs.
 *
 * The owner of an output is given a line when it is created and knows nothing
 * of what is behind it. A line whose 'set' is NULL is not connected.
 */
#pragma once

#include "base/types.h"

struct irq_line {
	void (*set)(void *chip, unsigned pin, bool level);
	void *chip;
	unsigned pin;
};

/* Any thread; the receiving chip takes its own lock. */
static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->chip, line->pin, level);
}

static inline void irq_raise(const struct irq_line *line)
{
	irq_set(line, true);
}

static inline void irq_lower(const struct irq_line *line)
{
	irq_set(line, false);
}

static inline void irq_pulse(const struct irq_line *line)
{
	irq_set(line, true);
	irq_set(line, false);
}
