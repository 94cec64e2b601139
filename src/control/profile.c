/*
 * -symbols, -profile and -perfmap.
 *
 * A kernel may have moved itself (KASLR): by how much is what the user says, or else what
 * IA32_LSTAR tells, which Linux points at entry_SYSCALL_64. Until the guest has set it
 * the kernel is taken to be where its symbols are.
 *
 * The map: tools/perf/Documentation/jit-interface.txt of Linux. Perf looks in
 * /tmp/perf-PID.map, and only for code in memory without a file (host/execmem.h), which
 * must then be what the file says to the end: code that was dropped, and made anew at the
 * same place, has the name of what was there first or last.
 */
#include "control/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "control/profileprint.h"
#include "x86/msr.h"

/* Linux moves by this (CONFIG_PHYSICAL_ALIGN). */
#define MOVES_BY MiB(2)
/* From here on it has modules, which it places by another random number. */
#define MODULES  UINT64_C(0xffffffffc0000000)

static u64 moved_by(const struct profiling *p, const struct vcpu *v)
{
	u64 by;

	if (p->o->symbols_moved)
		return p->o->symbols_offset;
	if (!v->msr[MSRI_LSTAR] || !p->entry)
		return 0;
	by = v->msr[MSRI_LSTAR] - p->entry;
	return by % MOVES_BY ? 0 : by;
}

bool profiling_find(const struct profiling *p, const struct vcpu *v, u64 lin,
		    struct symbol *found)
{
	u64 by;

	if (!p->symbols)
		return false;
	by = moved_by(p, v);
	if (!symbols_find(p->symbols, lin - by, found))
		return false;
	if (by && found->addr >= MODULES)
		return false;
	found->addr += by;
	return true;
}

/* On a vCPU's thread. */
static void code_made(void *opaque, const struct vcpu *v, u64 exec, u32 size, u64 lin)
{
	struct profiling *p = opaque;
	struct symbol s;

	if (!p->map)
		return;
	pthread_mutex_lock(&p->lock);
	if (v->cpl != 3 && profiling_find(p, v, lin, &s))
		fprintf(p->map, "%" PRIx64 " %x %s+0x%" PRIx64 "\n", exec, size, s.name,
			lin - s.addr);
	else
		fprintf(p->map, "%" PRIx64 " %x guest_%s_0x%" PRIx64 "\n", exec, size,
			v->cpl == 3 ? "user" : "kernel", lin);
	pthread_mutex_unlock(&p->lock);
}

int profiling_init(struct profiling *p, const struct run_options *o, struct error *err)
{
	p->o = o;
	pthread_mutex_init(&p->lock, NULL);
	if (!o->symbols)
		return 0;
	p->symbols = symbols_load(strndupa(o->symbols, o->symbols_len), err);
	if (!p->symbols)
		return -EINVAL;
	symbols_address(p->symbols, "entry_SYSCALL_64", &p->entry);
	return 0;
}

struct profile_config profiling_config(struct profiling *p)
{
	return (struct profile_config){
		.times = p->o->stats != STATS_OFF,
		.spots = p->o->profile != NULL,
		.code_made = p->o->perfmap ? code_made : NULL,
		.code_opaque = p,
	};
}

/* Everybody can write to /tmp: neither a file nor a link that is there is written to. One
 * that a process of the same number has left is removed, if it is ours. */
static int open_map(struct profiling *p, struct error *err)
{
	int fd, flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;

	snprintf(p->map_path, sizeof(p->map_path), "/tmp/perf-%d.map", (int)getpid());
	fd = open(p->map_path, flags, 0644);
	if (fd < 0 && errno == EEXIST && !unlink(p->map_path))
		fd = open(p->map_path, flags, 0644);
	p->map = fd < 0 ? NULL : fdopen(fd, "w");
	if (!p->map)
		return error_set(err, -errno, "-perfmap: %s: %s", p->map_path,
				 strerror(errno));
	return 0;
}

static int open_report(struct profiling *p, struct error *err)
{
	const char *path = p->o->profile;
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	p->created = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	p->report = fd < 0 ? NULL : fdopen(fd, "w");
	if (!p->report)
		return error_set(err, -errno, "-profile %s: %s", path, strerror(errno));
	return 0;
}

int profiling_open(struct profiling *p, struct error *err)
{
	int ret = p->o->perfmap ? open_map(p, err) : 0;

	if (!ret && p->o->profile)
		ret = open_report(p, err);
	if (ret)
		profiling_undo(p);
	return ret;
}

void profiling_undo(struct profiling *p)
{
	if (p->map)
		unlink(p->map_path);
	if (p->created)
		unlink(p->o->profile);
}

static bool close_file(FILE **f, const char *option, const char *path)
{
	bool bad = *f && ferror(*f);

	/* What it could not write of the rest. */
	if (*f && fclose(*f))
		bad = true;
	*f = NULL;
	if (bad)
		log_error("%s %s: cannot be written", option, path);
	return !bad;
}

bool profiling_close(struct profiling *p, struct vm *vm)
{
	bool ok;

	if (p->report) {
		struct stat st;

		/* Not before: what was in it is lost only for something new. */
		if (!fstat(fileno(p->report), &st) && S_ISREG(st.st_mode) &&
		    ftruncate(fileno(p->report), 0))
			log_warn("-profile %s: %s", p->o->profile, strerror(errno));
		profile_print(p->report, p, vm);
	}
	ok = close_file(&p->report, "-profile", p->o->profile);
	return close_file(&p->map, "-perfmap", p->map_path) && ok;
}

void profiling_fini(struct profiling *p)
{
	if (p->report)
		fclose(p->report);
	if (p->map)
		fclose(p->map);
	symbols_free(p->symbols);
	pthread_mutex_destroy(&p->lock);
}
