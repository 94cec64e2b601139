/*
 * The commands of a SATA disk.
 *
 * ATA/ATAPI Command Set 3 (ACS-3): identify, reads and writes by PIO, DMA and queued
 * (NCQ), flush, TRIM, log 10h, features for the write cache. Sectors have 512 bytes.
 * Deliberately missing: SMART, security, power management beyond acceptance, streaming,
 * other logs, host protected area.
 *
 * Lock: that of the adapter.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/ahci_port.h"

enum {
	CMD_DSM = 0x06,
	CMD_READ = 0x20,
	CMD_READ_EXT = 0x24,
	CMD_READ_DMA_EXT = 0x25,
	CMD_READ_MULTIPLE_EXT = 0x29,
	CMD_READ_LOG_EXT = 0x2f,
	CMD_WRITE = 0x30,
	CMD_WRITE_EXT = 0x34,
	CMD_WRITE_DMA_EXT = 0x35,
	CMD_WRITE_MULTIPLE_EXT = 0x39,
	CMD_WRITE_DMA_FUA_EXT = 0x3d,
	CMD_VERIFY = 0x40,
	CMD_VERIFY_EXT = 0x42,
	CMD_READ_LOG_DMA_EXT = 0x47,
	CMD_READ_FPDMA = 0x60,
	CMD_WRITE_FPDMA = 0x61,
	CMD_INIT_PARAMETERS = 0x91,
	CMD_READ_MULTIPLE = 0xc4,
	CMD_WRITE_MULTIPLE = 0xc5,
	CMD_SET_MULTIPLE = 0xc6,
	CMD_READ_DMA = 0xc8,
	CMD_WRITE_DMA = 0xca,
	CMD_WRITE_MULTIPLE_FUA_EXT = 0xce,
	CMD_STANDBY_NOW = 0xe0,
	CMD_IDLE_NOW = 0xe1,
	CMD_STANDBY = 0xe2,
	CMD_IDLE = 0xe3,
	CMD_CHECK_POWER = 0xe5,
	CMD_FLUSH = 0xe7,
	CMD_FLUSH_EXT = 0xea,
	CMD_IDENTIFY = 0xec,
	CMD_SET_FEATURES = 0xef,
};

enum { LOG_DIRECTORY = 0x00, LOG_NCQ_ERROR = 0x10 };

#define QUEUE_DEPTH AHCI_SLOTS
#define TRIM_BLOCKS 8u /* of 64 ranges each, in one command */
#define DEVICE_LBA  0x40
#define DEVICE_FUA  0x80

static u64 sectors(const struct ahci_port *p)
{
	/* 48 bits of address. */
	return MIN(block_size(p->block) / BLOCK_SECTOR, BIT(48) - 1);
}

void ata_reset(struct ahci_port *p)
{
	p->s.error_valid = 0;
	p->s.srst = 0;
}

bool ata_is_ncq(u8 command)
{
	return command == CMD_READ_FPDMA || command == CMD_WRITE_FPDMA;
}

/* ---- identify, 7.12 ---- */

/* Two letters a word, the first one high. */
static void text(u16 *w, const char *s, size_t words)
{
	size_t n = strnlen(s, 2 * words);

	for (size_t i = 0; i < 2 * words; i++) {
		u8 c = i < n ? (u8)s[i] : ' ';

		w[i / 2] = (u16)(w[i / 2] << 8 | c);
	}
}

