/*
 * Virtio over PCI, with a device that does nothing but count: registers, negotiation,
 * interrupts, reset while something is under way, the legacy interface, state.
 */
#include "virtio_rig.h"

#include <stdlib.h>

#define SIZE 8

/* A device whose chains are pushed when the test says so. */
struct toy {
	struct virtio v;
	unsigned notified, started, stopped;
	struct vq_chain chain;
	u8 config[20];
	u32 written_off, written;
	bool hold; /* notifications leave chains alone */
};

static struct toy *toy_of(struct virtio *v)
{
	return container_of(v, struct toy, v);
}

static void toy_notify(struct virtio *v, unsigned n)
{
	struct toy *t = toy_of(v);

	t->notified++;
	while (!t->hold && virtio_pop(v, n, &t->chain))
		virtio_push(v, n, &t->chain, 0);
	virtio_publish(v, n);
}

static void toy_config_read(struct virtio *v, u8 *config)
{
	memcpy(config, toy_of(v)->config, sizeof(toy_of(v)->config));
}

static void toy_config_write(struct virtio *v, u32 off, u32 val, unsigned size)
{
	toy_of(v)->written_off = off;
	toy_of(v)->written = val;
	le_store(toy_of(v)->config + off, val, size);
}

static void toy_start(struct virtio *v)
{
	toy_of(v)->started++;
}

static void toy_stop(struct virtio *v, int n)
{
	(void)n;
	toy_of(v)->stopped++;
}

static const struct virtio_class toy_class = {
	.name = "toy",
	.id = VIRTIO_ID_RNG,
	.class_code = 0x00ff00,
	.notify = toy_notify,
	.config_read = toy_config_read,
	.config_write = toy_config_write,
	.start = toy_start,
	.stop = toy_stop,
};

struct fixture {
	struct rig r;
	struct toy t;
	struct drvq q[2];
};

static struct fixture *fixture_new(bool legacy)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rig_init(&f->r);
	virtio_init(&f->t.v, &toy_class, f->r.phys, BIT(3), sizeof(f->t.config));
	for (unsigned i = 0; i < sizeof(f->t.config); i++)
		f->t.config[i] = (u8)(0x80 + i);
	virtio_add_queue(&f->t.v, SIZE);
	virtio_add_queue(&f->t.v, SIZE);
	rig_attach(&f->r, &f->t.v, legacy);
	return f;
}

static void fixture_free(struct fixture *f)
{
	rig_detach(&f->r);
	virtio_fini(&f->t.v);
	rig_fini(&f->r);
	free(f);
}

static void fixture_start(struct fixture *f, u64 features)
{
	rig_negotiate(&f->r, features);
	drvq_init(&f->r, &f->q[0], 0, SIZE);
	drvq_init(&f->r, &f->q[1], 1, SIZE);
	rig_start(&f->r);
}

static const struct seg one = { BUFS, 64, true };

/* ---- registers ---- */

static void capabilities_lead_to_the_structures(void **state)
{
	struct fixture *f = fixture_new(false);
	u32 seen = 0;

	(void)state;
	assert_int_equal(rig_cfg_read(&f->r, PCI_VENDOR, 4), 0x10441af4);
	assert_int_equal(rig_cfg_read(&f->r, PCI_REVISION, 1), 1);
	for (unsigned off = rig_cfg_read(&f->r, PCI_CAP_PTR, 1); off;
	     off = rig_cfg_read(&f->r, off + 1, 1)) {
		u32 type = rig_cfg_read(&f->r, off + 3, 1);
		u64 at = rig_cfg_read(&f->r, off + 8, 4);

		if (rig_cfg_read(&f->r, off, 1) != PCI_CAP_VENDOR)
			continue;
		seen |= 1u << type;
		if (type < 5)
			assert_int_equal(rig_cfg_read(&f->r, off + 4, 1), 4);
		if (type == 4) {
			assert_int_equal(rig_cfg_read(&f->r, off + 12, 4), 20);
			assert_int_equal(bar_read(&f->r, at + 4, 4), 0x87868584);
		}
		if (type == 2)
			assert_int_equal(rig_cfg_read(&f->r, off + 16, 4), 4);
	}
	assert_int_equal(seen, 0x3e);
	fixture_free(f);
}

