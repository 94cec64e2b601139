/* What a vCPU without a machine sees of one: a clock that stands still, and no MSRs. */
#pragma once

#include "x86/vcpu.h"

static u64 no_tsc(void *opaque)
{
	(void)opaque;
	return 0;
}

static int no_msr_read(void *opaque, u32 msr, u64 *val)
{
	(void)opaque;
	(void)msr;
	(void)val;
	return -1;
}

static int no_msr_write(void *opaque, u32 msr, u64 val)
{
	(void)opaque;
	(void)msr;
	(void)val;
	return -1;
}

static const struct vcpu_platform no_platform = {
	.tsc = no_tsc,
	.msr_read = no_msr_read,
	.msr_write = no_msr_write,
};
