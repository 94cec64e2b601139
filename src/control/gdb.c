/*
 * Where a debugger connects: a TCP or Unix socket in the event loop, one client at a
 * time.
 *
 * Spellings are those of QEMU's -gdb: tcp:HOST:PORT, unix:PATH, and behind a comma server
 * and wait, which change nothing. An empty HOST is this host alone, since whoever
 * connects may do anything. What happens on the connection is gdb_stub.c's.
 *
 * The loop's thread; only all_stopped() comes from others.
 */
#include "control/gdb.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "control/gdb_stub.h"
#include "cpu/debug.h"
#include "host/loop.h"
#include "machine/pc.h"
#include "machine/pcidevices.h"
#include "time/clock.h"

/* A client that does not read what it asked for is not read from any more. */
#define OUT_MAX KiB(256)

struct gdb {
	struct pc *pc;
	struct debug *debug;
	struct gdb_stub *stub;
	struct loop_work stopped; /* all CPUs are */
	bool clock_stopped;
	int listener, client; /* -1: none */
	struct loop_fd *watch_listener, *watch_client;
	char *path; /* of a Unix socket, to be removed */
	char *out;  /* not taken by the client yet */
	size_t out_len, out_cap;
	bool hanging_up;
};

/* ---- the place ---- */

struct place {
	bool is_unix;
	char host[256], port[8]; /* TCP */
	struct sockaddr_un un;
};

static int bad_place(const char *option, const char *where, struct error *err)
{
	return error_set(err, -EINVAL,
			 "-%s %s: tcp:HOST:PORT, tcp::PORT or unix:PATH is needed",
			 option, where);
}

/* Behind the comma: what QEMU needs to be told, and we do anyway. */
static bool cut_suffix(char *text)
{
	static const char *const known[] = { "server",   "server=on", "nowait",
					     "wait=off", "nodelay",   "nodelay=on" };
	char *save, *word = strchr(text, ',');

	if (!word)
		return true;
	*word++ = 0;
	for (word = strtok_r(word, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		bool found = false;

		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			found |= !strcmp(word, known[i]);
		if (!found)
			return false;
	}
	return true;
}

static int parse_tcp(const char *option, const char *where, char *text, struct place *p,
		     struct error *err)
{
	char *host = text, *port = strrchr(text, ':');
	size_t len;

	if (!port)
		return bad_place(option, where, err);
	*port++ = 0;
	len = strlen(host);
	if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = 0;
		host++;
	}
	if (!*port || strlen(port) > 5 || strspn(port, "0123456789") != strlen(port) ||
	    atoi(port) > 65535)
		return error_set(err, -EINVAL,
				 "-%s %s: '%s' is no port; a number up to 65535 is "
				 "needed, 0 for any that is free",
				 option, where, port);
	if (strlen(host) >= sizeof(p->host))
		return bad_place(option, where, err);
	strcpy(p->host, *host ? host : "127.0.0.1");
	strcpy(p->port, port);
	return 0;
}

static int parse_place(const char *option, const char *where, struct place *p,
		       struct error *err)
{
	char *text = strdupa(where);

	*p = (struct place){ .un.sun_family = AF_UNIX };
	if (!cut_suffix(text))
		return bad_place(option, where, err);
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(option, where, text + 4, p, err);
	if (strncmp(text, "unix:", 5) || !text[5])
		return bad_place(option, where, err);
	if (strlen(text + 5) >= sizeof(p->un.sun_path))
		return error_set(err, -EINVAL,
				 "-%s %s: the path of a socket has at most %zu bytes",
				 option, where, sizeof(p->un.sun_path) - 1);
	p->is_unix = true;
	strcpy(p->un.sun_path, text + 5);
	return 0;
}

int gdb_check(const char *option, const char *where, struct error *err)
{
	struct place p;

	return strlen(where) > 4096 ? bad_place(option, "...", err)
				    : parse_place(option, where, &p, err);
}

static int failed(const char *where, int error, struct error *err)
{
	return error_set(err, -error, "-gdb %s: %s", where, strerror(error));
}

