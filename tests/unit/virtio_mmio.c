/*
 * Virtio over MMIO, with a device that does nothing but count: registers, negotiation,
 * the interrupt, reset while something is under way, state.
 */
#include "virtio/mmio.h"

#include <stdlib.h>

#include "virtio_rig.h"

#define SIZE 8
#define AT   UINT64_C(0xd0000000)

struct fixture {
	struct rig r; /* memory, and the driver's rings; nothing on its PCI */
	struct virtio v;
	struct virtio_mmio *m;
	struct vq_chain chain;
	bool hold, level;
	unsigned edges, started, stopped;
	u8 config[20];
	struct drvq q[2];
};

static struct fixture *of(struct virtio *v)
{
	return container_of(v, struct fixture, v);
}

static void toy_notify(struct virtio *v, unsigned n)
{
	struct fixture *f = of(v);

	while (!f->hold && virtio_pop(v, n, &f->chain))
		virtio_push(v, n, &f->chain, 0);
	virtio_publish(v, n);
}

static void toy_config_read(struct virtio *v, u8 *config)
{
	memcpy(config, of(v)->config, sizeof(of(v)->config));
}

static void toy_config_write(struct virtio *v, u32 off, u32 val, unsigned size)
{
	le_store(of(v)->config + off, val, size);
}

static void toy_start(struct virtio *v)
{
	of(v)->started++;
}

static void toy_stop(struct virtio *v, int n)
{
	(void)n;
	of(v)->stopped++;
}

static const struct virtio_class toy_class = {
	.name = "toy",
	.id = VIRTIO_ID_RNG,
	.notify = toy_notify,
	.config_read = toy_config_read,
	.config_write = toy_config_write,
	.start = toy_start,
	.stop = toy_stop,
};

static void set_line(void *chip, unsigned pin, bool level)
{
	struct fixture *f = chip;

	(void)pin;
	f->edges += level && !f->level;
	f->level = level;
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rig_init(&f->r);
	f->r.v = &f->v;
	virtio_init(&f->v, &toy_class, f->r.phys, BIT(3), sizeof(f->config));
	for (unsigned i = 0; i < sizeof(f->config); i++)
		f->config[i] = (u8)(0x80 + i);
	virtio_add_queue(&f->v, SIZE);
	virtio_add_queue(&f->v, SIZE);
	f->m = virtio_mmio_new(&f->v, (struct irq_line){ set_line, f, 0 }, 0x100);
	assert_int_equal(phys_add_mmio(f->r.phys, "virtio", AT, VIRTIO_MMIO_SIZE,
				       &virtio_mmio_ops, f->m, NULL),
			 0);
	virtio_resume(&f->v);
	return f;
}

static void fixture_free(struct fixture *f)
{
	virtio_pause(&f->v);
	virtio_mmio_free(f->m);
	virtio_fini(&f->v);
	rig_fini(&f->r);
	free(f);
}

static u32 get(struct fixture *f, u64 off)
{
	return (u32)phys_load(f->r.phys, AT + off, 4);
}

static void put(struct fixture *f, u64 off, u32 val)
{
	phys_store(f->r.phys, AT + off, val, 4);
}

static void queue(struct fixture *f, u16 n, u16 size)
{
	struct drvq *q = &f->q[n];
	u32 base = 0x100000u + n * 0x10000u;

	*q = (struct drvq){ .n = n,
			    .size = size,
			    .wrap = 1,
			    .used_wrap = 1,
			    .packed = f->r.features & BIT(VIRTIO_F_RING_PACKED),
			    .desc = base,
			    .driver = base + 0x2000,
			    .device = base + 0x4000 };
	memset(ram(&f->r, base), 0, 0x10000);
	put(f, VIRTIO_MMIO_QUEUE_SEL, n);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NUM_MAX), SIZE);
	put(f, VIRTIO_MMIO_QUEUE_NUM, size);
	put(f, VIRTIO_MMIO_QUEUE_DESC_LOW, (u32)q->desc);
	put(f, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0);
	put(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (u32)q->driver);
	put(f, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0);
	put(f, VIRTIO_MMIO_QUEUE_USED_LOW, (u32)q->device);
	put(f, VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
	put(f, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 1);
}

/* As a driver does it. */
static void start(struct fixture *f, u64 features)
{
	u64 offered = 0;

	put(f, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 0);
	put(f, VIRTIO_MMIO_STATUS, 3);
	for (u32 i = 0; i < 2; i++) {
		put(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
		offered |= (u64)get(f, VIRTIO_MMIO_DEVICE_FEATURES) << 32 * i;
	}
	assert_true(offered & BIT(3));
	f->r.features = (features & offered) | BIT(VIRTIO_F_VERSION_1);
	for (u32 i = 0; i < 2; i++) {
		put(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		put(f, VIRTIO_MMIO_DRIVER_FEATURES, (u32)(f->r.features >> 32 * i));
	}
	put(f, VIRTIO_MMIO_STATUS, 11);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 11);
	queue(f, 0, SIZE);
	queue(f, 1, 4);
	put(f, VIRTIO_MMIO_STATUS, 15);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 15);
}

