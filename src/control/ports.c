/*
 * What the ports of virtio consoles are connected to: -chardev socket, file, null.
 *
 * A Unix socket that listens takes one peer at a time; while there is none, the guest's
 * port is closed and what it writes is thrown away. All sockets are served on the event
 * loop; what a peer does not read waits in the guest.
 *
 * Lock: 'lock' in each covers its descriptor, which sinks use on vCPU threads. It comes
 * after the device's.
 */
#include "control/ports.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "control/props.h"
#include "host/loop.h"

#define PORTS_MAX 16

struct peer {
	/* What was said. */
	char *type, *id, *path;
	u8 server, wait;
	bool append;
	/* What it is. */
	bool taken, is_file, is_null;
	struct virtio_console *dev;
	unsigned number;
	struct loop *loop;
	struct loop_fd *watch_listener, *watch;
	int listener;
	bool bound; /* 'path' is ours to remove */
	pthread_mutex_t lock;
	int fd;      /* -1: nobody is there */
	bool full;   /* it did not take all */
	u8 in[4096]; /* read, and not taken by the guest yet */
	size_t in_len;
};

struct ports {
	unsigned count;
	struct peer peer[PORTS_MAX];
};

#define AT(field) offsetof(struct peer, field)

static const struct prop props[] = {
	{ "backend", PROP_TEXT, AT(type), 0, 0 },
	{ "id", PROP_TEXT, AT(id), 0, 0 },
	{ "path", PROP_TEXT, AT(path), 0, 0 },
	{ "server", PROP_SWITCH, AT(server), 0, 0 },
	{ "wait", PROP_SWITCH, AT(wait), 0, 0 },
	{ "append", PROP_BOOL, AT(append), 0, 0 },
	{ "mux", PROP_IGNORED, 0, 0, 0 },
	{ "signal", PROP_IGNORED, 0, 0, 0 },
	{ 0 },
};

/* ---- the peer comes, goes, speaks: the loop's thread ---- */

static void peer_events(void *opaque, unsigned events);

/* Lock held. */
static void update_events(struct peer *p)
{
	unsigned events = p->full ? LOOP_WRITE : 0;

	if (p->in_len < sizeof(p->in))
		events |= LOOP_READ;
	if (p->watch)
		loop_set_events(p->watch, events);
}

static void leave(struct peer *p)
{
	struct loop_fd *watch;
	int fd;

	pthread_mutex_lock(&p->lock);
	watch = p->watch;
	fd = p->fd;
	p->watch = NULL;
	p->fd = -1;
	p->full = false;
	p->in_len = 0;
	pthread_mutex_unlock(&p->lock);
	if (watch)
		loop_remove(watch);
	if (fd >= 0)
		close(fd);
	if (p->watch_listener)
		loop_set_events(p->watch_listener, LOOP_READ);
}

static void come(struct peer *p, int fd)
{
	struct error err = { 0 };
	struct loop_fd *watch = loop_add(p->loop, fd, LOOP_READ, peer_events, p, &err);

	if (!watch) {
		close(fd);
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->fd = fd;
	p->watch = watch;
	pthread_mutex_unlock(&p->lock);
	if (p->watch_listener)
		loop_set_events(p->watch_listener, 0);
	virtio_console_set_open(p->dev, p->number, true);
	virtio_console_tx_ready(p->dev, p->number);
}

/* What was read, to the guest. */
static void feed(struct peer *p)
{
	size_t n = virtio_console_rx(p->dev, p->number, p->in, p->in_len);

	pthread_mutex_lock(&p->lock);
	p->in_len -= n;
	memmove(p->in, p->in + n, p->in_len);
	update_events(p);
	pthread_mutex_unlock(&p->lock);
}

static void peer_events(void *opaque, unsigned events)
{
	struct peer *p = opaque;
	bool gone = false;

	if (events & LOOP_WRITE) {
		pthread_mutex_lock(&p->lock);
		p->full = false;
		update_events(p);
		pthread_mutex_unlock(&p->lock);
		virtio_console_tx_ready(p->dev, p->number);
	}
	if (events & (LOOP_READ | LOOP_HUP) && p->in_len < sizeof(p->in)) {
		ssize_t n = recv(p->fd, p->in + p->in_len, sizeof(p->in) - p->in_len,
				 MSG_DONTWAIT);

		if (n > 0)
			p->in_len += (size_t)n;
		gone = !n || (n < 0 && errno != EAGAIN && errno != EINTR);
	}
	if (p->in_len)
		feed(p);
	if (!gone)
		return;
	leave(p);
	virtio_console_set_open(p->dev, p->number, false);
	/* What it did not read is thrown away. */
	virtio_console_tx_ready(p->dev, p->number);
}

static void listener_events(void *opaque, unsigned events)
{
	struct peer *p = opaque;
	int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0)
		come(p, fd);
}

/* ---- the device: any thread ---- */

