/*
 * What the sources of the NVMe controller share. For dev/nvme*.c only.
 *
 * nvme.c: registers, PCI, reset, state. nvme_queue.c: queues, doorbells, completions,
 * events. nvme_admin.c, nvme_log.c, nvme_io.c: commands. All functions: lock held.
 */
#pragma once

#include <pthread.h>

#include "base/bits.h"
#include "block/block.h"
#include "dev/nvme.h"
#include "mem/phys.h"

#define NVME_SQE_SIZE    64u
#define NVME_CQE_SIZE    16u
/* Entries of a queue for I/O (CAP.MQES), and of one for administration (AQA). */
#define NVME_ENTRIES_MAX 1024u
#define NVME_ADMIN_MAX   4096u
/* Pages of one command, 2^MDTS, and what bounds its work: 512 KiB. */
#define NVME_MDTS        7u
#define NVME_PAGE        4096u
#define NVME_XFER_MAX    (NVME_PAGE << NVME_MDTS)
#define NVME_IOV_MAX     ((1u << NVME_MDTS) + 1)
#define NVME_EVENTS      4u /* requests for asynchronous events, AERL + 1 */
#define NVME_RANGES      256u
#define NVME_ALL         0xffffffffu /* NSID: all namespaces */
#define NVME_QUEUES      (NVME_QUEUES_MAX + 1)
#define NVME_KELVIN      310u /* the temperature it says it has */
#define NVME_WARNING_K   343u /* WCTEMP */

/* Registers, 3.1. */
enum {
	NVME_CAP = 0x00,
	NVME_VS = 0x08,
	NVME_INTMS = 0x0c,
	NVME_INTMC = 0x10,
	NVME_CC = 0x14,
	NVME_CSTS = 0x1c,
	NVME_AQA = 0x24,
	NVME_ASQ = 0x28,
	NVME_ACQ = 0x30,
	NVME_DOORBELLS = 0x1000,
	NVME_BAR_SIZE = 0x4000,
};

enum { CC_EN = 1, CSTS_RDY = 1, CSTS_CFS = 2 };
/* CSTS.SHST */
enum { SHST_NORMAL, SHST_OCCURRING, SHST_COMPLETE };

/* Status code type << 8 and status code, 4.6.1. */
enum nvme_status {
	NVME_OK = 0x000,
	NVME_INVALID_OPCODE = 0x001,
	NVME_INVALID_FIELD = 0x002,
	NVME_DATA_TRANSFER = 0x004,
	NVME_INTERNAL = 0x006,
	NVME_ABORTED = 0x007,
	NVME_INVALID_NSID = 0x00b,
	NVME_SEQUENCE = 0x00c,
	NVME_PRP_OFFSET = 0x013,
	NVME_WRITE_PROTECTED = 0x020,
	NVME_LBA_RANGE = 0x080,
	NVME_CAPACITY = 0x081,
	NVME_CQ_INVALID = 0x100,
	NVME_QID_INVALID = 0x101,
	NVME_QSIZE_INVALID = 0x102,
	NVME_AER_LIMIT = 0x105,
	NVME_VECTOR_INVALID = 0x108,
	NVME_LOG_INVALID = 0x109,
	NVME_QUEUE_DELETION = 0x10c,
	NVME_NOT_SAVEABLE = 0x10d,
	NVME_NOT_NS_SPECIFIC = 0x10f,
	NVME_WRITE_FAULT = 0x280,
	NVME_READ_ERROR = 0x281,
	/* Not from the specification: there is no completion yet; q->r is to be
	   submitted; the command holds neither request nor place any longer. */
	NVME_LATER = 0xffff,
	NVME_SUBMIT = 0xfffe,
	NVME_FORGET = 0xfffd,
};

/* Asynchronous event types, figure 147, and those that are used. */
enum { EVENT_ERROR, EVENT_SMART, EVENT_TYPES };
enum { EVENT_BAD_DOORBELL = 0, EVENT_BAD_VALUE = 1, EVENT_TEMPERATURE = 1 };

enum { LOG_ERROR_INFO = 1, LOG_SMART = 2, LOG_FIRMWARE = 3, LOG_EFFECTS = 5 };

/* Guest-visible state. */
struct nvme_state {
	u64 asq, acq;
	u64 errors;                        /* error information log: the last one */
	u64 reads, writes;                 /* commands */
	u64 sectors_read, sectors_written; /* 512 bytes */
	u64 error_lba;
	u32 cc, csts, aqa, intm;
	u32 error_nsid;
	u32 arbitration, recovery, coalescing, atomicity, events; /* features */
	u16 vector_config[NVME_QUEUES];
	u16 temp_over, temp_under;
	u16 aer_cid[NVME_EVENTS];
	u16 error_sqid, error_cid, error_status;
	u8 aers; /* used of aer_cid */
	/* By type: 0 none, else information + 1; and told, the log not read yet. */
	u8 event_pending[EVENT_TYPES];
	u8 event_masked[EVENT_TYPES];
	u8 event_log[EVENT_TYPES];
	u8 write_cache;
	u8 pad[6]; /* always 0 */
};

