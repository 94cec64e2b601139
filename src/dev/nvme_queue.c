/*
 * NVMe queues: doorbells, fetching commands, posting completions, asynchronous events.
 *
 * NVM Express 1.4, sections 3.1.16, 4.1, 4.6, 5.2, 7.2. A doorbell makes at most one
 * queue's worth of commands be fetched; more than QUEUE_DEPTH of a queue are never under
 * way, and the rest is fetched as those complete.
 *
 * Lock: n->lock.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dev/nvme_ctrl.h"
#include "pci/pci.h"

#define QUEUE_DEPTH 128u
#define ADMIN_DEPTH 32u
#define BATCH       32u

/* Status field of a completion, 4.6.1, above the phase tag. */
#define STATUS_DNR BIT(14)

/* ---- making and ending ---- */

static u8 *queue_memory(struct nvme *n, u64 base, u32 size, u32 entry, bool write)
{
	if (base & (NVME_PAGE - 1))
		return NULL;
	return phys_host(n->phys, base, (u64)size * entry, write);
}

bool nvme_sq_start(struct nvme *n, unsigned id, u64 base, u32 size, u16 cq)
{
	u8 *mem = queue_memory(n, base, size, NVME_SQE_SIZE, false);

	if (!mem)
		return false;
	n->sq[id] = (struct nvme_sq){ .s = { .base = base, .size = size, .cq = cq },
				      .mem = mem };
	n->cq[cq].sqs++;
	return true;
}

bool nvme_cq_start(struct nvme *n, unsigned id, u64 base, u32 size, u16 vector, bool irq)
{
	u8 *mem = queue_memory(n, base, size, NVME_CQE_SIZE, true);

	if (!mem)
		return false;
	n->cq[id] = (struct nvme_cq){ .s = { .base = base,
					     .size = size,
					     .vector = vector,
					     .irq = irq,
					     .phase = 1 },
				      .mem = mem };
	return true;
}

void nvme_sq_stop(struct nvme *n, unsigned id)
{
	struct nvme_sq *q = &n->sq[id];

	if (q->s.size)
		n->cq[q->s.cq].sqs--;
	*q = (struct nvme_sq){ 0 };
}

void nvme_cq_stop(struct nvme *n, unsigned id)
{
	n->cq[id] = (struct nvme_cq){ 0 };
	n->posted &= ~BIT(id);
}

/* ---- requests ---- */

static struct nvme_request *request_get(struct nvme *n)
{
	struct nvme_request *q = n->free;

	if (q) {
		n->free = q->next;
		return q;
	}
	q = calloc(1, sizeof(*q));
	if (q)
		q->n = n;
	return q;
}

static void request_put(struct nvme_request *q)
{
	free(q->list);
	q->list = NULL;
	q->iovs = 0;
	q->next = q->n->free;
	q->n->free = q;
}

void nvme_requests_free(struct nvme *n)
{
	while (n->free) {
		struct nvme_request *q = n->free;

		n->free = q->next;
		free(q);
	}
}

static u32 cq_used(const struct nvme_cq *c)
{
	return (c->s.tail + c->s.size - c->s.head) % c->s.size;
}

static bool cq_has_room(const struct nvme_cq *c)
{
	return cq_used(c) + c->reserved < c->s.size - 1;
}

/* The phase tag last: that is what the driver looks at. */
static void post(struct nvme *n, unsigned id, u32 result, u16 sqid, u16 cid,
		 unsigned status)
{
	struct nvme_cq *c = &n->cq[id];
	u8 *e = c->mem + (size_t)c->s.tail * NVME_CQE_SIZE;
	u64 field = status;

	if (status != NVME_OK && status != NVME_ABORTED && status != NVME_CAPACITY)
		field |= STATUS_DNR;
	le_store(e, result, 4);
	le_store(e + 4, 0, 4);
	le_store(e + 8, n->sq[sqid].s.head | (u32)sqid << 16, 4);
	__atomic_thread_fence(__ATOMIC_RELEASE); /* with the driver's read of the tag */
	le_store(e + 12, cid | (u64)c->s.phase << 16 | field << 17, 4);
	phys_note_write(n->phys, c->s.base + (u64)c->s.tail * NVME_CQE_SIZE,
			NVME_CQE_SIZE);
	if (++c->s.tail == c->s.size) {
		c->s.tail = 0;
		c->s.phase ^= 1;
	}
	n->posted |= BIT(id);
}