static int listen_tcp(struct gdb *g, const struct place *p, const char *where,
		      struct error *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICSERV | AI_PASSIVE };
	struct addrinfo *list;
	int ret = getaddrinfo(p->host, p->port, &hints, &list), error = 0;

	if (ret)
		return error_set(err, -EINVAL, "-gdb %s: %s", where, gai_strerror(ret));
	for (struct addrinfo *a = list; a && g->listener < 0; a = a->ai_next) {
		int fd = socket(a->ai_family,
				a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		int on = 1;

		if (fd < 0) {
			error = errno;
			continue;
		}
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1)) {
			error = errno;
			close(fd);
			continue;
		}
		g->listener = fd;
	}
	freeaddrinfo(list);
	return g->listener < 0 ? failed(where, error, err) : 0;
}

/* A socket that nobody listens at any more is in the way. */
static void remove_stale(const struct sockaddr_un *un)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)un, sizeof(*un)) &&
	    errno == ECONNREFUSED)
		unlink(un->sun_path);
	close(fd);
}

static int listen_unix(struct gdb *g, const struct place *p, const char *where,
		       struct error *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return failed(where, errno, err);
	remove_stale(&p->un);
	if (bind(fd, (const struct sockaddr *)&p->un, sizeof(p->un)))
		goto fail;
	g->path = xstrdup(p->un.sun_path);
	if (listen(fd, 1))
		goto fail;
	g->listener = fd;
	return 0;
fail:
	error = errno;
	close(fd);
	return failed(where, error, err);
}

/* The port that was free. */
static void tell_port(const struct gdb *g)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	char port[8];

	if (getsockname(g->listener, (struct sockaddr *)&a, &len) ||
	    getnameinfo((struct sockaddr *)&a, len, NULL, 0, port, sizeof(port),
			NI_NUMERICSERV))
		return;
	fprintf(stderr, "umbra: -gdb: port %s\n", port);
}

/* ---- the client ---- */

static void client_events(struct gdb *g)
{
	unsigned events = 0;

	if (!g->watch_client)
		return;
	if (gdb_stub_listens(g->stub) && g->out_len < OUT_MAX)
		events |= LOOP_READ;
	if (g->out_len)
		events |= LOOP_WRITE;
	loop_set_events(g->watch_client, events);
}

static void drop_client(struct gdb *g)
{
	if (g->client < 0)
		return;
	loop_remove(g->watch_client);
	g->watch_client = NULL;
	close(g->client);
	g->client = -1;
	g->out_len = 0;
	g->hanging_up = false;
	gdb_stub_detach(g->stub);
}

static bool flush_out(struct gdb *g)
{
	while (g->out_len) {
		ssize_t n = send(g->client, g->out, g->out_len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		g->out_len -= (size_t)n;
		memmove(g->out, g->out + n, g->out_len);
	}
	return true;
}

static void on_send(void *opaque, const char *data, size_t len)
{
	struct gdb *g = opaque;

	if (g->client < 0)
		return;
	if (len > g->out_cap - g->out_len) {
		size_t cap = 2 * (g->out_len + len);
		char *out = realloc(g->out, cap);

		if (!out) {
			g->hanging_up = true;
			return;
		}
		g->out = out;
		g->out_cap = cap;
	}
	memcpy(g->out + g->out_len, data, len);
	g->out_len += len;
}

/* What is to be said is written, and the client dropped when there is nothing more. */
static void settle(struct gdb *g)
{
	if (g->client < 0)
		return;
	if (!flush_out(g) || g->hanging_up)
		drop_client(g);
	client_events(g);
}

static void client_ready(void *opaque, unsigned events)
{
	struct gdb *g = opaque;
	u8 buf[4096];
	ssize_t n;

	if (events & (LOOP_READ | LOOP_HUP)) {
		n = recv(g->client, buf, sizeof(buf), 0);
		if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			drop_client(g);
			return;
		}
		if (n > 0)
			gdb_stub_input(g->stub, buf, (size_t)n);
	}
	settle(g);
}

