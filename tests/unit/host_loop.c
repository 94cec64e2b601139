/* The event loop: descriptors, work, one timer source, stopping. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/loop.h"

struct ctx {
	struct loop *l;
	struct loop_fd *w, *other;
	int fds[2];
	unsigned n, limit;
	unsigned events;
	struct loop_work work;
	i64 wait_ns;
	unsigned asked, ran;
};

static struct ctx *ctx_new(struct ctx *c)
{
	*c = (struct ctx){ .wait_ns = INT64_MAX };
	c->l = loop_new(NULL);
	assert_non_null(c->l);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
				    0, c->fds),
			 0);
	return c;
}

static void ctx_free(struct ctx *c)
{
	loop_free(c->l);
	close(c->fds[0]);
	if (c->fds[1] >= 0)
		close(c->fds[1]);
}

static void stop_now(void *opaque)
{
	struct ctx *c = opaque;

	loop_stop(c->l, 0);
}

static void loop_stop_before_run_returns_at_once(void **state)
{
	struct ctx c;

	(void)state;
	ctx_new(&c);
	loop_stop(c.l, 7);
	loop_stop(c.l, 8);
	assert_int_equal(loop_run(c.l), 7);
	ctx_free(&c);
}

static void *stopper(void *arg)
{
	struct timespec ts = { .tv_nsec = 2000000 };

	nanosleep(&ts, NULL);
	loop_stop(arg, 3);
	return NULL;
}

static void loop_stop_from_another_thread_wakes_it(void **state)
{
	struct ctx c;
	pthread_t t;

	(void)state;
	ctx_new(&c);
	assert_int_equal(pthread_create(&t, NULL, stopper, c.l), 0);
	assert_int_equal(loop_run(c.l), 3);
	pthread_join(t, NULL);
	ctx_free(&c);
}

static void read_bytes(void *opaque, unsigned events)
{
	struct ctx *c = opaque;
	char buf[1];

	c->events = events;
	if (read(c->fds[0], buf, 1) == 1 && ++c->n == c->limit)
		loop_stop(c->l, 0);
}

static void fd_is_reported_until_it_is_empty(void **state)
{
	struct ctx c;

	(void)state;
	ctx_new(&c);
	c.limit = 5;
	c.w = loop_add(c.l, c.fds[0], LOOP_READ, read_bytes, &c, NULL);
	assert_non_null(c.w);
	assert_int_equal(write(c.fds[1], "hello", 5), 5);
	assert_int_equal(loop_run(c.l), 0);
	assert_int_equal(c.n, 5);
	assert_int_equal(c.events, LOOP_READ);
	loop_remove(c.w);
	ctx_free(&c);
}

static void count_events(void *opaque, unsigned events)
{
	struct ctx *c = opaque;

	c->events |= events;
	c->n++;
	loop_set_events(c->w, 0);
}

static void muted_fd_is_not_reported(void **state)
{
	struct ctx c;

	(void)state;
	ctx_new(&c);
	c.w = loop_add(c.l, c.fds[0], LOOP_READ, count_events, &c, NULL);
	assert_int_equal(write(c.fds[1], "x", 1), 1);
	/* Hang-up as well: with nothing asked for, not even that. */
	close(c.fds[1]);
	c.fds[1] = -1;
	c.work = (struct loop_work){ .run = stop_now, .opaque = &c };
	for (unsigned i = 0; i < 3; i++) {
		loop_post(c.l, &c.work);
		loop_run(c.l);
	}
	assert_int_equal(c.n, 1);
	loop_set_events(c.w, LOOP_WRITE);
	loop_post(c.l, &c.work);
	loop_run(c.l);
	assert_int_equal(c.n, 2);
	assert_true(c.events & LOOP_HUP);
	ctx_free(&c);
}

static void remove_both(void *opaque, unsigned events)
{
	struct ctx *c = opaque;

	(void)events;
	c->n++;
	loop_remove(c->w);
	loop_remove(c->other);
	loop_stop(c->l, 0);
}

static void fd_removed_by_another_callback_is_not_called(void **state)
{
	struct ctx c;

	(void)state;
	ctx_new(&c);
	/* Both ready in the same batch: whichever is first removes the second. */
	c.w = loop_add(c.l, c.fds[0], LOOP_WRITE, remove_both, &c, NULL);
	c.other = loop_add(c.l, c.fds[1], LOOP_WRITE, remove_both, &c, NULL);
	loop_run(c.l);
	assert_int_equal(c.n, 1);
	loop_stop(c.l, 0);
	loop_run(c.l);
	assert_int_equal(c.n, 1);
	ctx_free(&c);
}

