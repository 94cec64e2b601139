/* MSI and MSI-X. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bits.h"
#include "pci/host.h"
#include "pci/msix.h"

#define DEV     PCI_DEVFN(3, 0)
#define VECTORS 70

struct rig {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *h;
	struct pci_dev *dev;
	struct msi *msi;
	struct msix *msix;
	unsigned sent;
	u64 addr;
	u32 data;
	unsigned cap_msi, cap_msix;
};

static void got(void *opaque, u64 addr, u32 data)
{
	struct rig *r = opaque;

	r->sent++;
	r->addr = addr;
	r->data = data;
}

static void config_written(void *opaque, unsigned off, unsigned size)
{
	struct rig *r = opaque;

	if (r->msi)
		msi_config_written(r->msi, off, size);
	if (r->msix)
		msix_config_written(r->msix, off, size);
}

static void rig_init(struct rig *r)
{
	struct pci_host_args args = { .intx_count = 4 };
	struct pci_desc d = { .name = "thing",
			      .vendor = 1,
			      .device = 2,
			      .pin = 1,
			      .config_written = config_written,
			      .opaque = r };
	struct msi_sink sink = { .send = got, .opaque = r };

	*r = (struct rig){ 0 };
	args.phys = r->phys = phys_new();
	args.ports = r->ports = io_ports_new();
	r->h = pci_host_new(&args, NULL);
	r->dev = pci_add(r->h, DEV, &d, NULL);
	assert_non_null(r->dev);
	r->msi = msi_new(r->dev, 8, sink, NULL);
	r->msix = msix_new(r->dev, VECTORS, 1, 0, msix_bar_pba_off(VECTORS), sink, NULL);
	assert_non_null(r->msi);
	assert_non_null(r->msix);
	pci_set_bar(r->dev, 1, PCI_BAR_MEM32, msix_bar_size(VECTORS), false,
		    &msix_bar_ops, r->msix);
	r->cap_msi = pci_config_get(r->dev, PCI_CAP_PTR, 1);
	r->cap_msix = pci_config_get(r->dev, r->cap_msi + 1, 1);
	pci_host_config_write(r->h, DEV, PCI_BAR0 + 4, 0xd0000000, 4);
	pci_host_config_write(r->h, DEV, PCI_COMMAND,
			      PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 2);
}

static void rig_fini(struct rig *r)
{
	msi_free(r->msi);
	msix_free(r->msix);
	r->msi = NULL;
	r->msix = NULL;
	pci_remove(r->dev);
	pci_host_free(r->h);
	io_ports_free(r->ports);
	phys_free(r->phys);
}

static void cfg(struct rig *r, unsigned off, u32 v, unsigned size)
{
	pci_host_config_write(r->h, DEV, off, v, size);
}

static u32 cfg_read(struct rig *r, unsigned off, unsigned size)
{
	return pci_host_config_read(r->h, DEV, off, size);
}

static gpa_t entry(unsigned vector)
{
	return 0xd0000000 + 16 * vector;
}

static void set_entry(struct rig *r, unsigned vector, u64 addr, u32 data, u32 ctrl)
{
	phys_store(r->phys, entry(vector), addr, 8);
	phys_store(r->phys, entry(vector) + 8, data, 4);
	phys_store(r->phys, entry(vector) + 12, ctrl, 4);
}

static u64 pending(struct rig *r, unsigned word)
{
	return phys_load(r->phys, 0xd0000000 + msix_bar_pba_off(VECTORS) + 8 * word, 8);
}

static void msi_capability_tells_what_it_can(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(cfg_read(&r, r.cap_msi, 1), 0x05);
	assert_int_equal(cfg_read(&r, r.cap_msi + 2, 2), 0x0086);
	cfg(&r, r.cap_msi + 2, 0xffff, 2);
	assert_int_equal(cfg_read(&r, r.cap_msi + 2, 2), 0x00f7);
	cfg(&r, r.cap_msi + 4, 0xffffffff, 4);
	assert_int_equal(cfg_read(&r, r.cap_msi + 4, 4), 0xfffffffc);
	rig_fini(&r);
}

static void msi_sends_with_the_vector_in_the_low_bits(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_false(msi_notify(r.msi, 0));
	assert_int_equal(r.sent, 0);
	cfg(&r, r.cap_msi + 4, 0xfee01000, 4);
	cfg(&r, r.cap_msi + 8, 0x1, 4);
	cfg(&r, r.cap_msi + 12, 0x4123, 2);
	cfg(&r, r.cap_msi + 2, 0x0021, 2); /* on, 4 vectors */
	assert_true(msi_enabled(r.msi));
	assert_true(msi_notify(r.msi, 2));
	assert_int_equal(r.sent, 1);
	assert_int_equal(r.addr, UINT64_C(0x1fee01000));
	assert_int_equal(r.data, 0x4122);
	assert_true(msi_notify(r.msi, 5)); /* beyond: wraps round */
	assert_int_equal(r.data, 0x4121);
	cfg(&r, r.cap_msi + 2, 0x0071, 2); /* reserved: all it has */
	assert_true(msi_notify(r.msi, 7));
	assert_int_equal(r.data, 0x4127);
	cfg(&r, r.cap_msi + 2, 0, 2);
	assert_false(msi_notify(r.msi, 0));
	rig_fini(&r);
}