/* 4.1.4.9: the same registers through configuration space. */
static void window_in_configuration_space(void **state)
{
	struct fixture *f = fixture_new(false);
	unsigned cap = 0;

	(void)state;
	for (unsigned off = rig_cfg_read(&f->r, PCI_CAP_PTR, 1); off;
	     off = rig_cfg_read(&f->r, off + 1, 1))
		if (rig_cfg_read(&f->r, off, 1) == PCI_CAP_VENDOR &&
		    rig_cfg_read(&f->r, off + 3, 1) == 5)
			cap = off;
	assert_int_not_equal(cap, 0);
	rig_cfg_write(&f->r, cap + 4, 4, 1);
	rig_cfg_write(&f->r, cap + 8, VIRTIO_PCI_STATUS, 4);
	rig_cfg_write(&f->r, cap + 12, 1, 4);
	rig_cfg_write(&f->r, cap + 16, 3, 1);
	assert_int_equal(rig_status(&f->r), 3);
	assert_int_equal(rig_cfg_read(&f->r, cap + 16, 4), 3);
	rig_cfg_write(&f->r, cap + 8, VIRTIO_PCI_DEVICE, 4);
	rig_cfg_write(&f->r, cap + 12, 4, 4);
	assert_int_equal(rig_cfg_read(&f->r, cap + 16, 4), 0x83828180);
	/* What is not allowed does nothing. */
	rig_cfg_write(&f->r, cap + 12, 3, 4);
	rig_cfg_write(&f->r, cap + 16, 0, 4);
	rig_cfg_write(&f->r, cap + 12, 4, 4);
	rig_cfg_write(&f->r, cap + 8, VIRTIO_PCI_BAR_SIZE, 4);
	rig_cfg_write(&f->r, cap + 16, 0, 4);
	rig_cfg_write(&f->r, cap + 4, 0, 1);
	rig_cfg_read(&f->r, cap + 16, 4);
	assert_int_equal(rig_status(&f->r), 3);
	fixture_free(f);
}

static void features_must_be_offered(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	assert_true(rig_offered(&f->r) & BIT(3));
	rig_set_status(&f->r, 3);
	bar_write(&f->r, VIRTIO_PCI_GFSELECT, 1, 4);
	bar_write(&f->r, VIRTIO_PCI_GF, 1, 4); /* VERSION_1 */
	bar_write(&f->r, VIRTIO_PCI_GFSELECT, 0, 4);
	bar_write(&f->r, VIRTIO_PCI_GF, 0x10, 4);
	rig_set_status(&f->r, 11);
	assert_int_equal(rig_status(&f->r), 3);
	/* Nor is anything possible without version 1. */
	bar_write(&f->r, VIRTIO_PCI_GF, 8, 4);
	bar_write(&f->r, VIRTIO_PCI_GFSELECT, 1, 4);
	bar_write(&f->r, VIRTIO_PCI_GF, 0, 4);
	rig_set_status(&f->r, 11);
	assert_int_equal(rig_status(&f->r), 3);
	rig_set_status(&f->r, 15);
	assert_int_equal(rig_status(&f->r), 3);
	assert_int_equal(f->t.started, 0);
	bar_write(&f->r, VIRTIO_PCI_GF, 1, 4);
	rig_set_status(&f->r, 11);
	assert_int_equal(rig_status(&f->r), 11);
	/* Agreed on: they stay. */
	bar_write(&f->r, VIRTIO_PCI_GF, 0, 4);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_GF, 4), 1);
	rig_set_status(&f->r, 15);
	assert_int_equal(f->t.started, 1);
	fixture_free(f);
}

