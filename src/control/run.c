/*
 * `umbra run`: options, machine, exit status.
 *
 * Session.c puts the parts together; here is what the run meant: which status it ends
 * with and what the user is told. Main thread.
 */
#include "control/run.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "control/agent.h"
#include "control/console.h"
#include "control/engines.h"
#include "control/gdb.h"
#include "control/report.h"
#include "control/session.h"
#include "control/statsprint.h"
#include "control/term.h"
#include "control/writer.h"
#include "cpu/engine.h"
#include "machine/pc.h"
#include "time/clock.h"

#define TAIL_LINES 12

static void help(void)
{
	printf("Usage: umbra run [OPTION]... [-- COMMAND [ARGUMENT]...]\n"
	       "Boot a machine; its console is standard input and output. With a "
	       "COMMAND, run that\n"
	       "in the guest and end with its status. Without -kernel, a small Debian "
	       "guest.\n\n");
	options_help(stdout);
	printf("\nAn option is written -option VALUE, --option VALUE or --option=VALUE.\n"
	       "On a terminal, Ctrl-a x leaves and Ctrl-a h lists the other keys.\n");
}

static int do_action(const struct run_options *o)
{
	switch (o->action) {
	case RUN_CPU_HELP: cpuid_list(stdout); break;
	case RUN_ENGINE_HELP: engines_help(stdout); break;
	case RUN_MACHINE_HELP:
		printf("  %-10s PC with PCI Express and ACPI; the default\n", "q35");
		printf("  %-10s the same\n", "pc");
		break;
	case RUN_DEVICE_HELP:
		if (o->device_help) {
			const char *name =
				strndupa(o->device_help, strcspn(o->device_help, ","));

			if (!devices_pci_help(stdout, name))
				device_help(stdout, name);
		} else {
			devices_help(stdout);
			devices_pci_list(stdout);
		}
		break;
	default: help(); break;
	}
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

static const char *end_name(enum vm_end end)
{
	switch (end) {
	case VM_POWEROFF: return "poweroff";
	case VM_RESET: return "reset";
	case VM_TRIPLE_FAULT: return "triple fault";
	case VM_STOPPED: return "stopped";
	case VM_EXITED: return "exited";
	default: return "failed";
	}
}

static void print_stats(struct session *s, enum vm_end end)
{
	struct stats_context ctx = {
		.engine = s->engine->name,
		.end = end_name(end),
		.cpus = vm_cpus(pc_vm(s->pc)),
		.ram_size = s->o.ram_size,
		.elapsed_ns = clock_now(s->clock),
		.vm = pc_vm(s->pc),
		.profiling = &s->profiling,
	};
	struct vcpu_stats sum = { 0 };

	vm_stats(pc_vm(s->pc), &sum);
	if (s->o.stats == STATS_TEXT)
		stats_print(stderr, &sum, &ctx);
	else if (s->o.stats == STATS_JSON)
		stats_print_json(stderr, &sum, &ctx);
}

static void report_fault(struct session *s)
{
	struct vcpu *v = vm_fault_vcpu(pc_vm(s->pc));

	log_error("the guest crashed: triple fault");
	if (!v)
		return;
	if (s->engine->pull)
		s->engine->pull(v);
	report_cpu(stderr, v);
}

/* What the guest's console said last, when the user has not seen it. */
static void show_tail(struct session *s)
{
	if (s->o.serial[0].backend != BACKEND_NULL)
		return;
	fprintf(stderr, "umbra: the guest's console said last:\n");
	if (!console_tail(s->console[0], stderr, "  | ", TAIL_LINES))
		fprintf(stderr, "  | (nothing)\n");
}

/* Our output could not be written; 0 if it could. */
static int output_status(struct session *s)
{
	struct writer *writers[] = { s->out, s->err };

	for (unsigned i = 0; i < ARRAY_SIZE(writers); i++) {
		int error = writer_error(writers[i]);

		if (error == -EPIPE)
			return STATUS_PIPE;
		if (!error)
			continue;
		log_error("standard %s: %s", i ? "error" : "output", strerror(-error));
		return STATUS_FAILED;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(s->file); i++) {
		int error = s->file[i] ? writer_error(s->file[i]) : 0;

		if (!error)
			continue;
		log_error("%s: %s",
			  i < PC_SERIALS ? s->o.serial[i].path : s->o.debugcon.path,
			  strerror(-error));
		return STATUS_FAILED;
	}
	return 0;
}

/* How the machine ended, told to the user. */
static int machine_status(struct session *s, enum vm_end end)
{
	char line[256];

	switch (end) {
	case VM_POWEROFF:
	case VM_STOPPED: return STATUS_OK;
	case VM_EXITED: return (int)((pc_exit_value(s->pc) << 1 | 1) & 0xff);
	case VM_RESET:
		if (!console_panic(s->console[0], line, sizeof(line)))
			return STATUS_OK;
		log_error("the guest crashed: %s", line);
		return STATUS_CRASHED;
	case VM_TRIPLE_FAULT: report_fault(s); return STATUS_CRASHED;
	default: log_error("the machine failed"); return STATUS_FAILED;
	}
}

/* The machine ended, and the command in it had not. */
static int no_exit_status(struct session *s, enum vm_end end)
{
	if (machine_status(s, end) == STATUS_OK && !s->left)
		log_error("the guest %s before the command had ended",
			  end == VM_RESET ? "reset" : "switched off");
	if (!s->left)
		show_tail(s);
	return STATUS_NO_EXIT;
}

static int exit_status(struct session *s, enum vm_end end)
{
	int status = output_status(s), command;

	if (status)
		return status;
	if (!s->agent)
		return machine_status(s, end);
	command = agent_status(s->agent);
	return command >= 0 ? command : no_exit_status(s, end);
}

static int run(struct session *s)
{
	struct error err = { 0 };
	int status = session_init(s, &err);
	enum vm_end end;

	if (!status)
		status = session_open(s, &err);
	if (status) {
		events_close(s);
		log_error("%s", err.msg);
		session_fini(s);
		return status;
	}
	end = pc_run(s->pc);
	session_close(s);
	status = s->signal ? 0 : exit_status(s, end);
	gdb_exited(s->gdb, s->signal ? 128 + s->signal : status);
	gdb_close(s->gdb);
	s->gdb = NULL;
	print_stats(s, end);
	if (!profiling_close(&s->profiling, pc_vm(s->pc)) && !status)
		status = STATUS_FAILED;
	if (s->signal)
		term_die(s->signal);
	session_fini(s);
	return status;
}

int run_main(int argc, char **argv)
{
	struct session s = { 0 };
	struct error err = { 0 };

	if (options_parse(&s.o, argc, argv, &err)) {
		log_error("%s", err.msg);
		return STATUS_USAGE;
	}
	if (s.o.action != RUN_MACHINE)
		return do_action(&s.o);
	if (s.o.verbose)
		log_set_level(LOG_INFO);
	return run(&s);
}
