/*
 * `umbra image debian`: a bootable Debian from packages.
 *
 * mmdebstrap installs the packages, as root, in a user name space, or with fakechroot,
 * whichever works here. mke2fs fills a raw image without mounting it, and `convert`
 * makes it qcow2. All is done in a directory beside the new image, which disappears
 * again. Main thread; signals only set a flag that the reading loop looks at.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "control/debian.h"
#include "control/image.h"
#include "control/session.h"

extern char **environ;

enum { MAX_ARGS = 256 };

/* What a system with a network and a serial console needs, and little more. */
static const char basic[] =
	"systemd,systemd-sysv,systemd-resolved,systemd-timesyncd,udev,dbus,"
	"initramfs-tools,zstd,kmod,iproute2,iputils-ping,netbase,procps,less";

/* Boots fastest, and has drivers for virtio and NVMe only. */
static const char cloud_kernel[] = "linux-image-cloud-amd64";

struct making {
	const struct image_args *a;
	const char *out, *suite, *kernel;
	char *dir; /* for all that is unfinished; owned */
	char *sources, *options, *key;
	u64 size;
	struct timespec began;
	char best[512]; /* the line that tells most about a failure */
	char *text;     /* what a program has printed, if it is wanted */
	size_t text_len;
	struct error err;
};

static volatile sig_atomic_t stop_signal;

static void on_signal(int sig)
{
	stop_signal = sig;
}

static void step(const struct making *m, const char *what)
{
	struct timespec now;

	if (m->a->quiet)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%4" PRId64 " s  %s\n", (int64_t)(now.tv_sec - m->began.tv_sec), what);
	fflush(stdout);
}

/* ---- programs ---- */

static bool have_program(const char *name)
{
	char path[PATH_MAX];

	for (const char *p = getenv("PATH"); p && *p;) {
		size_t len = strcspn(p, ":");

		snprintf(path, sizeof(path), "%.*s/%s", (int)len, p, name);
		if (!access(path, X_OK))
			return true;
		p += len + (p[len] == ':');
	}
	return false;
}

static int check_programs(struct making *m)
{
	static const struct {
		const char *program, *package;
		bool user; /* only when we are not root */
	} needed[] = {
		{ "apt-get", "apt", false },      { "mmdebstrap", "mmdebstrap", false },
		{ "mke2fs", "e2fsprogs", false }, { "tar", "tar", false },
		{ "fakeroot", "fakeroot", true }, { "newuidmap", "uidmap", true },
	};
	const char *path = getenv("PATH");
	size_t room = strlen(path ? path : "") + 64;
	char *with_sbin = xzalloc(room);

	/* Users have no sbin in their PATH, and mke2fs is there. */
	snprintf(with_sbin, room, "%s%s/usr/sbin:/sbin", path ? path : "/usr/bin:/bin",
		 path && !*path ? "" : ":");
	setenv("PATH", with_sbin, 1);
	free(with_sbin);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		if ((needed[i].user && !geteuid()) || have_program(needed[i].program))
			continue;
		return error_set(&m->err, -ENOENT,
				 "image debian: %s is missing; the package %s has it",
				 needed[i].program, needed[i].package);
	}
	return 0;
}

static void take_line(struct making *m, const char *line, bool show)
{
	if (debian_tells_more(line, m->best) || !m->best[0])
		snprintf(m->best, sizeof(m->best), "%s", line);
	/* "I: downloading packages with apt..." */
	if (show && !strncmp(line, "I: ", 3) && strstr(line, "ing ") &&
	    !strstr(line, "tempdir") && !strstr(line, "signed-by") &&
	    !strstr(line, "waiting") && !strstr(line, "hook"))
		step(m, line + 3);
}

