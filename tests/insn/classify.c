/*
 * What programs over all forms share: see classify.h.
 */
#include "classify.h"

#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 20 /* seconds without a test done */

void forms_find(struct form_list *l, const u32 *host, const u32 *guest, struct rng *rng)
{
	for (unsigned m = 0; m < MODE_COUNT; m++)
		form_walk(l, (enum mode)m, rng);
	for (unsigned i = 0; i < l->count; i++) {
		struct form *f = &l->form[i];
		struct decoded d;
		u8 bytes[40];

		if (!form_decode((enum mode)f->mode, bytes,
				 enc_bytes(&f->sample[0], bytes), &d))
			continue;
		f->cls = (u8)form_class_of(host, &d);
		if (f->cls != FORM_ABSENT && !isa_present(guest, &d.zi))
			f->cls = FORM_REFUSED;
	}
}

struct progress *progress_new(void)
{
	struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int progress_watch(const struct progress *p, pid_t child)
{
	u64 seen = 0;
	time_t since = time(NULL);
	int status;

	for (;;) {
		pid_t got = waitpid(child, &status, WNOHANG);

		if (got == child && WIFEXITED(status))
			return WEXITSTATUS(status);
		if (got == child) {
			printf("not ok died of signal %d in: %s\n", WTERMSIG(status),
			       p->now);
			return 1;
		}
		if (p->tests != seen) {
			seen = p->tests;
			since = time(NULL);
		} else if (time(NULL) - since > PATIENCE) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			printf("not ok hangs in: %s\n", p->now);
			return 1;
		}
		usleep(20000);
	}
}
