/*
 * `umbra doctor`: tries what Umbra uses or will use of the host, one line each.
 *
 * Every check really does the thing (maps memory, makes the system call) since containers
 * refuse what a kernel has. Nothing is changed. Main thread.
 */
#include "control/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/block.h"
#include "control/engines.h"
#include "control/guest.h"
#include "control/session.h"
#include "cpu/hostcpu.h"
#include "engine/direct/direct.h"
#include "host/execmem.h"
#include "x86/cpuid.h"
#include "x86/features.h"

enum verdict { YES, NO, NOTE };

struct finding {
	enum verdict verdict;
	char text[256];
};

__attribute__((format(printf, 3, 4))) static void
found(struct finding *f, enum verdict verdict, const char *fmt, ...)
{
	va_list ap;

	f->verdict = verdict;
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

/* ---- engines ---- */

/*
 * Some hosts have a /dev/kvm that opens but cannot make a machine; so make one.
 */
static void check_kvm(struct finding *f)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version, vm;

	if (fd < 0) {
		if (errno == ENOENT)
			found(f, NO,
			      "no /dev/kvm: no module, or not passed into this "
			      "container");
		else if (errno == EACCES || errno == EPERM)
			found(f, NO,
			      "/dev/kvm is there, but permission is denied (group kvm?)");
		else
			found(f, NO, "/dev/kvm: %s", strerror(errno));
		return;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		found(f, NO, "/dev/kvm speaks version %d of its interface, not %d",
		      version, KVM_API_VERSION);
		goto close_fd;
	}
	vm = ioctl(fd, KVM_CREATE_VM, 0);
	if (vm < 0) {
		found(f, NO, "/dev/kvm is there, but makes no machine: %s",
		      strerror(errno));
		goto close_fd;
	}
	close(vm);
	found(f, NO, "/dev/kvm works; this version of Umbra does not use it yet");
close_fd:
	close(fd);
}

static void check_engines(void)
{
	struct finding f;

	printf("Engines\n");
	for (unsigned i = 0; engines_get(i); i++) {
		const struct engine_entry *e = engines_get(i);
		struct error err = { 0 };

		if (e->engine->probe && e->engine->probe(&err))
			printf("  no   %-12s %s\n", e->engine->name, err.msg);
		else
			printf("  yes  %-12s %s\n", e->engine->name, e->text);
	}
	check_kvm(&f);
	printf("  no   %-12s %s\n", "kvm", f.text);
}

/* ---- host ---- */

static void check_memfd(struct finding *f)
{
	int fd = memfd_create("umbra-doctor", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, 4096))
		p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		found(f, NO, "guest memory: memfd: %s", strerror(errno));
	else
		found(f, YES, "guest memory can be made (memfd)");
	if (p != MAP_FAILED)
		munmap(p, 4096);
	if (fd >= 0)
		close(fd);
}

static void check_execmem(struct finding *f)
{
	struct error err = { 0 };
	struct execmem *m = execmem_new(65536, &err);
	u8 *writable;
	void *code = m ? execmem_alloc(m, 1, 16, &writable) : NULL;
	void (*function)(void);

	if (!code) {
		found(f, NO, "%s", err.msg[0] ? err.msg : "no executable memory");
	} else {
		*writable = 0xc3; /* RET */
		memcpy(&function, &code, sizeof(function));
		function();
		found(f, YES, "code made at run time can be executed");
	}
	execmem_free(m);
}

static void check_direct(struct finding *f)
{
	struct direct_host host;
	struct error err = { 0 };

	if (direct_probe(&host, &err))
		found(f, NOTE, "user code of guests is translated: %s", err.msg);
	else if (!host.breaks || !host.tsc_traps || !host.bases_kept)
		found(f, YES,
		      "user code of guests can run on the processor itself, but pages "
		      "with%s%s%s are translated, as this host does not stop there",
		      host.breaks ? "" : " CPUID", host.tsc_traps ? "" : " RDTSC",
		      host.bases_kept ? "" : " WRFSBASE");
	else
		found(f, YES, "user code of guests can run on the processor itself");
}

static void check_userfaultfd(struct finding *f)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);

	if (fd < 0) {
		found(f, NOTE, "not available (%s); nothing needs it yet",
		      strerror(errno));
		return;
	}
	close((int)fd);
	found(f, YES, "available; nothing needs it yet");
}

static void check_disks(struct finding *f)
{
	char why[128];
	const char *how = block_host_io(why, sizeof(why));

	if (!strcmp(how, "io_uring"))
		found(f, YES, "disk requests go by io_uring");
	else
		found(f, NOTE, "disk requests go by threads: %s", why);
}

