/*
 * Random requests to an image, many at once, compared with a copy in memory; at the end
 * the copy is written to a file for others to compare with.
 *
 *   block-randio IMAGE FORMAT SEED COUNT COPY [OPTION...]
 *
 * Options: none, unsafe, ... (cache modes), discard, snapshot, queue=N, kill (end by
 * SIGKILL in the middle; the copy then has what was flushed last, and which sectors may
 * differ is not known, so only check is of use).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/block.h"
#include "block/hostio.h"

enum { QUEUE_MAX = 64, LEN_MAX = 1 << 20 };

struct job {
	struct block_req r;
	struct iovec iov[4];
	u8 *buf;
	bool busy;
};

static struct job jobs[QUEUE_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static u8 *copy, *acked;
static bool *touched; /* sectors written since the last flush; for kill */
static u64 size, seed;
static unsigned failures;
static struct hostio host;

static u64 rnd(u64 n)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (seed * UINT64_C(2685821657736338717) >> 16) % n;
}

static void done(struct block_req *r, int ret)
{
	struct job *j = r->opaque;

	pthread_mutex_lock(&lock);
	if (ret) {
		fprintf(stderr, "request %d at %llu+%llu: %s\n", r->op,
			(unsigned long long)r->off, (unsigned long long)r->len,
			strerror(-ret));
		failures++;
	} else if (r->op == BLOCK_READ && memcmp(j->buf, copy + r->off, r->len)) {
		u64 i = 0;

		while (j->buf[i] == copy[r->off + i])
			i++;
		fprintf(stderr, "read at %llu+%llu: differs at +%llu\n",
			(unsigned long long)r->off, (unsigned long long)r->len,
			(unsigned long long)i);
		failures++;
	}
	j->busy = false;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&lock);
}

static bool overlaps(const struct block_req *r)
{
	for (unsigned i = 0; i < QUEUE_MAX; i++) {
		const struct block_req *o = &jobs[i].r;

		if (jobs[i].busy && o->op != BLOCK_FLUSH && r->op != BLOCK_FLUSH &&
		    o->off < r->off + r->len && r->off < o->off + o->len &&
		    (o->op != BLOCK_READ || r->op != BLOCK_READ))
			return true;
	}
	return false;
}

static struct job *free_job(unsigned queue)
{
	for (;;) {
		for (unsigned i = 0; i < queue; i++)
			if (!jobs[i].busy)
				return &jobs[i];
		pthread_cond_wait(&wake, &lock);
	}
}

static void choose(struct job *j)
{
	struct block_req *r = &j->r;
	unsigned kind = (unsigned)rnd(100);
	u64 max = rnd(8) ? 16384 : LEN_MAX, part;

	*r = (struct block_req){ .done = done, .opaque = j, .iov = j->iov, .iovcnt = 4 };
	r->op = kind < 45   ? BLOCK_WRITE
		: kind < 80 ? BLOCK_READ
		: kind < 88 ? BLOCK_ZERO
		: kind < 94 ? BLOCK_DISCARD
			    : BLOCK_FLUSH;
	if (r->op == BLOCK_FLUSH)
		return;
	r->flags = r->op == BLOCK_ZERO && rnd(2) ? BLOCK_UNMAP : rnd(32) ? 0 : BLOCK_FUA;
	r->off = rnd(size / BLOCK_SECTOR) * BLOCK_SECTOR;
	r->len = (1 + rnd(max / BLOCK_SECTOR)) * BLOCK_SECTOR;
	if (!rnd(3)) {
		r->off = align_down(r->off, 65536);
		r->len = align_up(r->len, 65536);
	}
	r->len = MIN(r->len, size - r->off);
	r->len = MIN(r->len, (u64)LEN_MAX);
	part = align_down(r->len / 3, 512);
	for (unsigned i = 0; i < 4; i++)
		j->iov[i] = (struct iovec){ j->buf + i * part,
					    i < 3 ? part : r->len - 3 * part };
}

/* Locked. */
static void apply(struct job *j)
{
	struct block_req *r = &j->r;

	if (r->op == BLOCK_WRITE) {
		u64 word = seed;

		for (u64 i = 0; i < r->len; i += 8)
			le_store(j->buf + i, word += 0x9e3779b97f4a7c15, 8);
		memcpy(copy + r->off, j->buf, r->len);
	} else if (r->op == BLOCK_ZERO) {
		memset(copy + r->off, 0, r->len);
	}
}

/* A discard leaves what it likes: look. */
static void after_discard(struct block *b, const struct block_req *r)
{
	block_drain(b);
	if (block_read(b, r->off, copy + r->off, r->len))
		failures++;
}

static bool was_touched(const struct block_req *r)
{
	if (!touched || r->op == BLOCK_READ || r->op == BLOCK_FLUSH)
		return false;
	for (u64 s = r->off / 512; s < (r->off + r->len) / 512; s++)
		if (touched[s])
			return true;
	memset(touched + r->off / 512, true, r->len / 512);
	return false;
}

