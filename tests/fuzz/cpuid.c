/*
 * -cpu texts, CPUID, MSRs and XRSTOR images of a hostile guest: no undefined behaviour,
 * consistent tables, only valid values stored.
 *
 *   input = text, 0, { operation, 4 bytes of number, 8 bytes of value }*
 */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem/phys.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/stats.h"
#include "x86/xsave.h"

#define RAM     MiB(1)
#define IMAGE   UINT64_C(0x10000)
#define OP_SIZE 13

static struct vcpu_stats stats;

static void flat32(struct vcpu *v)
{
	vcpu_reset(v, false);
	v->cr0 = CR0_PE | CR0_NE | CR0_ET;
	v->cr4 = CR4_OSFXSR | (cpu_has(v, FEAT_XSAVE) ? CR4_OSXSAVE : 0);
	v->xcr0 = v->cpuid->xcr0 ? v->cpuid->xcr0 : XCR0_X87;
	for (unsigned i = 0; i < 6; i++) {
		v->seg[i].base = 0;
		v->seg[i].limit = 0xffffffff;
		v->seg[i].attr =
			SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_DB | SEG_G;
	}
	v->seg[CS].attr |= SEG_CODE;
	vcpu_sync(v);
}

/* What a register says can be written to it again: #GP means that a check let it through.
 */
static void check_msr(struct vcpu *v, u32 msr)
{
	const struct msr_def *d = msr_find(msr);
	u64 val, again;

	if (!d || !msr_read(v, msr, &val) || d->kind == MSR_RO || d->kind == MSR_PLATFORM)
		return;
	if ((msr & ~0x1fu) == 0x400 || (msr == 0x1a0 && v->efer & EFER_NXE))
		return; /* a status is only cleared; XD_DISABLE not under NXE */
	assert(msr_write(v, msr, val));
	assert(msr_read(v, msr, &again) && again == val);
}

static void operate(struct vcpu *v, const uint8_t *p)
{
	u32 n = (u32)le_load(p + 1, 4), r[4];
	u64 val = le_load(p + 5, 8);
	const struct msr_def *d = msr_at(n % 128);

	switch (p[0] % 8) {
	case 0: cpuid_query(v, n, (u32)val, r); break;
	case 1: (void)!msr_write(v, n, val); break;
	case 2:
	case 3:
		if (d) {
			(void)!msr_write(v, d->address, val);
			check_msr(v, d->address);
		}
		break;
	case 4: phys_store(v->phys, (IMAGE + n % 4000) & ~UINT64_C(7), val, 8); break;
	case 5:
		(void)!xsave_restore(v, DS, IMAGE + (n & 64), p[0] & 8, val, p[0] & 16);
		break;
	case 6:
		(void)!xsave_save(v, DS, IMAGE + (n & 64), (enum xsave_kind)(n >> 8 & 3),
				  val, p[0] & 16);
		break;
	default:
		(void)!fldenv(v, DS, IMAGE + n % 512, p[0] & 8 ? 2 : 4);
		(void)!frstor(v, DS, IMAGE + n % 512, p[0] & 16 ? 2 : 4);
		(void)!fxrstor(v, DS, IMAGE + n % 1024, p[0] & 32);
		(void)!fnsave(v, DS, IMAGE + n % 512, p[0] & 8 ? 2 : 4);
		break;
	}
	assert(!(le_load(v->xsave + XSAVE_MXCSR, 4) & ~(u64)MXCSR_MASK));
	assert(!(le_load(v->xsave + XSAVE_XSTATE_BV, 8) & ~UINT64_C(0xe7)));
	assert(!le_load(v->xsave + XSAVE_XCOMP_BV, 8));
}

static bool build(struct cpuid_table *t, const char *text, unsigned cpus)
{
	struct host_cpu host = { .xcr0 = 0xe7, .phys_bits = 46 };
	struct cpuid_request req = { .cpu = text, .cpus = cpus, .tsc_khz = 1000000 };
	struct error err = { "" };
	int need;

	memset(host.features, 0xff, sizeof(host.features));
	for (unsigned i = 2; i < HOST_XCOMP_COUNT; i++) {
		host.xoffset[i] = xcomp_layout[i].offset;
		host.xsize[i] = xcomp_layout[i].size;
	}
	if (cpuid_build(t, &req, &host, NULL, &err)) {
		assert(err.msg[0]);
		return false;
	}
	assert(cpu_feature_inconsistent(t->features, &need) < 0);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cpuid_table t;
	struct error err;
	struct vcpu *v;
	char text[128];
	size_t n = 0;

	while (n < size && n < sizeof(text) - 1 && data[n])
		n++;
	memcpy(text, data, n);
	text[n] = 0;
	if (!build(&t, text, 1 + (unsigned)n % 16) &&
	    !build(&t, size & 1 ? "max" : "max,vendor=AuthenticAMD", 1))
		return 0;
	v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
	assert(v);
	memset(v, 0, sizeof(*v));
	v->stats = &stats;
	v->apic_page = ~UINT64_C(0);
	v->phys = phys_new();
	if (!phys_add_ram(v->phys, "ram", 0, RAM, &err)) {
		cpuid_attach(v, &t);
		flat32(v);
		for (n++; n + OP_SIZE <= size; n += OP_SIZE)
			operate(v, data + n);
	}
	phys_free(v->phys);
	free(v);
	return 0;
}
