/*
 * The interrupt controllers, as guests see them: local APIC, IOAPIC, PIC.
 * SDM volume 3 chapter 11; 82093AA data sheet; 8259A data sheet.
 */
#pragma once

#include "rt.h"

enum {
	LAPIC_ID = 0x20,
	LAPIC_VERSION = 0x30,
	LAPIC_TPR = 0x80,
	LAPIC_PPR = 0xa0,
	LAPIC_EOI = 0xb0,
	LAPIC_LDR = 0xd0,
	LAPIC_DFR = 0xe0,
	LAPIC_SVR = 0xf0,
	LAPIC_ISR = 0x100,
	LAPIC_TMR = 0x180,
	LAPIC_IRR = 0x200,
	LAPIC_ESR = 0x280,
	LAPIC_ICR = 0x300,
	LAPIC_ICR_HIGH = 0x310,
	LAPIC_LVT_TIMER = 0x320,
	LAPIC_LVT_LINT0 = 0x350,
	LAPIC_LVT_LINT1 = 0x360,
	LAPIC_LVT_ERROR = 0x370,
	LAPIC_TIMER_INIT = 0x380,
	LAPIC_TIMER_NOW = 0x390,
	LAPIC_TIMER_DIV = 0x3e0,
	LAPIC_SELF_IPI = 0x3f0,
};
enum {
	LVT_MASKED = 1 << 16,
	LVT_PERIODIC = 1 << 17,
	LVT_DEADLINE = 2 << 17,
	SVR_ENABLE = 1 << 8
};
#define IA32_APIC_BASE    0x1b
#define IA32_TSC_DEADLINE 0x6e0
#define APIC_X2           BIT(10)
#define APIC_ENABLE       BIT(11)

#define LAPIC_AT  0xfee00000ul
#define IOAPIC_AT 0xfec00000ul

static inline bool is_x2apic(void)
{
	return rdmsr(IA32_APIC_BASE) & APIC_X2;
}

static inline u32 lapic_read(unsigned reg)
{
	if (is_x2apic())
		return (u32)rdmsr(0x800 + reg / 16);
	return *(volatile u32 *)(LAPIC_AT + reg);
}

static inline void lapic_write(unsigned reg, u32 v)
{
	if (is_x2apic())
		wrmsr(0x800 + reg / 16, v);
	else
		*(volatile u32 *)(LAPIC_AT + reg) = v;
}

static inline void eoi(void)
{
	lapic_write(LAPIC_EOI, 0);
}

/* 'to' is an APIC ID. */
static inline void send_ipi(u32 to, u32 low)
{
	if (is_x2apic()) {
		wrmsr(0x830, (u64)to << 32 | low);
		return;
	}
	lapic_write(LAPIC_ICR_HIGH, to << 24);
	lapic_write(LAPIC_ICR, low);
}

static inline bool lapic_bit(unsigned reg, unsigned vector)
{
	return lapic_read(reg + vector / 32 * 16) >> (vector % 32) & 1;
}

static inline u32 ioapic_read(unsigned reg)
{
	*(volatile u32 *)IOAPIC_AT = reg;
	return *(volatile u32 *)(IOAPIC_AT + 0x10);
}

static inline void ioapic_write(unsigned reg, u32 v)
{
	*(volatile u32 *)IOAPIC_AT = reg;
	*(volatile u32 *)(IOAPIC_AT + 0x10) = v;
}

static inline void ioapic_route(unsigned pin, u32 low, u8 apic_id)
{
	ioapic_write(0x10 + 2 * pin, LVT_MASKED);
	ioapic_write(0x11 + 2 * pin, (u32)apic_id << 24);
	ioapic_write(0x10 + 2 * pin, low);
}

/* The test device of the runner's machine: levels of interrupt lines 0 to 23, at both. */
static inline void line_set(unsigned gsi, bool level)
{
	outb((u16)(0x2000 + gsi), level);
}

/* All masked, vectors from 20h on. */
static inline void pic_init(u8 mask_master, u8 mask_slave)
{
	outb(0x20, 0x11);
	outb(0x21, 0x20);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, 0x28);
	outb(0xa1, 2);
	outb(0xa1, 1);
	outb(0x21, mask_master);
	outb(0xa1, mask_slave);
}

/* By the PM timer of ACPI. */
static inline void wait_ms(unsigned ms)
{
	u32 start = inl(0x608);

	while (inl(0x608) - start < ms * 3580)
		;
}

static inline void sti_nop(void);

/*
 * Let interrupts in until *n is that, for seconds at most: the host's thread that fires
 * timers may be late.
 */
static inline void await(volatile unsigned *n, unsigned least)
{
	u32 start = inl(0x608);

	while (*n < least && inl(0x608) - start < 8 * 3579545)
		sti_nop();
}

static inline void sti_hlt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* Interrupts in, for long enough that one that pends comes. */
static inline void sti_nop(void)
{
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
}
