/*
 * gdb's remote protocol, the side of the machine: all-stop, one process, a thread for
 * each CPU.
 *
 * "Debugging with GDB", appendix "gdb Remote Serial Protocol". A CPU's number plus one is
 * its thread. Breakpoints of both kinds and watchpoints are those of cpu/debug.h, so
 * "software" ones are not in memory either. Missing: non-stop mode, reverse execution,
 * multiprocess, tracing, file transfer.
 *
 * States: a client attaches, and its bytes are not looked at before the machine has
 * stopped (gdb_stub_listens()); then commands are answered until one lets CPUs go; while
 * they run only Ctrl-C is listened to, and the next thing said is why they stopped.
 * One thread, that of the event loop.
 */
#include "control/gdb_stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "control/gdb_monitor.h"
#include "control/gdb_packet.h"
#include "control/gdb_regs.h"
#include "cpu/debug.h"
#include "cpu/vm.h"

#define SIG_INT  2
#define SIG_TRAP 5
#define SIG_SEGV 11

#define POINTS_MAX (2 * DEBUG_BREAKS + DEBUG_WATCHES)
/* Bytes of memory in one packet, as hexadecimal. */
#define MEMORY_MAX (GDB_PACKET_MAX / 2 - 16)

enum { POINT_SOFT, POINT_HARD, POINT_WRITE, POINT_READ, POINT_ACCESS };

/* What the client has asked for; a soft and a hard one may be at one address. */
struct point {
	gva_t lin;
	u64 len;
	u8 type;
};

struct gdb_stub {
	struct gdb_stub_config cfg;
	struct gdb_regs *regs;
	struct gdb_packet in;
	struct gdb_text reply;
	char *wire; /* the last packet, for when it is asked for again */
	size_t wire_len;
	struct gdb_monitor monitor;
	struct point point[POINTS_MAX];
	unsigned points;
	unsigned general, control; /* CPUs that registers and stepping are about */
	bool control_all;          /* Hc-1, Hc0 */
	bool attached;
	bool running;   /* CPUs have been let go, and a stop is to be told */
	bool asked;     /* by Ctrl-C */
	bool starting;  /* the client waits for the first stop */
	bool resetting; /* `monitor reset` waits to be answered */
	bool leaving;   /* the client is gone, and CPUs stop to be told so */
	bool noack, swbreak, hwbreak;
};

struct gdb_stub *gdb_stub_new(const struct gdb_stub_config *cfg)
{
	struct gdb_stub *s = xzalloc(sizeof(*s));

	s->cfg = *cfg;
	s->regs = gdb_regs_new(vm_vcpu(cfg->vm, 0));
	s->wire = xzalloc(gdb_wrapped_max(GDB_PACKET_MAX));
	s->monitor.vm = cfg->vm;
	s->monitor.balloon = cfg->balloon;
	s->monitor.ram = cfg->ram;
	return s;
}

void gdb_stub_free(struct gdb_stub *s)
{
	if (!s)
		return;
	gdb_regs_free(s->regs);
	free(s->wire);
	free(s);
}

static struct vcpu *general_vcpu(struct gdb_stub *s)
{
	return vm_vcpu(s->cfg.vm, s->general);
}

/* ---- answers ---- */

static void send_text(struct gdb_stub *s, const char *data, size_t len)
{
	s->wire_len = gdb_wrap(data, len, s->wire);
	s->cfg.send(s->cfg.opaque, s->wire, s->wire_len);
}

static void send_reply(struct gdb_stub *s)
{
	/* Never: what is asked for is cut to size before. */
	if (s->reply.full) {
		gdb_text_clear(&s->reply);
		gdb_text_add(&s->reply, "E01");
	}
	send_text(s, s->reply.data, s->reply.len);
}

static void say(struct gdb_stub *s, const char *text)
{
	gdb_text_clear(&s->reply);
	gdb_text_add(&s->reply, "%s", text);
}

static void ok(struct gdb_stub *s)
{
	say(s, "OK");
}

/* Malformed, or what it asks for cannot be. */
static void error(struct gdb_stub *s)
{
	say(s, "E01");
}

