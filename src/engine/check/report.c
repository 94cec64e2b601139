/*
 * What a difference looks like: both states, the guest's code, the host's code, memory.
 * Both vCPUs are parked; nothing runs any more.
 */
#include "engine/check/lockstep.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "engine/check/state.h"
#include "state/desc.h"

#define MAX_LINES 24

static const char *const why[] = {
	[DIFF_STATE] = "registers differ",
	[DIFF_VECTORS] = "vector or x87 state differs",
	[DIFF_MEMORY] = "memory differs",
	[DIFF_EXIT] = "one of the two was left another way",
};

static const char *const left_names[] = {
	[LEFT_ON] = "goes on",
	[LEFT_EXIT] = "halted",
	[LEFT_SHUTDOWN] = "shut down",
};

static u64 element(const struct vcpu *v, const struct state_field *f, u32 i)
{
	return le_load((const u8 *)v + f->offset + (size_t)i * f->elem_size,
		       f->elem_size);
}

/* All fields that differ. Bytes of the XSAVE area that mean nothing are among them. */
static void report_fields(const struct vcpu *s, const struct vcpu *v)
{
	unsigned lines = 0;

	for (const struct state_field *f = vcpu_desc.fields; f->name; f++) {
		bool xsave = f->offset == offsetof(struct vcpu, xsave);

		for (u32 i = 0; i < f->count; i++) {
			if (element(s, f, i) == element(v, f, i))
				continue;
			if (lines++ >= MAX_LINES && xsave)
				break;
			log_error("check:   %s[%u]: interpreter %llx, translator %llx",
				  f->name, i, (unsigned long long)element(s, f, i),
				  (unsigned long long)element(v, f, i));
		}
	}
}

static void report_registers(const char *who, const struct vcpu *v)
{
	static const char *const name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					      "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					      "r12", "r13", "r14", "r15" };

	log_error("check: %s: rip %016llx rflags %08llx cpl %u cr2 %016llx", who,
		  (unsigned long long)v->rip, (unsigned long long)rflags_get(v), v->cpl,
		  (unsigned long long)v->cr2);
	for (unsigned i = 0; i < 16; i += 4)
		log_error("check:   %3s %016llx  %3s %016llx  %3s %016llx  %3s %016llx",
			  name[i], (unsigned long long)v->gpr[i], name[i + 1],
			  (unsigned long long)v->gpr[i + 1], name[i + 2],
			  (unsigned long long)v->gpr[i + 2], name[i + 3],
			  (unsigned long long)v->gpr[i + 3]);
}

static void report_code(const char *what, const u8 *bytes, u64 len, u64 address,
			unsigned code_size)
{
	log_error("check: %s at %llx:", what, (unsigned long long)address);
	for (u64 at = 0; at < len;) {
		ZydisDisassembledInstruction d;
		char hex[64] = "";

		if (ZYAN_FAILED(ZydisDisassembleIntel(
			    code_size == 2   ? ZYDIS_MACHINE_MODE_LEGACY_16
			    : code_size == 4 ? ZYDIS_MACHINE_MODE_LEGACY_32
					     : ZYDIS_MACHINE_MODE_LONG_64,
			    address + at, bytes + at, len - at, &d))) {
			log_error("check:   %llx: %02x ?",
				  (unsigned long long)(address + at), bytes[at]);
			at++;
			continue;
		}
		for (unsigned i = 0; i < d.info.length; i++)
			snprintf(hex + 2 * i, 3, "%02x", bytes[at + i]);
		log_error("check:   %llx: %-30s %s", (unsigned long long)(address + at),
			  hex, d.text);
		at += d.info.length;
	}
}

static void report_bytes(const char *who, const u8 *p, unsigned len)
{
	char hex[3 * 32 + 1] = "";

	for (unsigned i = 0; i < len && i < 32; i++)
		snprintf(hex + 3 * i, 4, " %02x", p[i]);
	log_error("check:   %-12s%s%s", who, hex, len > 32 ? " ..." : "");
}

static void report_memory(const struct check *c)
{
	const struct trial_span *w = trial_differs(&c->trial);

	if (!w)
		return;
	log_error("check: memory at guest-physical %llx, %u bytes:",
		  (unsigned long long)w->gpa, w->len);
	report_bytes("before", c->trial.old + w->at, w->len);
	report_bytes("interpreter", c->trial.new + w->at, w->len);
	report_bytes("translator", w->host, w->len);
}

void check_report(const struct check *c, const struct block *b,
		  const struct tr_code *code, u64 pc, enum difference d)
{
	log_error("check: %s after the block at %llx (%u instructions, CPL %s)", why[d],
		  (unsigned long long)pc, b->insns, b->mode & 16 ? "3" : "0 to 2");
	log_error("check: the interpreter %s, the translator %s", left_names[c->left[0]],
		  left_names[c->left[1]]);
	report_registers("interpreter", c->s);
	report_registers("translator", c->v);
	report_fields(c->s, c->v);
	report_memory(c);
	report_code("guest code", b->text, b->bytes, pc, b->mode & 15);
	report_code("host code", (const u8 *)(uintptr_t)code->entry, code->size,
		    code->entry, 8);
	report_code("host code, seldom run", (const u8 *)(uintptr_t)code->cold,
		    code->cold_size, code->cold, 8);
}
