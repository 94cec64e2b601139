/*
 * What the kinds of networks have in common. For net/ only.
 *
 * All functions of a backend run on the network's thread (see net.h), but for opening and
 * closing, when there is none.
 */
#pragma once

#include <poll.h>

#include "net/net.h"

/* Descriptors to wait for. */
struct net_poll {
	struct pollfd *fds;
	unsigned count, cap;
	int timeout; /* milliseconds; -1: none */
};

/* Returns its index, -1 without memory. */
int net_poll_add(struct net_poll *p, int fd, short events);

struct net_ops {
	/* Add what is to be waited for, lower the timeout. Nobody may wait then. */
	void (*fill)(void *backend, struct net_poll *p);
	/* Nobody waits yet, but nothing is done for a while: pass on what is kept. fill()
	 * does that too. NULL: nothing is. */
	void (*flush)(void *backend);
	/* After waiting: what fill() last added is in the same places. */
	void (*ready)(void *backend, const struct net_poll *p);
	/* A frame from the guest without offloads, but see below. */
	void (*send)(void *backend, const struct net_frame *f);
	void (*close)(void *backend);
	/* The guest may send; otherwise what it has waits. NULL: always. */
	bool (*takes)(void *backend);
	/* Takes TCP frames of up to 64 KiB that are to be cut (checksums are right). */
	bool big;
	/* Takes frames with all that is left to be done with them. */
	bool offloads;
};

struct net_backend {
	const struct net_ops *ops;
	void *opaque;
	/* Sending may take long: for the network's own thread alone. */
	bool waits;
};

/* A descriptor was opened or closed: an equal number may be another one. */
void net_reopened(struct net *n);
/* A frame for the guest. Copied when it has to wait. */
void net_deliver(struct net *n, struct net_frame *f);
/* False: the guest does not keep up, read no more from the host for now. */
bool net_wants(const struct net *n);

int net_user_open(struct net_backend *b, struct net *n, const struct net_config *cfg,
		  struct error *err);
int net_tap_open(struct net_backend *b, struct net *n, const struct net_config *cfg,
		 struct error *err);
int net_socket_open(struct net_backend *b, struct net *n, const struct net_config *cfg,
		    struct error *err);

/* ---- pcap.c ---- */

struct pcap;

int pcap_open(struct pcap **p, const char *path, struct clock *clk, struct error *err);
void pcap_close(struct pcap *p);
void pcap_frame(struct pcap *p, const u8 *data, u32 len);
/* Nothing more comes for a while. */
void pcap_flush(struct pcap *p);