static size_t sink_write(void *opaque, const u8 *buf, size_t len)
{
	struct peer *p = opaque;
	ssize_t n = (ssize_t)len;

	pthread_mutex_lock(&p->lock);
	if (p->fd >= 0 && p->is_file) {
		n = write(p->fd, buf, len);
		if (n <= 0)
			n = (ssize_t)len; /* a full disk does not stop the guest */
	} else if (p->fd >= 0) {
		n = send(p->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			n = (ssize_t)len; /* it is gone: the loop finds out */
		n = MAX(n, 0);
		p->full = (size_t)n < len;
		update_events(p);
	}
	pthread_mutex_unlock(&p->lock);
	return (size_t)n;
}

static void guest_has_room(void *opaque)
{
	struct peer *p = opaque;

	if (p->in_len)
		feed(p);
}

/* ---- set-up ---- */

bool ports_has(const char *text)
{
	return !strncmp(text, "socket,", 7);
}

int ports_add_chardev(struct ports *ports, const char *text, struct error *err)
{
	struct peer *p = &ports->peer[ports->count];

	if (ports->count == PORTS_MAX)
		return error_set(err, -EINVAL, "-chardev %s: at most %u are possible",
				 text, PORTS_MAX);
	ports->count++;
	if (props_parse(p, props, "-chardev", text, "backend", err))
		return -EINVAL;
	p->is_file = p->type && !strcmp(p->type, "file");
	p->is_null = p->type && !strcmp(p->type, "null");
	if (!p->id || (!p->path && !p->is_null))
		return error_set(err, -EINVAL, "-chardev %s: id= and path= are needed",
				 text);
	if (p->wait == SWITCH_ON)
		return error_set(err, -EINVAL, "-chardev %s: only wait=off is supported",
				 text);
	return 0;
}

int ports_take(struct ports *ports, const char *chardev, struct virtio_console_port *port,
	       struct error *err)
{
	for (unsigned i = 0; i < ports->count; i++) {
		struct peer *p = &ports->peer[i];

		if (strcmp(p->id, chardev))
			continue;
		if (p->taken)
			return error_set(err, -EINVAL,
					 "chardev %s is used by two devices", chardev);
		p->taken = true;
		port->out = (struct chardev_sink){ sink_write, p };
		port->room = guest_has_room;
		port->opaque = p;
		port->host_open = p->is_file || p->is_null;
		return 0;
	}
	return error_set(err, -EINVAL,
			 "there is no -chardev with id '%s' that a virtio port can have: "
			 "socket, file or null",
			 chardev);
}

/* A name that nobody listens at was left behind. */
static void remove_stale(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) && errno == ECONNREFUSED)
		unlink(a->sun_path);
	close(fd);
}

static int open_socket(struct peer *p, struct error *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(p->path) >= sizeof(a.sun_path))
		return error_set(err, -EINVAL, "-chardev %s: the path is too long",
				 p->id);
	strcpy(a.sun_path, p->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "-chardev %s: %s", p->id, strerror(errno));
	if (p->server != SWITCH_ON) {
		p->fd = fd;
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
			return error_set(err, -errno, "%s: %s", p->path, strerror(errno));
		return 0;
	}
	p->listener = fd;
	remove_stale(&a);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1))
		return error_set(err, -errno, "%s: %s", p->path, strerror(errno));
	p->bound = true;
	return 0;
}

static int open_file(struct peer *p, struct error *err)
{
	p->fd = open(p->path,
		     O_WRONLY | O_CREAT | O_CLOEXEC | (p->append ? O_APPEND : O_TRUNC),
		     0666);
	return p->fd >= 0 ? 0
			  : error_set(err, -errno, "%s: %s", p->path, strerror(errno));
}

int ports_open(struct ports *ports, struct error *err)
{
	for (unsigned i = 0; i < ports->count; i++) {
		struct peer *p = &ports->peer[i];

		if (!p->taken || p->is_null)
			continue;
		if (p->is_file ? open_file(p, err) : open_socket(p, err))
			return -EINVAL;
	}
	return 0;
}

int ports_attach(struct ports *ports, const struct virtio_console_port *port,
		 struct virtio_console *dev, unsigned number, struct loop *loop,
		 struct error *err)
{
	struct peer *p = port->opaque;
	int fd;

	(void)ports;
	if (!p || p->is_file || p->is_null)
		return 0;
	p->dev = dev;
	p->number = number;
	p->loop = loop;
	if (p->listener >= 0) {
		p->watch_listener =
			loop_add(loop, p->listener, LOOP_READ, listener_events, p, err);
		return p->watch_listener ? 0 : -EINVAL;
	}
	fd = p->fd;
	p->fd = -1;
	come(p, fd);
	return 0;
}

void ports_detach(struct ports *ports)
{
	for (unsigned i = 0; ports && i < ports->count; i++) {
		struct peer *p = &ports->peer[i];

		if (!p->loop)
			continue;
		if (p->watch_listener)
			loop_remove(p->watch_listener);
		p->watch_listener = NULL;
		leave(p);
		p->loop = NULL;
	}
}

struct ports *ports_new(void)
{
	struct ports *p = xzalloc(sizeof(*p));

	for (unsigned i = 0; i < PORTS_MAX; i++) {
		p->peer[i].fd = p->peer[i].listener = -1;
		pthread_mutex_init(&p->peer[i].lock, NULL);
	}
	return p;
}

void ports_free(struct ports *ports)
{
	if (!ports)
		return;
	for (unsigned i = 0; i < PORTS_MAX; i++) {
		struct peer *p = &ports->peer[i];

		if (p->fd >= 0)
			close(p->fd);
		if (p->listener >= 0)
			close(p->listener);
		if (p->bound)
			unlink(p->path);
		pthread_mutex_destroy(&p->lock);
		props_fini(p, props);
	}
	free(ports);
}
