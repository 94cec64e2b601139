/*
 * NVMe: the commands of the NVM command set, and where the data of any command is.
 *
 * NVM Express 1.4, sections 4.3 (PRPs) and 6: flush, write, read, write zeroes, dataset
 * management. Deliberately missing: compare, verify, write uncorrectable,
 * reservations, SGLs.
 *
 * Lock: n->lock. Requests are done on threads of the block layer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/nvme_ctrl.h"

enum {
	OP_FLUSH = 0x00,
	OP_WRITE = 0x01,
	OP_READ = 0x02,
	OP_WRITE_ZEROES = 0x08,
	OP_DSM = 0x09,
};

/* Command dword 12 and, for DSM, 11. */
#define CDW12_FUA  BIT(30)
#define CDW12_DEAC BIT(25)
#define CDW11_AD   BIT(2)

/* What is longer is not copied on a vCPU's thread. */
#define INLINE_MAX KiB(256)

/* ---- PRPs ---- */

static unsigned map_piece(struct nvme_request *q, gpa_t gpa, u32 len, bool to_guest)
{
	u8 *host = phys_host(q->n->phys, gpa, len, to_guest);
	struct iovec *last = q->iovs ? &q->iov[q->iovs - 1] : NULL;

	if (!host)
		return NVME_DATA_TRANSFER;
	if (to_guest)
		phys_back_range(q->n->phys, gpa, len);
	if (last && (u8 *)last->iov_base + last->iov_len == host &&
	    q->gpa[q->iovs - 1] + last->iov_len == gpa) {
		last->iov_len += len;
		return NVME_OK;
	}
	q->gpa[q->iovs] = gpa;
	q->iov[q->iovs++] = (struct iovec){ host, len };
	return NVME_OK;
}

/*
 * 4.3: a list that does not fit goes on where its last entry says. Only the first may
 * begin within a page, so there are at most three of them.
 */
static unsigned map_list(struct nvme_request *q, u64 at, u32 len, bool to_guest)
{
	u64 entry[NVME_IOV_MAX];
	unsigned status;

	if (at & 7)
		return NVME_PRP_OFFSET;
	while (len) {
		u32 need = (len + NVME_PAGE - 1) / NVME_PAGE;
		u32 room = (u32)(NVME_PAGE - (at & (NVME_PAGE - 1))) / 8;
		u32 take = MIN(need, room), data = need > room ? room - 1 : take;

		if (!phys_dma_read(q->n->phys, at, entry, take * 8ul))
			return NVME_DATA_TRANSFER;
		for (u32 i = 0; i < data; i++) {
			u32 piece = MIN(len, NVME_PAGE);

			if (entry[i] & (NVME_PAGE - 1))
				return NVME_PRP_OFFSET;
			status = map_piece(q, entry[i], piece, to_guest);
			if (status)
				return status;
			len -= piece;
		}
		if (!len)
			break;
		at = entry[data];
		if (at & (NVME_PAGE - 1))
			return NVME_PRP_OFFSET;
	}
	return NVME_OK;
}

unsigned nvme_map(struct nvme_request *q, u32 len, bool to_guest)
{
	const struct nvme_cmd *c = &q->cmd;
	u32 first = (u32)MIN((u64)len, NVME_PAGE - (c->prp1 & (NVME_PAGE - 1)));
	unsigned status;

	q->iovs = 0;
	q->len = len;
	if (c->prp1 & 3)
		return NVME_PRP_OFFSET;
	status = map_piece(q, c->prp1, first, to_guest);
	if (status || len == first)
		return status;
	if (len - first > NVME_PAGE)
		return map_list(q, c->prp2, len - first, to_guest);
	if (c->prp2 & (NVME_PAGE - 1))
		return NVME_PRP_OFFSET;
	return map_piece(q, c->prp2, len - first, to_guest);
}

static void note_written(struct nvme_request *q)
{
	for (unsigned i = 0; i < q->iovs; i++)
		phys_note_write(q->n->phys, q->gpa[i], q->iov[i].iov_len);
}

void nvme_give(struct nvme_request *q, const void *data)
{
	const u8 *from = data;

	for (unsigned i = 0; i < q->iovs; from += q->iov[i++].iov_len)
		memcpy(q->iov[i].iov_base, from, q->iov[i].iov_len);
	note_written(q);
}

static void fetch_data(struct nvme_request *q, u8 *to)
{
	for (unsigned i = 0; i < q->iovs; to += q->iov[i++].iov_len)
		memcpy(to, q->iov[i].iov_base, q->iov[i].iov_len);
}

/* ---- completion ---- */

static unsigned status_of(const struct nvme_request *q, int ret)
{
	switch (ret) {
	case 0: return NVME_OK;
	case -ECANCELED: return NVME_ABORTED;
	case -ENOSPC: return NVME_CAPACITY;
	default: break;
	}
	switch (q->r.op) {
	case BLOCK_READ: return NVME_READ_ERROR;
	case BLOCK_WRITE:
	case BLOCK_ZERO: return NVME_WRITE_FAULT;
	default: return NVME_INTERNAL;
	}
}

static void count(struct nvme_request *q)
{
	struct nvme_state *s = &q->n->s;

	if (q->r.op == BLOCK_READ) {
		s->reads++;
		s->sectors_read += q->r.len / BLOCK_SECTOR;
	} else if (q->r.op == BLOCK_WRITE) {
		s->writes++;
		s->sectors_written += q->r.len / BLOCK_SECTOR;
	}
}

static unsigned io_result(struct nvme_request *q, int ret)
{
	/* Also when it failed: a part may have been read. */
	if (q->r.op == BLOCK_READ)
		note_written(q);
	if (!ret)
		count(q);
	return status_of(q, ret);
}

