/*
 * Loops of every kind that never ends by itself: each is left soon after a kick, at an
 * instruction of it, and goes on where it was.
 */
#include "translate_box.h"

#include "engine/translate/translate.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 2000

struct runner {
	const struct engine *e;
	struct box *b;
	int done; /* atomic */
};

static void *run_thread(void *arg)
{
	struct runner *r = arg;

	if (r->e->run(r->b->v) != VCPU_EXIT_EVENT)
		r->done = 2;
	else
		__atomic_store_n(&r->done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

/* One round: in the loop on its own thread, kicked after a while. False: it does not come
 * back. */
static bool kicked_out(const struct engine *e, struct box *b)
{
	struct runner r = { .e = e, .b = b };
	pthread_t thread;
	u64 start;

	pthread_create(&thread, NULL, run_thread, &r);
	usleep(3000);
	vcpu_post(b->v, EV_STOP);
	if (e->kick)
		e->kick(b->v);
	start = now_ms();
	while (!__atomic_load_n(&r.done, __ATOMIC_SEQ_CST)) {
		if (now_ms() - start > PATIENCE_MS)
			return false;
		usleep(100);
	}
	pthread_join(thread, NULL);
	__atomic_and_fetch(&b->v->events, ~(u32)EV_STOP, __ATOMIC_SEQ_CST);
	return r.done == 1;
}

static void loop_is_left(const char *name, const u8 *code, const u8 *end,
			 void (*prepare)(struct box *b))
{
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++) {
		const struct engine *e = all_engines[i];
		struct box *b = engine_box_new(e);
		u64 last = 0;

		if (!b)
			continue;
		engine_box_start(e, b, 0);
		memcpy(b->ram + CODE, code, (size_t)(end - code));
		if (prepare)
			prepare(b);
		/* RBX counts; on a busy host the thread may not have come so far. */
		for (unsigned n = 0, rounds = 0; n < 4; rounds++) {
			if (!kicked_out(e, b))
				fail_msg("%s on %s: a kick does not end it", name,
					 e->name);
			n += b->v->gpr[RBX] > last;
			if (rounds == 500)
				fail_msg("%s on %s: it does not go on", name, e->name);
			last = b->v->gpr[RBX];
		}
		engine_box_free(e, b);
	}
}

#define LOOP(name, text)                                                                 \
	PROGRAM(name, text);                                                             \
	static void name##_loop(void **state)                                            \
	{                                                                                \
		(void)state;                                                             \
		loop_is_left(#name, name, name##_end, prepare_all);                      \
	}

/* What some of the loops want: an invalid opcode's handler returns behind it; a second
 * page of code. */
static void prepare_all(struct box *b)
{
	static const u8 skip[] = {
		0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xcf
	}; /* add [rsp], 2; iretq */
	static const u8 back[] = { 0xe9, 0xfb, 0x6f, 0xff,
				   0xff }; /* jmp CODE at 49000h */

	memcpy(b->ram + HANDLERS + 16 * VEC_UD, skip, sizeof(skip));
	memcpy(b->ram + CODE2 + 0x1000, back, sizeof(back));
}

LOOP(jcc_back, "1: inc rbx\n test rbx, rbx\n jnz 1b")
LOOP(jmp_back, "1: inc rbx\n jmp 1b")
LOOP(jmp_self, "inc rbx\n add rbx, rbx\n inc rbx\n 1: inc rbx\n nop\n jmp 1b")
LOOP(jcc_forward, "1: inc rbx\n jnz 2f\n nop\n 2: jz 1b\n jmp 1b")
LOOP(jmp_indirect, "lea rax, [rip + 1f]\n 1: inc rbx\n jmp rax")
LOOP(jmp_memory, "lea rax, [rip + 1f]\n push rax\n 1: inc rbx\n jmp [rsp]")
LOOP(ret_loop, "lea rax, [rip + 1f]\n 1: inc rbx\n push rax\n ret")
LOOP(call_near, "1: inc rbx\n lea rsp, [rsp + 8]\n call 1b")
LOOP(call_indirect, "lea rax, [rip + 1f]\n 1: inc rbx\n lea rsp, [rsp + 8]\n call rax")
LOOP(call_and_return, "1: inc rbx\n call 2f\n jmp 1b\n 2: call 3f\n ret\n 3: ret")
LOOP(far_page, "inc rbx\n mov eax, 0x49000\n jmp rax")
LOOP(loop_insn, "1: inc rbx\n mov ecx, 5\n 2: loop 2b\n jmp 1b")
LOOP(loop_itself, "1: inc rbx\n mov rcx, 1000\n 2: loop 2b\n jrcxz 1b")
LOOP(faults, "1: inc rbx\n ud2\n jmp 1b")
LOOP(string, "1: inc rbx\n mov rcx, 100000\n mov esi, 0x60000\n rep lodsb\n jmp 1b")
LOOP(vectors, "1: inc rbx\n paddd xmm0, xmm1\n jmp 1b")
LOOP(call_outs, "1: inc rbx\n cld\n sgdt [rsp - 32]\n jmp 1b")

/* A vCPU that goes round and round on its own thread, with interrupts off. */
static struct box *goes_round(struct runner *r, pthread_t *thread)
{
	struct box *b = engine_box_new(&engine_translate);

	if (!b)
		skip();
	*r = (struct runner){ .e = &engine_translate, .b = b };
	engine_box_start(&engine_translate, b, 0);
	memcpy(b->ram + CODE, jmp_back, (size_t)(jmp_back_end - jmp_back));
	b->v->flags &= ~(u64)RFLAGS_IF;
	pthread_create(thread, NULL, run_thread, r);
	usleep(3000);
	return b;
}

static void stops(struct runner *r, pthread_t thread)
{
	u64 start = now_ms();

	vcpu_post(r->b->v, EV_STOP);
	engine_translate.kick(r->b->v);
	while (!__atomic_load_n(&r->done, __ATOMIC_SEQ_CST) &&
	       now_ms() - start < PATIENCE_MS)
		usleep(100);
	assert_int_equal(__atomic_load_n(&r->done, __ATOMIC_SEQ_CST), 1);
	pthread_join(thread, NULL);
	engine_box_free(&engine_translate, r->b);
}

/* Kicks for an interrupt that has to wait, at any time while the one before is answered;
 * the last, for what cannot wait, is not to be forgotten. */
static void a_kick_while_one_is_answered(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 20; round++) {
		struct runner r;
		pthread_t thread;
		struct box *b = goes_round(&r, &thread);

		for (unsigned i = 0; i < 2000 + 7 * round; i++) {
			vcpu_post(b->v, EV_INTR);
			engine_translate.kick(b->v);
		}
		stops(&r, thread);
	}
}

/* One that was answered before it had turned the pointer of the polls. */
static void a_kick_that_comes_too_late(void **state)
{
	struct runner r;
	pthread_t thread;
	struct box *b = goes_round(&r, &thread);
	struct translator *t = b->v->engine;
	u64 fine = __atomic_load_n(&t->f->poll, __ATOMIC_SEQ_CST), start = now_ms();

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		__atomic_store_n(&t->f->poll, fine - PAGE_SIZE, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&t->f->poll, __ATOMIC_SEQ_CST) != fine)
			assert_true(now_ms() - start < PATIENCE_MS);
		assert_false(__atomic_load_n(&r.done, __ATOMIC_SEQ_CST));
	}
	stops(&r, thread);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jcc_back_loop),
		cmocka_unit_test(jmp_back_loop),
		cmocka_unit_test(jmp_self_loop),
		cmocka_unit_test(jcc_forward_loop),
		cmocka_unit_test(jmp_indirect_loop),
		cmocka_unit_test(jmp_memory_loop),
		cmocka_unit_test(ret_loop_loop),
		cmocka_unit_test(call_near_loop),
		cmocka_unit_test(call_indirect_loop),
		cmocka_unit_test(call_and_return_loop),
		cmocka_unit_test(far_page_loop),
		cmocka_unit_test(loop_insn_loop),
		cmocka_unit_test(loop_itself_loop),
		cmocka_unit_test(faults_loop),
		cmocka_unit_test(string_loop),
		cmocka_unit_test(vectors_loop),
		cmocka_unit_test(call_outs_loop),
		cmocka_unit_test(a_kick_while_one_is_answered),
		cmocka_unit_test(a_kick_that_comes_too_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