static const struct seg one = { BUFS, 64, true };

static bool used(struct fixture *f, unsigned n)
{
	u16 id;
	u32 len;

	return drvq_used(&f->r, &f->q[n], &id, &len);
}

static void registers_say_what_it_is(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	assert_int_equal(get(f, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(get(f, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(get(f, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
	assert_int_equal(get(f, VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
	assert_int_equal(get(f, VIRTIO_MMIO_SHM_LEN_HIGH), UINT32_MAX);
	/* Registers are read whole; what is not there reads as 0. */
	assert_int_equal(phys_load(f->r.phys, AT, 1), 0);
	assert_int_equal(phys_load(f->r.phys, AT, 2), 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_PFN), 0);
	/* Queues beyond the last one do not exist, whatever is cut off. */
	put(f, VIRTIO_MMIO_QUEUE_SEL, 2);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	put(f, VIRTIO_MMIO_QUEUE_SEL, 0x10000);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	put(f, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 0);
	fixture_free(f);
}

static void configuration_in_any_size(void **state)
{
	struct fixture *f = fixture_new();
	struct phys *p = f->r.phys;
	u32 generation = get(f, VIRTIO_MMIO_CONFIG_GENERATION);

	(void)state;
	assert_int_equal(get(f, VIRTIO_MMIO_CONFIG + 4), 0x87868584);
	assert_int_equal(phys_load(p, AT + VIRTIO_MMIO_CONFIG + 3, 1), 0x83);
	assert_int_equal(phys_load(p, AT + VIRTIO_MMIO_CONFIG + 20, 4), 0);
	phys_store(p, AT + VIRTIO_MMIO_CONFIG + 2, 0x1234, 2);
	assert_int_equal(get(f, VIRTIO_MMIO_CONFIG), 0x12348180);
	pthread_mutex_lock(&f->v.lock);
	virtio_config_changed(&f->v);
	pthread_mutex_unlock(&f->v.lock);
	assert_int_not_equal(get(f, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	assert_false(f->level); /* nobody drives it yet */
	fixture_free(f);
}

static void chains_go_through(void **state)
{
	const u64 features[] = { 0, BIT(VIRTIO_F_RING_PACKED) };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		struct fixture *f = fixture_new();

		start(f, features[i]);
		assert_int_equal(f->started, 1);
		for (unsigned k = 0; k < 20; k++) {
			drvq_add(&f->r, &f->q[k & 1], &one, 1);
			put(f, VIRTIO_MMIO_QUEUE_NOTIFY, k & 1);
			assert_true(used(f, k & 1));
			assert_true(f->level);
			assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
			put(f, VIRTIO_MMIO_INTERRUPT_ACK, 1);
			assert_false(f->level);
		}
		put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0xffffffff);
		put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0x10000);
		assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 15);
		fixture_free(f);
	}
}

static void version_1_is_a_must(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	put(f, VIRTIO_MMIO_STATUS, 3);
	put(f, VIRTIO_MMIO_STATUS, 11);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 3);
	put(f, VIRTIO_MMIO_STATUS, 7);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 3);
	fixture_free(f);
}

/* An input that takes edges misses none. */
static void what_is_not_acknowledged_interrupts_again(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	start(f, 0);
	drvq_add(&f->r, &f->q[0], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	pthread_mutex_lock(&f->v.lock);
	virtio_config_changed(&f->v);
	pthread_mutex_unlock(&f->v.lock);
	assert_int_equal(f->edges, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
	put(f, VIRTIO_MMIO_INTERRUPT_ACK, 1);
	assert_int_equal(f->edges, 2);
	assert_true(f->level);
	put(f, VIRTIO_MMIO_INTERRUPT_ACK, 2);
	assert_false(f->level);
	fixture_free(f);
}

/* Somebody else's thread: ends what is under way once a reset waits for it. */
static void *finish_later(void *arg)
{
	struct fixture *f = arg;
	bool done = false;

	while (!done) {
		pthread_mutex_lock(&f->v.lock);
		done = f->stopped;
		if (done) {
			virtio_push(&f->v, 0, &f->chain, 0);
			virtio_publish(&f->v, 0);
			virtio_put(&f->v, 0);
		}
		pthread_mutex_unlock(&f->v.lock);
		sched_yield();
	}
	return NULL;
}

static void begin(struct fixture *f, pthread_t *t)
{
	f->hold = true;
	drvq_add(&f->r, &f->q[0], &one, 1);
	pthread_mutex_lock(&f->v.lock);
	assert_true(virtio_pop(&f->v, 0, &f->chain));
	virtio_get(&f->v, 0);
	f->stopped = 0;
	pthread_mutex_unlock(&f->v.lock);
	assert_int_equal(pthread_create(t, NULL, finish_later, f), 0);
}

static void reset_waits_for_what_is_under_way(void **state)
{
	struct fixture *f = fixture_new();
	pthread_t t;

	(void)state;
	start(f, 0);
	drvq_add(&f->r, &f->q[1], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	assert_true(f->level);
	begin(f, &t);
	put(f, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 0);
	pthread_join(t, NULL);
	assert_false(f->level);
	assert_int_equal(get(f, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_false(used(f, 0));
	f->hold = false;
	start(f, 0);
	drvq_add(&f->r, &f->q[0], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	assert_true(used(f, 0));
	fixture_free(f);
}

static void a_queue_is_stopped_before_it_says_so(void **state)
{
	struct fixture *f = fixture_new();
	pthread_t t;

	(void)state;
	start(f, 0);
	begin(f, &t);
	put(f, VIRTIO_MMIO_QUEUE_SEL, 0);
	put(f, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
	pthread_join(t, NULL);
	assert_false(used(f, 0));
	/* The other one goes on, and it can be started again. */
	f->hold = false;
	drvq_add(&f->r, &f->q[1], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	assert_true(used(f, 1));
	queue(f, 0, 4);
	drvq_add(&f->r, &f->q[0], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	assert_true(used(f, 0));
	fixture_free(f);
}

static void one_queue_is_reset(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	start(f, 0);
	put(f, VIRTIO_MMIO_QUEUE_SEL, 0);
	put(f, VIRTIO_MMIO_QUEUE_RESET, 1); /* not negotiated */
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 1);
	start(f, BIT(VIRTIO_F_RING_RESET));
	put(f, VIRTIO_MMIO_QUEUE_SEL, 0);
	put(f, VIRTIO_MMIO_QUEUE_RESET, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_RESET), 0);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
	queue(f, 0, SIZE);
	drvq_add(&f->r, &f->q[0], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	assert_true(used(f, 0));
	fixture_free(f);
}

static void a_running_queue_keeps_its_place(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	start(f, 0);
	put(f, VIRTIO_MMIO_QUEUE_SEL, 0);
	put(f, VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
	put(f, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 1);
	put(f, VIRTIO_MMIO_QUEUE_USED_LOW, 0);
	put(f, VIRTIO_MMIO_QUEUE_NUM, 2);
	assert_int_equal(f->v.vq[0].s.desc, f->q[0].desc);
	assert_int_equal(f->v.vq[0].s.driver, f->q[0].driver);
	assert_int_equal(f->v.vq[0].s.device, f->q[0].device);
	assert_int_equal(f->v.vq[0].s.size, SIZE);
	/* One outside memory is told. */
	put(f, VIRTIO_MMIO_QUEUE_READY, 0);
	put(f, VIRTIO_MMIO_QUEUE_NUM, SIZE);
	put(f, VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
	put(f, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_true(get(f, VIRTIO_MMIO_STATUS) & VIRTIO_NEEDS_RESET);
	fixture_free(f);
}

static void save_load_save(void **state)
{
	struct fixture *f = fixture_new(), *g = fixture_new();
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	(void)state;
	start(f, BIT(3));
	drvq_add(&f->r, &f->q[0], &one, 1);
	put(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	assert_true(f->level);
	virtio_mmio_save(f->m, &a);
	assert_int_equal(virtio_mmio_load(g->m, &a, &err), 0);
	assert_true(g->level);
	assert_int_equal(get(g, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
	virtio_mmio_save(g->m, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	virtio_mmio_reset(g->m);
	assert_false(g->level);
	assert_int_equal(get(g, VIRTIO_MMIO_STATUS), 0);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
	fixture_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_say_what_it_is),
		cmocka_unit_test(configuration_in_any_size),
		cmocka_unit_test(chains_go_through),
		cmocka_unit_test(version_1_is_a_must),
		cmocka_unit_test(what_is_not_acknowledged_interrupts_again),
		cmocka_unit_test(reset_waits_for_what_is_under_way),
		cmocka_unit_test(a_queue_is_stopped_before_it_says_so),
		cmocka_unit_test(one_queue_is_reset),
		cmocka_unit_test(a_running_queue_keeps_its_place),
		cmocka_unit_test(save_load_save),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
