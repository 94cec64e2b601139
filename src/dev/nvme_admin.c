/*
 * NVMe: the admin command set: queues, features, abort, events.
 *
 * NVM Express 1.4, section 5. Deliberately missing: namespace management and
 * attachment, firmware, self-test, directives, virtualization, security, format,
 * saved features (ONCS bit 4), doorbell buffers.
 *
 * Lock: n->lock.
 */
#include "dev/nvme_ctrl.h"

enum {
	OP_DELETE_SQ = 0x00,
	OP_CREATE_SQ = 0x01,
	OP_GET_LOG = 0x02,
	OP_DELETE_CQ = 0x04,
	OP_CREATE_CQ = 0x05,
	OP_IDENTIFY = 0x06,
	OP_ABORT = 0x08,
	OP_SET_FEATURES = 0x09,
	OP_GET_FEATURES = 0x0a,
	OP_EVENT = 0x0c,
};

/* Feature identifiers, figure 271. */
enum {
	FEAT_ARBITRATION = 0x01,
	FEAT_POWER = 0x02,
	FEAT_TEMPERATURE = 0x04,
	FEAT_RECOVERY = 0x05,
	FEAT_WRITE_CACHE = 0x06,
	FEAT_QUEUES = 0x07,
	FEAT_COALESCING = 0x08,
	FEAT_VECTOR = 0x09,
	FEAT_ATOMICITY = 0x0a,
	FEAT_EVENTS = 0x0b,
};

/* CC.IOSQES, CC.IOCQES: powers of two. */
#define SQE_LOG 6u
#define CQE_LOG 4u

/* ---- queues ---- */

static bool io_queue_id(const struct nvme *n, u32 id)
{
	return id && id <= n->cfg.queues;
}

/* QID and size of a queue to be made, 5.3 and 5.4. */
static unsigned check_new(const struct nvme *n, const u32 *dw, bool exists)
{
	if (!io_queue_id(n, dw[10] & 0xffff) || exists)
		return NVME_QID_INVALID;
	if (dw[10] >> 16 == 0 || dw[10] >> 16 >= NVME_ENTRIES_MAX)
		return NVME_QSIZE_INVALID;
	/* CAP.CQR: physically contiguous. */
	return dw[11] & 1 ? NVME_OK : NVME_INVALID_FIELD;
}

static unsigned create_cq(struct nvme_request *q)
{
	struct nvme *n = q->n;
	const u32 *dw = q->cmd.dw;
	u32 id = dw[10] & 0xffff;
	unsigned status = check_new(n, dw, io_queue_id(n, id) && n->cq[id].s.size);

	if (status)
		return status;
	if (dw[11] >> 16 > n->cfg.queues)
		return NVME_VECTOR_INVALID;
	if (q->cmd.prp1 & (NVME_PAGE - 1))
		return NVME_PRP_OFFSET;
	if (bits_get(n->s.cc, 23, 20) != CQE_LOG ||
	    !nvme_cq_start(n, id, q->cmd.prp1, (dw[10] >> 16) + 1, (u16)(dw[11] >> 16),
			   dw[11] & 2))
		return NVME_INVALID_FIELD;
	return NVME_OK;
}

static unsigned create_sq(struct nvme_request *q)
{
	struct nvme *n = q->n;
	const u32 *dw = q->cmd.dw;
	u32 id = dw[10] & 0xffff, cq = dw[11] >> 16;
	unsigned status;

	if (!io_queue_id(n, cq) || !n->cq[cq].s.size)
		return NVME_CQ_INVALID;
	status = check_new(n, dw, io_queue_id(n, id) && n->sq[id].s.size);
	if (status)
		return status;
	if (q->cmd.prp1 & (NVME_PAGE - 1))
		return NVME_PRP_OFFSET;
	if (bits_get(n->s.cc, 19, 16) != SQE_LOG ||
	    !nvme_sq_start(n, id, q->cmd.prp1, (dw[10] >> 16) + 1, (u16)cq))
		return NVME_INVALID_FIELD;
	return NVME_OK;
}

