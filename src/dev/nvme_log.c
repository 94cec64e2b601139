/*
 * NVMe: what the controller says about itself: identify data and log pages.
 *
 * NVM Express 1.4, sections 5.14 (get log page) and 5.15 (identify): error information,
 * SMART, firmware slots, command effects. Deliberately missing: all other logs.
 *
 * Lock: n->lock.
 */
#include <stdio.h>
#include <string.h>

#include "dev/nvme_ctrl.h"
#include "pci/pci.h"

enum { CNS_NAMESPACE, CNS_CONTROLLER, CNS_LIST, CNS_DESCRIPTORS };

#define IDENTIFY_SIZE 4096u

static void text(u8 *to, const char *s, size_t len)
{
	size_t n = strnlen(s, len);

	memset(to, ' ', len);
	memcpy(to, s, n);
}

static void identify_controller(const struct nvme *n, u8 *d)
{
	u16 vendor = 0x1b36, subsys = 0x1af4;
	char nqn[64];

	le_store(d, vendor, 2);
	le_store(d + 2, subsys, 2);
	memcpy(d + 4, n->serial, sizeof(n->serial));
	text(d + 24, "Umbra NVMe disk", 40);
	text(d + 64, "1.0", 8);
	d[72] = 6;    /* RAB */
	d[73] = 0x00; /* IEEE: 52:54:00, little-endian */
	d[74] = 0x54;
	d[75] = 0x52;
	d[77] = NVME_MDTS;
	le_store(d + 80, 0x00010400, 4);           /* VER */
	d[111] = 1;                                /* CNTRLTYPE: I/O controller */
	d[258] = 3;                                /* ACL */
	d[259] = NVME_EVENTS - 1;                  /* AERL */
	d[260] = 1 << 1 | 1;                       /* FRMW: one slot, read-only */
	d[261] = 1 << 2 | 1 << 1;                  /* LPA: offsets; command effects */
	le_store(d + 266, NVME_WARNING_K, 2);      /* WCTEMP */
	le_store(d + 268, NVME_WARNING_K + 30, 2); /* CCTEMP */
	d[512] = 6 << 4 | 6;                       /* SQES */
	d[513] = 4 << 4 | 4;                       /* CQES */
	le_store(d + 516, 1, 4);                   /* NN */
	/* ONCS: dataset management, write zeroes. */
	le_store(d + 520, 1 << 2 | 1 << 3, 2);
	/* VWC: flush takes all namespaces; a cache. */
	d[525] = 3 << 1 | !n->cfg.write_cache_off;
	snprintf(nqn, sizeof(nqn), "nqn.2026-11.org.umbra:nvme:%02x:%.20s",
		 pci_devfn(n->dev), n->serial);
	for (size_t i = strlen(nqn); i > 0 && nqn[i - 1] == ' '; i--)
		nqn[i - 1] = '\0';
	memcpy(d + 768, nqn, strlen(nqn));
	le_store(d + 2048, 2500, 2); /* PSD0.MP: 25 W */
}

static void identify_namespace(const struct nvme *n, u8 *d)
{
	u64 blocks = block_size(n->block) >> n->lba_shift;

	le_store(d, blocks, 8);
	le_store(d + 8, blocks, 8);
	le_store(d + 16, blocks, 8);
	d[33] = 1 << 3;                   /* DLFEAT: write zeroes may deallocate */
	d[99] = block_readonly(n->block); /* NSATTR: write protected */
	le_store(d + 128, n->lba_shift << 16, 4); /* LBAF0 */
}

/*
 * 5.15.2.4: one UUID (type 3), of serial number and place, so that it stays over
 * restarts. FNV-1a, twice, and the bits that say that it is of the holder's own making.
 */
static void identify_descriptors(const struct nvme *n, u8 *d)
{
	d[0] = 3;
	d[1] = 16;
	for (unsigned half = 0; half < 2; half++) {
		u64 h = UINT64_C(0xcbf29ce484222325) ^ half ^ (u64)pci_devfn(n->dev) << 8;

		for (size_t i = 0; i < sizeof(n->serial); i++)
			h = (h ^ (u8)n->serial[i]) * UINT64_C(0x100000001b3);
		le_store(d + 4 + 8 * half, h, 8);
	}
	d[4 + 6] = (u8)((d[4 + 6] & 0x0f) | 0x80);
	d[4 + 8] = (u8)((d[4 + 8] & 0x3f) | 0x80);
}

