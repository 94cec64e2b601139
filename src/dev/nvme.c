/*
 * NVMe controller: registers, enabling, reset and shutdown, PCI function, state.
 *
 * NVM Express Base Specification 1.4, sections 3 and 7; one namespace, NVM command set.
 * Deliberately missing: SGLs, metadata and protection information, fused commands,
 * controller memory buffer, namespace management, firmware, security, subsystem reset,
 * MSI without X, page sizes other than 4 KiB. Section numbers in dev/nvme*.c are that
 * specification's.
 *
 * I1 What the block layer has is counted in 'busy'. A reset completes (CSTS.RDY falls)
 *    only when it is 0, so after that nobody touches the guest's memory.
 * I2 A command is fetched only when its completion has a place (nvme_cq.reserved):
 * posting cannot fail. I3 A command is copied once, then checked, then done.
 *
 * Lock: n->lock, below the PCI configuration lock, above pins and messages.
 */
#include "dev/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "dev/nvme_ctrl.h"
#include "pci/msix.h"

#define BAR_REGS  0
#define BAR_MSIX  4
#define VENDOR    0x1b36 /* Red Hat; the device is QEMU's controller */
#define DEVICE    0x0010
#define VERSION   0x00010400u
/* CC: CSS, MPS, AMS: not to be changed while it is enabled, and 0. */
#define CC_FORMAT ((u32)(BITS(13, 4)))
#define CC_MASK   ((u32)(BITS(23, 4) | CC_EN))
#define AQA_MASK  0x0fff0fffu

static const struct state_field nvme_fields[] = {
	STATE_FIELD(struct nvme_state, asq, 1),
	STATE_FIELD(struct nvme_state, acq, 1),
	STATE_FIELD(struct nvme_state, errors, 1),
	STATE_FIELD(struct nvme_state, reads, 1),
	STATE_FIELD(struct nvme_state, writes, 1),
	STATE_FIELD(struct nvme_state, sectors_read, 1),
	STATE_FIELD(struct nvme_state, sectors_written, 1),
	STATE_FIELD(struct nvme_state, error_lba, 1),
	STATE_FIELD(struct nvme_state, cc, 1),
	STATE_FIELD(struct nvme_state, csts, 1),
	STATE_FIELD(struct nvme_state, aqa, 1),
	STATE_FIELD(struct nvme_state, intm, 1),
	STATE_FIELD(struct nvme_state, error_nsid, 1),
	STATE_FIELD(struct nvme_state, arbitration, 1),
	STATE_FIELD(struct nvme_state, recovery, 1),
	STATE_FIELD(struct nvme_state, coalescing, 1),
	STATE_FIELD(struct nvme_state, atomicity, 1),
	STATE_FIELD(struct nvme_state, events, 1),
	STATE_ARRAY(struct nvme_state, vector_config, 1),
	STATE_FIELD(struct nvme_state, temp_over, 1),
	STATE_FIELD(struct nvme_state, temp_under, 1),
	STATE_ARRAY(struct nvme_state, aer_cid, 1),
	STATE_FIELD(struct nvme_state, error_sqid, 1),
	STATE_FIELD(struct nvme_state, error_cid, 1),
	STATE_FIELD(struct nvme_state, error_status, 1),
	STATE_FIELD(struct nvme_state, aers, 1),
	STATE_ARRAY(struct nvme_state, event_pending, 1),
	STATE_ARRAY(struct nvme_state, event_masked, 1),
	STATE_ARRAY(struct nvme_state, event_log, 1),
	STATE_FIELD(struct nvme_state, write_cache, 1),
	STATE_ARRAY(struct nvme_state, pad, 1),
	{ 0 },
};

static const struct state_field sq_fields[] = {
	STATE_FIELD(struct nvme_sq_state, base, 1),
	STATE_FIELD(struct nvme_sq_state, size, 1),
	STATE_FIELD(struct nvme_sq_state, head, 1),
	STATE_FIELD(struct nvme_sq_state, tail, 1),
	STATE_FIELD(struct nvme_sq_state, cq, 1),
	STATE_FIELD(struct nvme_sq_state, pad, 1),
	STATE_FIELD(struct nvme_sq_state, pad2, 1),
	{ 0 },
};

static const struct state_field cq_fields[] = {
	STATE_FIELD(struct nvme_cq_state, base, 1),
	STATE_FIELD(struct nvme_cq_state, size, 1),
	STATE_FIELD(struct nvme_cq_state, head, 1),
	STATE_FIELD(struct nvme_cq_state, tail, 1),
	STATE_FIELD(struct nvme_cq_state, vector, 1),
	STATE_FIELD(struct nvme_cq_state, irq, 1),
	STATE_FIELD(struct nvme_cq_state, phase, 1),
	STATE_FIELD(struct nvme_cq_state, pad, 1),
	{ 0 },
};

