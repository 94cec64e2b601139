/*
 * What to boot, and the kernel command line for it.
 *
 * Without -kernel it is the guest of tools/guest: in guest/ beside the program, as in a
 * build directory, or in ../share/umbra/guest when the program is installed. The
 * parameters umbra.* are those of tools/initrd/init. One thread, before there is a
 * machine.
 */
#include "control/guest.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"

/* Beside the program, installed. */
static const char *const places[] = { "guest", "../share/umbra/guest" };

__attribute__((format(printf, 1, 2))) static char *format(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}

static char *place(const char *name)
{
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	if (n <= 0)
		return xstrdup(name);
	exe[n] = 0;
	slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	return format("%s/%s", exe, name);
}

char *guest_directory(void)
{
	return place(places[0]);
}

/* The directory that has 'file', NULL if none has. To be freed. */
static char *find_directory(const char *file)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char *dir = place(places[i]), *path = format("%s/%s", dir, file);
		bool there = !access(path, F_OK);

		free(path);
		if (there)
			return dir;
		free(dir);
	}
	return NULL;
}

static int our_file(char **path, const char *file, const char *option, struct error *err)
{
	char *dir = find_directory(file);

	if (!dir) {
		dir = guest_directory();
		error_set(err, -ENOENT,
			  "there is no %s/%s: `make run` fetches it, or say -%s FILE",
			  dir, file, option);
		free(dir);
		return -ENOENT;
	}
	*path = format("%s/%s", dir, file);
	free(dir);
	return 0;
}

/* "Linux RELEASE" as tools/guest noted it. */
static char *our_release(void)
{
	char *dir = find_directory("release"), *path, line[128] = "";
	FILE *f;

	if (!dir)
		return xstrdup("Linux");
	path = format("%s/release", dir);
	f = fopen(path, "re");
	if (f) {
		if (!fgets(line, sizeof(line), f))
			*line = 0;
		fclose(f);
	}
	line[strcspn(line, "\n")] = 0;
	free(path);
	free(dir);
	return format("Linux %s", line);
}

/* Add a word, or words. */
__attribute__((format(printf, 2, 3))) static void add(char **line, const char *fmt, ...)
{
	char *old = *line, *words;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&words, fmt, ap) < 0)
		abort();
	va_end(ap);
	if (*words)
		*line = format("%s%s%s", old, *old ? " " : "", words);
	if (*line != old)
		free(old);
	free(words);
}

static void add_terminal(char **line, const struct guest_terminal *t)
{
	if (!t->console)
		return;
	if (!t->terminal) {
		add(line, "umbra.input=ttyS1%s", t->at_end ? " umbra.facts" : "");
		return;
	}
	if (t->rows && t->cols)
		add(line, "umbra.rows=%u umbra.cols=%u umbra.winsize=ttyS1", t->rows,
		    t->cols);
	/* A word of the command line has no spaces or quotes in it. */
	if (t->type && *t->type && !strpbrk(t->type, " \t\n\"\\"))
		add(line, "umbra.term=%s", t->type);
}

/*
 * Linux waits for ticks when it sets up the IOAPIC, and panics where the host keeps it
 * from running meanwhile. Where it finds KVM's interface it does not; with a CPU that has
 * none (kvm=off) it is told not to.
 */
static char *command_line(const struct guest *g, const struct run_options *o,
			  const struct guest_terminal *t)
{
	char *line = xstrdup("");

	if (o->command) {
		/* To print what nobody sees would only take time. */
		bool seen = o->serial[0].backend != BACKEND_NULL;

		add(&line, "console=ttyS0%s umbra.agent=ttyS1 panic=-1 no_timer_check",
		    seen ? "" : " quiet loglevel=3");
	} else if (!o->kernel) {
		add(&line, "console=ttyS0");
	}
	if (!o->command && g->ours) {
		add(&line, "no_timer_check");
		/* Somebody at the terminal wants to read what a panic says. */
		if (!t->terminal)
			add(&line, "panic=-1");
		add_terminal(&line, t);
	}
	if (o->append)
		add(&line, "%s", o->append);
	return line;
}

int guest_find(struct guest *g, const struct run_options *o,
	       const struct guest_terminal *t, struct error *err)
{
	bool our_initrd = !o->initrd && (!o->kernel || o->command);
	int ret = 0;

	*g = (struct guest){ .ours = our_initrd };
	if (o->kernel)
		g->kernel = xstrdup(o->kernel);
	else
		ret = our_file(&g->kernel, "vmlinuz", "kernel", err);
	if (!ret && o->initrd)
		g->initrd = xstrdup(o->initrd);
	else if (!ret && our_initrd)
		ret = our_file(&g->initrd, "initrd", "initrd", err);
	if (ret) {
		guest_fini(g);
		return ret;
	}
	g->describe = o->kernel ? xstrdup(o->kernel) : our_release();
	g->cmdline = command_line(g, o, t);
	return 0;
}

void guest_fini(struct guest *g)
{
	free(g->kernel);
	free(g->initrd);
	free(g->cmdline);
	free(g->describe);
	*g = (struct guest){ 0 };
}
