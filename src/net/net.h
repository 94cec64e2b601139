/*
 * A network as a device sees it: Ethernet frames in and out, with the offloads of virtio.
 *
 * Each network has a thread of its own on which all of it happens: the host's sockets,
 * and the device's transmit() and receive(). A vCPU calls net_kick(); or does a little of
 * the work itself while that thread sleeps, between net_enter() and net_leave(). "On the
 * network's thread" means either.
 *
 * A guest that waits for each answer has its CPU halted while that thread waits, which
 * then has to wake it. So a CPU that halts may wait in its place (net_stand_in()); the
 * thread lets it while that goes on.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct clock;
struct net;

/* Ethernet header with two VLAN tags, and the largest IP packet. */
#define NET_FRAME_MAX (22 + 65535)
#define NET_ETH_MIN   14
#define NET_MTU_MIN   68
#define NET_GSO_MIN   32 /* bytes of data in a segment: below what any TCP does */
#define NET_MTU_MAX   65520

/* What is left to be done with a frame; values are those of struct virtio_net_hdr. */
struct net_offload {
	u8 flags;    /* NET_NEEDS_CSUM, NET_DATA_VALID */
	u8 gso_type; /* NET_GSO_* */
	u16 hdr_len, gso_size;
	u16 csum_start, csum_offset;
};

enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_ECN = 0x80 };

struct net_frame {
	u8 *data;
	u32 len;
	struct net_offload off;
};

enum net_result { NET_DONE, NET_FULL, NET_DROPPED };

/* A device. Called on the network's thread. */
struct net_client {
	/*
	 * The guest may have frames to send: net_send() some of them. True when there are
	 * more, to be called again soon.
	 */
	bool (*transmit)(void *opaque);
	/* NET_FULL: keep it; net_kick() when there is room again. May change the data. */
	enum net_result (*receive)(void *opaque, struct net_frame *f);
	void *opaque;
};

enum net_kind { NET_NONE, NET_USER, NET_TAP, NET_STREAM, NET_DGRAM };

#define NET_FWD_MAX 64

/* Strings are borrowed for the call of net_open(). NULL or 0: the default. */
struct net_config {
	enum net_kind kind;
	const char *id;    /* for messages */
	const char *pcap;  /* file to write all frames to */
	struct clock *clk; /* borrowed: the machine's time */
	/* NET_USER */
	bool restricted, no_ipv4, no_ipv6;
	const char *net, *host, *dhcpstart, *dns;    /* IPv4; net is ADDRESS[/BITS] */
	const char *ipv6_net, *ipv6_host, *ipv6_dns; /* ipv6_net is PREFIX[/BITS] */
	const char *hostname, *domainname, *tftp, *bootfile;
	const char *hostfwd[NET_FWD_MAX];  /* tcp:[ADDR]:PORT-[ADDR]:PORT */
	const char *guestfwd[NET_FWD_MAX]; /* tcp:ADDR:PORT-tcp:HOST:PORT */
	unsigned hostfwds, guestfwds;
	unsigned mtu; /* of the network; default 1500 */
	/* NET_TAP, NET_STREAM, NET_DGRAM: an open descriptor instead of a name; not 0 */
	int fd;
	const char *ifname;       /* NET_TAP */
	const char *local, *peer; /* paths of Unix sockets; NET_STREAM: one of them */
};

/* 0, or -errno and one line. No thread runs yet. */
int net_open(struct net **n, const struct net_config *cfg, struct error *err);
void net_close(struct net *n);
unsigned net_mtu(const struct net *n);
const char *net_id(const struct net *n);

/* Start the thread, with this device at the other end. */
int net_attach(struct net *n, const struct net_client *c, struct error *err);
/* The client is not called any more; hold none of its locks. */
void net_detach(struct net *n);

/* Any thread, any locks: transmit() has something to do, or receive() has room. */
void net_kick(struct net *n);

/*
 * Any thread that holds no lock of the device: take the sleeping thread's place for a few
 * frames, to net_send() what transmit() would. False: it is at work, or the other end
 * takes nothing now or may take long; net_kick() it.
 */
bool net_enter(struct net *n);
void net_leave(struct net *n);

/* What to wait for; the memory is the network's. 'fds[0]' is the caller's own. */
struct net_wait {
	struct pollfd *fds;
	unsigned count;
	int timeout; /* milliseconds; -1: none */
};

/*
 * Any thread without locks: wait in the sleeping thread's place, for 'wake' too, then
 * call net_stood_in(), which does what there is to do; until then the memory, and 'wake',
 * must stay. False: there is no need. The thread finds out by such calls whether there
 * might be, so try whenever there is nothing else to do.
 */
bool net_stand_in(struct net *n, int wake, struct net_wait *w);
void net_stood_in(struct net *n);

/* On the network's thread, from transmit(). What cannot be sent is dropped. */
void net_send(struct net *n, struct net_frame *f);

struct net_stats {
	u64 sent, sent_bytes, received, received_bytes, dropped;
};
/* Any thread; numbers that are not of one moment. */
void net_get_stats(const struct net *n, struct net_stats *s);