/* A driver that changes its mind cannot make a state that does not load. */
static void the_format_of_a_ring_in_use_stays(void **state)
{
	struct fixture *f = fixture_new(false);
	struct state_buf a = { 0 };

	(void)state;
	rig_set_status(&f->r, 3);
	drvq_init(&f->r, &f->q[0], 0, SIZE);
	bar_write(&f->r, VIRTIO_PCI_Q_SELECT, 1, 2);
	bar_write(&f->r, VIRTIO_PCI_Q_DESC, 0x110000, 8);
	bar_write(&f->r, VIRTIO_PCI_Q_DRIVER, 0x112002, 8);
	bar_write(&f->r, VIRTIO_PCI_Q_DEVICE, 0x114000, 8);
	bar_write(&f->r, VIRTIO_PCI_Q_ENABLE, 1, 2);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_ENABLE, 2), 1);
	bar_write(&f->r, VIRTIO_PCI_GFSELECT, 1, 4);
	bar_write(&f->r, VIRTIO_PCI_GF, 5, 4); /* version 1, packed */
	virtio_pci_save(f->r.p, &a);
	assert_int_equal(virtio_pci_load(f->r.p, &a, NULL), 0);
	state_buf_fini(&a);
	/* Nor can one that wants what does not exist. */
	rig_reset_device(&f->r);
	bar_write(&f->r, VIRTIO_PCI_GF, ~0u, 4);
	virtio_pci_save(f->r.p, &a);
	assert_int_equal(virtio_pci_load(f->r.p, &a, NULL), 0);
	state_buf_fini(&a);
	fixture_free(f);
}

static void a_queue_that_does_not_exist(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	rig_negotiate(&f->r, 0);
	bar_write(&f->r, VIRTIO_PCI_Q_SELECT, 2, 2);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_SIZE, 2), 0);
	bar_write(&f->r, VIRTIO_PCI_Q_ENABLE, 1, 2);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_ENABLE, 2), 0);
	rig_start(&f->r);
	rig_kick(&f->r, 2);
	rig_kick(&f->r, 1000);
	assert_int_equal(f->t.notified, 0);
	fixture_free(f);
}

static void a_queue_outside_memory_needs_reset(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	rig_msix(&f->r, 3);
	rig_negotiate(&f->r, 0);
	bar_write(&f->r, VIRTIO_PCI_CONFIG_VECTOR, 0, 2);
	rig_start(&f->r);
	bar_write(&f->r, VIRTIO_PCI_Q_SELECT, 0, 2);
	bar_write(&f->r, VIRTIO_PCI_Q_DESC, RAM_SIZE - 16, 8);
	bar_write(&f->r, VIRTIO_PCI_Q_ENABLE, 1, 2);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_ENABLE, 2), 0);
	assert_int_equal(rig_status(&f->r), 15 | VIRTIO_NEEDS_RESET);
	assert_int_equal(f->r.msis[0], 1);
	rig_reset_device(&f->r);
	assert_int_equal(rig_status(&f->r), 0);
	fixture_free(f);
}

static void generation_counts_changes_that_were_seen(void **state)
{
	struct fixture *f = fixture_new(false);
	u32 g;

	(void)state;
	fixture_start(f, 0);
	g = bar_read(&f->r, VIRTIO_PCI_GENERATION, 1);
	pthread_mutex_lock(&f->t.v.lock);
	virtio_config_changed(&f->t.v);
	pthread_mutex_unlock(&f->t.v.lock);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_GENERATION, 1), (u8)(g + 1));
	fixture_free(f);
}

static void device_configuration(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE, 1), 0x80);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 2, 2), 0x8382);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 16, 4), 0x93929190);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 20, 4), 0);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 0xffc, 4), 0);
	bar_write(&f->r, VIRTIO_PCI_DEVICE + 8, 0x1234, 2);
	assert_int_equal(f->t.written_off, 8);
	assert_int_equal(f->t.written, 0x1234);
	bar_write(&f->r, VIRTIO_PCI_DEVICE + 20, 1, 4);
	assert_int_equal(f->t.written_off, 8);
	fixture_free(f);
}

/* ---- interrupts ---- */

static void interrupts_by_msix(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	rig_msix(&f->r, 3);
	fixture_start(f, 0);
	drvq_add(&f->r, &f->q[1], &one, 1);
	rig_kick(&f->r, 1);
	assert_int_equal(f->r.msis[2], 1);
	assert_int_equal(f->r.msis[1], 0);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_ISR, 1), 0);
	/* A vector that does not exist reads back as none. */
	bar_write(&f->r, VIRTIO_PCI_Q_VECTOR, 3, 2);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_VECTOR, 2), 0xffff);
	drvq_add(&f->r, &f->q[1], &one, 1);
	rig_kick(&f->r, 1);
	assert_int_equal(f->r.msis[2], 1);
	fixture_free(f);
}

