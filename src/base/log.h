/*
 * Messages for the person who runs the machine, on standard error.
 *
 * What a guest can provoke goes through guest_bug(), which is limited at each
 * call site: a guest cannot flood the terminal or the disk.
 */
#pragma once

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* End lines with CR LF: standard error is a terminal in raw mode. Async-signal-safe. */
void log_set_crlf(bool on);

/* One line each; "umbra: " before and the newline behind are added. Any thread. */
__attribute__((format(printf, 1, 2))) void log_error(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void log_warn(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *fmt, ...);

struct log_limit {
	u32 count; /* messages so far at this call site */
};

/* The guest did what the specification forbids. Shown from LOG_INFO on, at most 8 times a
 * site. */
#define guest_bug(part, ...)                                                             \
	do {                                                                             \
		static struct log_limit limit_;                                          \
		guest_bug_log(&limit_, part, __VA_ARGS__);                               \
	} while (0)

__attribute__((format(printf, 3, 4))) void
guest_bug_log(struct log_limit *limit, const char *part, const char *fmt, ...);
