/*
 * Far control transfers. SDM volume 2 JMP, CALL, RET, IRET; volume 3 sections 5.8 and 7.
 * 'opsize' is 2, 4 or 8; 'next' the IP behind the instruction. On success CS:RIP, SS:RSP,
 * CPL and modes are the new ones. On failure a fault is raised and nothing has changed,
 * except that IRET unblocks NMIs.
 *
 * A task switch has a point of no return, behind which a fault belongs to the new
 * task. far_jmp, far_call and far_iret then deliver it themselves and return true, v->rip
 * being that of its handler. After each of them v->activity may therefore be
 * ACT_SHUTDOWN.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/vcpu.h"

bool far_jmp(struct vcpu *v, u16 sel, u64 off, unsigned opsize, u64 next);
bool far_call(struct vcpu *v, u16 sel, u64 off, unsigned opsize, u64 next);
bool far_ret(struct vcpu *v, unsigned opsize, u16 pop);
bool far_iret(struct vcpu *v, unsigned opsize, u64 next);

/* With all checks (#UD, #GP). opsize of SYSRET and SYSEXIT: 8 with REX.W, else 4. */
bool sys_syscall(struct vcpu *v, u64 next);
bool sys_sysret(struct vcpu *v, unsigned opsize);
bool sys_sysenter(struct vcpu *v);
bool sys_sysexit(struct vcpu *v, unsigned opsize);

/*
 * Hardware task switch (x86/task.c). The caller has checked the DPL of gate or
 * descriptor; the selector and the rest are checked here. 'rflags' is what the old task's
 * TSS gets, 'next' its EIP. 'error' is pushed on the new stack when has_error.
 */
enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
enum task_result {
	TASK_OK,
	TASK_REFUSED, /* a fault was raised in the old task, nothing changed */
	TASK_FAULT,   /* a fault was raised in the new task, at v->rip */
};
enum task_result task_switch(struct vcpu *v, u16 tss_sel, enum task_reason why, u64 next,
			     u64 rflags, bool has_error, u32 error);