static void regular_file_counts_as_always_ready(void **state)
{
	struct ctx c;
	int fd = memfd_create("file", MFD_CLOEXEC);

	(void)state;
	ctx_new(&c);
	c.w = loop_add(c.l, fd, LOOP_READ, count_events, &c, NULL);
	assert_non_null(c.w);
	c.work = (struct loop_work){ .run = stop_now, .opaque = &c };
	loop_post(c.l, &c.work);
	loop_run(c.l);
	loop_post(c.l, &c.work);
	loop_run(c.l);
	assert_int_equal(c.n, 1);
	assert_int_equal(c.events, LOOP_READ);
	loop_remove(c.w);
	close(fd);
	ctx_free(&c);
}

static void bad_fd_is_refused_with_a_message(void **state)
{
	struct ctx c;
	struct error err = { 0 };

	(void)state;
	ctx_new(&c);
	assert_null(loop_add(c.l, 12345, LOOP_READ, count_events, &c, &err));
	assert_true(err.msg[0]);
	ctx_free(&c);
}

static void count_work(void *opaque)
{
	struct ctx *c = opaque;

	if (++c->n == c->limit)
		loop_stop(c->l, 0);
	else if (c->limit)
		loop_post(c->l, &c->work);
}

static void work_posted_twice_runs_once(void **state)
{
	struct ctx c;
	struct loop_work last;

	(void)state;
	ctx_new(&c);
	c.work = (struct loop_work){ .run = count_work, .opaque = &c };
	last = (struct loop_work){ .run = stop_now, .opaque = &c };
	loop_post(c.l, &c.work);
	loop_post(c.l, &c.work);
	loop_post(c.l, &last);
	loop_run(c.l);
	assert_int_equal(c.n, 1);
	ctx_free(&c);
}

static void work_may_post_itself_again(void **state)
{
	struct ctx c;

	(void)state;
	ctx_new(&c);
	c.limit = 100;
	c.work = (struct loop_work){ .run = count_work, .opaque = &c };
	loop_post(c.l, &c.work);
	loop_run(c.l);
	assert_int_equal(c.n, 100);
	ctx_free(&c);
}

static void work_taken_out_does_not_run(void **state)
{
	struct ctx c;
	struct loop_work last;

	(void)state;
	ctx_new(&c);
	c.work = (struct loop_work){ .run = count_work, .opaque = &c };
	last = (struct loop_work){ .run = stop_now, .opaque = &c };
	loop_post(c.l, &c.work);
	loop_unpost(c.l, &c.work);
	loop_unpost(c.l, &c.work);
	loop_post(c.l, &last);
	loop_run(c.l);
	assert_int_equal(c.n, 0);
	ctx_free(&c);
}

static i64 next_ns(void *opaque)
{
	struct ctx *c = opaque;

	c->asked++;
	return c->wait_ns;
}

static void run_timers(void *opaque)
{
	struct ctx *c = opaque;

	c->wait_ns = INT64_MAX;
	if (++c->ran == c->limit)
		loop_stop(c->l, 0);
	else
		c->wait_ns = 0;
}

static void timer_runs_when_due(void **state)
{
	struct ctx c;

	(void)state;
	ctx_new(&c);
	c.limit = 10;
	c.wait_ns = 0;
	loop_set_timer(c.l, next_ns, run_timers, &c);
	loop_run(c.l);
	assert_int_equal(c.ran, 10);
	ctx_free(&c);
}

struct host_timer {
	struct loop *l;
	struct timespec due;
	i64 late;
};

static i64 host_left(void *opaque)
{
	const struct host_timer *h = opaque;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (h->due.tv_sec - now.tv_sec) * 1000000000 + h->due.tv_nsec - now.tv_nsec;
}

static void host_due(void *opaque)
{
	struct host_timer *h = opaque;

	h->late = -host_left(h);
	loop_stop(h->l, 0);
}

static void timer_is_never_early(void **state)
{
	struct ctx c;
	struct host_timer h;

	(void)state;
	ctx_new(&c);
	h.l = c.l;
	clock_gettime(CLOCK_MONOTONIC, &h.due);
	h.due.tv_nsec += 3000000;
	loop_set_timer(c.l, host_left, host_due, &h);
	loop_run(c.l);
	assert_true(h.late >= 0);
	ctx_free(&c);
}

static void *sooner(void *arg)
{
	struct ctx *c = arg;
	struct timespec ts = { .tv_nsec = 1000000 };

	nanosleep(&ts, NULL);
	__atomic_store_n(&c->wait_ns, 0, __ATOMIC_SEQ_CST);
	loop_wake(c->l);
	return NULL;
}

