/*
 * The message of a failed set-up or control operation. Hot paths return codes
 * and carry none.
 */
#pragma once

#include <stdarg.h>

struct error {
	char msg[512]; /* one line, without newline; empty when nothing failed */
};

/*
 * Fill in the message and return 'code' (a negative errno), so that a caller
 * can write: return error_set(err, -EINVAL, "...", ...). Only the first message
 * is kept: it was set where the name of the thing was known.
 */
__attribute__((format(printf, 3, 4))) int error_set(struct error *err, int code,
						    const char *fmt, ...);
int error_vset(struct error *err, int code, const char *fmt, va_list ap);