/* A shutdown that is under way is waited for before a save. */
static bool nvme_valid(const void *state)
{
	const struct nvme_state *s = state;

	for (unsigned i = 0; i < EVENT_TYPES; i++)
		if (s->event_masked[i] > 1)
			return false;
	return !(s->cc & ~(CC_MASK)) && !(s->aqa & ~AQA_MASK) && s->aers <= NVME_EVENTS &&
	       s->write_cache <= 1 && bits_get(s->csts, 3, 2) != SHST_OCCURRING &&
	       !(s->asq & (NVME_PAGE - 1)) && !(s->acq & (NVME_PAGE - 1)) &&
	       !(s->csts & CSTS_RDY && !(s->cc & CC_EN)) && s->csts < 16;
}

static bool sq_valid(const void *state)
{
	const struct nvme_sq_state *s = state;

	if (!s->size)
		return true;
	return s->size >= 2 && s->size <= NVME_ADMIN_MAX && s->head < s->size &&
	       s->tail < s->size && s->cq < NVME_QUEUES;
}

static bool cq_valid(const void *state)
{
	const struct nvme_cq_state *s = state;

	if (!s->size)
		return true;
	return s->size >= 2 && s->size <= NVME_ADMIN_MAX && s->head < s->size &&
	       s->tail < s->size && s->irq <= 1 && s->phase <= 1;
}

const struct state_desc nvme_desc = {
	.name = "nvme",
	.size = sizeof(struct nvme_state),
	.version = 1,
	.fields = nvme_fields,
	.valid = nvme_valid,
};

const struct state_desc nvme_sq_desc = {
	.name = "nvme_sq",
	.size = sizeof(struct nvme_sq_state),
	.version = 1,
	.fields = sq_fields,
	.valid = sq_valid,
};

const struct state_desc nvme_cq_desc = {
	.name = "nvme_cq",
	.size = sizeof(struct nvme_cq_state),
	.version = 1,
	.fields = cq_fields,
	.valid = cq_valid,
};

/* ---- interrupts ---- */

void nvme_update_pin(struct nvme *n)
{
	bool level = false;

	/* 7.5.1: masked by vector, which is 0 without messages. */
	for (unsigned i = 0; !msix_enabled(n->msix) && i < NVME_QUEUES; i++) {
		const struct nvme_cq_state *c = &n->cq[i].s;

		if (c->size && c->irq && c->head != c->tail &&
		    !(c->vector < 32 && n->s.intm >> c->vector & 1))
			level = true;
	}
	pci_set_intx(n->dev, level);
}

void nvme_publish(struct nvme *n)
{
	u64 posted = n->posted;

	n->posted = 0;
	if (!posted)
		return;
	if (!msix_enabled(n->msix)) {
		nvme_update_pin(n);
		return;
	}
	for (; posted; posted &= posted - 1) {
		const struct nvme_cq *c = &n->cq[__builtin_ctzll(posted)];

		if (c->s.size && c->s.irq)
			msix_notify(n->msix, c->s.vector);
	}
}

/* ---- enabling and reset ---- */

static void features_reset(struct nvme *n)
{
	n->s.arbitration = n->s.recovery = n->s.coalescing = 0;
	n->s.atomicity = n->s.events = 0;
	memset(n->s.vector_config, 0, sizeof(n->s.vector_config));
	n->s.temp_over = NVME_WARNING_K;
	n->s.temp_under = 0;
	n->s.write_cache = !n->cfg.write_cache_off;
}

/* 7.3.2: what a controller reset leaves are AQA, ASQ, ACQ, and the logs. */
static void reset_done(struct nvme *n)
{
	for (unsigned i = NVME_QUEUES; i-- > 0;) {
		if (n->sq[i].deleter)
			nvme_drop(n->sq[i].deleter);
		n->sq[i].deleter = NULL;
	}
	for (unsigned i = 0; i < NVME_QUEUES; i++) {
		nvme_sq_stop(n, i);
		nvme_cq_stop(n, i);
	}
	n->resetting = false;
	n->posted = 0;
	n->s.csts = 0;
	n->s.intm = 0;
	n->s.aers = 0;
	memset(n->s.event_pending, 0, sizeof(n->s.event_pending));
	memset(n->s.event_masked, 0, sizeof(n->s.event_masked));
	memset(n->s.event_log, 0, sizeof(n->s.event_log));
	memset(n->s.aer_cid, 0, sizeof(n->s.aer_cid));
	features_reset(n);
	nvme_update_pin(n);
}