static void acknowledge(struct block *b)
{
	block_drain(b);
	if (block_sync(b))
		failures++;
	memcpy(acked, copy, size);
	memset(touched, false, size / 512);
}

static void *killer(void *arg)
{
	usleep((useconds_t)(uintptr_t)arg);
	kill(getpid(), SIGKILL);
	return NULL;
}

static void run(struct block *b, unsigned long n, unsigned queue)
{

	for (unsigned long i = 0; i < n && failures < 100; i++) {
		struct block_req *one;
		struct job *j;

		if (touched && i % 40 == 39)
			acknowledge(b);
		pthread_mutex_lock(&lock);
		j = free_job(queue);
		do
			choose(j);
		while (was_touched(&j->r));
		if (touched && j->r.op == BLOCK_DISCARD)
			j->r.op = BLOCK_ZERO;
		while (overlaps(&j->r))
			pthread_cond_wait(&wake, &lock);
		apply(j);
		j->busy = true;
		pthread_mutex_unlock(&lock);
		one = &j->r;
		if (j->r.op == BLOCK_READ && rnd(2) && block_try(b, one))
			done(one, one->p.ret);
		else if (j->r.op == BLOCK_DISCARD) {
			struct block_req r = *one;

			block_submit(b, &one, 1);
			after_discard(b, &r);
		} else {
			block_submit(b, &one, 1);
		}
	}
	block_drain(b);
}

static int write_copy(const char *path)
{
	FILE *f = fopen(path, "wb");
	int ret = f && fwrite(copy, 1, size, f) == size ? 0 : -1;

	return f && fclose(f) ? -1 : ret;
}

/* Both copies in a file, which outlives us. */
static int map_copies(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0666);

	if (fd < 0 || ftruncate(fd, (off_t)size * 2))
		return -1;
	copy = mmap(NULL, size * 2, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	acked = copy + size;
	return copy == MAP_FAILED ? -1 : 0;
}

static int verify(struct block *b)
{
	for (u64 off = 0; off < size; off += 512) {
		u8 buf[512];

		if (block_read(b, off, buf, 512))
			return -1;
		if (memcmp(buf, copy + off, 512) && memcmp(buf, acked + off, 512)) {
			fprintf(stderr, "sector %llu is lost\n",
				(unsigned long long)off / 512);
			return -1;
		}
	}
	return 0;
}

static int load_copy(struct block *b)
{
	for (u64 off = 0; off < size; off += LEN_MAX)
		if (block_read(b, off, copy + off, MIN(size - off, (u64)LEN_MAX)))
			return -1;
	return 0;
}

static int option(struct block_config *cfg, const char *word, unsigned *queue, bool *die,
		  bool *check)
{
	static const char *const caches[] = { "writeback", "none", "writethrough",
					      "directsync", "unsafe" };

	for (unsigned i = 0; i < ARRAY_SIZE(caches); i++) {
		if (!strcmp(word, caches[i])) {
			cfg->cache = (enum block_cache)i;
			return 0;
		}
	}
	if (!strcmp(word, "threads")) {
		/* Any table but the usual one. */
		host = hostio_linux;
		cfg->host = &host;
	} else if (!strcmp(word, "discard"))
		cfg->discard = true;
	else if (!strcmp(word, "snapshot"))
		cfg->snapshot = true;
	else if (!strcmp(word, "kill"))
		*die = true;
	else if (!strcmp(word, "verify"))
		*check = true;
	else if (sscanf(word, "queue=%u", queue) != 1 || !*queue || *queue > QUEUE_MAX)
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct block_config cfg = { 0 };
	struct error err = { 0 };
	unsigned queue = 16;
	bool die = false, check = false;
	pthread_t thread;
	struct block *b;
	int ret;

	if (argc < 6) {
		fprintf(stderr, "usage: see the source\n");
		return 2;
	}
	cfg.file = argv[1];
	cfg.format = argv[2];
	seed = strtoull(argv[3], NULL, 10) * 2654435761u + 1;
	for (int i = 6; i < argc; i++)
		if (option(&cfg, argv[i], &queue, &die, &check))
			return 2;
	if (block_open(&b, &cfg, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	size = block_size(b);
	if (die || check) {
		if (map_copies(argv[5]))
			return 1;
		if (check)
			return verify(b) || block_close(b);
		touched = calloc(size / 512, 1);
	} else {
		copy = malloc(size);
	}
	for (unsigned i = 0; i < QUEUE_MAX; i++)
		jobs[i].buf = aligned_alloc(4096, LEN_MAX);
	if (load_copy(b))
		return 1;
	if (die) {
		memcpy(acked, copy, size);
		pthread_create(&thread, NULL, killer, (void *)(uintptr_t)rnd(150000));
	}
	run(b, strtoul(argv[4], NULL, 10), queue);
	ret = block_close(b);
	if (ret)
		fprintf(stderr, "close: %s\n", strerror(-ret));
	if (!die && strcmp(argv[5], "-") && write_copy(argv[5]))
		return 1;
	return ret || failures;
}
