/* The message of a failed set-up or control operation. */
#include "base/error.h"

#include <stdio.h>

int error_vset(struct error *err, int code, const char *fmt, va_list ap)
{
	if (err && !err->msg[0])
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	return code;
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_vset(err, code, fmt, ap);
	va_end(ap);
	return code;
}
