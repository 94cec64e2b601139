/*
 * PCI configuration space by ports CF8h and CFCh and by ECAM: both are the same
 * registers. PCI 3.0 section 3.2.2.3.2; PCI Express 3.0 section 7.2.2.
 */
#include "rt.h"

#define ECAM 0xe0000000ul

static u32 config_read(unsigned devfn, unsigned reg)
{
	outl(0xcf8, 0x80000000 | devfn << 8 | (reg & 0xfc));
	return inl(0xcfc);
}

static volatile u32 *ecam(unsigned devfn, unsigned reg)
{
	return (volatile u32 *)(ECAM + (devfn << 12) + reg);
}

static void host_bridge(void)
{
	u32 id = config_read(0, 0);

	want(id != 0xffffffff);
	want_equal(config_read(0, 8) >> 24, 6); /* a bridge */
	/* Narrow reads. */
	outl(0xcf8, 0x80000000);
	want_equal(inw(0xcfc), id & 0xffff);
	want_equal(inw(0xcfe), id >> 16);
	want_equal(inb(0xcfd), id >> 8 & 0xff);
	want_equal(inb(0xcff), id >> 24);
	want_equal(inl(0xcf8), 0x80000000);
	/* Without the enable bit it is not configuration space. */
	outl(0xcf8, 0);
	want_equal(inl(0xcfc), 0xffffffff);
	/* A byte write to CF8h is not one to the register. */
	outl(0xcf8, 0x80000008);
	outb(0xcf8, 0);
	want_equal(inl(0xcf8), 0x80000008);
}

static void absent(void)
{
	want_equal(config_read(5 << 3, 0), 0xffffffff);
	want_equal(config_read(0 << 3 | 1, 0), 0xffffffff);
	outl(0xcf8, 0x80000000 | 5 << 11);
	outl(0xcfc, 0);
	want_equal(inl(0xcfc), 0xffffffff);
}

static void ecam_is_the_same(void)
{
	for (unsigned devfn = 0; devfn < 256; devfn++)
		for (unsigned reg = 0; reg < 64; reg += 4) {
			u32 a = config_read(devfn, reg), b = *ecam(devfn, reg);

			if (a != b)
				fail("%x:%x: %x by ports, %x by ECAM", devfn, reg, a, b);
			if (!reg && a == 0xffffffff)
				break;
		}
	want_equal(*(volatile u8 *)ecam(0, 1), config_read(0, 0) >> 8 & 0xff);
	want_equal(*(volatile u16 *)ecam(0, 2), config_read(0, 0) >> 16);
	/* A bus that is not there. */
	want_equal(*(volatile u32 *)(ECAM + (200ul << 20)), 0xffffffff);
}

/* Size of a BAR: what is left when all ones are written. The ISA bridge has none. */
static void isa_bridge(void)
{
	u32 id = config_read(0x1f << 3, 0);

	if (id == 0xffffffff) {
		fail("no ISA bridge at 1f.0");
		return;
	}
	want_equal(config_read(0x1f << 3, 8) >> 16, 0x0601);
	/* Identification cannot be written. */
	outl(0xcf8, 0x80000000 | 0x1f << 11);
	outl(0xcfc, 0);
	want_equal(inl(0xcfc), id);
}

const struct test_case cases[] = {
	CASE(host_bridge, "PCI 3.2.2.3.2"),
	CASE(absent, "PCI 6.1"),
	CASE(ecam_is_the_same, "PCIe 7.2.2"),
	CASE(isa_bridge, "PCI 6.2"),
	CASES_END,
};