static i64 next_ns_atomic(void *opaque)
{
	struct ctx *c = opaque;

	return __atomic_load_n(&c->wait_ns, __ATOMIC_SEQ_CST);
}

static void wake_makes_it_ask_for_the_deadline_again(void **state)
{
	struct ctx c;
	pthread_t t;

	(void)state;
	ctx_new(&c);
	c.limit = 1;
	loop_set_timer(c.l, next_ns_atomic, run_timers, &c);
	assert_int_equal(pthread_create(&t, NULL, sooner, &c), 0);
	loop_run(c.l);
	assert_int_equal(c.ran, 1);
	pthread_join(t, NULL);
	ctx_free(&c);
}

static void loop_does_not_spin_while_nothing_happens(void **state)
{
	struct ctx c;
	pthread_t t;

	(void)state;
	ctx_new(&c);
	loop_set_timer(c.l, next_ns, run_timers, &c);
	assert_int_equal(pthread_create(&t, NULL, stopper, c.l), 0);
	loop_run(c.l);
	pthread_join(t, NULL);
	/* Once before the wait and once after, with some room. */
	assert_true(c.asked <= 6);
	ctx_free(&c);
}

struct busy {
	struct ctx *c;
	bool in_callback, done;
};

static void slow_ready(void *opaque, unsigned events)
{
	struct busy *b = opaque;
	struct timespec ts = { .tv_nsec = 2000000 };

	(void)events;
	__atomic_store_n(&b->in_callback, true, __ATOMIC_SEQ_CST);
	nanosleep(&ts, NULL);
	__atomic_store_n(&b->done, true, __ATOMIC_SEQ_CST);
}

static void *remove_while_busy(void *arg)
{
	struct busy *b = arg;

	while (!__atomic_load_n(&b->in_callback, __ATOMIC_SEQ_CST))
		sched_yield();
	loop_remove(b->c->w);
	assert_true(__atomic_load_n(&b->done, __ATOMIC_SEQ_CST));
	loop_stop(b->c->l, 0);
	return NULL;
}

static void remove_from_another_thread_waits_for_the_callback(void **state)
{
	struct ctx c;
	struct busy b = { .c = &c };
	pthread_t t;

	(void)state;
	ctx_new(&c);
	c.w = loop_add(c.l, c.fds[0], LOOP_WRITE, slow_ready, &b, NULL);
	assert_int_equal(pthread_create(&t, NULL, remove_while_busy, &b), 0);
	loop_run(c.l);
	pthread_join(t, NULL);
	ctx_free(&c);
}

static void nothing(void *opaque, unsigned events)
{
	(void)opaque;
	(void)events;
}

static void *hammer(void *arg)
{
	struct ctx *c = arg;

	for (unsigned i = 0; i < 3000; i++) {
		struct loop_fd *w =
			loop_add(c->l, c->fds[1], LOOP_WRITE, nothing, c, NULL);

		loop_set_events(w, LOOP_READ);
		loop_post(c->l, &c->work);
		loop_set_events(w, LOOP_WRITE | LOOP_READ);
		loop_unpost(c->l, &c->work);
		loop_remove(w);
	}
	loop_stop(c->l, 0);
	return NULL;
}

static void adding_and_removing_while_it_runs_is_safe(void **state)
{
	struct ctx c;
	pthread_t t;

	(void)state;
	ctx_new(&c);
	c.work = (struct loop_work){ .run = count_work, .opaque = &c };
	assert_int_equal(pthread_create(&t, NULL, hammer, &c), 0);
	loop_run(c.l);
	pthread_join(t, NULL);
	ctx_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loop_stop_before_run_returns_at_once),
		cmocka_unit_test(loop_stop_from_another_thread_wakes_it),
		cmocka_unit_test(fd_is_reported_until_it_is_empty),
		cmocka_unit_test(muted_fd_is_not_reported),
		cmocka_unit_test(fd_removed_by_another_callback_is_not_called),
		cmocka_unit_test(regular_file_counts_as_always_ready),
		cmocka_unit_test(bad_fd_is_refused_with_a_message),
		cmocka_unit_test(work_posted_twice_runs_once),
		cmocka_unit_test(work_may_post_itself_again),
		cmocka_unit_test(work_taken_out_does_not_run),
		cmocka_unit_test(timer_runs_when_due),
		cmocka_unit_test(timer_is_never_early),
		cmocka_unit_test(wake_makes_it_ask_for_the_deadline_again),
		cmocka_unit_test(loop_does_not_spin_while_nothing_happens),
		cmocka_unit_test(remove_from_another_thread_waits_for_the_callback),
		cmocka_unit_test(adding_and_removing_while_it_runs_is_safe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