/* No such memory. */
static void fault(struct gdb_stub *s)
{
	say(s, "E14");
}

/* ---- why it stopped ---- */

static const struct point *find_point(const struct gdb_stub *s, u8 type, gva_t lin)
{
	for (unsigned i = 0; i < s->points; i++)
		if (s->point[i].type == type && s->point[i].lin == lin)
			return &s->point[i];
	return NULL;
}

static void say_watch(struct gdb_stub *s, const struct vcpu_debug *d)
{
	const struct debug_points *p = debug_points(s->cfg.debug);
	static const char *const names[] = { "watch", "rwatch", "watch", "awatch" };
	const struct debug_watch *w = &p->watch[d->watch];

	/* The address must be one that the client knows the watchpoint by. */
	gdb_text_add(&s->reply, "%s:%llx;", names[w->kind & 3],
		     (unsigned long long)(d->lin - w->lin < w->len ? d->lin : w->lin));
}

/* The stop reply for this CPU, which is the one that is looked at from now on. */
static void say_stop(struct gdb_stub *s, unsigned cpu, enum debug_stop why)
{
	const struct vcpu *v = vm_vcpu(s->cfg.vm, cpu);
	gva_t at = in_64bit(v) ? v->rip : (u32)(v->seg[CS].base + v->rip);
	unsigned sig = why == DEBUG_SHUTDOWN ? SIG_SEGV
		       : why == DEBUG_NONE   ? SIG_INT
					     : SIG_TRAP;

	s->general = s->control = cpu;
	gdb_text_clear(&s->reply);
	gdb_text_add(&s->reply, "T%02xthread:%x;", sig, cpu + 1);
	if (why == DEBUG_WATCH)
		say_watch(s, debug_vcpu(s->cfg.debug, cpu));
	/* Where CS has a base gdb knows of no breakpoint at RIP, and would go on. */
	if (why != DEBUG_BREAK || at != v->rip)
		return;
	if (s->swbreak && find_point(s, POINT_SOFT, at))
		gdb_text_add(&s->reply, "swbreak:;");
	else if (s->hwbreak)
		gdb_text_add(&s->reply, "hwbreak:;");
}

/* Stopped, and no client any more. */
static void leave(struct gdb_stub *s)
{
	enum debug_action action[VM_MAX_VCPUS];

	for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
		action[i] = DEBUG_RUN;
	s->leaving = false;
	debug_clear(s->cfg.debug);
	s->cfg.running(s->cfg.opaque, true);
	debug_resume(s->cfg.debug, action);
}

void gdb_stub_stopped(struct gdb_stub *s)
{
	int cpu = debug_next_stop(s->cfg.debug);
	bool told = s->running;

	s->cfg.running(s->cfg.opaque, false);
	s->running = false;
	if (s->leaving)
		leave(s);
	if (!s->attached)
		return;
	if (s->resetting) {
		s->resetting = false;
		ok(s);
		send_reply(s);
		return;
	}
	if (s->starting || !told) {
		if (cpu >= 0)
			s->general = s->control = (unsigned)cpu;
		if (s->starting)
			debug_clear(s->cfg.debug);
		s->starting = false;
		return;
	}
	if (cpu >= 0)
		say_stop(s, (unsigned)cpu, debug_vcpu(s->cfg.debug, (unsigned)cpu)->stop);
	else
		say_stop(s, s->general, DEBUG_NONE);
	s->asked = false;
	send_reply(s);
}

static void cmd_why(struct gdb_stub *s)
{
	const struct vcpu_debug *d = debug_vcpu(s->cfg.debug, s->general);

	say_stop(s, s->general, d->stop == DEBUG_NONE ? DEBUG_STEP : d->stop);
}

/* ---- going on ---- */