/* 5.6, 7.4.3: completes when nothing of the queue is under way any more. */
static unsigned delete_sq(struct nvme_request *q)
{
	struct nvme *n = q->n;
	u32 id = q->cmd.dw[10] & 0xffff;

	if (!io_queue_id(n, id) || !n->sq[id].s.size || n->sq[id].deleter)
		return NVME_QID_INVALID;
	if (n->sq[id].busy) {
		n->sq[id].deleter = q;
		return NVME_LATER;
	}
	nvme_sq_stop(n, id);
	return NVME_OK;
}

static unsigned delete_cq(struct nvme_request *q)
{
	struct nvme *n = q->n;
	u32 id = q->cmd.dw[10] & 0xffff;

	if (!io_queue_id(n, id) || !n->cq[id].s.size)
		return NVME_QID_INVALID;
	if (n->cq[id].sqs)
		return NVME_QUEUE_DELETION;
	nvme_cq_stop(n, id);
	nvme_update_pin(n);
	return NVME_OK;
}

/* ---- features ---- */

static bool has_io_queues(const struct nvme *n)
{
	for (unsigned i = 1; i <= n->cfg.queues; i++)
		if (n->sq[i].s.size || n->cq[i].s.size)
			return true;
	return false;
}

/* 5.14.1.3: the SMART log warns while the temperature is beyond a threshold. */
static void temperature_event(struct nvme *n)
{
	if ((NVME_KELVIN >= n->s.temp_over || NVME_KELVIN <= n->s.temp_under) &&
	    n->s.events & BIT(1))
		nvme_event(n, EVENT_SMART, EVENT_TEMPERATURE, LOG_SMART);
}

static unsigned set_temperature(struct nvme *n, u32 val)
{
	u32 sensor = (u32)bits_get(val, 19, 16), which = (u32)bits_get(val, 21, 20);

	/* The composite temperature is the only one; 15 means all. */
	if ((sensor && sensor != 15) || which > 1)
		return NVME_INVALID_FIELD;
	if (which)
		n->s.temp_under = (u16)val;
	else
		n->s.temp_over = (u16)val;
	temperature_event(n);
	return NVME_OK;
}

static u32 queues_granted(const struct nvme *n)
{
	return (n->cfg.queues - 1) | (n->cfg.queues - 1) << 16;
}

static unsigned set_queues(struct nvme *n, u32 val, u32 *result)
{
	if ((val & 0xffff) == 0xffff || val >> 16 == 0xffff)
		return NVME_INVALID_FIELD;
	if (has_io_queues(n))
		return NVME_SEQUENCE;
	*result = queues_granted(n);
	return NVME_OK;
}

/* 5.21: of a namespace: none. NSID is 0 or means all. */
static unsigned check_feature_nsid(u32 nsid)
{
	if (!nsid || nsid == NVME_ALL)
		return NVME_OK;
	return nsid == 1 ? NVME_NOT_NS_SPECIFIC : NVME_INVALID_NSID;
}