unsigned nvme_identify(struct nvme_request *q)
{
	struct nvme *n = q->n;
	u32 nsid = q->cmd.nsid;
	u8 d[IDENTIFY_SIZE] = { 0 };
	unsigned status;

	switch (q->cmd.dw[10] & 0xff) {
	case CNS_NAMESPACE:
		if (nsid != 1)
			return NVME_INVALID_NSID;
		identify_namespace(n, d);
		break;
	case CNS_CONTROLLER: identify_controller(n, d); break;
	case CNS_LIST:
		if (nsid >= NVME_ALL - 1)
			return NVME_INVALID_NSID;
		le_store(d, nsid < 1, 4);
		break;
	case CNS_DESCRIPTORS:
		if (nsid != 1)
			return NVME_INVALID_NSID;
		identify_descriptors(n, d);
		break;
	default: return NVME_INVALID_FIELD;
	}
	status = nvme_map(q, IDENTIFY_SIZE, true);
	if (!status)
		nvme_give(q, d);
	return status;
}

/* ---- logs ---- */

static u32 log_error_info(const struct nvme *n, u8 *d)
{
	if (n->s.errors) {
		le_store(d, n->s.errors, 8);
		le_store(d + 8, n->s.error_sqid, 2);
		le_store(d + 10, n->s.error_cid, 2);
		le_store(d + 12, n->s.error_status, 2);
		le_store(d + 14, 0xffff, 2); /* of no field in particular */
		le_store(d + 16, n->s.error_lba, 8);
		le_store(d + 24, n->s.error_nsid, 4);
	}
	return 64; /* ELPE is 0: one entry */
}

static u32 log_smart(const struct nvme *n, u8 *d)
{
	if (NVME_KELVIN >= n->s.temp_over || NVME_KELVIN <= n->s.temp_under)
		d[0] |= 1 << 1;
	le_store(d + 1, NVME_KELVIN, 2);
	d[3] = 100; /* spare, in percent, and its threshold */
	d[4] = 10;
	/* In thousands of 512 bytes, rounded up. */
	le_store(d + 32, (n->s.sectors_read + 999) / 1000, 8);
	le_store(d + 48, (n->s.sectors_written + 999) / 1000, 8);
	le_store(d + 64, n->s.reads, 8);
	le_store(d + 80, n->s.writes, 8);
	le_store(d + 112, 1, 8); /* power cycles */
	le_store(d + 176, n->s.errors, 8);
	return 512;
}

static u32 log_firmware(u8 *d)
{
	d[0] = 1;
	text(d + 8, "1.0", 8);
	return 512;
}

/* 5.14.1.5: supported; and LBCC of what writes. */
static u32 log_effects(u8 *d)
{
	static const u8 admin[] = { 0x00, 0x01, 0x02, 0x04, 0x05,
				    0x06, 0x08, 0x09, 0x0a, 0x0c };

	for (size_t i = 0; i < ARRAY_SIZE(admin); i++)
		le_store(d + 4ul * admin[i], 1, 4);
	le_store(d + 1024 + 4 * 0x00, 1, 4);
	le_store(d + 1024 + 4 * 0x01, 3, 4);
	le_store(d + 1024 + 4 * 0x02, 1, 4);
	le_store(d + 1024 + 4 * 0x08, 3, 4);
	le_store(d + 1024 + 4 * 0x09, 3, 4);
	return 4096;
}

unsigned nvme_get_log(struct nvme_request *q)
{
	struct nvme *n = q->n;
	const u32 *dw = q->cmd.dw;
	u64 len = ((u64)(dw[11] & 0xffff) << 16 | dw[10] >> 16) * 4 + 4;
	u64 off = dw[12] | (u64)dw[13] << 32;
	u8 d[4096] = { 0 };
	unsigned status;
	u32 size;

	if (q->cmd.nsid != NVME_ALL && q->cmd.nsid > 1)
		return NVME_INVALID_NSID;
	switch (dw[10] & 0xff) {
	case LOG_ERROR_INFO: size = log_error_info(n, d); break;
	case LOG_SMART: size = log_smart(n, d); break;
	case LOG_FIRMWARE: size = log_firmware(d); break;
	case LOG_EFFECTS: size = log_effects(d); break;
	default: return NVME_LOG_INVALID;
	}
	if (len > NVME_XFER_MAX || off & 3 || off >= size)
		return NVME_INVALID_FIELD;
	/* What lies behind the log's end is left as it is. */
	status = nvme_map(q, (u32)MIN(len, size - off), true);
	if (status)
		return status;
	nvme_give(q, d + off);
	/* 5.2: without RAE it acknowledges the event. */
	for (unsigned type = 0; type < EVENT_TYPES && !(dw[10] & BIT(15)); type++)
		if (n->s.event_log[type] == (dw[10] & 0xff))
			n->s.event_masked[type] = 0;
	return NVME_OK;
}