static void go(struct gdb_stub *s, const enum debug_action *action)
{
	bool any = false;
	int cpu;

	for (unsigned i = 0; i < vm_cpus(s->cfg.vm); i++)
		any |= action[i] != DEBUG_HOLD;
	if (!any) {
		error(s);
		send_reply(s);
		return;
	}
	/* Another CPU's watchpoint or crash at the same time; breakpoints hit again. */
	while ((cpu = debug_next_stop(s->cfg.debug)) >= 0) {
		const struct vcpu_debug *d = debug_vcpu(s->cfg.debug, (unsigned)cpu);

		if (d->stop != DEBUG_SHUTDOWN &&
		    (d->stop != DEBUG_WATCH ||
		     d->watch >= debug_points(s->cfg.debug)->watches))
			continue;
		say_stop(s, (unsigned)cpu, d->stop);
		send_reply(s);
		return;
	}
	s->running = true;
	s->asked = false;
	s->cfg.running(s->cfg.opaque, true);
	debug_resume(s->cfg.debug, action);
}

/* c, s, C, S: [signal;][address]. The signal is not for a CPU. */
static void cmd_go(struct gdb_stub *s, char what, const char *p)
{
	enum debug_action action[VM_MAX_VCPUS];
	bool step = what == 's' || what == 'S';
	u64 at;

	if (what == 'C' || what == 'S') {
		if (!gdb_hex(&p, &at) || (*p && !gdb_char(&p, ';'))) {
			error(s);
			send_reply(s);
			return;
		}
	}
	if (*p) {
		struct vcpu *v = vm_vcpu(s->cfg.vm, s->control);

		/* RIP is the 17th. */
		if (!gdb_hex(&p, &at) || *p ||
		    !gdb_reg_write(s->regs, 16, v, (const u8 *)&at)) {
			error(s);
			send_reply(s);
			return;
		}
		debug_touched(s->cfg.debug, s->control);
	}
	for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
		action[i] = i == s->control           ? (step ? DEBUG_ONE : DEBUG_RUN)
			    : s->control_all || !step ? DEBUG_RUN
						      : DEBUG_HOLD;
	go(s, action);
}

/* One "action[:thread]" of vCont, for the CPUs that have none yet. */
static bool vcont_action(struct gdb_stub *s, const char **p, enum debug_action *action,
			 u64 *named)
{
	enum debug_action what;
	i64 thread = -1;
	u64 sig;

	switch (*(*p)++) {
	case 'c': what = DEBUG_RUN; break;
	case 's': what = DEBUG_ONE; break;
	case 'C':
		what = DEBUG_RUN;
		if (!gdb_hex(p, &sig))
			return false;
		break;
	case 'S':
		what = DEBUG_ONE;
		if (!gdb_hex(p, &sig))
			return false;
		break;
	default: return false;
	}
	if (gdb_char(p, ':') && !gdb_thread(p, &thread))
		return false;
	if (thread > (i64)vm_cpus(s->cfg.vm))
		return false;
	for (unsigned i = 0; i < vm_cpus(s->cfg.vm); i++) {
		if ((thread > 0 && thread != (i64)i + 1) || (*named >> i & 1))
			continue;
		action[i] = what;
		*named |= BIT(i);
		/* Any one will do. */
		if (!thread)
			break;
	}
	return true;
}

static void cmd_vcont(struct gdb_stub *s, const char *p)
{
	enum debug_action action[VM_MAX_VCPUS] = { DEBUG_HOLD };
	u64 named = 0;

	while (gdb_char(&p, ';')) {
		if (!vcont_action(s, &p, action, &named)) {
			named = 0;
			break;
		}
	}
	if (*p || !named) {
		error(s);
		send_reply(s);
		return;
	}
	go(s, action);
}

/* ---- registers ---- */

static void cmd_read_all(struct gdb_stub *s)
{
	gdb_text_clear(&s->reply);
	for (unsigned n = 0; n < gdb_regs_count(s->regs); n++) {
		u8 buf[GDB_REG_MAX];

		gdb_reg_read(s->regs, n, general_vcpu(s), buf);
		gdb_text_hex(&s->reply, buf, gdb_reg_size(s->regs, n));
	}
}

/* As many as there are; the rest stays. What is refused is left as it is. */
static void cmd_write_all(struct gdb_stub *s, const char *p)
{
	bool good = true;

	for (unsigned n = 0; n < gdb_regs_count(s->regs) && *p; n++) {
		u8 buf[GDB_REG_MAX];

		if (!gdb_hex_bytes(&p, buf, gdb_reg_size(s->regs, n))) {
			good = false;
			break;
		}
		good &= gdb_reg_write(s->regs, n, general_vcpu(s), buf);
	}
	debug_touched(s->cfg.debug, s->general);
	if (good && !*p)
		ok(s);
	else
		error(s);
}