static void nothing_is_sent_without_bus_master(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	cfg(&r, r.cap_msi + 2, 1, 2);
	cfg(&r, PCI_COMMAND, PCI_COMMAND_MEM, 2);
	assert_true(msi_notify(r.msi, 0));
	assert_int_equal(r.sent, 0);
	rig_fini(&r);
}

static void msix_capability_tells_table_and_bits(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(cfg_read(&r, r.cap_msix, 1), 0x11);
	assert_int_equal(cfg_read(&r, r.cap_msix + 2, 2), VECTORS - 1);
	assert_int_equal(cfg_read(&r, r.cap_msix + 4, 4), 1);
	assert_int_equal(cfg_read(&r, r.cap_msix + 8, 4), 2048 | 1);
	assert_int_equal(msix_bar_size(VECTORS), 4096);
	assert_int_equal(msix_bar_size(2048), 65536);
	cfg(&r, r.cap_msix + 2, 0xffff, 2);
	assert_int_equal(cfg_read(&r, r.cap_msix + 2, 2), 0xc000 | (VECTORS - 1));
	rig_fini(&r);
}

static void msix_table_starts_masked(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	for (unsigned i = 0; i < VECTORS; i++) {
		assert_int_equal(phys_load(r.phys, entry(i), 8), 0);
		assert_int_equal(phys_load(r.phys, entry(i) + 8, 8),
				 UINT64_C(0x100000000));
	}
	assert_int_equal(phys_load(r.phys, entry(VECTORS), 8), 0);
	rig_fini(&r);
}

static void msix_sends_what_the_table_says(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	set_entry(&r, 69, UINT64_C(0x2fee00003), 0x1234567, 0xfffffffe);
	assert_false(msix_notify(r.msix, 69));
	cfg(&r, r.cap_msix + 2, 0x8000, 2);
	assert_true(msix_enabled(r.msix));
	assert_true(msix_notify(r.msix, 69));
	assert_int_equal(r.sent, 1);
	assert_int_equal(r.addr, UINT64_C(0x2fee00000));
	assert_int_equal(r.data, 0x1234567);
	assert_int_equal(phys_load(r.phys, entry(69) + 12, 4), 0);
	assert_true(msix_notify(r.msix, VECTORS)); /* does not exist */
	assert_true(msix_notify(r.msix, ~0u));
	assert_int_equal(r.sent, 1);
	rig_fini(&r);
}

static void msix_masked_vector_is_pending_until_unmasked(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	cfg(&r, r.cap_msix + 2, 0x8000, 2);
	set_entry(&r, 65, 0xfee00000, 65, 1);
	assert_true(msix_notify(r.msix, 65));
	assert_true(msix_notify(r.msix, 65));
	assert_int_equal(r.sent, 0);
	assert_int_equal(pending(&r, 1), 2);
	phys_store(r.phys, entry(65) + 12, 0, 4);
	assert_int_equal(r.sent, 1);
	assert_int_equal(r.data, 65);
	assert_int_equal(pending(&r, 1), 0);
	phys_store(r.phys, entry(65) + 12, 0, 4);
	assert_int_equal(r.sent, 1);
	rig_fini(&r);
}

static void msix_function_mask_holds_all(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	set_entry(&r, 0, 0xfee00000, 10, 0);
	set_entry(&r, 1, 0xfee00000, 11, 0);
	set_entry(&r, 2, 0xfee00000, 12, 1);
	cfg(&r, r.cap_msix + 2, 0xc000, 2);
	msix_notify(r.msix, 0);
	msix_notify(r.msix, 1);
	msix_notify(r.msix, 2);
	assert_int_equal(r.sent, 0);
	assert_int_equal(pending(&r, 0), 7);
	cfg(&r, r.cap_msix + 2, 0x8000, 2);
	assert_int_equal(r.sent, 2);
	assert_int_equal(r.data, 11);
	assert_int_equal(pending(&r, 0), 4);
	rig_fini(&r);
}