static void interrupts_by_pin(void **state)
{
	struct fixture *f = fixture_new(false);
	bool *pin = &f->r.level[3]; /* device 3, INTA */

	(void)state;
	fixture_start(f, 0);
	drvq_add(&f->r, &f->q[0], &one, 1);
	rig_kick(&f->r, 0);
	assert_true(*pin);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_ISR, 1), 1);
	assert_false(*pin);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_ISR, 1), 0);
	pthread_mutex_lock(&f->t.v.lock);
	virtio_config_changed(&f->t.v);
	pthread_mutex_unlock(&f->t.v.lock);
	assert_true(*pin);
	/* A reset takes it away. */
	rig_reset_device(&f->r);
	assert_false(*pin);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_ISR, 1), 0);
	fixture_free(f);
}

/* ---- reset ---- */

static void reset_waits_for_what_is_under_way(void **state)
{
	struct fixture *f = fixture_new(false);
	u16 id;
	u32 len;

	(void)state;
	fixture_start(f, 0);
	f->t.hold = true;
	drvq_add(&f->r, &f->q[0], &one, 1);
	pthread_mutex_lock(&f->t.v.lock);
	assert_true(virtio_pop(&f->t.v, 0, &f->t.chain));
	virtio_get(&f->t.v, 0);
	pthread_mutex_unlock(&f->t.v.lock);
	rig_reset_device(&f->r);
	assert_int_not_equal(rig_status(&f->r), 0);
	/* Nothing is taken or heard meanwhile. */
	rig_set_status(&f->r, 1);
	rig_kick(&f->r, 0);
	bar_write(&f->r, VIRTIO_PCI_Q_SELECT, 1, 2);
	pthread_mutex_lock(&f->t.v.lock);
	virtio_push(&f->t.v, 0, &f->t.chain, 0);
	virtio_publish(&f->t.v, 0);
	virtio_put(&f->t.v, 0);
	pthread_mutex_unlock(&f->t.v.lock);
	assert_int_equal(rig_status(&f->r), 0);
	assert_false(drvq_used(&f->r, &f->q[0], &id, &len));
	/* And it can be used again. */
	f->t.hold = false;
	fixture_start(f, 0);
	drvq_add(&f->r, &f->q[0], &one, 1);
	rig_kick(&f->r, 0);
	assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
	fixture_free(f);
}

static void one_queue_is_reset(void **state)
{
	struct fixture *f = fixture_new(false);
	u16 id;
	u32 len;

	(void)state;
	fixture_start(f, BIT(VIRTIO_F_RING_RESET));
	f->t.hold = true;
	drvq_add(&f->r, &f->q[0], &one, 1);
	pthread_mutex_lock(&f->t.v.lock);
	assert_true(virtio_pop(&f->t.v, 0, &f->t.chain));
	virtio_get(&f->t.v, 0);
	pthread_mutex_unlock(&f->t.v.lock);
	bar_write(&f->r, VIRTIO_PCI_Q_SELECT, 0, 2);
	bar_write(&f->r, VIRTIO_PCI_Q_RESET, 1, 2);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_RESET, 2), 1);
	f->t.hold = false;
	/* The other one goes on. */
	drvq_add(&f->r, &f->q[1], &one, 1);
	rig_kick(&f->r, 1);
	assert_true(drvq_used(&f->r, &f->q[1], &id, &len));
	pthread_mutex_lock(&f->t.v.lock);
	virtio_push(&f->t.v, 0, &f->t.chain, 0);
	virtio_put(&f->t.v, 0);
	pthread_mutex_unlock(&f->t.v.lock);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_RESET, 2), 0);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_Q_ENABLE, 2), 0);
	drvq_init(&f->r, &f->q[0], 0, 4);
	drvq_add(&f->r, &f->q[0], &one, 1);
	rig_kick(&f->r, 0);
	assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
	fixture_free(f);
}

