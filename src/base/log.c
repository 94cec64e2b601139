/* Messages for the person who runs the machine, on standard error. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#define GUEST_BUG_MAX 8

static enum log_level log_level = LOG_WARN;
static bool log_crlf;

void log_set_level(enum log_level level)
{
	log_level = level;
}

enum log_level log_get_level(void)
{
	return log_level;
}

void log_set_crlf(bool on)
{
	__atomic_store_n(&log_crlf, on, __ATOMIC_RELAXED);
}

/* One write per line, so that lines of different threads do not mix. */
static void vlog(const char *prefix, const char *fmt, va_list ap)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "umbra: %s", prefix);
	int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 2, fmt, ap);

	n = m < (int)sizeof(line) - n - 2 ? n + m : (int)sizeof(line) - 3;
	/* A file's name, or what a guest made us say, may hold anything. */
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	if (__atomic_load_n(&log_crlf, __ATOMIC_RELAXED))
		line[n++] = '\r';
	line[n++] = '\n';
	fwrite(line, 1, (size_t)n, stderr);
}

#define DEFINE_LOG(name, level, prefix)                                                  \
	void name(const char *fmt, ...)                                                  \
	{                                                                                \
		va_list ap;                                                              \
                                                                                         \
		if (log_level < (level))                                                 \
			return;                                                          \
		va_start(ap, fmt);                                                       \
		vlog(prefix, fmt, ap);                                                   \
		va_end(ap);                                                              \
	}

DEFINE_LOG(log_error, LOG_ERROR, "")
DEFINE_LOG(log_warn, LOG_WARN, "warning: ")
DEFINE_LOG(log_info, LOG_INFO, "")
DEFINE_LOG(log_debug, LOG_DEBUG, "debug: ")

void guest_bug_log(struct log_limit *limit, const char *part, const char *fmt, ...)
{
	char prefix[64];
	va_list ap;
	u32 count;

	if (log_level < LOG_INFO)
		return;
	count = __atomic_fetch_add(&limit->count, 1, __ATOMIC_RELAXED);
	if (count >= GUEST_BUG_MAX) {
		/* Keep the count from wrapping round to talkative again. */
		__atomic_store_n(&limit->count, GUEST_BUG_MAX, __ATOMIC_RELAXED);
		return;
	}
	snprintf(prefix, sizeof(prefix), "guest: %s: ", part);
	va_start(ap, fmt);
	vlog(prefix, fmt, ap);
	va_end(ap);
}