static void msix_pending_bits_are_read_only(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	phys_store(r.phys, 0xd0000000 + 2048, UINT64_MAX, 8);
	assert_int_equal(pending(&r, 0), 0);
	/* Nothing behind them either. */
	assert_int_equal(phys_load(r.phys, 0xd0000000 + 2048 + 16, 8), 0);
	phys_store(r.phys, 0xd0000000 + 4088, UINT64_MAX, 8);
	/* Bytes and words are not for tables. */
	assert_int_equal(phys_load(r.phys, 0xd0000000, 2), 0xffff);
	rig_fini(&r);
}

static void msix_reset_masks_and_forgets(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	cfg(&r, r.cap_msix + 2, 0x8000, 2);
	msix_notify(r.msix, 3);
	set_entry(&r, 4, 0xfee00000, 4, 0);
	pci_reset(r.dev);
	msix_reset(r.msix);
	assert_false(msix_enabled(r.msix));
	assert_false(msi_enabled(r.msi));
	cfg(&r, PCI_BAR0 + 4, 0xd0000000, 4);
	cfg(&r, PCI_COMMAND, PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 2);
	assert_int_equal(pending(&r, 0), 0);
	assert_int_equal(phys_load(r.phys, entry(4) + 12, 4), 1);
	rig_fini(&r);
}

static void msi_without_room_is_an_error(void **state)
{
	struct rig r;
	struct msi_sink sink = { 0 };
	struct error err = { 0 };

	(void)state;
	rig_init(&r);
	assert_true(pci_add_cap(r.dev, PCI_CAP_VENDOR, 0x90) > 0);
	while (pci_add_cap(r.dev, PCI_CAP_VENDOR, 4) > 0)
		;
	assert_null(msi_new(r.dev, 1, sink, &err));
	assert_true(err.msg[0]);
	assert_null(msix_new(r.dev, 1, 0, 0, 16, sink, &err));
	rig_fini(&r);
}

static void msix_table_covers_the_state(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(state_covered(msix_desc(r.msix)), msix_desc(r.msix)->size);
	assert_int_equal(msix_desc(r.msix)->size, 16 * VECTORS + 16);
	rig_fini(&r);
}

static void msix_save_load_save_is_identical(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 }, y = { 0 };

	(void)state;
	rig_init(&a);
	rig_init(&b);
	cfg(&a, a.cap_msix + 2, 0x8000, 2);
	set_entry(&a, 1, 0xfee00000, 11, 0);
	set_entry(&a, 2, 0xfee00000, 22, 1);
	msix_notify(a.msix, 2);
	pci_save(a.dev, &x);
	msix_save(a.msix, &x);
	assert_int_equal(pci_load(b.dev, &x, NULL), 0);
	assert_int_equal(msix_load(b.msix, &x, NULL), 0);
	pci_save(b.dev, &y);
	msix_save(b.msix, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	assert_true(msix_notify(b.msix, 1));
	assert_int_equal(b.data, 11);
	phys_store(b.phys, entry(2) + 12, 0, 4);
	assert_int_equal(b.data, 22);
	state_buf_fini(&x);
	state_buf_fini(&y);
	rig_fini(&a);
	rig_fini(&b);
}

static void msix_hostile_state_is_refused_or_harmless(void **state)
{
	struct rig r;
	struct state_buf x = { 0 };

	(void)state;
	rig_init(&r);
	cfg(&r, r.cap_msix + 2, 0x8000, 2);
	msix_save(r.msix, &x);
	for (size_t bit = 0; bit < 8 * x.len; bit++) {
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
		x.pos = 0;
		(void)!msix_load(r.msix, &x, NULL);
		msix_notify(r.msix, (unsigned)bit % VECTORS);
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
	}
	x.len /= 2;
	x.pos = 0;
	assert_int_equal(msix_load(r.msix, &x, NULL), -EINVAL);
	state_buf_fini(&x);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(msi_capability_tells_what_it_can),
		cmocka_unit_test(msi_sends_with_the_vector_in_the_low_bits),
		cmocka_unit_test(nothing_is_sent_without_bus_master),
		cmocka_unit_test(msix_capability_tells_table_and_bits),
		cmocka_unit_test(msix_table_starts_masked),
		cmocka_unit_test(msix_sends_what_the_table_says),
		cmocka_unit_test(msix_masked_vector_is_pending_until_unmasked),
		cmocka_unit_test(msix_function_mask_holds_all),
		cmocka_unit_test(msix_pending_bits_are_read_only),
		cmocka_unit_test(msix_reset_masks_and_forgets),
		cmocka_unit_test(msi_without_room_is_an_error),
		cmocka_unit_test(msix_table_covers_the_state),
		cmocka_unit_test(msix_save_load_save_is_identical),
		cmocka_unit_test(msix_hostile_state_is_refused_or_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