static void a_broken_ring_needs_reset(void **state)
{
	const struct seg bad = { RAM_SIZE, 16, true };
	struct fixture *f = fixture_new(false);
	unsigned n;

	(void)state;
	fixture_start(f, 0);
	drvq_add(&f->r, &f->q[0], &bad, 1);
	rig_kick(&f->r, 0);
	assert_true(rig_status(&f->r) & VIRTIO_NEEDS_RESET);
	n = f->t.notified;
	for (unsigned i = 0; i < 100; i++)
		rig_kick(&f->r, i & 1);
	assert_int_equal(f->t.notified, n);
	rig_reset_device(&f->r);
	fixture_start(f, 0);
	n = f->t.notified;
	drvq_add(&f->r, &f->q[0], &one, 1);
	rig_kick(&f->r, 0);
	assert_int_equal(f->t.notified, n + 1);
	fixture_free(f);
}

static void nothing_moves_while_paused(void **state)
{
	struct fixture *f = fixture_new(false);
	u16 id;
	u32 len;

	(void)state;
	fixture_start(f, 0);
	virtio_pause(&f->t.v);
	drvq_add(&f->r, &f->q[0], &one, 1);
	rig_kick(&f->r, 0);
	assert_false(drvq_used(&f->r, &f->q[0], &id, &len));
	virtio_resume(&f->t.v);
	assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
	fixture_free(f);
}

/* ---- legacy ---- */

static u32 port_read(struct fixture *f, unsigned off, unsigned size)
{
	return (u32)io_ports_read(f->r.ports, (u16)(BAR_IO + off), size);
}

static void port_write(struct fixture *f, unsigned off, u32 val, unsigned size)
{
	io_ports_write(f->r.ports, (u16)(BAR_IO + off), val, size);
}

/* As Linux did it before version 1. */
/* Without FEATURES_OK what an old driver has chosen stays once it has begun. */
static void legacy_features_stay(void **state)
{
	struct fixture *f = fixture_new(true);

	(void)state;
	port_write(f, VIRTIO_LEGACY_STATUS, 3, 1);
	port_write(f, VIRTIO_LEGACY_GF, 8, 4);
	port_write(f, VIRTIO_LEGACY_STATUS, 7, 1);
	port_write(f, VIRTIO_LEGACY_GF, UINT32_MAX, 4);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_GF, 4), 8);
	port_write(f, VIRTIO_LEGACY_STATUS, 0, 1);
	port_write(f, VIRTIO_LEGACY_GF, 0, 4);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_GF, 4), 0);
	fixture_free(f);
}

static void legacy_driver(void **state)
{
	struct fixture *f = fixture_new(true);
	struct drvq *q = &f->q[0];
	u16 id;
	u32 len;

	(void)state;
	assert_int_equal(rig_cfg_read(&f->r, PCI_VENDOR, 4), 0x10051af4);
	assert_int_equal(rig_cfg_read(&f->r, PCI_REVISION, 1), 0);
	assert_int_equal(rig_cfg_read(&f->r, PCI_SUBSYS_DEVICE, 2), VIRTIO_ID_RNG);
	port_write(f, VIRTIO_LEGACY_STATUS, 0, 1);
	port_write(f, VIRTIO_LEGACY_STATUS, 1, 1);
	port_write(f, VIRTIO_LEGACY_STATUS, 3, 1);
	assert_true(port_read(f, VIRTIO_LEGACY_DF, 4) & 8);
	port_write(f, VIRTIO_LEGACY_GF, 8, 4);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_GF, 4), 8);
	assert_int_equal(port_read(f, 20, 4), 0x83828180);
	port_write(f, VIRTIO_LEGACY_Q_SELECT, 0, 2);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_Q_SIZE, 2), SIZE);
	memset(ram(&f->r, 0x100000), 0, 0x3000);
	*q = (struct drvq){ .size = SIZE,
			    .desc = 0x100000,
			    .driver = 0x100000 + 16 * SIZE,
			    .device = 0x101000 };
	port_write(f, VIRTIO_LEGACY_Q_PFN, 0x100, 4);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_Q_PFN, 4), 0x100);
	port_write(f, VIRTIO_LEGACY_STATUS, 7, 1);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_STATUS, 1), 7);
	drvq_add(&f->r, q, &one, 1);
	port_write(f, VIRTIO_LEGACY_Q_NOTIFY, 0, 2);
	assert_true(drvq_used(&f->r, q, &id, &len));
	assert_true(f->r.level[3]);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_ISR, 1), 1);
	assert_false(f->r.level[3]);
	port_write(f, VIRTIO_LEGACY_STATUS, 0, 1);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_STATUS, 1), 0);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_Q_PFN, 4), 0);
	/* A modern driver finds the same device. */
	fixture_start(f, 0);
	assert_int_equal(rig_status(&f->r), 15);
	fixture_free(f);
}