static void identify(const struct ahci_port *p, u8 *data)
{
	u64 all = sectors(p), low = MIN(all, BIT(28) - 1);
	char serial[AHCI_SERIAL_MAX + 1] = { 0 };
	u16 w[256] = { [0] = 0x0040,
		       [1] = 16383, /* the geometry of what is too large for one */
		       [3] = 16,
		       [6] = 63,
		       [47] = 0x8000 | ATA_MULTIPLE,
		       [49] = 0x0b00, /* IORDY, LBA, DMA */
		       [50] = 0x4000,
		       [53] = 0x0006,
		       [59] = 0x0100 | ATA_MULTIPLE,
		       [63] = 0x0007,
		       [64] = 0x0003,
		       [65] = 120,
		       [66] = 120,
		       [67] = 120,
		       [68] = 120,
		       [75] = QUEUE_DEPTH - 1,
		       [76] = 0x010e, /* NCQ, three speeds */
		       [77] = 3 << 1,
		       [80] = 0x07f0, /* ATA-4 to ACS-3 */
		       [82] = 0x0020, /* write cache */
		       [83] = 0x7400, /* flush, flush ext, 48 bits */
		       [84] = 0x4060, /* FUA, logs */
		       [86] = 0xb400,
		       [87] = 0x4060,
		       [88] = 0x203f,
		       [106] = 0x4000,
		       [119] = 0x4000,
		       [120] = 0x4000,
		       [217] = 1, /* does not rotate */
		       [222] = 0x107f };
	u8 sum = 0;

	memcpy(serial, p->serial, AHCI_SERIAL_MAX);
	text(w + 10, serial, 10);
	text(w + 23, "1.0", 4);
	text(w + 27, "Umbra SATA disk", 20);
	w[60] = (u16)low;
	w[61] = (u16)(low >> 16);
	w[85] = p->s.write_cache ? 0x0020 : 0;
	for (unsigned i = 0; i < 4; i++)
		w[100 + i] = (u16)(all >> 16 * i);
	w[105] = TRIM_BLOCKS;
	w[169] = 1; /* TRIM */
	for (unsigned i = 0; i < 256; i++)
		le_store(data + 2ul * i, w[i], 2);
	data[510] = 0xa5;
	for (unsigned i = 0; i < 511; i++)
		sum = (u8)(sum + data[i]);
	data[511] = (u8)-sum;
}

/* ---- parts of a command ---- */

static void parse(struct ahci_request *r)
{
	struct ahci_cmd *c = &r->cmd;
	const u8 *f = c->fis;
	u64 low = f[4] | (u64)f[5] << 8 | (u64)f[6] << 16, count = f[12] | f[13] << 8;

	switch (f[2]) {
	case CMD_READ:
	case CMD_WRITE:
	case CMD_VERIFY:
	case CMD_READ_MULTIPLE:
	case CMD_WRITE_MULTIPLE:
	case CMD_READ_DMA:
	case CMD_WRITE_DMA:
		c->lba = low | (u64)(f[7] & 0xf) << 24;
		c->count = f[12] ? f[12] : 256;
		return;
	case CMD_READ_FPDMA:
	case CMD_WRITE_FPDMA: count = f[3] | f[11] << 8; break;
	default: break;
	}
	c->lba = low | (u64)f[8] << 24 | (u64)f[9] << 32 | (u64)f[10] << 40;
	c->count = count ? (u32)count : 65536;
}

static bool in_range(const struct ahci_port *p, u64 lba, u64 count)
{
	u64 all = sectors(p);

	return count <= all && lba <= all - count;
}

static void prepare(struct ahci_request *r, enum block_op op, u64 lba, u64 count)
{
	r->r.op = op;
	r->r.flags = 0;
	r->r.off = lba * BLOCK_SECTOR;
	r->r.len = count * BLOCK_SECTOR;
	r->r.iov = r->iov;
	r->r.iovcnt = r->iovs;
}

static enum ata_next transfer(struct ahci_request *r, bool write, bool fua, u8 *error)
{
	struct ahci_cmd *c = &r->cmd;
	enum ata_next next;