/* Everything it prints, line by line; a line that is too long is cut. */
static void read_lines(struct making *m, int fd, pid_t pid, bool show)
{
	char line[400];
	size_t len = 0;
	bool told = false;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		char buf[4096];
		ssize_t n;

		if (stop_signal && !told) {
			kill(-pid, SIGINT);
			told = true;
		}
		/* A signal just before poll() is noticed a second later. */
		if (poll(&p, 1, 1000) <= 0)
			continue;
		n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (!show && m->text_len < 1 << 20) {
			m->text = realloc(m->text, m->text_len + (size_t)n + 1);
			if (!m->text)
				abort();
			memcpy(m->text + m->text_len, buf, (size_t)n);
			m->text_len += (size_t)n;
			m->text[m->text_len] = 0;
		}
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] != '\n' && buf[i] != '\r') {
				if (len < sizeof(line) - 1)
					line[len++] = buf[i];
				continue;
			}
			line[len] = 0;
			if (len)
				take_line(m, line, show);
			len = 0;
		}
	}
}

/* Run it to its end. 'show': what it does is shown; otherwise it is kept in m->text. */
static int run_program(struct making *m, const char *const *argv, bool show)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int fds[2], status = 0, ret;
	pid_t pid;

	m->best[0] = 0;
	free(m->text);
	m->text = NULL;
	m->text_len = 0;
	if (pipe2(fds, O_CLOEXEC))
		return error_set(&m->err, -errno, "pipe: %s", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
	/* A group of its own: mmdebstrap alone, when told to stop, waits for those it has
	 * started, which may take minutes. */
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
	ret = posix_spawnp(&pid, argv[0], &actions, &attr, (char **)(uintptr_t)argv,
			   environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	if (!ret) {
		read_lines(m, fds[0], pid, show);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	close(fds[0]);
	if (ret)
		return error_set(&m->err, -ret, "%s: %s", argv[0], strerror(ret));
	if (stop_signal)
		return error_set(&m->err, -EINTR, "image debian: interrupted");
	if (status) {
		const char *name = strrchr(argv[0], '/');

		return error_set(&m->err, -EIO, "%s failed: %s",
				 name ? "writing the image" : argv[0],
				 m->best[0] ? m->best : "it says nothing");
	}
	return 0;
}

/* ---- the steps ---- */

static int read_apt(struct making *m)
{
	static const char *const targets[] = { "apt-get",
					       "indextargets",
					       "--format",
					       "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
					       "Created-By: Packages",
					       NULL };
	static const char *const dump[] = { "apt-config", "dump", NULL };
	int ret = run_program(m, targets, false);

	if (ret)
		return ret;
	m->sources = debian_sources(m->text ? m->text : "", m->suite);
	if (!*m->sources)
		return error_set(
			&m->err, -ENOENT,
			"image debian: apt on this host knows no source for '%s': add "
			"one to /etc/apt/sources.list.d, or run apt-get update",
			m->suite);
	ret = run_program(m, dump, false);
	if (!ret)
		m->options = debian_apt_options(m->text ? m->text : "");
	return ret;
}

/* Each line of 'text' becomes an argument; they point into it. */
static size_t add_lines(const char **argv, size_t n, char *text)
{
	for (char *save, *l = strtok_r(text, "\n", &save); l && n < MAX_ARGS - 8;
	     l = strtok_r(NULL, "\n", &save))
		argv[n++] = l;
	return n;
}

static char *format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *format(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}

/* sh lines that put the key in place. */
static char *key_hook(const struct making *m)
{
	char *quoted = m->key ? debian_quote(m->key) : NULL, *hook;

	if (!quoted)
		return xstrdup("");
	hook = format("mkdir -p -m 700 \"$r/root/.ssh\"\n"
		      "printf '%%s\\n' %s >\"$r/root/.ssh/authorized_keys\"\n",
		      quoted);
	free(quoted);
	return hook;
}

static int install(struct making *m)
{
	const char *more = m->a->packages ? m->a->packages : "";
	char *include =
		format("--include=%s,%s%s%s", basic, m->kernel, *more ? "," : "", more);
	char *key = key_hook(m);
	char *hook = format("--customize-hook=%s%s", debian_hook, key);
	char *tar = format("%s/root.tar", m->dir);
	/* What a power cut leaves is thrown away: no fsync() for each file. */
	const char *argv[MAX_ARGS] = { "mmdebstrap",
				       "--variant=minbase",
				       "--format=tar",
				       "--architectures=amd64",
				       "--dpkgopt=force-unsafe-io",
				       include,
				       hook };
	size_t n = 7, first = n;
	char *options[MAX_ARGS] = { 0 };
	int ret;

	n = add_lines(argv, n, m->options);
	for (size_t i = first; i < n; i++)
		argv[i] = options[i] = format("--aptopt=%s", argv[i]);
	argv[n++] = "--";
	argv[n++] = m->suite;
	argv[n++] = tar;
	n = add_lines(argv, n, m->sources);
	argv[n] = NULL;
	ret = run_program(m, argv, true);
	for (size_t i = 0; i < MAX_ARGS; i++)
		free(options[i]);
	free(tar);
	free(hook);
	free(key);
	free(include);
	return ret;
}

/* Owners and devices of the files exist only within one run of fakeroot. */
static const char fill_script[] =
	"set -e\n"
	"cd \"$1\"\n"
	"mkdir root\n"
	"tar -x -p --numeric-owner -f root.tar -C root\n"
	"rm root.tar\n"
	"cp root/vmlinuz vmlinuz\n"
	"cp root/initrd.img initrd\n"
	"chmod 644 vmlinuz initrd\n"
	"mke2fs -q -t ext4 -L root -m 1 -d root disk.raw \"$2\"\n"
	"rm -rf root\n";

static int fill(struct making *m)
{
	char *kib = format("%" PRIu64 "k", m->size >> 10);
	const char *argv[] = { "fakeroot", "sh",   "-c", fill_script,
			       "sh",       m->dir, kib,  NULL };
	int ret;

	step(m, "making the file system");
	ret = run_program(m, argv + !geteuid(), false);
	free(kib);
	return ret;
}

/* A process of its own: it removes what it has begun when a signal ends it. */
static int convert(struct making *m)
{
	char *raw = format("%s/disk.raw", m->dir);
	const char *argv[] = { "/proc/self/exe",
			       "image",
			       "convert",
			       "-f",
			       "raw",
			       "-O",
			       m->a->format ? m->a->format : "qcow2",
			       "--",
			       raw,
			       m->out,
			       NULL };
	int ret;

	step(m, "writing the image");
	ret = run_program(m, argv, false);
	free(raw);
	return ret;
}

static int place(struct making *m, const char *what, char **to)
{
	char *from = format("%s/%s", m->dir, what);
	int ret;

	*to = debian_beside(m->out, what);
	ret = rename(from, *to) ? -errno : 0;
	free(from);
	return ret ? error_set(&m->err, ret, "%s: %s", *to, strerror(-ret)) : 0;
}

static void tell(const struct making *m, const char *kernel, const char *initrd)
{
	bool raw = m->a->format && !strcmp(m->a->format, "raw");

	if (m->a->quiet)
		return;
	step(m, "done; run it with");
	printf("\numbra run -m 1G -smp 2 -kernel %s -initrd %s \\\n"
	       "    -append 'root=LABEL=root console=ttyS0' -drive file=%s,if=virtio%s "
	       "\\\n"
	       "    -nic user,hostfwd=tcp:127.0.0.1:2222-:22\n",
	       kernel, initrd, m->out, raw ? ",format=raw" : "");
	fflush(stdout);
}

static int make(struct making *m)
{
	char *kernel = NULL, *initrd = NULL;
	int ret = install(m);

	if (!ret)
		ret = fill(m);
	if (!ret)
		ret = convert(m);
	if (!ret) {
		ret = place(m, "vmlinuz", &kernel);
		if (!ret)
			ret = place(m, "initrd", &initrd);
		if (ret)
			unlink(m->out);
		else
			tell(m, kernel, initrd);
	}
	free(kernel);
	free(initrd);
	return ret;
}

/* ---- the command ---- */

static int read_key(struct making *m)
{
	const char *path = m->a->key;
	char buf[8192];
	FILE *f;
	size_t n;

	if (!path)
		return 0;
	f = fopen(path, "re");
	if (!f)
		return error_set(&m->err, -errno, "--ssh-key %s: %s", path,
				 strerror(errno));
	n = fread(buf, 1, sizeof(buf) - 1, f);
	fclose(f);
	buf[n] = 0;
	/* The private one of the pair is next to it, and easily given by mistake. */
	if (n < 16 || memchr(buf, 0, n) || strstr(buf, "PRIVATE KEY") ||
	    (strncmp(buf, "ssh-", 4) && strncmp(buf, "ecdsa-", 6) &&
	     strncmp(buf, "sk-", 3)))
		return error_set(
			&m->err, -EINVAL,
			"--ssh-key %s: not a public key; a file like id_ed25519.pub is "
			"needed",
			path);
	m->key = xstrdup(buf);
	m->key[strcspn(m->key, "\r\n")] = 0;
	return 0;
}

static int check(struct making *m)
{
	const struct image_args *a = m->a;

	m->suite = a->suite ? a->suite : "bookworm";
	m->kernel = a->kernel ? a->kernel : cloud_kernel;
	if (!debian_suite_ok(m->suite))
		return error_set(
			&m->err, -EINVAL,
			"--suite '%s': the name of a release is needed, as bookworm",
			m->suite);
	if (a->format && strcmp(a->format, "raw") && strcmp(a->format, "qcow2"))
		return error_set(&m->err, -EINVAL, "-f '%s': raw or qcow2 is needed",
				 a->format);
	if (!image_size(a->size ? a->size : "4G", &m->size) || m->size < 1 << 30 ||
	    m->size > 16ull << 40)
		return error_set(&m->err, -EINVAL, "--size '%s': 1G to 16T is needed",
				 a->size);
	if (a->packages && debian_check_packages(a->packages, &m->err))
		return -EINVAL;
	/* One, and a kernel: without one there would be nothing to boot. */
	if (strncmp(m->kernel, "linux-image-", 12) || strpbrk(m->kernel, ", \t\n") ||
	    debian_check_packages(m->kernel, &m->err))
		return error_set(
			&m->err, -EINVAL,
			"--kernel '%s': the name of a package linux-image-... is "
			"needed",
			m->kernel);
	if (!*m->out)
		return error_set(&m->err, -EINVAL, "an empty file name");
	return read_key(m);
}

static void remove_dir(struct making *m)
{
	const char *argv[] = { "rm", "-rf", "--", m->dir, NULL };
	pid_t pid;

	if (!posix_spawnp(&pid, argv[0], NULL, NULL, (char **)(uintptr_t)argv, environ))
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
}

static void catch_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

int image_debian(const struct image_args *a)
{
	struct making m = { .a = a, .out = a->names[0] };
	int status = STATUS_USAGE, ret = check(&m);

	clock_gettime(CLOCK_MONOTONIC, &m.began);
	if (ret)
		goto out;
	status = STATUS_FAILED;
	ret = check_programs(&m);
	if (ret)
		goto out;
	catch_signals();
	ret = read_apt(&m);
	if (ret)
		goto out;
	m.dir = format("%s.XXXXXX", m.out);
	if (!mkdtemp(m.dir)) {
		ret = error_set(&m.err, -errno, "%s: %s", m.out, strerror(errno));
		goto out;
	}
	ret = make(&m);
	remove_dir(&m);
	if (!ret)
		status = STATUS_OK;
out:
	if (m.err.msg[0])
		log_error("%s", m.err.msg);
	free(m.dir);
	free(m.sources);
	free(m.options);
	free(m.key);
	free(m.text);
	return status;
}