void nvme_put(struct nvme *n)
{
	if (--n->busy)
		return;
	if (n->resetting)
		reset_done(n); /* I1 */
	pthread_cond_broadcast(&n->idle);
}

static void begin_reset(struct nvme *n)
{
	n->resetting = true;
	if (!n->busy)
		reset_done(n);
}

static void enable(struct nvme *n)
{
	u32 asqs = (n->s.aqa & 0xfff) + 1, acqs = (n->s.aqa >> 16) + 1;

	if (!(n->s.cc & CC_FORMAT) && asqs >= 2 && acqs >= 2 &&
	    nvme_cq_start(n, 0, n->s.acq, acqs, 0, true)) {
		if (nvme_sq_start(n, 0, n->s.asq, asqs, 0)) {
			n->s.csts |= CSTS_RDY;
			return;
		}
		nvme_cq_stop(n, 0);
	}
	guest_bug("nvme", "CC %#x, AQA %#x, ASQ %#llx, ACQ %#llx are not possible",
		  n->s.cc, n->s.aqa, (unsigned long long)n->s.asq,
		  (unsigned long long)n->s.acq);
	n->s.csts |= CSTS_CFS;
}

static void set_shutdown(struct nvme *n, unsigned status)
{
	n->s.csts = (u32)bits_put(n->s.csts, 3, 2, status);
}

static void shutdown_done(struct block_req *r, int ret)
{
	struct nvme *n = container_of(r, struct nvme, shutdown);

	/* Once: a guest can ask again and again. */
	if (ret && !n->told)
		log_error("nvme: %s: flush at shutdown: %s", block_path(n->block),
			  strerror(-ret));
	pthread_mutex_lock(&n->lock);
	n->told |= ret != 0;
	set_shutdown(n, SHST_COMPLETE);
	nvme_put(n);
	pthread_mutex_unlock(&n->lock);
}

/* 7.6.2: what was acknowledged is stable when it is complete. */
static void begin_shutdown(struct nvme *n)
{
	struct block_req *r = &n->shutdown;

	if (bits_get(n->s.csts, 3, 2) != SHST_NORMAL)
		return;
	set_shutdown(n, SHST_OCCURRING);
	r->op = BLOCK_FLUSH;
	r->done = shutdown_done;
	n->busy++;
	block_submit(n->block, &r, 1);
}

static void cc_write(struct nvme *n, u32 val)
{
	u32 old = n->s.cc;

	/* 3.1.5: to be left alone until RDY follows EN. */
	if (n->resetting)
		return;
	val &= CC_MASK;
	if (old & val & CC_EN)
		val = (val & ~CC_FORMAT) | (old & CC_FORMAT);
	n->s.cc = val;
	if (~old & val & CC_EN)
		enable(n);
	if (bits_get(val, 15, 14) == 1 || bits_get(val, 15, 14) == 2)
		begin_shutdown(n);
	if (old & ~val & CC_EN)
		begin_reset(n);
}

/* ---- registers ---- */

/* 3.1.1: queues contiguous, 15 s to get ready, NVM command set, pages of 4 KiB. */
static u64 cap(void)
{
	return (NVME_ENTRIES_MAX - 1) | BIT(16) | UINT64_C(30) << 24 | BIT(37);
}

static u32 reg_read(const struct nvme *n, u64 off)
{
	switch (off) {
	case NVME_CAP: return (u32)cap();
	case NVME_CAP + 4: return (u32)(cap() >> 32);
	case NVME_VS: return VERSION;
	case NVME_INTMS:
	case NVME_INTMC: return n->s.intm;
	case NVME_CC: return n->s.cc;
	case NVME_CSTS: return n->s.csts;
	case NVME_AQA: return n->s.aqa;
	case NVME_ASQ: return (u32)n->s.asq;
	case NVME_ASQ + 4: return (u32)(n->s.asq >> 32);
	case NVME_ACQ: return (u32)n->s.acq;
	case NVME_ACQ + 4: return (u32)(n->s.acq >> 32);
	default: return 0;
	}
}

static void set_low(u64 *reg, u32 val)
{
	*reg = (*reg & ~(u64)UINT32_MAX) | (val & ~(NVME_PAGE - 1));
}

static void set_high(u64 *reg, u32 val)
{
	*reg = (u32)*reg | (u64)val << 32;
}

