/* A fake interrupt line that remembers when it changed. */
#pragma once

#include "base/irqline.h"
#include "time/clock.h"

#define PIN_LOG 4096

struct pin {
	struct clock *clk;
	bool level;
	unsigned rises, falls;
	vns_t rise_at[PIN_LOG], fall_at[PIN_LOG]; /* of the first PIN_LOG */
};

static void pin_set_level(void *chip, unsigned number, bool level)
{
	struct pin *p = chip;

	(void)number;
	if (level == p->level)
		return;
	p->level = level;
	if (level) {
		if (p->rises < PIN_LOG)
			p->rise_at[p->rises] = clock_now(p->clk);
		p->rises++;
	} else {
		if (p->falls < PIN_LOG)
			p->fall_at[p->falls] = clock_now(p->clk);
		p->falls++;
	}
}

static inline struct irq_line pin_line(struct pin *p)
{
	return (struct irq_line){ .set = pin_set_level, .chip = p };
}
