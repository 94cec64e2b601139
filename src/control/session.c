/*
 * Putting together what `umbra run` needs, in an order in which nothing is left behind
 * when something is wrong: words first, then files that are only read, then the machine,
 * and last what creates files or changes the terminal.
 *
 * Runs on the main thread, before and after pc_run().
 */
#include "control/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "control/agent.h"
#include "control/console.h"
#include "control/engines.h"
#include "control/gdb.h"
#include "control/term.h"
#include "control/writer.h"
#include "cpu/hostcpu.h"
#include "dev/serial.h"
#include "machine/pc.h"
#include "time/clock.h"

/* A kernel that speaks a lot to a slow terminal does not have to wait for it. */
#define CONSOLE_BUFFER MiB(1)
#define OUTPUT_BUFFER  65536
/* The TSC counts nanoseconds. */
#define TSC_KHZ        1000000
/* When a signal ends us, a reader that does not read is not waited for any longer. */
#define LAST_SECONDS   2

#define DEBUGCON PC_SERIALS /* its index beside those of the serial ports */
#define COM1     0
#define COM2     1

/* ---- what was asked for ---- */

static const struct port_option *port_option(const struct session *s, unsigned n)
{
	return n == DEBUGCON ? &s->o.debugcon : &s->o.serial[n];
}

/* Ports of which nothing was said. */
static void default_ports(struct run_options *o)
{
	if (o->serials)
		return;
	if (!o->command)
		o->serial[COM1].backend = o->nodefaults ? BACKEND_NULL : BACKEND_STDIO;
	else
		o->serial[COM1].backend = o->verbose ? BACKEND_STDERR : BACKEND_NULL;
}

/* The port with standard input and output, -1 if none. */
static int stdio_port(const struct session *s)
{
	for (int i = 0; i < PC_SERIALS; i++)
		if (s->o.serial[i].backend == BACKEND_STDIO)
			return i;
	return -1;
}

/*
 * Without a terminal: is there anything to read? An end of file right at the beginning is
 * how one asks for a demonstration.
 */
static void peek_stdin(struct session *s)
{
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
	ssize_t n;

	if (poll(&p, 1, 0) <= 0)
		return;
	n = read(STDIN_FILENO, s->first, sizeof(s->first));
	if (n > 0)
		s->first_len = (size_t)n;
	else if (!n || (errno != EAGAIN && errno != EINTR))
		s->terminal.at_end = true;
}

static void look_at_terminal(struct session *s)
{
	struct guest_terminal *t = &s->terminal;

	t->type = getenv("TERM");
	if (s->o.command) {
		t->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
		if (t->terminal && !term_size(STDOUT_FILENO, &t->rows, &t->cols)) {
			t->rows = 24;
			t->cols = 80;
		}
		return;
	}
	t->console = stdio_port(s) >= 0;
	if (!t->console)
		return;
	t->terminal = isatty(STDIN_FILENO);
	if (t->terminal)
		term_size(STDIN_FILENO, &t->rows, &t->cols);
	else
		peek_stdin(s);
}

static int build_cpuid(struct session *s, struct error *err)
{
	struct cpuid_request req = {
		.cpu = s->o.cpu,
		.cpus = s->o.cpus,
		.sockets = s->o.sockets,
		.cores = s->o.cores,
		.threads = s->o.threads,
		.tsc_khz = TSC_KHZ,
	};
	struct host_cpu host;

	hostcpu_read(&host);
	return cpuid_build(&s->cpuid, &req, &host, NULL, err);
}

/* Memory appears as the guest touches it, so more than is free will do, but not any size.
 */
static int check_memory(const struct run_options *o, struct error *err)
{
	struct sysinfo si;
	u64 most;

	if (sysinfo(&si))
		return 0;
	most = ((u64)si.totalram + si.totalswap) * si.mem_unit;
	if (o->ram_size <= most)
		return 0;
	return error_set(err, -ENOMEM,
			 "-m: %llu MiB are more than the %llu MiB that this host has",
			 (unsigned long long)o->ram_size >> 20,
			 (unsigned long long)most >> 20);
}