struct nvme_sq_state {
	u64 base;
	u32 size; /* entries; 0: there is no such queue */
	u16 head, tail, cq;
	u16 pad; /* always 0 */
	u32 pad2;
};

struct nvme_cq_state {
	u64 base;
	u32 size;
	u16 head, tail, vector;
	u8 irq;   /* IEN */
	u8 phase; /* of the entry to be written next */
	u32 pad;  /* always 0 */
};

struct nvme_request;

struct nvme_sq {
	struct nvme_sq_state s;
	u8 *mem;
	unsigned busy; /* commands under way */
	/* The Delete command that waits for busy == 0, NULL: none. */
	struct nvme_request *deleter;
};

struct nvme_cq {
	struct nvme_cq_state s;
	u8 *mem;
	unsigned reserved; /* places that commands under way will need */
	unsigned sqs;      /* submission queues that complete here */
};

/* A submission queue entry, taken apart. A copy: the guest cannot change it any more. */
struct nvme_cmd {
	u8 opcode, flags;
	u16 cid;
	u32 nsid;
	u64 prp1, prp2;
	u32 dw[16]; /* by the number of the specification; 10 to 15 */
};

/* One command under way. */
struct nvme_request {
	struct block_req r;
	struct nvme *n;
	struct nvme_request *next; /* free */
	u16 sq;
	struct nvme_cmd cmd;
	/* Where its data is in guest memory, and the addresses for phys_note_write(). */
	unsigned iovs;
	u32 len;
	struct iovec iov[NVME_IOV_MAX];
	gpa_t gpa[NVME_IOV_MAX];
	/* Dataset management: what is still to be discarded. */
	unsigned ranges, range;
	u8 *list; /* NVME_RANGES * 16 bytes, allocated */
};

struct nvme {
	pthread_mutex_t lock;
	pthread_cond_t idle; /* busy became 0 */
	struct nvme_state s;
	struct nvme_setup cfg;
	char serial[NVME_SERIAL_MAX];
	struct block *block;
	struct phys *phys;
	struct pci_dev *dev;
	struct msix *msix;
	unsigned lba_shift;
	struct nvme_sq sq[NVME_QUEUES];
	struct nvme_cq cq[NVME_QUEUES];
	struct nvme_request *free;
	unsigned busy;  /* requests and flushes that the block layer has */
	u64 posted;     /* completion queues written to since their last interrupt */
	bool resetting; /* CC.EN fell, waits for busy == 0 */
	bool paused;
	bool told; /* of a failed flush; by shutdown_done(), which is never run twice at a
		      time */
	struct block_req shutdown; /* the flush of a shutdown */
};

/* ---- nvme.c ---- */

void nvme_put(struct nvme *n);
/* The pin follows the completion queues. */
void nvme_update_pin(struct nvme *n);

/* ---- nvme_queue.c ---- */

/* Make queue 'id'. False: its memory is not RAM. Arguments are checked but for that. */
bool nvme_sq_start(struct nvme *n, unsigned id, u64 base, u32 size, u16 cq);
bool nvme_cq_start(struct nvme *n, unsigned id, u64 base, u32 size, u16 vector, bool irq);
void nvme_sq_stop(struct nvme *n, unsigned id);
void nvme_cq_stop(struct nvme *n, unsigned id);
void nvme_doorbell(struct nvme *n, u64 off, u32 val);
/* Take what waits in a submission queue, and in all. */
void nvme_sq_run(struct nvme *n, unsigned id);
void nvme_run(struct nvme *n);
/* A command ends: its place in the completion queue, its request. */
void nvme_complete(struct nvme_request *q, unsigned status, u32 result);
/* Interrupts for what was posted. */
void nvme_publish(struct nvme *n);
/* Tell an event, now or when the guest asks for one. */
void nvme_event(struct nvme *n, unsigned type, u8 info, u8 log);
void nvme_events_run(struct nvme *n);
void nvme_log_error(struct nvme *n, u16 sqid, u16 cid, unsigned status, u32 nsid,
		    u64 lba);
/* Also those without a place in the completion queue. */
void nvme_requests_free(struct nvme *n);
/* Forget it: without a completion. */
void nvme_drop(struct nvme_request *q);
bool nvme_runs(const struct nvme *n);

/* ---- commands: a status, or one of the three behind ---- */

unsigned nvme_admin(struct nvme_request *q, u32 *result);
unsigned nvme_identify(struct nvme_request *q);
unsigned nvme_get_log(struct nvme_request *q);
unsigned nvme_io(struct nvme_request *q);
/* Where the data of a command is: 'len' bytes, not 0, at most NVME_XFER_MAX. */
unsigned nvme_map(struct nvme_request *q, u32 len, bool to_guest);
/* Copy to where nvme_map() found. */
void nvme_give(struct nvme_request *q, const void *data);
