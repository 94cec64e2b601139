/* The e1000, with a datagram socket as the cable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "dev/e1000_regs.h"
#include "net/offload.h"
#include "pci/host.h"

#define RAM_SIZE MiB(4)
#define BAR      UINT64_C(0xd0000000)
#define PORTS    0x2000u
#define DEVFN    PCI_DEVFN(3, 0)
#define TX_RING  0x10000u
#define RX_RING  0x20000u
#define TX_DATA  0x100000u
#define RX_DATA  0x200000u
#define COUNT    8u /* descriptors */

struct fixture {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *host;
	struct net *net;
	struct e1000 *d;
	int wire;
	unsigned tail;
};

static const u8 mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

static void line(void *chip, unsigned pin, bool level)
{
	(void)chip;
	(void)pin;
	(void)level;
}

static u8 *ram(struct fixture *f, u64 gpa)
{
	return (u8 *)phys_host(f->phys, 0, RAM_SIZE, true) + gpa;
}

static u32 rd(struct fixture *f, u64 off)
{
	return (u32)phys_load(f->phys, BAR + off, 4);
}

static void wr(struct fixture *f, u64 off, u64 val)
{
	phys_store(f->phys, BAR + off, val, 4);
}

static void place(struct fixture *f)
{
	pci_host_config_write(f->host, DEVFN, PCI_BAR0, (u32)BAR, 4);
	pci_host_config_write(f->host, DEVFN, PCI_BAR0 + 4, PORTS, 4);
	pci_host_config_write(f->host, DEVFN, PCI_COMMAND, 7, 2);
}

static void start(struct fixture *f)
{
	memset(ram(f, TX_RING), 0, 16 * COUNT);
	memset(ram(f, RX_RING), 0, 16 * COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		le_store(ram(f, RX_RING + 16 * i), RX_DATA + 0x1000 * i, 8);
	wr(f, E_TDBAL, TX_RING);
	wr(f, E_TDLEN, 16 * COUNT);
	wr(f, E_RDBAL, RX_RING);
	wr(f, E_RDLEN, 16 * COUNT);
	wr(f, E_TCTL, TCTL_EN);
	wr(f, E_RCTL, RCTL_EN | RCTL_BAM);
	f->tail = 0;
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct pci_host_args args = { .intx_count = 8 };
	struct net_config nc = { .kind = NET_DGRAM, .id = "n0" };
	struct e1000_setup cfg = { 0 };
	int fd[2];

	args.phys = f->phys = phys_new();
	args.ports = f->ports = io_ports_new();
	assert_int_equal(phys_add_ram(f->phys, "ram", 0, RAM_SIZE, NULL), 0);
	for (unsigned i = 0; i < 8; i++)
		args.intx[i] = (struct irq_line){ line, f, i };
	f->host = pci_host_new(&args, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fd), 0);
	f->wire = fd[0];
	nc.fd = fd[1];
	assert_int_equal(net_open(&f->net, &nc, NULL), 0);
	cfg.net = f->net;
	memcpy(cfg.mac, mac, 6);
	f->d = e1000_new(&cfg, f->phys, f->host, DEVFN, NULL);
	assert_non_null(f->d);
	place(f);
	e1000_resume(f->d);
	start(f);
	return f;
}

static void fixture_free(struct fixture *f)
{
	e1000_pause(f->d);
	e1000_free(f->d);
	net_close(f->net);
	close(f->wire);
	pci_host_free(f->host);
	io_ports_free(f->ports);
	phys_free(f->phys);
	free(f);
}

static ssize_t wire_read(struct fixture *f, u8 *buf, size_t size, int ms)
{
	struct pollfd p = { .fd = f->wire, .events = POLLIN };

	return poll(&p, 1, ms) == 1 ? recv(f->wire, buf, size, 0) : -1;
}

static void fill_frame(u8 *p, u32 len, const u8 *to)
{
	memset(p, 0, len);
	memcpy(p, to, 6);
	p[6] = 2;
	p[12] = 0x88;
	p[13] = 0xb5;
	for (u32 i = 14; i < len; i++)
		p[i] = (u8)i;
}

static void put_tx(struct fixture *f, u64 addr, u32 lower, u32 upper)
{
	u8 *e = ram(f, TX_RING + 16 * f->tail);

	le_store(e, addr, 8);
	le_store(e + 8, lower, 4);
	le_store(e + 12, upper, 4);
	f->tail = (f->tail + 1) % COUNT;
}

static void ring_tx(struct fixture *f)
{
	wr(f, E_TDT, f->tail);
}