static int check_cpus(const struct session *s, struct error *err)
{
	unsigned most = s->engine->cpus_max;

	if (!most || s->o.cpus <= most)
		return 0;
	return error_set(err, -EINVAL,
			 "-smp %u: the %s engine runs %u CPU only; -smp %u or another "
			 "-engine is needed",
			 s->o.cpus, s->engine->name, most, most);
}

/* ---- the machine ---- */

/* Seconds by which local time is ahead of UTC now. */
static i64 local_offset(struct clock *clk)
{
	time_t now = (time_t)(clock_epoch_ns(clk) / NSEC_PER_SEC);
	struct tm tm;

	return localtime_r(&now, &tm) ? tm.tm_gmtoff : 0;
}

static void make_writers(struct session *s)
{
	struct stat out, err;
	bool same = !fstat(STDOUT_FILENO, &out) && !fstat(STDERR_FILENO, &err) &&
		    out.st_dev == err.st_dev && out.st_ino == err.st_ino;

	s->out = writer_new("standard output",
			    s->o.command ? OUTPUT_BUFFER : CONSOLE_BUFFER);
	/* One writer keeps the order of what goes to one place. */
	s->err = same ? s->out : writer_new("standard error", OUTPUT_BUFFER);
	for (unsigned i = 0; i <= DEBUGCON; i++) {
		const struct port_option *p = port_option(s, i);
		struct writer *w = NULL;

		if (p->backend == BACKEND_FILE)
			w = s->file[i] = writer_new(p->path, CONSOLE_BUFFER);
		else if (p->backend == BACKEND_STDIO)
			w = s->out;
		else if (p->backend == BACKEND_STDERR)
			w = s->err;
		if (i < PC_SERIALS && (w || i == COM1))
			s->console[i] = console_new(w);
	}
}

static int make_agent(struct session *s, struct error *err)
{
	struct agent_config cfg = {
		.argv = s->o.command,
		.tty = s->terminal.terminal,
		.rows = s->terminal.rows,
		.cols = s->terminal.cols,
		.term = s->terminal.type ? s->terminal.type : "linux",
		.out = s->out,
		.err = s->err,
		.hello = events_hello,
		.room = events_room,
		.ended = events_ended,
		.opaque = s,
	};

	return agent_new(&s->agent, &cfg, err);
}

static void set_devices(struct session *s, struct pc_config *cfg)
{
	struct chardev_sink out = { 0 };

	if (s->file[DEBUGCON])
		out = writer_sink(s->file[DEBUGCON]);
	else if (s->o.debugcon.backend == BACKEND_STDIO)
		out = writer_sink(s->out);
	/* Only a debug console has one. */
	for (unsigned i = 0; i < s->o.devices; i++)
		s->o.device[i].sink = out;
	cfg->device = s->o.device;
	cfg->devices = s->o.devices;
	cfg->file = s->files.file;
	cfg->files = s->files.count;
}

