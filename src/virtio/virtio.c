/*
 * What all virtio devices share: status, feature negotiation, queues, reset.
 *
 * Virtual I/O Device specification 1.2, chapters 2 and 3. Deliberately missing: shared
 * memory regions, device groups, VIRTIO_F_NOTIFICATION_DATA.
 *
 * I1 Nothing is popped from or pushed to a queue unless DRIVER_OK is set,
 * DEVICE_NEEDS_RESET is not, and no reset of the device or queue is pending: is_live().
 * I2 A reset completes only when 'busy' is 0, so after the driver has read status 0 (or
 *    queue_reset 0) nobody touches its memory.
 *
 * Lock: v->lock, taken by transport and device. Pins and messages come after it.
 */
#include "virtio/virtio.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"

#define CONFIG_MAX 256

static const struct state_field virtio_fields[] = {
	STATE_FIELD(struct virtio_state, driver_features, 1),
	STATE_FIELD(struct virtio_state, device_feature_select, 1),
	STATE_FIELD(struct virtio_state, driver_feature_select, 1),
	STATE_FIELD(struct virtio_state, queue_select, 1),
	STATE_FIELD(struct virtio_state, config_vector, 1),
	STATE_FIELD(struct virtio_state, status, 1),
	STATE_FIELD(struct virtio_state, isr, 1),
	STATE_FIELD(struct virtio_state, generation, 1),
	STATE_FIELD(struct virtio_state, legacy, 1),
	{ 0 },
};

static bool virtio_valid(const void *state)
{
	const struct virtio_state *s = state;

	return s->legacy <= 1 && s->isr <= 3;
}

const struct state_desc virtio_desc = {
	.name = "virtio",
	.size = sizeof(struct virtio_state),
	.version = 1,
	.fields = virtio_fields,
	.valid = virtio_valid,
};

/* ---- set-up ---- */

static void state_reset(struct virtio *v)
{
	v->s = (struct virtio_state){ .config_vector = VIRTIO_NO_VECTOR,
				      .generation = v->s.generation };
	for (unsigned i = 0; i < v->queues; i++) {
		vq_reset(&v->vq[i]);
		v->vq[i].resetting = false;
	}
	v->resetting = false;
}

void virtio_init(struct virtio *v, const struct virtio_class *class, struct phys *phys,
		 u64 features, u32 config_size)
{
	assert(config_size <= CONFIG_MAX);
	memset(v, 0, sizeof(*v));
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->idle, NULL);
	v->class = class;
	v->phys = phys;
	v->config_size = config_size;
	v->paused = true;
	v->features = features | BIT(VIRTIO_F_VERSION_1) |
		      BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
		      BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET);
	state_reset(v);
}

void virtio_add_queue(struct virtio *v, u16 size_max)
{
	assert(v->queues < VIRTIO_QUEUES_MAX);
	vq_init(&v->vq[v->queues++], v->phys, size_max);
}

void virtio_fini(struct virtio *v)
{
	assert(!v->busy);
	pthread_cond_destroy(&v->idle);
	pthread_mutex_destroy(&v->lock);
}

/* ---- queues ---- */

/* I1: the queue is the driver's, what was popped may be pushed. */
static bool is_live(const struct virtio *v, unsigned n)
{
	u8 must = VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET;

	return (v->s.status & must) == VIRTIO_DRIVER_OK && !v->resetting &&
	       n < v->queues && v->vq[n].s.enabled && !v->vq[n].resetting;
}

bool virtio_runs(const struct virtio *v, unsigned n)
{
	return !v->paused && is_live(v, n);
}

void virtio_break(struct virtio *v, const char *why)
{
	guest_bug(v->class->name, "%s: the device needs a reset", why);
	if (v->s.status & VIRTIO_NEEDS_RESET)
		return;
	v->s.status |= VIRTIO_NEEDS_RESET;
	/* 2.1.2: told only to a driver that has set DRIVER_OK. */
	if (v->s.status & VIRTIO_DRIVER_OK)
		virtio_config_changed(v);
}

bool virtio_pop(struct virtio *v, unsigned n, struct vq_chain *c)
{
	int ret;

	if (!virtio_runs(v, n))
		return false;
	ret = vq_pop(&v->vq[n], c);
	if (ret < 0)
		virtio_break(v, "malformed ring or descriptor chain");
	return ret > 0;
}

void virtio_push(struct virtio *v, unsigned n, const struct vq_chain *c, u32 written)
{
	if (is_live(v, n))
		vq_push(&v->vq[n], c, written);
}

void virtio_publish(struct virtio *v, unsigned n)
{
	if (is_live(v, n) && vq_publish(&v->vq[n]) && v->transport.queue_irq)
		v->transport.queue_irq(v->transport.opaque, n);
}