/* Wait up to two seconds for the status of a descriptor. */
static u8 wait_status(struct fixture *f, u64 at)
{
	for (unsigned i = 0; i < 2000; i++) {
		if (__atomic_load_n(ram(f, at + 12), __ATOMIC_ACQUIRE) & 1)
			return *ram(f, at + 12);
		usleep(1000);
	}
	return 0;
}

#define EOP (1u << 24)
#define RS  (8u << 24)

static void frames_are_sent(void **state)
{
	struct fixture *f = fixture_new();
	u8 buf[2048];

	(void)state;
	wr(f, E_IMS, ~0u);
	fill_frame(ram(f, TX_DATA), 200, mac);
	put_tx(f, TX_DATA, 100, 0);
	put_tx(f, TX_DATA + 100, 100 | EOP | RS, 0);
	ring_tx(f);
	assert_int_equal(wire_read(f, buf, sizeof(buf), 2000), 200);
	assert_memory_equal(buf, ram(f, TX_DATA), 200);
	assert_int_equal(wait_status(f, TX_RING + 16), 1);
	for (unsigned i = 0; i < 2000 && !(rd(f, E_TDH) == 2); i++)
		usleep(1000);
	assert_int_equal(rd(f, E_GPTC), 1);
	assert_int_equal(rd(f, E_GPTC), 0);
	fixture_free(f);
}

static void frames_are_received_and_filtered(void **state)
{
	static const u8 other[6] = { 0x52, 0x54, 0, 9, 9, 9 },
			all[6] = { 255, 255, 255, 255, 255, 255 };
	struct fixture *f = fixture_new();
	u8 frame[300];

	(void)state;
	fill_frame(frame, 300, other);
	assert_int_equal(send(f->wire, frame, 300, 0), 300);
	fill_frame(frame, 300, mac);
	assert_int_equal(send(f->wire, frame, 300, 0), 300);
	/* It waits for buffers. */
	usleep(20000);
	wr(f, E_RDT, COUNT - 1);
	assert_int_equal(wait_status(f, RX_RING), 7);
	assert_int_equal(le_load(ram(f, RX_RING + 8), 2), 304);
	assert_memory_equal(ram(f, RX_DATA), frame, 300);
	fill_frame(frame, 40, all);
	assert_int_equal(send(f->wire, frame, 40, 0), 40);
	assert_int_equal(wait_status(f, RX_RING + 16), 7);
	assert_int_equal(le_load(ram(f, RX_RING + 24), 2), 64);
	assert_true(rd(f, E_ICR) & INT_RXT0);
	assert_int_equal(rd(f, E_ICR), 0);
	fixture_free(f);
}

/* A TCP frame of 3000 bytes as Linux leaves it: no lengths, no checksums. */
static void segments_are_cut(void **state)
{
	struct fixture *f = fixture_new();
	u8 *p = ram(f, TX_DATA), buf[2048];
	u32 seen = 0;

	(void)state;
	memset(p, 0, 3054);
	memcpy(p, mac, 6);
	p[12] = 8;
	p[14] = 0x45;
	p[22] = 64;
	p[23] = 6;
	memcpy(p + 26, "\x0a\0\0\1\x0a\0\0\2", 8);
	p[46] = 5 << 4;
	p[47] = 0x10;
	/* The pseudo-header without its length. */
	le_store(p + 50, __builtin_bswap16((u16)(0x0a00 + 1 + 0x0a00 + 2 + 6)), 2);
	put_tx(f,
	       14 | 24 << 8 | UINT64_C(33) << 16 | UINT64_C(34) << 32 |
		       UINT64_C(50) << 40,
	       3000 | (0x20u | 7) << 24, 54 << 8 | 1000u << 16);
	put_tx(f, TX_DATA, 3054 | 1 << 20 | (0x20u | 4 | 1 | 8) << 24, 3 << 8);
	ring_tx(f);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(wire_read(f, buf, sizeof(buf), 2000), 1054);
		assert_int_equal(buf[16] << 8 | buf[17], 1040);
		assert_int_equal(net_fold(net_sum(buf + 14, 20)), 0xffff);
		assert_int_equal(
			net_fold(net_sum(buf + 26, 1028) + __builtin_bswap16(6 + 1020)),
			0xffff);
		assert_int_equal((u32)buf[40] << 8 | buf[41], seen);
		seen += 1000;
	}
	fixture_free(f);
}