static unsigned set_features(struct nvme_request *q, u32 *result)
{
	struct nvme *n = q->n;
	u32 val = q->cmd.dw[11];
	unsigned status = check_feature_nsid(q->cmd.nsid);

	if (q->cmd.dw[10] & BIT(31))
		return NVME_NOT_SAVEABLE;
	if (status)
		return status;
	switch (q->cmd.dw[10] & 0xff) {
	case FEAT_ARBITRATION: n->s.arbitration = val; return NVME_OK;
	case FEAT_POWER: return val & 0x1f ? NVME_INVALID_FIELD : NVME_OK;
	case FEAT_TEMPERATURE: return set_temperature(n, val);
	case FEAT_RECOVERY:
		/* DULBE: the namespace does not offer it. */
		if (val & BIT(16))
			return NVME_INVALID_FIELD;
		n->s.recovery = val & 0xffff;
		return NVME_OK;
	case FEAT_WRITE_CACHE:
		/* Without a cache there is no such feature. */
		if (n->cfg.write_cache_off)
			return NVME_INVALID_FIELD;
		n->s.write_cache = val & 1;
		return NVME_OK;
	case FEAT_QUEUES: return set_queues(n, val, result);
	case FEAT_COALESCING: n->s.coalescing = val & 0xffff; return NVME_OK;
	case FEAT_VECTOR:
		if ((val & 0xffff) > n->cfg.queues)
			return NVME_INVALID_FIELD;
		n->s.vector_config[val & 0xffff] = val >> 16 & 1;
		return NVME_OK;
	case FEAT_ATOMICITY: n->s.atomicity = val & 1; return NVME_OK;
	case FEAT_EVENTS:
		n->s.events = val & 0xffff;
		temperature_event(n);
		return NVME_OK;
	default: return NVME_INVALID_FIELD;
	}
}

static unsigned get_features(struct nvme_request *q, u32 *result)
{
	struct nvme *n = q->n;
	u32 val = q->cmd.dw[11];
	unsigned status = check_feature_nsid(q->cmd.nsid);

	/* SEL: only the current value. */
	if (bits_get(q->cmd.dw[10], 10, 8))
		return NVME_INVALID_FIELD;
	if (status)
		return status;
	switch (q->cmd.dw[10] & 0xff) {
	case FEAT_ARBITRATION: *result = n->s.arbitration; break;
	case FEAT_POWER: *result = 0; break;
	case FEAT_TEMPERATURE:
		if (bits_get(val, 19, 16) || bits_get(val, 21, 20) > 1)
			return NVME_INVALID_FIELD;
		*result = val & BIT(20) ? n->s.temp_under : n->s.temp_over;
		break;
	case FEAT_RECOVERY: *result = n->s.recovery; break;
	case FEAT_WRITE_CACHE:
		if (n->cfg.write_cache_off)
			return NVME_INVALID_FIELD;
		*result = n->s.write_cache;
		break;
	case FEAT_QUEUES: *result = queues_granted(n); break;
	case FEAT_COALESCING: *result = n->s.coalescing; break;
	case FEAT_VECTOR:
		if ((val & 0xffff) > n->cfg.queues)
			return NVME_INVALID_FIELD;
		*result = (val & 0xffff) | (u32)(n->s.vector_config[val & 0xffff] & 1)
						   << 16;
		break;
	case FEAT_ATOMICITY: *result = n->s.atomicity; break;
	case FEAT_EVENTS: *result = n->s.events; break;
	default: return NVME_INVALID_FIELD;
	}
	return NVME_OK;
}

/* ---- the rest ---- */

/* 5.2: kept as an identifier, without a place in the queue. */
static unsigned event_request(struct nvme_request *q)
{
	struct nvme *n = q->n;

	if (n->s.aers == NVME_EVENTS)
		return NVME_AER_LIMIT;
	n->s.aer_cid[n->s.aers++] = q->cmd.cid;
	return NVME_FORGET;
}

unsigned nvme_admin(struct nvme_request *q, u32 *result)
{
	switch (q->cmd.opcode) {
	case OP_DELETE_SQ: return delete_sq(q);
	case OP_CREATE_SQ: return create_sq(q);
	case OP_GET_LOG: return nvme_get_log(q);
	case OP_DELETE_CQ: return delete_cq(q);
	case OP_CREATE_CQ: return create_cq(q);
	case OP_IDENTIFY: return nvme_identify(q);
	case OP_ABORT:
		/* 5.1: what the host has begun is not taken back. */
		*result = 1;
		return NVME_OK;
	case OP_SET_FEATURES: return set_features(q, result);
	case OP_GET_FEATURES: return get_features(q, result);
	case OP_EVENT: return event_request(q);
	default: return NVME_INVALID_OPCODE;
	}
}