void virtio_config_changed(struct virtio *v)
{
	if (v->generation_seen)
		v->s.generation++;
	v->generation_seen = false;
	if (v->s.status & VIRTIO_DRIVER_OK && v->transport.config_irq)
		v->transport.config_irq(v->transport.opaque);
}

void virtio_get(struct virtio *v, unsigned n)
{
	v->vq[n].busy++;
	v->busy++;
}

static void queue_reset_done(struct vq *q)
{
	vq_reset(q);
	q->resetting = false;
}

void virtio_put(struct virtio *v, unsigned n)
{
	struct vq *q = &v->vq[n];

	assert(q->busy && v->busy);
	if (!--q->busy && q->resetting) {
		queue_reset_done(q);
		pthread_cond_broadcast(&v->idle);
	}
	if (--v->busy)
		return;
	if (v->resetting)
		state_reset(v); /* I2 */
	pthread_cond_broadcast(&v->idle);
}

/* ---- what the driver does ---- */

static bool features_ok(const struct virtio *v)
{
	if (v->s.driver_features & ~v->features)
		return false;
	return v->s.legacy || virtio_has(v, VIRTIO_F_VERSION_1);
}

static void begin_reset(struct virtio *v)
{
	v->resetting = true;
	if (v->class->stop)
		v->class->stop(v, -1);
	if (!v->busy)
		state_reset(v);
}

void virtio_set_status(struct virtio *v, u8 status)
{
	u8 set = status & (u8)~v->s.status;

	if (v->resetting)
		return;
	if (!status) {
		begin_reset(v);
		return;
	}
	/* 2.1.1: bits are only added, by the driver its own. */
	set &= (u8)~VIRTIO_NEEDS_RESET;
	if (set & VIRTIO_FEATURES_OK && !features_ok(v)) {
		guest_bug(v->class->name, "features %#llx are not what was offered",
			  (unsigned long long)v->s.driver_features);
		set &= (u8)~VIRTIO_FEATURES_OK;
	}
	/* 3.1.1: a driver of version 1 must have agreed; one of old only chosen. */
	if (set & VIRTIO_DRIVER_OK && !((v->s.status | set) & VIRTIO_FEATURES_OK) &&
	    !(v->s.legacy && features_ok(v))) {
		guest_bug(v->class->name, "DRIVER_OK without FEATURES_OK");
		set &= (u8)~VIRTIO_DRIVER_OK;
	}
	v->s.status |= set;
	if (!(set & VIRTIO_DRIVER_OK))
		return;
	if (v->class->start)
		v->class->start(v);
	/* What was made available before, and notified too early. */
	for (unsigned i = 0; i < v->queues; i++)
		virtio_notified(v, i);
}

u8 virtio_get_status(const struct virtio *v)
{
	return v->s.status;
}

u32 virtio_get_features(const struct virtio *v)
{
	u64 f = v->features;

	if (v->s.device_feature_select > 1)
		return 0;
	return (u32)(f >> 32 * v->s.device_feature_select);
}

void virtio_set_features(struct virtio *v, u32 low)
{
	unsigned shift = 32 * v->s.driver_feature_select;

	/* 2.2.1: what is agreed on stays, by an old driver when it begins (3.1.2). So
	 * does the format of a ring that is in use. */
	if (v->s.driver_feature_select > 1 ||
	    v->s.status & (VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK))
		return;
	for (unsigned i = 0; i < v->queues; i++)
		if (v->vq[i].s.enabled)
			return;
	v->s.driver_features &= ~((u64)UINT32_MAX << shift);
	v->s.driver_features |= (u64)low << shift;
}

u8 virtio_get_generation(struct virtio *v)
{
	v->generation_seen = true;
	return v->s.generation;
}

struct vq *virtio_selected(struct virtio *v)
{
	return v->s.queue_select < v->queues ? &v->vq[v->s.queue_select] : NULL;
}

/* What is not possible is found out when it is enabled. */
void virtio_set_queue_size(struct vq *q, u32 size)
{
	if (!q->s.enabled && !q->resetting)
		q->s.size = size <= q->size_max ? (u16)size : 0;
}

void virtio_set_area(struct vq *q, u64 *area, bool high, u32 val)
{
	if (q->s.enabled || q->resetting)
		return;
	*area = high ? (u64)val << 32 | (u32)*area : (*area & ~(u64)UINT32_MAX) | val;
}

static bool start_queue(struct virtio *v, struct vq *q)
{
	return vq_enable(q, virtio_has(v, VIRTIO_F_RING_PACKED),
			 virtio_has(v, VIRTIO_RING_F_EVENT_IDX),
			 virtio_has(v, VIRTIO_RING_F_INDIRECT_DESC));
}