/* Without a completion: gives back what it holds. */
void nvme_drop(struct nvme_request *q)
{
	struct nvme_sq *sq = &q->n->sq[q->sq];

	sq->busy--;
	q->n->cq[sq->s.cq].reserved--;
	request_put(q);
}

static void finish(struct nvme_request *q, unsigned status, u32 result)
{
	struct nvme *n = q->n;
	u16 sqid = q->sq, cid = q->cmd.cid;
	const u32 *dw = q->cmd.dw;

	if (status != NVME_OK)
		nvme_log_error(n, sqid, cid, status, q->cmd.nsid,
			       dw[10] | (u64)dw[11] << 32);
	nvme_drop(q);
	if (!n->resetting)
		post(n, n->sq[sqid].s.cq, result, sqid, cid, status); /* I2 */
}

void nvme_complete(struct nvme_request *q, unsigned status, u32 result)
{
	struct nvme *n = q->n;
	struct nvme_sq *sq = &n->sq[q->sq];
	struct nvme_request *deleter = sq->deleter;

	finish(q, status, result);
	if (!deleter || sq->busy || n->resetting)
		return;
	nvme_sq_stop(n, (unsigned)(sq - n->sq));
	finish(deleter, NVME_OK, 0);
}

/* ---- fetching ---- */

bool nvme_runs(const struct nvme *n)
{
	return (n->s.csts & (CSTS_RDY | CSTS_CFS)) == CSTS_RDY && !n->resetting &&
	       !n->paused && bits_get(n->s.csts, 3, 2) == SHST_NORMAL &&
	       pci_is_master(n->dev);
}

static void fetch(struct nvme_sq *sq, struct nvme_cmd *c)
{
	u8 e[NVME_SQE_SIZE];

	/* I3 */
	memcpy(e, sq->mem + (size_t)sq->s.head * NVME_SQE_SIZE, sizeof(e));
	c->opcode = e[0];
	c->flags = e[1];
	c->cid = (u16)le_load(e + 2, 2);
	c->nsid = (u32)le_load(e + 4, 4);
	c->prp1 = le_load(e + 24, 8);
	c->prp2 = le_load(e + 32, 8);
	for (unsigned i = 10; i < 16; i++)
		c->dw[i] = (u32)le_load(e + 4ul * i, 4);
	if (++sq->s.head == sq->s.size)
		sq->s.head = 0;
}

/* True: q->r is to be submitted. */
static bool begin(struct nvme_request *q)
{
	u32 result = 0;
	unsigned status = NVME_INVALID_FIELD;

	/* 4.2: no fused commands, no SGLs. */
	if (!(q->cmd.flags & 0xc3))
		status = q->sq ? nvme_io(q) : nvme_admin(q, &result);
	switch (status) {
	case NVME_SUBMIT: q->n->busy++; return true;
	case NVME_LATER: return false;
	case NVME_FORGET: nvme_drop(q); return false;
	default: nvme_complete(q, status, result); return false;
	}
}

static bool may_fetch(const struct nvme *n, const struct nvme_sq *sq)
{
	unsigned depth = sq == n->sq ? ADMIN_DEPTH : QUEUE_DEPTH;

	return nvme_runs(n) && sq->s.size && sq->s.head != sq->s.tail && !sq->deleter &&
	       sq->busy < depth && cq_has_room(&n->cq[sq->s.cq]);
}

void nvme_sq_run(struct nvme *n, unsigned id)
{
	struct nvme_sq *sq = &n->sq[id];
	struct block_req *batch[BATCH];
	unsigned count = 0, left = sq->s.size;
	struct nvme_request *q;

	while (left-- && may_fetch(n, sq) && (q = request_get(n))) {
		q->sq = (u16)id;
		fetch(sq, &q->cmd);
		sq->busy++;
		n->cq[sq->s.cq].reserved++;
		if (begin(q))
			batch[count++] = &q->r;
		if (count == BATCH) {
			block_submit(n->block, batch, count);
			count = 0;
		}
	}
	if (count)
		block_submit(n->block, batch, count);
	/* Requests for events may have come. */
	if (!id)
		nvme_events_run(n);
}