static int make_pc(struct session *s, struct error *err)
{
	struct pc_config cfg = {
		.ram_size = s->o.ram_size,
		.cpus = s->o.cpus,
		.engine = s->engine,
		.cpuid = &s->cpuid,
		.kernel = s->guest.kernel,
		.initrd = s->guest.initrd,
		.cmdline = s->guest.cmdline,
		.no_reboot = s->o.no_reboot || s->o.command ||
			     (s->guest.ours && !s->terminal.terminal),
		.no_pit = s->o.no_pit,
		.no_hpet = s->o.no_hpet,
		.no_i8042 = s->o.no_i8042,
		/* It never moves; but Linux warns of a PC without one. */
		.mouse = !s->o.no_i8042,
	};

	cfg.profile = profiling_config(&s->profiling);
	cfg.clock = s->clock = clock_new();
	if (s->o.rtc_base == RTC_BASE_DATE)
		clock_set_epoch_ns(s->clock, s->o.rtc_date * NSEC_PER_SEC);
	else if (s->o.rtc_base == RTC_BASE_LOCAL)
		cfg.utc_offset = local_offset(s->clock);
	for (unsigned i = 0; i < PC_SERIALS; i++)
		if (s->console[i])
			cfg.serial[i] = console_sink(s->console[i]);
	if (s->agent)
		cfg.serial[COM2] = agent_sink(s->agent);
	else if (s->terminal.console && !s->terminal.terminal && s->guest.ours &&
		 !s->console[COM2])
		cfg.serial[COM2] = console_ready_sink(s->console[stdio_port(s)]);
	set_devices(s, &cfg);
	if (devices_pci_init(&s->devices, &s->o.virtio, s->clock, err))
		return -EINVAL;
	cfg.pci = s->devices.cfg;
	cfg.pci_count = s->devices.count;
	s->pc = pc_new(&cfg, err);
	if (!s->pc)
		return -EINVAL;
	for (unsigned i = 0; i < PC_SERIALS; i++)
		if (s->console[i])
			console_attach(s->console[i], pc_loop(s->pc),
				       pc_serial(s->pc, i));
	if (devices_pci_attach(&s->devices, s->pc, err))
		return -EINVAL;
	if (s->agent)
		agent_attach(s->agent, pc_loop(s->pc), pc_serial(s->pc, COM2));
	return 0;
}

int session_init(struct session *s, struct error *err)
{
	s->failed_fd = -1;
	memset(s->fd, -1, sizeof(s->fd));
	term_init();
	default_ports(&s->o);
	s->engine = engines_choose(s->o.engine, &s->engine_why, err);
	if (!s->engine || check_cpus(s, err) || check_memory(&s->o, err) ||
	    build_cpuid(s, err))
		return STATUS_USAGE;
	look_at_terminal(s);
	if (guest_find(&s->guest, &s->o, &s->terminal, err) ||
	    fwfiles_load(&s->files, s->o.fw_cfg, s->o.fw_cfgs, err) ||
	    profiling_init(&s->profiling, &s->o, err))
		return STATUS_USAGE;
	make_writers(s);
	if (s->o.command && make_agent(s, err))
		return STATUS_TOO_LONG;
	return make_pc(s, err) ? STATUS_USAGE : STATUS_OK;
}

/* ---- what is opened last ---- */

static void unlink_created(struct session *s, const bool *created)
{
	for (unsigned i = 0; i <= DEBUGCON; i++)
		if (created[i])
			unlink(port_option(s, i)->path);
}

/*
 * The files that ports write to. All can be opened, or those that were created are
 * removed again and none was emptied.
 */
static int open_files(struct session *s, struct error *err)
{
	bool created[DEBUGCON + 1] = { false };

	for (unsigned i = 0; i <= DEBUGCON; i++) {
		const char *path = port_option(s, i)->path;

		if (!s->file[i])
			continue;
		s->fd[i] = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		created[i] = s->fd[i] >= 0;
		if (s->fd[i] < 0 && errno == EEXIST)
			s->fd[i] = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
		if (s->fd[i] < 0) {
			error_set(err, -errno, "-%s file:%s: %s",
				  i == DEBUGCON ? "debugcon" : "serial", path,
				  strerror(errno));
			unlink_created(s, created);
			return -EINVAL;
		}
	}
	for (unsigned i = 0; i <= DEBUGCON; i++) {
		struct stat st;

		if (s->fd[i] >= 0 && !fstat(s->fd[i], &st) && S_ISREG(st.st_mode) &&
		    ftruncate(s->fd[i], 0))
			log_warn("-serial file:%s: %s", port_option(s, i)->path,
				 strerror(errno));
	}
	return 0;
}

static void writer_room(void *opaque)
{
	struct session *s = opaque;

	/* Those that did not wait for it do not mind. */
	for (unsigned i = 0; i < PC_SERIALS; i++)
		serial_tx_ready(pc_serial(s->pc, i));
}

static void writer_failed(void *opaque)
{
	struct session *s = opaque;

	pc_end(s->pc, VM_STOPPED);
}

