/*
 * Registers as gdb numbers them, and the description that tells it.
 *
 * The vCPU is stopped, with its state in struct vcpu; one thread.
 */
#pragma once

#include "base/types.h"

struct gdb_regs;
struct vcpu;

#define GDB_REG_MAX 32 /* bytes of the largest register */

/* For CPUs with the features of this one. */
struct gdb_regs *gdb_regs_new(const struct vcpu *v);
void gdb_regs_free(struct gdb_regs *r);

/* The target description, XML. */
const char *gdb_regs_xml(const struct gdb_regs *r, size_t *len);

unsigned gdb_regs_count(const struct gdb_regs *r);
/* Bytes; 0: there is no such register. */
unsigned gdb_reg_size(const struct gdb_regs *r, unsigned n);
void gdb_reg_read(const struct gdb_regs *r, unsigned n, struct vcpu *v, u8 *buf);
/*
 * False: it is read-only, or no CPU could be in that state; nothing changed then. What
 * is derived from the register follows.
 */
bool gdb_reg_write(const struct gdb_regs *r, unsigned n, struct vcpu *v, const u8 *buf);