static void cmd_read_one(struct gdb_stub *s, const char *p)
{
	u8 buf[GDB_REG_MAX];
	u64 n;

	if (!gdb_hex(&p, &n) || *p || n >= gdb_regs_count(s->regs)) {
		error(s);
		return;
	}
	gdb_reg_read(s->regs, (unsigned)n, general_vcpu(s), buf);
	gdb_text_clear(&s->reply);
	gdb_text_hex(&s->reply, buf, gdb_reg_size(s->regs, (unsigned)n));
}

static void cmd_write_one(struct gdb_stub *s, const char *p)
{
	u8 buf[GDB_REG_MAX];
	u64 n;

	if (!gdb_hex(&p, &n) || !gdb_char(&p, '=') || n >= gdb_regs_count(s->regs) ||
	    !gdb_hex_bytes(&p, buf, gdb_reg_size(s->regs, (unsigned)n)) || *p ||
	    !gdb_reg_write(s->regs, (unsigned)n, general_vcpu(s), buf)) {
		error(s);
		return;
	}
	debug_touched(s->cfg.debug, s->general);
	ok(s);
}

/* ---- memory ---- */

static enum debug_space space(const struct gdb_stub *s)
{
	return (s->monitor.physical ? DEBUG_PHYSICAL : DEBUG_LINEAR) |
	       (s->monitor.mmio ? DEBUG_MMIO : 0);
}

/* "address,length" */
static bool parse_range(const char **p, u64 *addr, u64 *len)
{
	return gdb_hex(p, addr) && gdb_char(p, ',') && gdb_hex(p, len);
}

static void cmd_read_memory(struct gdb_stub *s, const char *p)
{
	u8 buf[MEMORY_MAX];
	u64 addr, len, done;

	if (!parse_range(&p, &addr, &len) || *p) {
		error(s);
		return;
	}
	len = MIN(len, (u64)sizeof(buf));
	done = debug_read(general_vcpu(s), space(s), addr, buf, len);
	if (len && !done) {
		fault(s);
		return;
	}
	gdb_text_clear(&s->reply);
	gdb_text_hex(&s->reply, buf, done);
}

/* M: hexadecimal; X: as it is, up to the end of the packet. */
static void cmd_write_memory(struct gdb_stub *s, bool hex, const char *p)
{
	const char *end = s->in.data + s->in.len;
	u8 buf[MEMORY_MAX];
	const u8 *data = buf;
	u64 addr, len;

	if (!parse_range(&p, &addr, &len) || !gdb_char(&p, ':') ||
	    len > (hex ? sizeof(buf) : GDB_PACKET_MAX)) {
		error(s);
		return;
	}
	if (hex ? !gdb_hex_bytes(&p, buf, len) || p != end : (u64)(end - p) != len) {
		error(s);
		return;
	}
	if (!hex)
		data = (const u8 *)p;
	if (debug_write(general_vcpu(s), space(s), addr, data, len) == len)
		ok(s);
	else
		fault(s);
}

/* ---- points ---- */

static struct debug_watch watch_of(const struct point *p)
{
	static const u8 kinds[] = { [POINT_WRITE] = DEBUG_WRITE,
				    [POINT_READ] = DEBUG_READ,
				    [POINT_ACCESS] = DEBUG_READ | DEBUG_WRITE };

	return (struct debug_watch){ p->lin, p->len, kinds[p->type] };
}

static bool add_point(struct gdb_stub *s, const struct point *p)
{
	struct debug_watch w;

	if (s->points == POINTS_MAX)
		return false;
	if (p->type <= POINT_HARD) {
		if (!debug_add_break(s->cfg.debug, p->lin))
			return false;
	} else {
		w = watch_of(p);
		if (!debug_add_watch(s->cfg.debug, &w))
			return false;
	}
	s->point[s->points++] = *p;
	return true;
}

