/*
 * Printing of struct vcpu_stats: as text for people, as JSON for programs.
 *
 * Both walk one table made of x86/stats.def. The JSON object has nothing but names from
 * that list, numbers and our own words, so that nothing needs escapes. No state; any
 * thread.
 */
#include "control/statsprint.h"

#include <string.h>

#include "base/bits.h"
#include "control/profileprint.h"
#include "time/clock.h"
#include "x86/regs.h"

static const struct stat {
	const char *name, *group, *text;
	size_t offset;
} table[] = {
#define STAT(id, group_, text_)                                                          \
	{ .name = #id,                                                                   \
	  .group = group_,                                                               \
	  .text = text_,                                                                 \
	  .offset = offsetof(struct vcpu_stats, id) },
#include "x86/stats.def"
#undef STAT
};

static u64 value(const struct vcpu_stats *s, const struct stat *st)
{
	return *(const u64 *)(const void *)((const char *)s + st->offset);
}

/* Translated code does not count its instructions, so that there is no speed to tell. */
static bool all_counted(const struct vcpu_stats *s)
{
	return !s->code_entered;
}

static double mips(const struct vcpu_stats *s)
{
	return s->ns_run ? (double)s->insns * 1e3 / (double)s->ns_run : 0;
}

/* Vectors are the guest's choice; these are Linux's (arch/x86/include/asm/irq_vectors.h).
 */
static const char *interrupt_name(unsigned vector)
{
	static const char *const isa[16] = {
		"ISA 0, timer",  "ISA 1, keyboard", "ISA 2",  "ISA 3, COM2",
		"ISA 4, COM1",   "ISA 5",           "ISA 6",  "ISA 7",
		"ISA 8, clock",  "ISA 9, ACPI",     "ISA 10", "ISA 11",
		"ISA 12, mouse", "ISA 13",          "ISA 14", "ISA 15",
	};
	static const char *const system[16] = {
		[0x0] = "posted",         [0x3] = "hypervisor callback",
		[0x4] = "deferred error", [0x6] = "IRQ work",
		[0x7] = "platform IPI",   [0x8] = "reboot",
		[0x9] = "threshold",      [0xa] = "thermal",
		[0xb] = "call function",  [0xc] = "call function of many",
		[0xd] = "reschedule",     [0xe] = "local APIC error",
		[0xf] = "spurious",
	};

	if (vector >> 4 == 0x3)
		return isa[vector & 15];
	if (vector >> 4 == 0xf && system[vector & 15])
		return system[vector & 15];
	return vector == 0xec ? "local APIC timer" : "device";
}

static const char *exception_name(unsigned vector)
{
	static const char *const names[32] = {
		[VEC_DE] = "#DE", [VEC_DB] = "#DB", [VEC_NMI] = "NMI", [VEC_BP] = "#BP",
		[VEC_OF] = "#OF", [VEC_BR] = "#BR", [VEC_UD] = "#UD",  [VEC_NM] = "#NM",
		[VEC_DF] = "#DF", [VEC_TS] = "#TS", [VEC_NP] = "#NP",  [VEC_SS] = "#SS",
		[VEC_GP] = "#GP", [VEC_PF] = "#PF", [VEC_MF] = "#MF",  [VEC_AC] = "#AC",
		[VEC_MC] = "#MC", [VEC_XM] = "#XM", [VEC_VE] = "#VE",  [VEC_CP] = "#CP",
	};

	return vector < 32 && names[vector] ? names[vector] : "reserved";
}

/* ---- text ---- */

static void print_counter(FILE *out, u64 val, const char *text)
{
	fprintf(out, "  %15llu  %s\n", (unsigned long long)val, text);
}

static void print_group(FILE *out, const struct vcpu_stats *s, const char *group)
{
	bool head = false, time = !strcmp(group, "time");

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		u64 val = value(s, &table[i]);

		if (strcmp(table[i].group, group) || !val)
			continue;
		if (!head)
			fprintf(out, "%s\n", group);
		head = true;
		if (time)
			fprintf(out, "  %15.3f  s %s\n", (double)val / NSEC_PER_SEC,
				table[i].text);
		else
			print_counter(out, val, table[i].text);
	}
}

