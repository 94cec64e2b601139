/* Linux bzImage files: nothing in one crashes the loader or makes it write outside
 * memory. */
#include "fuzz.h"

#include "boot_file.h"

enum { SECTS = 1, PAYLOAD = 0x800, LEN = (SECTS + 1) * 512 + PAYLOAD };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static u8 good[LEN];

	if (!good[0x1f1]) {
		good[0x1f1] = SECTS;
		le_store(good + 0x1f4, PAYLOAD / 16, 4);
		le_store(good + 0x1fe, 0xaa55, 2);
		good[0x200] = 0xeb;
		good[0x201] = 0x6a;
		memcpy(good + 0x202, "HdrS", 4);
		le_store(good + 0x206, 0x020f, 2);
		good[0x211] = 1;
		le_store(good + 0x214, 0x100000, 4);
		le_store(good + 0x22c, 0x7fffffff, 4);
		le_store(good + 0x230, 0x1000, 4);
		good[0x234] = 1;
		le_store(good + 0x236, 3, 2);
		le_store(good + 0x238, 2047, 4);
		le_store(good + 0x258, 0x200000, 8);
		le_store(good + 0x260, 0x10000, 4);
	}
	fuzz_boot(good, LEN, data, size);
	return 0;
}