static void remove_point(struct gdb_stub *s, unsigned i)
{
	struct point p = s->point[i];
	struct debug_watch w;

	s->point[i] = s->point[--s->points];
	if (p.type > POINT_HARD) {
		w = watch_of(&p);
		debug_remove_watch(s->cfg.debug, &w);
	} else if (!find_point(s, POINT_SOFT, p.lin) &&
		   !find_point(s, POINT_HARD, p.lin)) {
		debug_remove_break(s->cfg.debug, p.lin);
	}
}

static int same_point(const struct gdb_stub *s, const struct point *p)
{
	for (unsigned i = 0; i < s->points; i++)
		if (s->point[i].lin == p->lin && s->point[i].type == p->type &&
		    (p->type <= POINT_HARD || s->point[i].len == p->len))
			return (int)i;
	return -1;
}

/* Z and z: type,address,kind; conditions and commands are not taken. */
static void cmd_point(struct gdb_stub *s, bool insert, const char *p)
{
	struct point pt = { 0 };
	int i;

	if (*p < '0' || *p > '4') {
		say(s, "");
		return;
	}
	pt.type = (u8)(*p++ - '0');
	if (!gdb_char(&p, ',') || !parse_range(&p, &pt.lin, &pt.len) || *p ||
	    (pt.type > POINT_HARD && (!pt.len || pt.len > MiB(1)))) {
		error(s);
		return;
	}
	i = same_point(s, &pt);
	if (insert && i < 0 && !add_point(s, &pt)) {
		error(s);
		return;
	}
	if (!insert && i >= 0)
		remove_point(s, (unsigned)i);
	ok(s);
}

/* ---- threads ---- */

/* The rest of the packet. 0: any, -1: all. */
static bool parse_thread(struct gdb_stub *s, const char *p, i64 *thread)
{
	return gdb_thread(&p, thread) && !*p && *thread <= (i64)vm_cpus(s->cfg.vm);
}

static void cmd_select(struct gdb_stub *s, const char *p)
{
	char what = *p;
	i64 thread;

	if ((what != 'g' && what != 'c') || !parse_thread(s, p + 1, &thread)) {
		error(s);
		return;
	}
	if (what == 'c')
		s->control_all = thread <= 0;
	if (thread > 0 && what == 'g')
		s->general = (unsigned)thread - 1;
	else if (thread > 0)
		s->control = (unsigned)thread - 1;
	ok(s);
}

static void cmd_alive(struct gdb_stub *s, const char *p)
{
	i64 thread;

	if (parse_thread(s, p, &thread))
		ok(s);
	else
		error(s);
}

static void query_threads(struct gdb_stub *s)
{
	gdb_text_clear(&s->reply);
	for (unsigned i = 0; i < vm_cpus(s->cfg.vm); i++)
		gdb_text_add(&s->reply, "%c%x", i ? ',' : 'm', i + 1);
}

static void query_thread_info(struct gdb_stub *s, const char *p)
{
	static const char *const does[] = { "running", "halted", "shut down",
					    "waits for SIPI" };
	unsigned cpu;
	i64 thread;
	char text[64];

	if (!parse_thread(s, p, &thread) || thread <= 0) {
		error(s);
		return;
	}
	cpu = (unsigned)thread - 1;
	snprintf(text, sizeof(text), "CPU %u, %s", cpu,
		 does[vm_vcpu(s->cfg.vm, cpu)->activity & 3]);
	gdb_text_clear(&s->reply);
	gdb_text_hex(&s->reply, text, strlen(text));
}

/* ---- queries ---- */

static bool starts(const char **p, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*p, word, n))
		return false;
	*p += n;
	return true;
}

static void query_supported(struct gdb_stub *s, const char *p)
{
	s->swbreak = strstr(p, "swbreak+") != NULL;
	s->hwbreak = strstr(p, "hwbreak+") != NULL;
	gdb_text_clear(&s->reply);
	gdb_text_add(&s->reply,
		     "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;"
		     "vContSupported+;swbreak+;hwbreak+",
		     GDB_PACKET_MAX);
}