void nvme_run(struct nvme *n)
{
	if (!nvme_runs(n))
		return;
	for (unsigned i = 0; i <= n->cfg.queues; i++)
		nvme_sq_run(n, i);
	nvme_publish(n);
}

/* ---- doorbells ---- */

static void bad_doorbell(struct nvme *n, unsigned id, u32 val, u8 info)
{
	guest_bug("nvme", "doorbell of queue %u: %u", id, val);
	nvme_log_error(n, (u16)id, 0xffff, 0, 0, 0);
	nvme_event(n, EVENT_ERROR, info, LOG_ERROR_INFO);
}

static void sq_doorbell(struct nvme *n, unsigned id, u32 val)
{
	struct nvme_sq *sq = &n->sq[id];

	if (!sq->s.size)
		bad_doorbell(n, id, val, EVENT_BAD_DOORBELL);
	else if (val >= sq->s.size)
		bad_doorbell(n, id, val, EVENT_BAD_VALUE);
	else {
		sq->s.tail = (u16)val;
		nvme_sq_run(n, id);
	}
}

static void cq_doorbell(struct nvme *n, unsigned id, u32 val)
{
	struct nvme_cq *c = &n->cq[id];

	if (!c->s.size) {
		bad_doorbell(n, id, val, EVENT_BAD_DOORBELL);
		return;
	}
	/* Only what was posted can have been consumed. */
	if (val >= c->s.size || (val + c->s.size - c->s.head) % c->s.size > cq_used(c)) {
		bad_doorbell(n, id, val, EVENT_BAD_VALUE);
		return;
	}
	c->s.head = (u16)val;
	nvme_update_pin(n);
	for (unsigned i = 0; i <= n->cfg.queues; i++)
		if (n->sq[i].s.size && n->sq[i].s.cq == id)
			nvme_sq_run(n, i);
}

void nvme_doorbell(struct nvme *n, u64 off, u32 val)
{
	unsigned id = (unsigned)(off / 8);

	if ((n->s.csts & (CSTS_RDY | CSTS_CFS)) != CSTS_RDY || n->resetting)
		return;
	val &= 0xffff;
	if (id > n->cfg.queues)
		bad_doorbell(n, id, val, EVENT_BAD_DOORBELL);
	else if (off & 4)
		cq_doorbell(n, id, val);
	else
		sq_doorbell(n, id, val);
	nvme_publish(n);
}

/* ---- events, 5.2 ---- */

void nvme_event(struct nvme *n, unsigned type, u8 info, u8 log)
{
	/* One of a type at a time, until its log is read. */
	if (n->s.event_pending[type] || n->s.event_masked[type])
		return;
	n->s.event_pending[type] = info + 1;
	n->s.event_log[type] = log;
	nvme_events_run(n);
}

void nvme_events_run(struct nvme *n)
{
	for (unsigned type = 0; type < EVENT_TYPES; type++) {
		u8 info = n->s.event_pending[type];

		if (!info || !n->s.aers || !nvme_runs(n) || !cq_has_room(&n->cq[0]))
			continue;
		post(n, 0, type | (u32)(info - 1) << 8 | (u32)n->s.event_log[type] << 16,
		     0, n->s.aer_cid[0], NVME_OK);
		memmove(n->s.aer_cid, n->s.aer_cid + 1, sizeof(n->s.aer_cid) - 2);
		n->s.aers--;
		n->s.event_pending[type] = 0;
		n->s.event_masked[type] = 1;
	}
}

void nvme_log_error(struct nvme *n, u16 sqid, u16 cid, unsigned status, u32 nsid, u64 lba)
{
	n->s.errors++;
	n->s.error_sqid = sqid;
	n->s.error_cid = cid;
	n->s.error_status = (u16)(status << 1);
	n->s.error_nsid = nsid;
	n->s.error_lba = lba;
}