	if (!(c->fis[7] & DEVICE_LBA)) {
		*error = ATA_ABRT; /* by cylinders */
		return ATA_FAILED;
	}
	if (!in_range(r->p, c->lba, c->count)) {
		*error = ATA_IDNF;
		return ATA_FAILED;
	}
	next = ahci_map(r, c->count * BLOCK_SECTOR, !write, error);
	if (next != ATA_DONE)
		return next;
	prepare(r, write ? BLOCK_WRITE : BLOCK_READ, c->lba, c->count);
	if (write && (fua || !r->p->s.write_cache))
		r->r.flags = BLOCK_FUA;
	return ATA_SUBMIT;
}

/* SATA 3.0, 13.6: the tag is the slot. */
static enum ata_next queued(struct ahci_request *r, u8 *error)
{
	if (r->cmd.fis[12] >> 3 != r->slot) {
		*error = ATA_ABRT;
		return ATA_FAILED;
	}
	return transfer(r, r->cmd.fis[2] == CMD_WRITE_FPDMA, r->cmd.fis[7] & DEVICE_FUA,
			error);
}

static enum ata_next answer(struct ahci_request *r, const u8 *data, u32 len, u8 *error)
{
	enum ata_next next = ahci_map(r, len, true, error);

	if (next == ATA_DONE)
		ahci_give(r, data);
	return next;
}

/* ---- TRIM, 7.5 ---- */

static u64 range_of(const struct ahci_request *r, unsigned i, u64 *lba)
{
	u64 e = le_load(r->list + 8ul * i, 8);

	*lba = e & (BIT(48) - 1);
	return e >> 48;
}

bool ata_more(struct ahci_request *r)
{
	u64 lba, count;

	while (r->list && r->range < r->ranges) {
		count = range_of(r, r->range++, &lba);
		if (!count)
			continue;
		prepare(r, BLOCK_DISCARD, lba, count);
		return true;
	}
	return false;
}

/* All ranges are good, or none is discarded. */
static enum ata_next trim(struct ahci_request *r, u8 *error)
{
	u32 blocks = r->cmd.count;
	enum ata_next next;
	u64 lba;

	*error = ATA_ABRT;
	if (!(r->cmd.fis[3] & 1) || blocks > TRIM_BLOCKS)
		return ATA_FAILED;
	next = ahci_map(r, blocks * BLOCK_SECTOR, false, error);
	if (next != ATA_DONE)
		return next;
	r->list = malloc(blocks * BLOCK_SECTOR);
	if (!r->list)
		return ATA_FAILED;
	ahci_take(r, r->list);
	r->iovs = 0;
	r->range = 0;
	r->ranges = blocks * BLOCK_SECTOR / 8;
	for (unsigned i = 0; i < r->ranges; i++) {
		u64 count = range_of(r, i, &lba);

		if (count && !in_range(r->p, lba, count)) {
			*error = ATA_IDNF;
			return ATA_FAILED;
		}
	}
	return ata_more(r) ? ATA_SUBMIT : ATA_DONE;
}

/* ---- the rest ---- */

/* 9.15: what became of the queue. */
static enum ata_next read_log(struct ahci_request *r, u8 *error)
{
	struct ahci_port *p = r->p;
	const u8 *f = r->cmd.fis;
	u8 data[BLOCK_SECTOR] = { 0 }, sum = 0;

	*error = ATA_ABRT;
	if (f[5] || f[9] || r->cmd.count != 1)
		return ATA_FAILED;
	switch (f[4]) {
	case LOG_DIRECTORY:
		data[0] = 1;
		data[2 * LOG_NCQ_ERROR] = 1;
		break;
	case LOG_NCQ_ERROR:
		data[0] = p->s.error_valid ? p->s.error_tag : 0x80;
		if (p->s.error_valid) {
			data[2] = ATA_READY | ATA_ERR;
			data[3] = p->s.error_error;
			for (unsigned i = 0; i < 3; i++) {
				data[4 + i] = (u8)(p->s.error_lba >> 8 * i);
				data[8 + i] = (u8)(p->s.error_lba >> (24 + 8 * i));
			}
			data[7] = DEVICE_LBA;
		}
		p->s.error_valid = 0;
		for (unsigned i = 0; i < 511; i++)
			sum = (u8)(sum + data[i]);
		data[511] = (u8)-sum;
		break;
	default: return ATA_FAILED;
	}
	return answer(r, data, sizeof(data), error);
}