static void hostile_rings(void **state)
{
	struct fixture *f = fixture_new();
	u8 buf[2048];

	(void)state;
	/* Outside memory; no end; a context of nonsense. */
	put_tx(f, BAR, 100 | EOP | RS, 0);
	put_tx(f, TX_DATA, 0xffff, 0);
	put_tx(f, TX_DATA, 0xffff, 0);
	put_tx(f, TX_DATA, 0xffff | EOP | RS, 0);
	put_tx(f, ~UINT64_C(0), ~0u & ~(15u << 20), ~0u);
	put_tx(f, TX_DATA, 100 | 1 << 20 | (0x20u | 4 | 1 | 8) << 24, ~0u);
	ring_tx(f);
	assert_int_equal(wait_status(f, TX_RING), 1);
	assert_int_equal(wait_status(f, TX_RING + 48), 1);
	assert_true(wait_status(f, TX_RING + 80) & 1);
	assert_int_equal(wire_read(f, buf, sizeof(buf), 20), -1);
	wr(f, E_TDH, 0xffff);
	wr(f, E_TDT, 0xfff0);
	wr(f, E_TDLEN, 0);
	wr(f, E_TDBAH, ~0u);
	wr(f, E_RDLEN, 0);
	fill_frame(buf, 100, mac);
	assert_int_equal(send(f->wire, buf, 100, 0), 100);
	wr(f, E_RDT, 5);
	usleep(20000);
	/* After a reset it works. */
	wr(f, E_CTRL, 1 << 26);
	start(f);
	fill_frame(ram(f, TX_DATA), 100, mac);
	put_tx(f, TX_DATA, 100 | EOP | RS, 0);
	ring_tx(f);
	assert_int_equal(wire_read(f, buf, sizeof(buf), 2000), 100);
	fixture_free(f);
}

/* 93C46: start, read, six bits of address, then 16 bits. */
static u16 ee_read(struct fixture *f, unsigned word)
{
	u32 in = 6 << 6 | word;
	u16 out = 0;

	wr(f, E_EECD, 0);
	wr(f, E_EECD, 2);
	for (unsigned i = 9; i-- > 0;) {
		u32 di = in >> i & 1 ? 4 : 0;

		wr(f, E_EECD, 2 | di);
		wr(f, E_EECD, 3 | di);
		wr(f, E_EECD, 2 | di);
	}
	for (unsigned i = 0; i < 16; i++) {
		wr(f, E_EECD, 3);
		out = (u16)(out << 1 | (rd(f, E_EECD) >> 3 & 1));
		wr(f, E_EECD, 2);
	}
	return out;
}

static void eeprom_and_phy(void **state)
{
	struct fixture *f = fixture_new();
	u16 sum = 0;

	(void)state;
	assert_int_equal(ee_read(f, 0), 0x5452);
	for (unsigned i = 0; i < 64; i++) {
		sum = (u16)(sum + ee_read(f, i));
		wr(f, E_EERD, 1 | i << 8);
		assert_int_equal(rd(f, E_EERD) >> 16, ee_read(f, i));
	}
	assert_int_equal(sum, 0xbaba);
	wr(f, E_MDIC, 2 << 26 | 1 << 21 | 2 << 16);
	assert_int_equal(rd(f, E_MDIC) & 0xffff, 0x141);
	wr(f, E_MDIC, 2 << 26 | 2 << 21 | 2 << 16);
	assert_true(rd(f, E_MDIC) & BIT(30));
	/* By ports. */
	io_ports_write(f->ports, PORTS, E_STATUS, 4);
	assert_int_equal(io_ports_read(f->ports, PORTS + 4, 4), 0x83);
	io_ports_write(f->ports, PORTS, ~0u, 4);
	assert_int_equal(io_ports_read(f->ports, PORTS + 4, 4), 0);
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new();
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };
	u8 buf[200];

	(void)state;
	assert_int_equal(state_covered(&e1000_desc), e1000_desc.size);
	e1000_pause(f->d);
	fill_frame(ram(f, TX_DATA), 100, mac);
	put_tx(f, TX_DATA, 100 | EOP | RS, 0);
	ring_tx(f);
	e1000_save(f->d, &a);
	e1000_reset(f->d);
	assert_int_equal(e1000_load(f->d, &a, &err), 0);
	e1000_save(f->d, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	place(f);
	assert_int_equal(wire_read(f, buf, sizeof(buf), 20), -1);
	e1000_resume(f->d);
	assert_int_equal(wire_read(f, buf, sizeof(buf), 2000), 100);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_are_sent),
		cmocka_unit_test(frames_are_received_and_filtered),
		cmocka_unit_test(segments_are_cut),
		cmocka_unit_test(hostile_rings),
		cmocka_unit_test(eeprom_and_phy),
		cmocka_unit_test(state_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
