/*
 * What the host's CPU is and has: the one place that executes CPUID and XGETBV on
 * the host for the sake of what a guest may have.
 */
#pragma once

#include "x86/cpuid.h"

/*
 * Fill *host. Features that the host's kernel does not let processes use (AVX without
 * its XCR0 bit ...) are left out. Any thread; the same answer every time.
 */
void hostcpu_read(struct host_cpu *host);