/* The queues in use keep the place that they had when they were enabled. */
static void reg_write(struct nvme *n, u64 off, u32 val)
{
	switch (off) {
	case NVME_INTMS:
		n->s.intm |= val;
		nvme_update_pin(n);
		break;
	case NVME_INTMC:
		n->s.intm &= ~val;
		nvme_update_pin(n);
		break;
	case NVME_CC: cc_write(n, val); break;
	case NVME_AQA: n->s.aqa = val & AQA_MASK; break;
	case NVME_ASQ: set_low(&n->s.asq, val); break;
	case NVME_ASQ + 4: set_high(&n->s.asq, val); break;
	case NVME_ACQ: set_low(&n->s.acq, val); break;
	case NVME_ACQ + 4: set_high(&n->s.acq, val); break;
	default: break;
	}
}

static u64 nvme_read(void *opaque, u64 off, unsigned size)
{
	struct nvme *n = opaque;
	u32 val;

	(void)size;
	pthread_mutex_lock(&n->lock);
	val = reg_read(n, off);
	pthread_mutex_unlock(&n->lock);
	return val;
}

static void nvme_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct nvme *n = opaque;

	(void)size;
	pthread_mutex_lock(&n->lock);
	if (off >= NVME_DOORBELLS)
		nvme_doorbell(n, off - NVME_DOORBELLS, (u32)val);
	else
		reg_write(n, off, (u32)val);
	pthread_mutex_unlock(&n->lock);
}

static const struct io_ops nvme_ops = {
	.read = nvme_read,
	.write = nvme_write,
	.sizes = IO_4,
};

static void config_written(void *opaque, unsigned off, unsigned size)
{
	struct nvme *n = opaque;

	if (!n->msix)
		return;
	msix_config_written(n->msix, off, size);
	pthread_mutex_lock(&n->lock);
	nvme_update_pin(n);
	/* It may have become a bus master. */
	nvme_run(n);
	pthread_mutex_unlock(&n->lock);
}

/* ---- set-up ---- */

static void name_it(struct nvme *n, u8 devfn)
{
	char made[NVME_SERIAL_MAX + 1];
	const char *s = n->cfg.serial;

	if (!s) {
		snprintf(made, sizeof(made), "umbra-%02x.%x", devfn >> 3, devfn & 7);
		s = made;
	}
	memset(n->serial, ' ', sizeof(n->serial));
	memcpy(n->serial, s, strnlen(s, sizeof(n->serial)));
	n->cfg.serial = NULL;
}

struct nvme *nvme_new(const struct nvme_setup *cfg, struct phys *phys,
		      struct pci_host *host, u8 devfn, struct msi_sink msi,
		      struct error *err)
{
	struct nvme *n = xzalloc(sizeof(*n));
	struct pci_desc d = {
		.name = "nvme",
		.vendor = VENDOR,
		.device = DEVICE,
		.subsys_vendor = 0x1af4,
		.subsys_device = 0x1100,
		.class_code = 0x010802,
		.revision = 2,
		.pin = 1,
		.config_written = config_written,
		.opaque = n,
	};
	unsigned vectors;

	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->idle, NULL);
	n->cfg = *cfg;
	n->block = cfg->block;
	n->phys = phys;
	n->paused = true;
	if (!n->cfg.queues || n->cfg.queues > NVME_QUEUES_MAX)
		n->cfg.queues = NVME_QUEUES_MAX;
	if (!n->cfg.logical_block)
		n->cfg.logical_block = BLOCK_SECTOR;
	n->lba_shift = (unsigned)__builtin_ctz(n->cfg.logical_block);
	name_it(n, devfn);
	features_reset(n);
	vectors = n->cfg.queues + 1;
	n->dev = pci_add(host, devfn, &d, err);
	if (!n->dev)
		goto fail;
	n->msix = msix_new(n->dev, vectors, BAR_MSIX, 0, msix_bar_pba_off(vectors), msi,
			   err);
	if (!n->msix)
		goto fail;
	pci_set_bar(n->dev, BAR_REGS, PCI_BAR_MEM64, NVME_BAR_SIZE, false, &nvme_ops, n);
	pci_set_bar(n->dev, BAR_MSIX, PCI_BAR_MEM32, msix_bar_size(vectors), false,
		    &msix_bar_ops, n->msix);
	return n;
fail:
	nvme_free(n);
	return NULL;
}