static enum ata_next set_features(struct ahci_request *r, u8 *error)
{
	switch (r->cmd.fis[3]) {
	case 0x02: r->p->s.write_cache = !r->p->write_cache_off; return ATA_DONE;
	case 0x82: r->p->s.write_cache = 0; return ATA_DONE;
	case 0x03: /* transfer mode */
	case 0x55: /* read look-ahead */
	case 0xaa: return ATA_DONE;
	default: *error = ATA_ABRT; return ATA_FAILED;
	}
}

static enum ata_next flush(struct ahci_request *r)
{
	prepare(r, BLOCK_FLUSH, 0, 0);
	return ATA_SUBMIT;
}

static enum ata_next verify(struct ahci_request *r, u8 *error)
{
	*error = ATA_IDNF;
	return in_range(r->p, r->cmd.lba, r->cmd.count) ? ATA_DONE : ATA_FAILED;
}

enum ata_next ata_command(struct ahci_request *r, u8 *error)
{
	u8 data[BLOCK_SECTOR] = { 0 };

	parse(r);
	switch (r->cmd.fis[2]) {
	case CMD_READ_FPDMA:
	case CMD_WRITE_FPDMA: return queued(r, error);
	case CMD_READ:
	case CMD_READ_EXT:
	case CMD_READ_MULTIPLE:
	case CMD_READ_MULTIPLE_EXT:
		r->pio = true;
		return transfer(r, false, false, error);
	case CMD_READ_DMA:
	case CMD_READ_DMA_EXT: return transfer(r, false, false, error);
	case CMD_WRITE:
	case CMD_WRITE_EXT:
	case CMD_WRITE_MULTIPLE:
	case CMD_WRITE_MULTIPLE_EXT:
		r->pio = true;
		return transfer(r, true, false, error);
	case CMD_WRITE_DMA:
	case CMD_WRITE_DMA_EXT: return transfer(r, true, false, error);
	case CMD_WRITE_MULTIPLE_FUA_EXT:
		r->pio = true;
		return transfer(r, true, true, error);
	case CMD_WRITE_DMA_FUA_EXT: return transfer(r, true, true, error);
	case CMD_VERIFY:
	case CMD_VERIFY_EXT: return verify(r, error);
	case CMD_FLUSH:
	case CMD_FLUSH_EXT: return flush(r);
	/* What was acknowledged is stable before the power may go. */
	case CMD_STANDBY_NOW:
	case CMD_STANDBY: return flush(r);
	case CMD_IDLE_NOW:
	case CMD_IDLE:
	case CMD_INIT_PARAMETERS: return ATA_DONE;
	case CMD_CHECK_POWER: r->cmd.fis[12] = 0xff; return ATA_DONE;
	case CMD_SET_MULTIPLE:
		*error = ATA_ABRT;
		return r->cmd.fis[12] <= ATA_MULTIPLE ? ATA_DONE : ATA_FAILED;
	case CMD_DSM: return trim(r, error);
	case CMD_READ_LOG_EXT: r->pio = true; return read_log(r, error);
	case CMD_READ_LOG_DMA_EXT: return read_log(r, error);
	case CMD_IDENTIFY:
		r->pio = true;
		identify(r->p, data);
		return answer(r, data, sizeof(data), error);
	case CMD_SET_FEATURES: return set_features(r, error);
	default: *error = ATA_ABRT; return ATA_FAILED;
	}
}

u8 ata_error_of(const struct ahci_request *r, int ret)
{
	(void)ret;
	return r->r.op == BLOCK_READ ? ATA_UNC : ATA_ABRT;
}
