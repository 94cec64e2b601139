/* What a CPU does, or did when it shut down, on one screen. */
#pragma once

#include <stdio.h>

struct vcpu;

/* The machine is stopped and the engine's state was pulled. */
void report_cpu(FILE *out, struct vcpu *v);