/* Features by the new registers, the rest by the old ones. */
static void both_interfaces_mixed(void **state)
{
	struct fixture *f = fixture_new(true);

	(void)state;
	bar_write(&f->r, VIRTIO_PCI_GF, ~0u, 4);
	port_write(f, VIRTIO_LEGACY_STATUS, 7, 1);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_STATUS, 1), 3);
	port_write(f, VIRTIO_LEGACY_GF, ~0u, 4);
	port_write(f, VIRTIO_LEGACY_STATUS, 7, 1);
	assert_int_equal(port_read(f, VIRTIO_LEGACY_STATUS, 1), 7);
	fixture_free(f);
}

/* ---- state ---- */

static void save(struct fixture *f, struct state_buf *b)
{
	virtio_pci_save(f->r.p, b);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new(true);
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };
	u16 id;
	u32 len;

	(void)state;
	rig_msix(&f->r, 3);
	fixture_start(f, BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED));
	for (unsigned i = 0; i < 5; i++) {
		drvq_add(&f->r, &f->q[0], &one, 1);
		rig_kick(&f->r, 0);
		assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
	}
	save(f, &a);
	virtio_pci_reset(f->r.p);
	assert_int_equal(rig_status(&f->r), 0xff); /* its window has gone */
	assert_int_equal(virtio_pci_load(f->r.p, &a, &err), 0);
	save(f, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	/* It goes on where it was. */
	assert_int_equal(rig_status(&f->r), 15);
	f->r.msis[1] = 0;
	drvq_want_next(&f->r, &f->q[0]);
	drvq_add(&f->r, &f->q[0], &one, 1);
	rig_kick(&f->r, 0);
	assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
	assert_int_equal(f->r.msis[1], 1);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

/* Whatever is in the stream: refused, or a device that can be reset. */
static void damaged_state_is_survived(void **state)
{
	struct fixture *f = fixture_new(true);
	struct state_buf a = { 0 };

	(void)state;
	fixture_start(f, 0);
	save(f, &a);
	for (size_t i = 0; i < a.len; i++) {
		struct state_buf b = { .data = malloc(a.len),
				       .len = a.len,
				       .cap = a.len };

		memcpy(b.data, a.data, a.len);
		b.data[i] ^= 0xff;
		(void)!virtio_pci_load(f->r.p, &b, NULL);
		rig_place(&f->r);
		rig_kick(&f->r, 0);
		state_buf_fini(&b);
	}
	virtio_pci_reset(f->r.p);
	rig_place(&f->r);
	fixture_start(f, 0);
	state_buf_fini(&a);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capabilities_lead_to_the_structures),
		cmocka_unit_test(window_in_configuration_space),
		cmocka_unit_test(features_must_be_offered),
		cmocka_unit_test(the_format_of_a_ring_in_use_stays),
		cmocka_unit_test(a_queue_that_does_not_exist),
		cmocka_unit_test(a_queue_outside_memory_needs_reset),
		cmocka_unit_test(generation_counts_changes_that_were_seen),
		cmocka_unit_test(device_configuration),
		cmocka_unit_test(interrupts_by_msix),
		cmocka_unit_test(interrupts_by_pin),
		cmocka_unit_test(reset_waits_for_what_is_under_way),
		cmocka_unit_test(one_queue_is_reset),
		cmocka_unit_test(a_broken_ring_needs_reset),
		cmocka_unit_test(nothing_moves_while_paused),
		cmocka_unit_test(legacy_features_stay),
		cmocka_unit_test(legacy_driver),
		cmocka_unit_test(both_interfaces_mixed),
		cmocka_unit_test(state_comes_back),
		cmocka_unit_test(damaged_state_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
