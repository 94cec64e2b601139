/*
 * Writer of AML, the byte code of ACPI tables. ACPI 6.3 chapter 20 (grammar), section 6.4
 * (resource descriptors).
 *
 * Terms are appended in the order of the grammar: an operator first, then its operands.
 * What has a length (scopes, packages, buffers) is opened and closed. When the buffer
 * is full nothing more is written and aml_end() says so.
 */
#pragma once

#include "base/types.h"

#define AML_DEPTH 8

struct aml {
	u8 *buf;
	size_t len, cap;
	bool full;
	unsigned depth;
	size_t open[AML_DEPTH]; /* where the package length goes */
	size_t template;        /* where the open resource template begins */
};

void aml_init(struct aml *a, u8 *buf, size_t cap);
/* Everything was closed and fitted. */
bool aml_done(const struct aml *a);

/* A name: \A, ^A, A, A.B.C; each part one to four characters. */
void aml_name(struct aml *a, const char *path);
/* Constants, in their shortest form. */
void aml_int(struct aml *a, u64 v);
void aml_str(struct aml *a, const char *s);
/* "PNP0A08" as the integer that _HID and _CID take. */
void aml_eisa(struct aml *a, const char *id);
/* "33db4d5b-1ff7-401c-9657-7441c03dd766" as a buffer, as ToUUID() gives. */
void aml_uuid(struct aml *a, const char *uuid);

/* Name (path, ...): the value follows. */
void aml_def(struct aml *a, const char *path);
void aml_def_int(struct aml *a, const char *path, u64 v);
void aml_def_eisa(struct aml *a, const char *path, const char *id);

/* Each ends with aml_close(). */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned args, bool serialized);
void aml_if(struct aml *a);   /* the predicate follows first */
void aml_else(struct aml *a); /* right after the aml_close() of its aml_if() */
void aml_package(struct aml *a, u8 elements);
void aml_close(struct aml *a);

/* Operators. Operands follow; a target that is not wanted is aml_op(a, AML_NULL). */
enum aml_opcode {
	AML_NULL = 0x00,
	AML_ONE = 0x01,
	AML_LOCAL0 = 0x60, /* + n, 0 to 7 */
	AML_ARG0 = 0x68,   /* + n, 0 to 6 */
	AML_STORE = 0x70,  /* source, target */
	AML_AND = 0x7b,    /* a, b, target */
	AML_OR = 0x7d,
	AML_CREATE_DWORD = 0x8a, /* buffer, byte index, name */
	AML_NOT = 0x92,          /* logical */
	AML_EQUAL = 0x93,        /* logical */
	AML_RETURN = 0xa4,
};
void aml_op(struct aml *a, unsigned op);

/* Name (_CRS, ResourceTemplate () { ... }); ends with aml_crs_end(). */
void aml_crs(struct aml *a);
void aml_crs_end(struct aml *a);
void aml_res_io(struct aml *a, u16 base, u8 len);
void aml_res_irq(struct aml *a, unsigned irq); /* ISA: edge, active high */
void aml_res_gsi(struct aml *a, u32 gsi);      /* level, active high, shared */
void aml_res_mem32(struct aml *a, u32 base, u32 len, bool writable);
/* Windows a bridge passes on, [lo, hi]. */
void aml_res_bus(struct aml *a, u16 lo, u16 hi);
void aml_res_io_window(struct aml *a, u16 lo, u16 hi);
void aml_res_mem32_window(struct aml *a, u32 lo, u32 hi);
void aml_res_mem64_window(struct aml *a, u64 lo, u64 hi);
