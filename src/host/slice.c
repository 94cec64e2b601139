/*
 * sched_setattr(2): the 'runtime' of a thread without real-time policy. glibc has it
 * since 2.41, and not together with the kernel's headers. Any thread.
 */
#include "host/slice.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

void slice_set(u64 ns)
{
	struct sched_attr attr = { 0 };

	/* Its policy and nice value stay. */
	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) ||
	    attr.sched_policy != SCHED_NORMAL)
		return;
	attr.sched_runtime = ns;
	syscall(SYS_sched_setattr, 0, &attr, 0);
}