static int start_writer(struct session *s, struct writer *w, int fd, struct error *err)
{
	writer_set_notify(w, writer_room, writer_failed, s);
	return writer_start(w, fd, err);
}

static int start_writers(struct session *s, struct error *err)
{
	int ret = start_writer(s, s->out, STDOUT_FILENO, err);

	if (!ret && s->err != s->out)
		ret = start_writer(s, s->err, STDERR_FILENO, err);
	for (unsigned i = 0; i <= DEBUGCON && !ret; i++)
		if (s->file[i])
			ret = start_writer(s, s->file[i], s->fd[i], err);
	return ret;
}

static void size_text(char *buf, size_t size, u64 bytes)
{
	if (bytes % GiB(1) == 0)
		snprintf(buf, size, "%llu GiB", (unsigned long long)(bytes >> 30));
	else if (bytes % MiB(1) == 0)
		snprintf(buf, size, "%llu MiB", (unsigned long long)(bytes >> 20));
	else
		snprintf(buf, size, "%llu KiB", (unsigned long long)(bytes >> 10));
}

/* What runs here, in one line. */
static void introduce(const struct session *s)
{
	char size[32];

	if (s->o.command && !s->o.verbose)
		return;
	size_text(size, sizeof(size), s->o.ram_size);
	fprintf(stderr, "umbra: %s%s%s engine (%s), %s, %u CPU%s, %s%s\n",
		s->o.name ? s->o.name : "", s->o.name ? ": " : "", s->engine->name,
		s->engine_why, size, s->o.cpus, s->o.cpus == 1 ? "" : "s",
		s->guest.describe,
		s->terminal.terminal && s->terminal.console
			? "; Ctrl-a x leaves, Ctrl-a h helps"
			: "");
	if (s->o.verbose)
		fprintf(stderr, "umbra: %s, command line: %s\n", pc_describe_boot(s->pc),
			s->guest.cmdline);
}

int session_open(struct session *s, struct error *err)
{
	if (profiling_open(&s->profiling, err))
		return STATUS_USAGE;
	if (open_files(s, err)) {
		profiling_undo(&s->profiling);
		return STATUS_USAGE;
	}
	introduce(s);
	if (events_open(s, err) || start_writers(s, err))
		return STATUS_FAILED;
	if (s->o.gdb && gdb_open(&s->gdb, s->o.gdb, s->o.hold, s->pc, err))
		return STATUS_FAILED;
	return STATUS_OK;
}

static void drain_all(struct session *s, unsigned seconds)
{
	writer_drain(s->out, seconds);
	if (s->err != s->out)
		writer_drain(s->err, seconds);
	for (unsigned i = 0; i <= DEBUGCON; i++)
		if (s->file[i])
			writer_drain(s->file[i], seconds);
}

void session_close(struct session *s)
{
	unsigned seconds = s->signal ? LAST_SECONDS : 0;

	events_close(s);
	drain_all(s, seconds);
	/* What a transmitter still held because its writer was full. */
	writer_room(s);
	drain_all(s, seconds);
}

void session_fini(struct session *s)
{
	for (unsigned i = 0; i < PC_SERIALS; i++)
		if (s->console[i])
			console_detach(s->console[i]);
	if (s->agent)
		agent_detach(s->agent);
	gdb_close(s->gdb);
	devices_pci_detach(&s->devices);
	/* Writers call into the machine. */
	if (s->err != s->out)
		writer_free(s->err);
	writer_free(s->out);
	for (unsigned i = 0; i <= DEBUGCON; i++) {
		writer_free(s->file[i]);
		if (s->fd[i] >= 0)
			close(s->fd[i]);
	}
	pc_free(s->pc);
	profiling_fini(&s->profiling);
	devices_pci_fini(&s->devices);
	clock_free(s->clock);
	agent_free(s->agent);
	for (unsigned i = 0; i < PC_SERIALS; i++)
		console_free(s->console[i]);
	guest_fini(&s->guest);
	fwfiles_fini(&s->files);
}