void nvme_free(struct nvme *n)
{
	if (!n)
		return;
	if (n->msix)
		msix_free(n->msix);
	n->msix = NULL;
	if (n->dev)
		pci_remove(n->dev);
	nvme_requests_free(n);
	pthread_cond_destroy(&n->idle);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

struct pci_dev *nvme_pci_dev(struct nvme *n)
{
	return n->dev;
}

/* ---- the board ---- */

static void drain(struct nvme *n)
{
	while (n->busy)
		pthread_cond_wait(&n->idle, &n->lock);
}

void nvme_pause(struct nvme *n)
{
	pthread_mutex_lock(&n->lock);
	n->paused = true;
	drain(n);
	pthread_mutex_unlock(&n->lock);
}

void nvme_resume(struct nvme *n)
{
	pthread_mutex_lock(&n->lock);
	n->paused = false;
	nvme_run(n);
	pthread_mutex_unlock(&n->lock);
}

/* Everything, as after power-on. Nothing is under way. */
static void power_on(struct nvme *n)
{
	begin_reset(n);
	drain(n);
	n->s = (struct nvme_state){ 0 };
	features_reset(n);
}

void nvme_reset(struct nvme *n)
{
	pthread_mutex_lock(&n->lock);
	power_on(n);
	pthread_mutex_unlock(&n->lock);
	pci_reset(n->dev);
	msix_reset(n->msix);
}

void nvme_save(struct nvme *n, struct state_buf *b)
{
	u32 devfn = pci_devfn(n->dev);

	pthread_mutex_lock(&n->lock);
	drain(n);
	state_save(b, &nvme_desc, devfn, &n->s);
	for (u32 i = 0; i <= n->cfg.queues; i++) {
		state_save(b, &nvme_sq_desc, devfn << 8 | i, &n->sq[i].s);
		state_save(b, &nvme_cq_desc, devfn << 8 | i, &n->cq[i].s);
	}
	pthread_mutex_unlock(&n->lock);
	pci_save(n->dev, b);
	msix_save(n->msix, b);
}

/* What was read is consistent and its memory there; makes the queues of it. */
static bool start_loaded(struct nvme *n, const struct nvme_sq_state *sq,
			 const struct nvme_cq_state *cq)
{
	bool ready = n->s.csts & CSTS_RDY;

	if (!sq[0].size != !ready || !cq[0].size != !ready || sq[0].cq)
		return false;
	for (unsigned i = 0; i <= n->cfg.queues; i++) {
		u32 max = i ? NVME_ENTRIES_MAX : NVME_ADMIN_MAX;

		if (!cq[i].size)
			continue;
		if (!ready || cq[i].size > max || cq[i].vector > n->cfg.queues ||
		    !nvme_cq_start(n, i, cq[i].base, cq[i].size, cq[i].vector, cq[i].irq))
			return false;
		n->cq[i].s = cq[i];
	}
	for (unsigned i = 0; i <= n->cfg.queues; i++) {
		u32 max = i ? NVME_ENTRIES_MAX : NVME_ADMIN_MAX;

		if (!sq[i].size)
			continue;
		if (!ready || sq[i].size > max || sq[i].cq > n->cfg.queues ||
		    !n->cq[sq[i].cq].s.size || (i && !sq[i].cq) ||
		    !nvme_sq_start(n, i, sq[i].base, sq[i].size, sq[i].cq))
			return false;
		n->sq[i].s = sq[i];
	}
	return true;
}

static int load_locked(struct nvme *n, struct state_buf *b, struct error *err)
{
	struct nvme_sq_state sq[NVME_QUEUES] = { 0 };
	struct nvme_cq_state cq[NVME_QUEUES] = { 0 };
	u32 devfn = pci_devfn(n->dev);
	int ret = state_load(b, &nvme_desc, devfn, &n->s, err);

	for (u32 i = 0; i <= n->cfg.queues && !ret; i++) {
		ret = state_load(b, &nvme_sq_desc, devfn << 8 | i, &sq[i], err);
		if (!ret)
			ret = state_load(b, &nvme_cq_desc, devfn << 8 | i, &cq[i], err);
	}
	if (!ret && !start_loaded(n, sq, cq))
		ret = error_set(err, -EINVAL,
				"state of nvme: its queues are not possible");
	return ret;
}

int nvme_load(struct nvme *n, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&n->lock);
	power_on(n);
	ret = load_locked(n, b, err);
	if (ret)
		power_on(n);
	pthread_mutex_unlock(&n->lock);
	if (!ret)
		ret = pci_load(n->dev, b, err);
	if (!ret)
		ret = msix_load(n->msix, b, err);
	pthread_mutex_lock(&n->lock);
	nvme_update_pin(n);
	pthread_mutex_unlock(&n->lock);
	return ret;
}