void virtio_enable_queue(struct virtio *v, struct vq *q)
{
	if (q->s.enabled || q->resetting || v->resetting)
		return;
	if (!start_queue(v, q)) {
		virtio_break(v, "a queue outside memory or of a wrong size");
		return;
	}
	q->s.enabled = 1;
	virtio_notified(v, (unsigned)(q - v->vq));
}

void virtio_reset_queue(struct virtio *v, struct vq *q)
{
	if (q->resetting || v->resetting)
		return;
	q->resetting = true;
	if (v->class->stop)
		v->class->stop(v, (int)(q - v->vq));
	if (!q->busy)
		queue_reset_done(q);
}

void virtio_drain_queue(struct virtio *v, const struct vq *q)
{
	while (q->busy)
		pthread_cond_wait(&v->idle, &v->lock);
}

void virtio_notified(struct virtio *v, unsigned n)
{
	if (virtio_runs(v, n))
		v->class->notify(v, n);
}

void virtio_notify(struct virtio *v, unsigned n)
{
	if (v->class->at_once && v->class->at_once(v, n))
		return;
	pthread_mutex_lock(&v->lock);
	virtio_notified(v, n);
	pthread_mutex_unlock(&v->lock);
}

u32 virtio_config_read(struct virtio *v, u64 off, unsigned size)
{
	u8 config[CONFIG_MAX] = { 0 };

	if (off >= v->config_size || size > v->config_size - off ||
	    !v->class->config_read)
		return 0;
	v->class->config_read(v, config);
	return (u32)le_load(config + off, size);
}

void virtio_config_write(struct virtio *v, u64 off, u32 val, unsigned size)
{
	if (off < v->config_size && size <= v->config_size - off &&
	    v->class->config_write && !v->resetting)
		v->class->config_write(v, (u32)off, val, size);
}

/* ---- the board ---- */

void virtio_pause(struct virtio *v)
{
	pthread_mutex_lock(&v->lock);
	v->paused = true;
	virtio_drain(v);
	pthread_mutex_unlock(&v->lock);
}

void virtio_resume(struct virtio *v)
{
	pthread_mutex_lock(&v->lock);
	v->paused = false;
	for (unsigned i = 0; i < v->queues; i++)
		virtio_notified(v, i);
	pthread_mutex_unlock(&v->lock);
}

/* ---- machine stopped ---- */

void virtio_drain(struct virtio *v)
{
	while (v->busy)
		pthread_cond_wait(&v->idle, &v->lock);
}

void virtio_reset(struct virtio *v)
{
	pthread_mutex_lock(&v->lock);
	begin_reset(v);
	virtio_drain(v);
	v->s.generation = 0;
	v->generation_seen = false;
	pthread_mutex_unlock(&v->lock);
}

void virtio_save(struct virtio *v, struct state_buf *b, u32 instance)
{
	pthread_mutex_lock(&v->lock);
	virtio_drain(v);
	state_save(b, &virtio_desc, instance, &v->s);
	for (unsigned i = 0; i < v->queues; i++)
		state_save(b, &vq_desc, instance << 8 | i, &v->vq[i].s);
	pthread_mutex_unlock(&v->lock);
}

static int load_locked(struct virtio *v, struct state_buf *b, u32 instance,
		       struct error *err)
{
	int ret = state_load(b, &virtio_desc, instance, &v->s, err);

	for (unsigned i = 0; !ret && i < v->queues; i++)
		ret = state_load(b, &vq_desc, instance << 8 | i, &v->vq[i].s, err);
	if (ret)
		return ret;
	/* Before the driver says that it is done, it may have written anything. */
	if (v->s.status & (VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK) &&
	    v->s.driver_features & ~v->features)
		return error_set(err, -EINVAL,
				 "state of %s: features that this one does not have",
				 v->class->name);
	for (unsigned i = 0; i < v->queues; i++) {
		struct vq *q = &v->vq[i];

		if (q->s.enabled && !start_queue(v, q))
			return error_set(err, -EINVAL,
					 "state of %s: queue %u is not possible",
					 v->class->name, i);
	}
	return 0;
}

int virtio_load(struct virtio *v, struct state_buf *b, u32 instance, struct error *err)
{
	int ret;

	pthread_mutex_lock(&v->lock);
	begin_reset(v);
	virtio_drain(v);
	ret = load_locked(v, b, instance, err);
	v->generation_seen = true;
	if (ret)
		state_reset(v);
	else if (v->s.status & VIRTIO_DRIVER_OK && v->class->start)
		v->class->start(v);
	pthread_mutex_unlock(&v->lock);
	return ret;
}