static void query_features(struct gdb_stub *s, const char *p)
{
	size_t size;
	const char *xml = gdb_regs_xml(s->regs, &size);
	u64 off, len;

	if (!starts(&p, "target.xml:") || !parse_range(&p, &off, &len) || *p) {
		say(s, "E00");
		return;
	}
	off = MIN(off, (u64)size);
	len = MIN(len, (u64)GDB_PACKET_MAX - 1);
	gdb_text_clear(&s->reply);
	gdb_text_add(&s->reply, "%c", size - off > len ? 'm' : 'l');
	gdb_text_bytes(&s->reply, xml + off, MIN(len, size - off));
}

/* What `monitor` prints, in packets before the answer. */
static void show(struct gdb_stub *s, const char *text, size_t len)
{
	const size_t most = GDB_PACKET_MAX / 2 - 1;

	for (size_t at = 0; at < len; at += most) {
		gdb_text_clear(&s->reply);
		gdb_text_add(&s->reply, "O");
		gdb_text_hex(&s->reply, text + at, MIN(most, len - at));
		send_reply(s);
	}
}

static void query_monitor(struct gdb_stub *s, const char *p)
{
	char line[256] = "", *text = NULL;
	size_t digits = strlen(p), size = 0;
	FILE *out;

	if (digits % 2 || digits / 2 >= sizeof(line) ||
	    !gdb_hex_bytes(&p, (u8 *)line, digits / 2)) {
		error(s);
		send_reply(s);
		return;
	}
	out = open_memstream(&text, &size);
	if (!out) {
		error(s);
		send_reply(s);
		return;
	}
	s->monitor.cpu = s->general;
	gdb_monitor(&s->monitor, line, out);
	fclose(out);
	show(s, text, size);
	free(text);
	if (s->monitor.then == MONITOR_RESET) {
		/* Answered when the machine has stopped again. */
		s->resetting = true;
		s->cfg.reset(s->cfg.opaque);
		return;
	}
	ok(s);
	send_reply(s);
	if (s->monitor.then == MONITOR_QUIT)
		s->cfg.quit(s->cfg.opaque);
}

static void cmd_query(struct gdb_stub *s, const char *p)
{
	if (starts(&p, "qRcmd,")) {
		query_monitor(s, p);
		return;
	}
	if (starts(&p, "qSupported"))
		query_supported(s, p);
	else if (starts(&p, "qXfer:features:read:"))
		query_features(s, p);
	else if (starts(&p, "qfThreadInfo"))
		query_threads(s);
	else if (starts(&p, "qsThreadInfo"))
		say(s, "l");
	else if (starts(&p, "qThreadExtraInfo,"))
		query_thread_info(s, p);
	else if (!strcmp(p, "qC")) {
		gdb_text_clear(&s->reply);
		gdb_text_add(&s->reply, "QC%x", s->general + 1);
	} else if (starts(&p, "qAttached"))
		say(s, "1");
	else if (starts(&p, "qSymbol"))
		ok(s);
	else
		say(s, "");
	send_reply(s);
}

/* ---- commands ---- */

static void cmd_v(struct gdb_stub *s, const char *p)
{
	if (!strcmp(p, "vCont?")) {
		say(s, "vCont;c;C;s;S");
	} else if (starts(&p, "vCont")) {
		cmd_vcont(s, p);
		return;
	} else if (starts(&p, "vKill")) {
		ok(s);
		send_reply(s);
		s->cfg.quit(s->cfg.opaque);
		s->cfg.hang_up(s->cfg.opaque);
		return;
	} else {
		say(s, "");
	}
	send_reply(s);
}

static void cmd_set(struct gdb_stub *s, const char *p)
{
	if (!strcmp(p, "QStartNoAckMode")) {
		ok(s);
		send_reply(s);
		s->noack = true;
		return;
	}
	say(s, "");
	send_reply(s);
}

/* Commands that are answered at once. */
static void simple(struct gdb_stub *s, const char *p)
{
	switch (*p) {
	case '?': cmd_why(s); break;
	case 'g': cmd_read_all(s); break;
	case 'G': cmd_write_all(s, p + 1); break;
	case 'p': cmd_read_one(s, p + 1); break;
	case 'P': cmd_write_one(s, p + 1); break;
	case 'm': cmd_read_memory(s, p + 1); break;
	case 'M': cmd_write_memory(s, true, p + 1); break;
	case 'X': cmd_write_memory(s, false, p + 1); break;
	case 'Z': cmd_point(s, true, p + 1); break;
	case 'z': cmd_point(s, false, p + 1); break;
	case 'H': cmd_select(s, p + 1); break;
	case 'T': cmd_alive(s, p + 1); break;
	default: say(s, ""); break;
	}
	send_reply(s);
}