static void check_xsave(struct finding *f)
{
	static const struct {
		enum cpu_feature feature;
		const char *name;
	} names[] = {
		{ FEAT_AVX, "avx" }, { FEAT_AVX2, "avx2" }, { FEAT_AVX512F, "avx512f" },
		{ FEAT_AES, "aes" }, { FEAT_SHA, "sha" },   { FEAT_BMI2, "bmi2" },
		{ FEAT_FMA, "fma" },
	};
	struct host_cpu host;
	char list[128] = "";

	hostcpu_read(&host);
	if (!host.xcr0) {
		found(f, NOTE, "none; guests get SSE only");
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (!(host.features[names[i].feature / 32] >> (names[i].feature % 32) &
		      1))
			continue;
		strcat(list, " ");
		strcat(list, names[i].name);
	}
	found(f, YES, "XCR0 %llx, %u bytes; for guests:%s", (unsigned long long)host.xcr0,
	      host.xsave_size, list);
}

/* The number behind "NAME:" in /proc/meminfo, in KiB; -1 if there is none. */
static long long meminfo(const char *name)
{
	FILE *file = fopen("/proc/meminfo", "re");
	long long val = -1;
	char line[128];

	while (file && val < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
			val = atoll(line + strlen(name) + 1);
	if (file)
		fclose(file);
	return val;
}

static void check_memory(struct finding *f)
{
	long long kib = meminfo("MemAvailable");

	if (kib < 0)
		found(f, NOTE, "not known: no MemAvailable in /proc/meminfo");
	else
		found(f, kib >= 512 << 10 ? YES : NOTE, "%lld MiB available", kib >> 10);
}

/* As mem/phys.c asks for them. */
static void check_hugepages(struct finding *f)
{
	const size_t size = MiB(2);
	int fd = memfd_create("umbra-doctor", MFD_CLOEXEC);
	u8 *all = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u8 *at = all + (-(uintptr_t)all & (size - 1));

	if (fd < 0 || ftruncate(fd, (off_t)size) || all == MAP_FAILED ||
	    mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		    MAP_FAILED) {
		found(f, NOTE, "not tried: %s", strerror(errno));
	} else {
		*(volatile u8 *)at = 1;
		if (madvise(at, size, MADV_COLLAPSE))
			found(f, NOTE, "guest memory has small pages only: %s",
			      strerror(errno));
		else
			found(f, YES, "guest memory that is used gets pages of 2 MiB");
	}
	if (all != MAP_FAILED)
		munmap(all, 2 * size);
	if (fd >= 0)
		close(fd);
}

static void check_guest(struct finding *f)
{
	static const struct guest_terminal terminal;
	struct run_options o = { 0 };
	struct error err = { 0 };
	struct guest g;

	if (guest_find(&g, &o, &terminal, &err)) {
		found(f, NO, "%s", err.msg);
		return;
	}
	found(f, YES, "%s", g.describe);
	guest_fini(&g);
}

static const struct {
	const char *name;
	void (*check)(struct finding *f);
	bool needed; /* without it no machine runs */
} checks[] = {
	{ "memory", check_memory, false },
	{ "memfd", check_memfd, true },
	{ "code", check_execmem, true },
	{ "direct", check_direct, false },
	{ "xsave", check_xsave, false },
	{ "hugepages", check_hugepages, false },
	{ "userfaultfd", check_userfaultfd, false },
	{ "disks", check_disks, false },
	{ "guest", check_guest, false },
};

int doctor_main(int argc, char **argv)
{
	static const char *const words[] = { "yes", "no", "note" };
	struct utsname u;
	int status = STATUS_OK;

	if (argc > 1) {
		bool help = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-help") ||
			    !strcmp(argv[1], "-h");

		if (!help) {
			log_error("doctor: '%s' is not an option; it takes none",
				  argv[1]);
			return STATUS_USAGE;
		}
		printf("Usage: umbra doctor\n"
		       "Say which engines work on this host, and what of the host they "
		       "can use.\n"
		       "Ends with 1 when no machine can run here.\n");
		return STATUS_OK;
	}
	check_engines();
	if (!uname(&u))
		printf("Host: Linux %s, %ld CPUs\n", u.release,
		       sysconf(_SC_NPROCESSORS_ONLN));
	for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
		struct finding f = { NOTE, "" };

		checks[i].check(&f);
		if (checks[i].needed && f.verdict == NO)
			status = STATUS_FAILED;
		printf("  %-4s %-12s %s\n", words[f.verdict], checks[i].name, f.text);
	}
	return fflush(stdout) ? STATUS_FAILED : status;
}
