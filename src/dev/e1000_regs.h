/* What the sources of the e1000 share: registers, state. For dev/e1000*.c only. */
#pragma once

#include <pthread.h>

#include "base/bits.h"
#include "dev/e1000.h"
#include "mem/phys.h"
#include "net/net.h"

/* Register offsets, Intel 317453 section 13. */
enum {
	E_CTRL = 0x0000,
	E_STATUS = 0x0008,
	E_EECD = 0x0010,
	E_EERD = 0x0014,
	E_MDIC = 0x0020,
	E_ICR = 0x00c0,
	E_ITR = 0x00c4,
	E_ICS = 0x00c8,
	E_IMS = 0x00d0,
	E_IMC = 0x00d8,
	E_RCTL = 0x0100,
	E_TCTL = 0x0400,
	E_PBA = 0x1000,
	E_RDBAL = 0x2800,
	E_RDBAH = 0x2804,
	E_RDLEN = 0x2808,
	E_RDH = 0x2810,
	E_RDT = 0x2818,
	E_TDBAL = 0x3800,
	E_TDBAH = 0x3804,
	E_TDLEN = 0x3808,
	E_TDH = 0x3810,
	E_TDT = 0x3818,
	E_GPRC = 0x4074,
	E_GPTC = 0x4080,
	E_GORCL = 0x4088,
	E_GORCH = 0x408c,
	E_GOTCL = 0x4090,
	E_GOTCH = 0x4094,
	E_RXCSUM = 0x5000,
	E_MTA = 0x5200,
	E_RA = 0x5400,
	E_VFTA = 0x5600,
	E_SIZE = 0x20000,
};

/* ICR */
enum { INT_TXDW = 1, INT_TXQE = 2, INT_LSC = 4, INT_RXT0 = 0x80, INT_MDAC = 0x200 };
enum { RCTL_EN = 2, RCTL_UPE = 8, RCTL_MPE = 16, RCTL_LPE = 32, RCTL_BAM = 1 << 15 };
enum { RCTL_BSEX = 1 << 25, RCTL_SECRC = 1 << 26, TCTL_EN = 2 };

#define E_ADDRESSES 16u
#define E_TABLE     128u /* words of MTA and VFTA */
#define E_DESC      16u  /* bytes */

/* Guest-visible state. */
struct e1000_state {
	u64 rdba, tdba;
	u64 rx_bytes, tx_bytes; /* statistics, cleared when read */
	u32 rdlen, rdh, rdt, tdlen, tdh, tdt;
	u32 ctrl, eecd, eerd, mdic, icr, itr, ims, rctl, tctl, pba, rxcsum;
	u32 rx_frames, tx_frames;
	u32 mta[E_TABLE], ra[2 * E_ADDRESSES], vfta[E_TABLE];
	u16 phy[32];
	/* EEPROM: what was shifted in, how much; the bit that is shifted out. */
	u16 ee_in, ee_out;
	u8 ee_bits, ee_reading;
	/* Transmit context, as the last context descriptor has it. */
	u8 ipcss, ipcso, tucss, tucso, hdrlen, tucmd;
	u16 ipcse, mss;
	u32 ioaddr;
};

struct e1000 {
	pthread_mutex_t lock;
	struct e1000_state s;
	struct e1000_setup cfg;
	struct phys *phys;
	struct pci_dev *dev;
	struct net *net;
	bool paused;
	bool starved; /* a frame waits for receive descriptors */
	/* The network's thread only, but for a reset: the frame that is being put
	 * together. */
	u32 tx_len;
	bool tx_drop; /* it is too long */
	bool tx_tse;  /* to be cut into segments */
	u8 tx_popts;
	u8 frame[NET_FRAME_MAX];
	u8 sending[NET_FRAME_MAX];
};

/* Lock held: these causes, and the pin. */
void e1000_interrupt(struct e1000 *d, u32 causes);
/* struct net_client. */
bool e1000_transmit(void *opaque);
enum net_result e1000_receive(void *opaque, struct net_frame *f);