static void command(struct gdb_stub *s)
{
	const char *p = s->in.data;

	switch (*p) {
	case 'c':
	case 's':
	case 'C':
	case 'S': cmd_go(s, *p, p + 1); break;
	case 'v': cmd_v(s, p); break;
	case 'q': cmd_query(s, p); break;
	case 'Q': cmd_set(s, p); break;
	case 'D':
		ok(s);
		send_reply(s);
		s->cfg.hang_up(s->cfg.opaque);
		break;
	case 'k':
		s->cfg.quit(s->cfg.opaque);
		s->cfg.hang_up(s->cfg.opaque);
		break;
	default: simple(s, p); break;
	}
}

static void ack(struct gdb_stub *s, char c)
{
	if (!s->noack)
		s->cfg.send(s->cfg.opaque, &c, 1);
}

/* ---- the client ---- */

void gdb_stub_attach(struct gdb_stub *s)
{
	memset(&s->in, 0, sizeof(s->in));
	s->wire_len = 0;
	s->points = 0;
	s->general = s->control = 0;
	s->control_all = true;
	s->noack = s->swbreak = s->hwbreak = false;
	s->asked = s->running = s->resetting = false;
	s->monitor.physical = s->monitor.mmio = false;
	s->attached = true;
	debug_attach(s->cfg.debug, true);
	s->leaving = false;
	s->starting = !debug_is_stopped(s->cfg.debug);
	if (s->starting)
		debug_pause(s->cfg.debug);
	else
		debug_clear(s->cfg.debug);
}

bool gdb_stub_listens(const struct gdb_stub *s)
{
	return s->attached && !s->starting && !s->resetting;
}

/* While CPUs run nothing else is answered. */
static void running_event(struct gdb_stub *s, enum gdb_event ev)
{
	if (ev == GDB_INTERRUPT) {
		if (s->running && !s->asked) {
			s->asked = true;
			debug_pause(s->cfg.debug);
		}
	} else if (ev == GDB_PACKET || ev == GDB_LONG) {
		ack(s, '+');
		error(s);
		send_reply(s);
	}
}

void gdb_stub_input(struct gdb_stub *s, const u8 *data, size_t len)
{
	for (size_t i = 0; i < len && s->attached; i++) {
		enum gdb_event ev = gdb_packet_byte(&s->in, data[i]);

		if (s->running || s->resetting) {
			running_event(s, ev);
			continue;
		}
		switch (ev) {
		case GDB_PACKET:
			ack(s, '+');
			command(s);
			break;
		case GDB_LONG:
			ack(s, '+');
			error(s);
			send_reply(s);
			break;
		case GDB_BAD: ack(s, '-'); break;
		case GDB_NAK:
			if (!s->noack && s->wire_len)
				s->cfg.send(s->cfg.opaque, s->wire, s->wire_len);
			break;
		default: break;
		}
	}
}

void gdb_stub_detach(struct gdb_stub *s)
{
	if (!s->attached)
		return;
	s->attached = false;
	debug_attach(s->cfg.debug, false);
	s->starting = s->resetting = false;
	s->points = 0;
	if (!debug_is_stopped(s->cfg.debug)) {
		/* Only stopped CPUs can be told to forget; they go on from there. */
		s->leaving = true;
		debug_pause(s->cfg.debug);
		return;
	}
	leave(s);
}

void gdb_stub_exited(struct gdb_stub *s, int status)
{
	/* Only who waits for a stop expects to hear of it; others see the connection
	 * closed. */
	if (!s->attached || !(s->running || s->resetting))
		return;
	gdb_text_clear(&s->reply);
	gdb_text_add(&s->reply, s->running ? "W%02x" : "E%02x", status & 0xff);
	send_reply(s);
}
