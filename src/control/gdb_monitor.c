/*
 * What gdb's `monitor` command can ask: the state of a CPU in words, its address space,
 * the way memory is accessed, how much of it the guest has, reset and quit.
 *
 * Names as in QEMU's monitor where it has them. One thread, all CPUs stopped.
 */
#include "control/gdb_monitor.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "control/report.h"
#include "cpu/vm.h"
#include "virtio/balloon.h"
#include "x86/walk.h"

/* Lines of `info mem`, and entries of page tables read for them: a guest can make any
 * number. */
#define RANGES_MAX  400
#define ENTRIES_MAX 4000000

static void help(FILE *out)
{
	fputs("help               this\n"
	      "info cpus          what each CPU does\n"
	      "info registers [N] all registers of this CPU, or of CPU N, in words\n"
	      "info mem [N]       what its page tables map\n"
	      "physical on|off    memory is accessed by physical address, not linear\n"
	      "mmio on|off        memory accesses reach devices, with their side "
	      "effects\n"
	      "info balloon       how much memory the guest has without its balloon\n"
	      "balloon MIB        how much it should have\n"
	      "reset              reset the machine, and stop before its first "
	      "instruction\n"
	      "quit               switch the machine off\n",
	      out);
}

static void info_cpus(struct gdb_monitor *m, FILE *out)
{
	static const char *const does[] = { "runs", "halts", "has shut down",
					    "waits for SIPI" };

	for (unsigned i = 0; i < vm_cpus(m->vm); i++) {
		const struct vcpu *v = vm_vcpu(m->vm, i);

		fprintf(out, "%c CPU %u %s at %016llx, CPL %u\n", i == m->cpu ? '*' : ' ',
			i, does[v->activity], (unsigned long long)v->rip, v->cpl);
	}
}

static void print_range(FILE *out, const struct walk_range *r)
{
	fprintf(out, "%016llx-%016llx %c%c%c\n", (unsigned long long)r->lin,
		(unsigned long long)(r->lin + r->len), r->user ? 'u' : '-',
		r->writable ? 'w' : '-', r->exec ? 'x' : '-');
}

static void info_mem(struct gdb_monitor *m, FILE *out)
{
	struct vcpu *v = vm_vcpu(m->vm, m->cpu);
	unsigned budget = ENTRIES_MAX, lines = 0;
	struct walk_range r = { 0 }, next;
	gva_t lin = 0;

	if (paging_mode(v) == PAGING_NONE) {
		fputs("paging is off\n", out);
		return;
	}
	while (walk_next(v, lin, &next, &budget)) {
		lin = next.lin + next.len;
		if (r.len && r.lin + r.len == next.lin && r.user == next.user &&
		    r.writable == next.writable && r.exec == next.exec) {
			r.len += next.len;
		} else {
			if (r.len)
				print_range(out, &r);
			r = next;
			lines++;
		}
		if (!lin || lines > RANGES_MAX)
			break;
	}
	if (r.len && lines <= RANGES_MAX)
		print_range(out, &r);
	if (!budget || lines > RANGES_MAX)
		fputs("and more\n", out);
}

/* As in QEMU the numbers are what is left to the guest, in MiB. */
static void info_balloon(struct gdb_monitor *m, FILE *out)
{
	struct virtio_balloon_stats s;

	if (!m->balloon) {
		fputs("there is no balloon\n", out);
		return;
	}
	virtio_balloon_get_stats(m->balloon, &s);
	fprintf(out, "balloon: actual=%llu\n",
		(unsigned long long)(m->ram - MIN(s.actual, m->ram)) >> 20);
}

static void set_balloon(struct gdb_monitor *m, const char *val, FILE *out)
{
	unsigned long long n = 0;
	char *end;

	if (val && *val >= '0' && *val <= '9')
		n = strtoull(val, &end, 10);
	if (!m->balloon)
		fputs("there is no balloon: -device virtio-balloon-pci makes one\n", out);
	else if (!n || *end || n > m->ram >> 20)
		fprintf(out,
			"balloon: the guest's memory in MiB is needed, from 1 to %llu\n",
			(unsigned long long)m->ram >> 20);
	else
		virtio_balloon_set_target(m->balloon, m->ram - MiB(n));
}

static void info(struct gdb_monitor *m, const char *what, const char *cpu, FILE *out)
{
	char *end;

	if (cpu) {
		unsigned long n = strtoul(cpu, &end, 10);

		if (*cpu < '0' || *cpu > '9' || *end || n >= vm_cpus(m->vm)) {
			fprintf(out, "%s: a CPU from 0 to %u is needed\n", cpu,
				vm_cpus(m->vm) - 1);
			return;
		}
		m->cpu = (unsigned)n;
	}
	if (what && !strcmp(what, "registers"))
		report_cpu(out, vm_vcpu(m->vm, m->cpu));
	else if (what && !strcmp(what, "cpus"))
		info_cpus(m, out);
	else if (what && !strcmp(what, "mem"))
		info_mem(m, out);
	else if (what && !strcmp(what, "balloon"))
		info_balloon(m, out);
	else
		fputs("info: one of registers, cpus, mem, balloon is needed\n", out);
}

static void set_switch(bool *on, const char *name, const char *val, FILE *out)
{
	if (val && !strcmp(val, "on"))
		*on = true;
	else if (val && !strcmp(val, "off"))
		*on = false;
	else if (val)
		fprintf(out, "%s: on or off is needed\n", name);
	fprintf(out, "%s is %s\n", name, *on ? "on" : "off");
}

void gdb_monitor(struct gdb_monitor *m, char *line, FILE *out)
{
	char *save, *word = strtok_r(line, " \t\n", &save);
	char *arg = word ? strtok_r(NULL, " \t\n", &save) : NULL;

	m->then = MONITOR_GO_ON;
	if (!word || !strcmp(word, "help"))
		help(out);
	else if (!strcmp(word, "info"))
		info(m, arg, strtok_r(NULL, " \t\n", &save), out);
	else if (!strcmp(word, "physical"))
		set_switch(&m->physical, word, arg, out);
	else if (!strcmp(word, "mmio"))
		set_switch(&m->mmio, word, arg, out);
	else if (!strcmp(word, "balloon"))
		set_balloon(m, arg, out);
	else if (!strcmp(word, "reset"))
		m->then = MONITOR_RESET;
	else if (!strcmp(word, "quit"))
		m->then = MONITOR_QUIT;
	else
		fputs("no such command; `monitor help` lists them\n", out);
}