/* The next range that is not empty into q->r. False: there is none. */
static bool next_range(struct nvme_request *q)
{
	while (q->range < q->ranges) {
		const u8 *e = q->list + 16ul * q->range++;
		u64 blocks = le_load(e + 4, 4), slba = le_load(e + 8, 8);

		if (!blocks)
			continue;
		q->r.off = slba << q->n->lba_shift;
		q->r.len = blocks << q->n->lba_shift;
		return true;
	}
	return false;
}

static void io_done(struct block_req *r, int ret)
{
	struct nvme_request *q = container_of(r, struct nvme_request, r);
	struct nvme *n = q->n;
	unsigned sq = q->sq;

	pthread_mutex_lock(&n->lock);
	if (!ret && !n->resetting && q->list && next_range(q)) {
		block_submit(n->block, &r, 1);
	} else {
		nvme_complete(q, io_result(q, ret), 0);
		nvme_sq_run(n, sq);
		/* It may have waited for this queue's end. */
		if (sq)
			nvme_sq_run(n, 0);
		nvme_publish(n);
		nvme_put(n);
	}
	pthread_mutex_unlock(&n->lock);
}

/* ---- commands ---- */

static void prepare(struct nvme_request *q, enum block_op op, u64 slba, u64 blocks)
{
	q->r.op = op;
	q->r.flags = 0;
	q->r.off = slba << q->n->lba_shift;
	q->r.len = blocks << q->n->lba_shift;
	q->r.iov = q->iov;
	q->r.iovcnt = q->iovs;
	q->r.done = io_done;
}

static bool in_range(const struct nvme *n, u64 slba, u64 blocks)
{
	u64 all = block_size(n->block) >> n->lba_shift;

	return blocks <= all && slba <= all - blocks;
}

static unsigned read_write(struct nvme_request *q)
{
	struct nvme *n = q->n;
	const u32 *dw = q->cmd.dw;
	bool write = q->cmd.opcode == OP_WRITE;
	u64 slba = dw[10] | (u64)dw[11] << 32, blocks = (dw[12] & 0xffff) + 1;
	unsigned status;

	if (blocks << n->lba_shift > NVME_XFER_MAX)
		return NVME_INVALID_FIELD;
	if (!in_range(n, slba, blocks))
		return NVME_LBA_RANGE;
	if (write && block_readonly(n->block))
		return NVME_WRITE_PROTECTED;
	status = nvme_map(q, (u32)(blocks << n->lba_shift), !write);
	if (status)
		return status;
	prepare(q, write ? BLOCK_WRITE : BLOCK_READ, slba, blocks);
	if (write && (dw[12] & CDW12_FUA || !n->s.write_cache))
		q->r.flags = BLOCK_FUA;
	if (!q->r.flags && q->r.len <= INLINE_MAX && block_try(n->block, &q->r))
		return io_result(q, q->r.p.ret);
	return NVME_SUBMIT;
}

static unsigned write_zeroes(struct nvme_request *q)
{
	struct nvme *n = q->n;
	const u32 *dw = q->cmd.dw;
	u64 slba = dw[10] | (u64)dw[11] << 32, blocks = (dw[12] & 0xffff) + 1;

	if (!in_range(n, slba, blocks))
		return NVME_LBA_RANGE;
	if (block_readonly(n->block))
		return NVME_WRITE_PROTECTED;
	q->iovs = 0;
	prepare(q, BLOCK_ZERO, slba, blocks);
	q->r.flags = (dw[12] & CDW12_DEAC ? BLOCK_UNMAP : 0) |
		     (dw[12] & CDW12_FUA || !n->s.write_cache ? BLOCK_FUA : 0u);
	return NVME_SUBMIT;
}

/* 6.7. All ranges are good, or none is discarded. */
static unsigned dataset_management(struct nvme_request *q)
{
	struct nvme *n = q->n;
	unsigned status;

	q->ranges = (q->cmd.dw[10] & 0xff) + 1;
	q->range = 0;
	status = nvme_map(q, q->ranges * 16, false);
	if (status)
		return status;
	q->list = malloc(NVME_RANGES * 16ul);
	if (!q->list)
		return NVME_INTERNAL;
	fetch_data(q, q->list);
	for (unsigned i = 0; i < q->ranges; i++)
		if (!in_range(n, le_load(q->list + 16ul * i + 8, 8),
			      le_load(q->list + 16ul * i + 4, 4)))
			return NVME_LBA_RANGE;
	/* The other attributes are hints. */
	if (!(q->cmd.dw[11] & CDW11_AD))
		return NVME_OK;
	if (block_readonly(n->block))
		return NVME_WRITE_PROTECTED;
	q->iovs = 0;
	prepare(q, BLOCK_DISCARD, 0, 0);
	return next_range(q) ? NVME_SUBMIT : NVME_OK;
}

unsigned nvme_io(struct nvme_request *q)
{
	u32 nsid = q->cmd.nsid;

	switch (q->cmd.opcode) {
	case OP_FLUSH:
		if (nsid != 1 && nsid != NVME_ALL)
			return NVME_INVALID_NSID;
		q->iovs = 0;
		prepare(q, BLOCK_FLUSH, 0, 0);
		return NVME_SUBMIT;
	case OP_WRITE:
	case OP_READ:
	case OP_WRITE_ZEROES:
	case OP_DSM: break;
	default: return NVME_INVALID_OPCODE;
	}
	if (nsid != 1)
		return NVME_INVALID_NSID;
	if (q->cmd.opcode == OP_WRITE_ZEROES)
		return write_zeroes(q);
	return q->cmd.opcode == OP_DSM ? dataset_management(q) : read_write(q);
}