static void accept_client(void *opaque, unsigned events)
{
	struct gdb *g = opaque;
	struct error err = { 0 };
	int on = 1, fd = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	/* One debugger at a time; a second one sees the connection closed. */
	if (g->client >= 0) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* One that is gone without a word must not keep others out for ever. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	g->watch_client = loop_add(pc_loop(g->pc), fd, 0, client_ready, g, &err);
	if (!g->watch_client) {
		log_warn("-gdb: %s", err.msg);
		close(fd);
		return;
	}
	g->client = fd;
	g->out_len = 0;
	g->hanging_up = false;
	gdb_stub_attach(g->stub);
	client_events(g);
}

/* ---- the machine ---- */

static void on_stopped(void *opaque)
{
	struct gdb *g = opaque;

	gdb_stub_stopped(g->stub);
	settle(g);
}

/* Any thread. */
static void all_stopped(void *opaque)
{
	struct gdb *g = opaque;

	loop_post(pc_loop(g->pc), &g->stopped);
}

/* No time passes for a guest that does not run. */
static void on_running(void *opaque, bool on)
{
	struct gdb *g = opaque;

	if (on == !g->clock_stopped)
		return;
	g->clock_stopped = !on;
	if (on)
		clock_start(pc_clock(g->pc));
	else
		clock_stop(pc_clock(g->pc));
}

static void on_hang_up(void *opaque)
{
	struct gdb *g = opaque;

	g->hanging_up = true;
}

static void on_reset(void *opaque)
{
	struct gdb *g = opaque;

	vm_end(pc_vm(g->pc), VM_RESET);
}

static void on_quit(void *opaque)
{
	struct gdb *g = opaque;

	pc_end(g->pc, VM_STOPPED);
}

static int make(struct gdb *g, const char *where, struct error *err)
{
	struct gdb_stub_config stub = {
		.send = on_send,
		.running = on_running,
		.hang_up = on_hang_up,
		.reset = on_reset,
		.quit = on_quit,
		.opaque = g,
	};
	struct debug_config debug = { .vm = pc_vm(g->pc),
				      .stopped = all_stopped,
				      .opaque = g };
	struct place p;
	int ret = parse_place("gdb", where, &p, err);

	if (ret)
		return ret;
	ret = p.is_unix ? listen_unix(g, &p, where, err) : listen_tcp(g, &p, where, err);
	if (ret)
		return ret;
	g->watch_listener =
		loop_add(pc_loop(g->pc), g->listener, LOOP_READ, accept_client, g, err);
	if (!g->watch_listener)
		return -EINVAL;
	if (!p.is_unix && !strcmp(p.port, "0"))
		tell_port(g);
	stub.vm = debug.vm;
	stub.balloon = pcidevices_balloon(pc_pcidevices(g->pc));
	stub.ram = pc_ram_size(g->pc);
	stub.debug = g->debug = debug_new(&debug);
	g->stub = gdb_stub_new(&stub);
	return 0;
}

int gdb_open(struct gdb **out, const char *where, bool hold, struct pc *pc,
	     struct error *err)
{
	struct gdb *g = xzalloc(sizeof(*g));
	int ret;

	g->pc = pc;
	g->listener = g->client = -1;
	g->stopped = (struct loop_work){ .run = on_stopped, .opaque = g };
	ret = make(g, where, err);
	if (ret) {
		gdb_close(g);
		return ret;
	}
	if (hold)
		debug_pause(g->debug);
	*out = g;
	return 0;
}

void gdb_exited(struct gdb *g, int status)
{
	if (!g || g->client < 0)
		return;
	gdb_stub_exited(g->stub, status);
	flush_out(g);
}

void gdb_close(struct gdb *g)
{
	if (!g)
		return;
	if (g->client >= 0) {
		loop_remove(g->watch_client);
		close(g->client);
	}
	if (g->watch_listener)
		loop_remove(g->watch_listener);
	if (g->listener >= 0)
		close(g->listener);
	if (g->path)
		unlink(g->path);
	loop_unpost(pc_loop(g->pc), &g->stopped);
	on_running(g, true);
	gdb_stub_free(g->stub);
	debug_free(g->debug);
	free(g->path);
	free(g->out);
	free(g);
}
