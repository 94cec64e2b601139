/*
 * What the host's CPU is and has.
 *
 * SDM volume 2 CPUID, XGETBV; APM volume 3 appendix E. Read as a process sees it, which
 * on a virtualized host means what its hypervisor shows. No state, any thread.
 */
#include "cpu/hostcpu.h"

#include <cpuid.h>
#include <string.h>

#include "x86/xsave.h"

struct regs {
	u32 a, b, c, d;
};

/* All zero when the leaf is out of range. */
static struct regs query(u32 leaf, u32 subleaf)
{
	struct regs r = { 0 };

	if ((u32)__get_cpuid_max(leaf & 0x80000000, NULL) >= leaf)
		__cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
	return r;
}

static u64 host_xcr0(void)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

static void drop(struct host_cpu *host, unsigned feature)
{
	host->features[feature / 32] &= ~(1u << (feature % 32));
}

static void read_features(struct host_cpu *host)
{
	u32 *f = host->features;
	struct regs r1 = query(1, 0), r7 = query(7, 0), r71 = { 0 }, r72 = { 0 };

	if (r7.a >= 1)
		r71 = query(7, 1);
	if (r7.a >= 2)
		r72 = query(7, 2);
	f[W_1_EDX] = r1.d;
	f[W_1_ECX] = r1.c;
	f[W_7_EBX] = r7.b;
	f[W_7_ECX] = r7.c;
	f[W_7_EDX] = r7.d;
	f[W_7_1_EAX] = r71.a;
	f[W_7_1_EDX] = r71.d;
	f[W_7_2_EDX] = r72.d;
	f[W_6_EAX] = query(6, 0).a;
	f[W_81_EDX] = query(0x80000001, 0).d;
	f[W_81_ECX] = query(0x80000001, 0).c;
	f[W_87_EDX] = query(0x80000007, 0).d;
	f[W_88_EBX] = query(0x80000008, 0).b;
	f[W_821_EAX] = query(0x80000021, 0).a;
	f[W_821_ECX] = query(0x80000021, 0).c;
	host->phys_bits = (u8)query(0x80000008, 0).a;
	if (!(r1.c & bit_OSXSAVE))
		return;
	f[W_D_1_EAX] = query(0xd, 1).a;
	host->xcr0 = host_xcr0();
	host->xsave_size = query(0xd, 0).b;
	for (unsigned i = 2; i < HOST_XCOMP_COUNT; i++) {
		struct regs rd = query(0xd, i);

		host->xsize[i] = rd.a;
		host->xoffset[i] = rd.b;
	}
}

static void read_name(struct host_cpu *host)
{
	struct regs r0 = query(0, 0);
	u32 sig = query(1, 0).a;
	char vendor[13] = { 0 };

	memcpy(vendor, &r0.b, 4);
	memcpy(vendor + 4, &r0.d, 4);
	memcpy(vendor + 8, &r0.c, 4);
	host->amd = !strcmp(vendor, "AuthenticAMD") || !strcmp(vendor, "HygonGenuine");
	host->family = sig >> 8 & 0xf;
	host->model = sig >> 4 & 0xf;
	host->stepping = sig & 0xf;
	if (host->family == 6 || host->family == 15)
		host->model |= (sig >> 16 & 0xf) << 4;
	if (host->family == 15)
		host->family = (u16)(host->family + (sig >> 20 & 0xff));
	for (u32 i = 0; i < 3; i++) {
		struct regs r = query(0x80000002 + i, 0);

		memcpy(host->brand + 16 * i, &r, 16);
	}
	host->brand[48] = 0;
}

void hostcpu_read(struct host_cpu *host)
{
	memset(host, 0, sizeof(*host));
	read_features(host);
	read_name(host);
	/* What the kernel did not enable raises #UD, whatever CPUID says. */
	if ((host->xcr0 & XCR0_AVX) != XCR0_AVX)
		drop(host, FEAT_AVX);
	if ((host->xcr0 & XCR0_AVX512) != XCR0_AVX512)
		drop(host, FEAT_AVX512F);
}
