/*
 * Generated code: memory that is never writable and executable at once, and faults in it.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "host/execmem.h"
#include "host/sig.h"

typedef unsigned fn(void);

static fn *code_make(struct execmem *m, const void *code, size_t len)
{
	u8 *w;
	void *x = execmem_alloc(m, len, 16, &w);

	assert_non_null(x);
	memcpy(w, code, len);
	return (fn *)(uintptr_t)x;
}

static void code_written_in_one_view_executes_in_the_other(void **state)
{
	static const u8 ret7[] = { 0xb8, 7, 0, 0, 0, 0xc3 };
	struct execmem *m = execmem_new(1 << 20, NULL);

	(void)state;
	assert_non_null(m);
	assert_int_equal(code_make(m, ret7, sizeof(ret7))(), 7);
	execmem_free(m);
}

/* As with a file: two views, never both writable and executable, to its limit. */
static void memory_without_a_file_does_the_same(void **state)
{
	static const u8 ret7[] = { 0xb8, 7, 0, 0, 0, 0xc3 };
	struct execmem *m = execmem_new_anonymous(200000, NULL);
	unsigned n = 0, views = 0;
	char line[512];
	FILE *maps;
	fn *f;

	(void)state;
	assert_non_null(m);
	for (u8 *w; execmem_left(m) > 2000; n++)
		assert_non_null(execmem_alloc(m, 1000, 1, &w));
	f = code_make(m, ret7, sizeof(ret7));
	assert_int_equal(f(), 7);
	assert_true(n > 180);
	maps = fopen("/proc/self/maps", "r");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		/* What perf takes for memory without a file. */
		if (!strstr(line, "/dev/zero"))
			continue;
		assert_true(strstr(line, "r-xs") || strstr(line, "rw-s"));
		views++;
	}
	fclose(maps);
	assert_int_equal(views, 2);
	execmem_free(m);
}

static void memory_grows_to_its_limit_and_no_further(void **state)
{
	struct execmem *m = execmem_new(200000, NULL);
	size_t got = 0;
	u8 *w, *x, *first = NULL;

	(void)state;
	assert_non_null(m);
	while ((x = execmem_alloc(m, 1000, 64, &w))) {
		assert_int_equal((uintptr_t)x % 64, 0);
		memset(w, 0xc3, 1000);
		first = first ? first : x;
		got += 1000;
	}
	assert_true(got >= 180000 && got <= execmem_size(m));
	assert_ptr_equal(first, execmem_base(m));
	execmem_reset(m);
	assert_ptr_equal(execmem_alloc(m, 1000, 64, &w), first);
	execmem_free(m);
}

static void no_page_is_writable_and_executable(void **state)
{
	struct execmem *m = execmem_new(1 << 20, NULL);
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	u8 *w;

	(void)state;
	assert_non_null(execmem_alloc(m, 100, 16, &w));
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "umbra-code"))
			assert_null(strstr(line, "wx"));
	fclose(f);
	execmem_free(m);
}

/* ud2; ret */
static const u8 faulting[] = { 0x0f, 0x0b, 0xc3 };

static bool skip_ud2(void *opaque, struct sig_regs *r)
{
	assert_int_equal(r->sig, SIGILL);
	assert_int_equal(r->trap, 6);
	r->gpr[0] = (u64)(uintptr_t)opaque;
	r->rip += 2;
	return true;
}

static void fault_in_a_range_goes_to_its_handler(void **state)
{
	struct execmem *a = execmem_new(4096, NULL), *b = execmem_new(4096, NULL);
	fn *fa = code_make(a, faulting, sizeof(faulting));
	fn *fb = code_make(b, faulting, sizeof(faulting));
	int ia = sig_add(execmem_base(a), execmem_size(a), skip_ud2, (void *)11, NULL);
	int ib = sig_add(execmem_base(b), execmem_size(b), skip_ud2, (void *)22, NULL);

	(void)state;
	assert_true(ia >= 0 && ib >= 0);
	assert_int_equal(fa(), 11);
	assert_int_equal(fb(), 22);
	sig_remove(ia);
	assert_int_equal(fb(), 22);
	sig_remove(ib);
	execmem_free(a);
	execmem_free(b);
}

static sigjmp_buf out;

static void earlier_handler(int sig)
{
	siglongjmp(out, sig);
}

static void fault_elsewhere_goes_to_the_earlier_handler(void **state)
{
	struct execmem *a = execmem_new(4096, NULL), *b = execmem_new(4096, NULL);
	fn *fb = code_make(b, faulting, sizeof(faulting));
	volatile int id = -1;
	void (*old)(int);
	int sig;

	(void)state;
	old = signal(SIGILL, earlier_handler);
	id = sig_add(execmem_base(a), execmem_size(a), skip_ud2, NULL, NULL);
	sig = sigsetjmp(out, 1);
	if (!sig)
		fb();
	assert_int_equal(sig, SIGILL);
	sig_remove(id);
	signal(SIGILL, old);
	execmem_free(a);
	execmem_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_written_in_one_view_executes_in_the_other),
		cmocka_unit_test(memory_without_a_file_does_the_same),
		cmocka_unit_test(memory_grows_to_its_limit_and_no_further),
		cmocka_unit_test(no_page_is_writable_and_executable),
		cmocka_unit_test(fault_in_a_range_goes_to_its_handler),
		cmocka_unit_test(fault_elsewhere_goes_to_the_earlier_handler),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