static void print_vectors(FILE *out, const char *head, const u64 *count, unsigned n,
			  const char *(*name)(unsigned vector))
{
	bool any = false;

	for (unsigned i = 0; i < n; i++) {
		char text[64];

		if (!count[i])
			continue;
		if (!any)
			fprintf(out, "%s\n", head);
		any = true;
		snprintf(text, sizeof(text), "vector %02xh, %s", i, name(i));
		print_counter(out, count[i], text);
	}
}

void stats_print(FILE *out, const struct vcpu_stats *s, const struct stats_context *c)
{
	fprintf(out,
		"machine\n  %15s  engine\n  %15s  end\n  %15u  CPU%s\n  %15llu  MiB of "
		"memory\n",
		c->engine, c->end, c->cpus, c->cpus == 1 ? "" : "s",
		(unsigned long long)(c->ram_size >> 20));
	fprintf(out, "  %15.3f  s since power-on\n",
		(double)c->elapsed_ns / NSEC_PER_SEC);
	if (all_counted(s))
		fprintf(out, "  %15.1f  million instructions a second\n", mips(s));
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		size_t first = 0;

		while (strcmp(table[first].group, table[i].group))
			first++;
		if (first == i)
			print_group(out, s, table[i].group);
	}
	times_print(out, c->vm);
	rates_print(out, s, c->vm);
	print_vectors(out, "interrupts", s->interrupt, 256, interrupt_name);
	print_vectors(out, "exceptions", s->exception, 32, exception_name);
}

/* ---- JSON ---- */

static void json_vectors(FILE *out, const char *name, const u64 *count, unsigned n)
{
	const char *comma = "";

	fprintf(out, ",\"%s\":{", name);
	for (unsigned i = 0; i < n; i++) {
		if (!count[i])
			continue;
		fprintf(out, "%s\"%u\":%llu", comma, i, (unsigned long long)count[i]);
		comma = ",";
	}
	fputc('}', out);
}

void stats_print_json(FILE *out, const struct vcpu_stats *s,
		      const struct stats_context *c)
{
	fprintf(out, "{\"engine\":\"%s\",\"end\":\"%s\",\"cpus\":%u,\"ram_bytes\":%llu",
		c->engine, c->end, c->cpus, (unsigned long long)c->ram_size);
	fprintf(out, ",\"elapsed_ns\":%lld,\"mips\":", (long long)c->elapsed_ns);
	if (all_counted(s))
		fprintf(out, "%.3f", mips(s));
	else
		fputs("null", out);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		bool first = true;

		for (size_t j = 0; j < i; j++)
			first &= strcmp(table[j].group, table[i].group) != 0;
		if (!first)
			continue;
		fprintf(out, ",\"%s\":{", table[i].group);
		for (size_t j = i; j < ARRAY_SIZE(table); j++) {
			if (strcmp(table[j].group, table[i].group))
				continue;
			fprintf(out, "%s\"%s\":%llu", j == i ? "" : ",", table[j].name,
				(unsigned long long)value(s, &table[j]));
		}
		fputc('}', out);
	}
	times_json(out, c->vm);
	rates_json(out, s, c->vm);
	if (c->profiling)
		profile_json(out, c->profiling, c->vm);
	json_vectors(out, "interrupts", s->interrupt, 256);
	json_vectors(out, "exceptions", s->exception, 32);
	fputs("}\n", out);
}

void stats_line(char *buf, size_t size, const struct vcpu_stats *s,
		const struct stats_context *c)
{
	u64 interrupts = 0;
	double idle = c->elapsed_ns > 0
			      ? 100.0 * (double)s->ns_idle / (double)c->elapsed_ns
			      : 0;
	char speed[80] = "";

	for (unsigned i = 0; i < 256; i++)
		interrupts += s->interrupt[i];
	if (all_counted(s))
		snprintf(speed, sizeof(speed),
			 " %.0f million instructions, %.1f million a second,",
			 (double)s->insns / 1e6, mips(s));
	snprintf(buf, size,
		 "%s, %.1f s,%s %.0f%% idle, %llu interrupts, %llu port and %llu MMIO "
		 "accesses",
		 c->engine, (double)c->elapsed_ns / NSEC_PER_SEC, speed,
		 idle / (c->cpus ? c->cpus : 1), (unsigned long long)interrupts,
		 (unsigned long long)(s->port_reads + s->port_writes),
		 (unsigned long long)(s->mmio_reads + s->mmio_writes));
}
