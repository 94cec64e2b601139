#!/bin/sh
# The checkers themselves: each must find the fault it is for. A check that
# cannot fail would pass for ever.
set -eu

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# finds NAME TEXT COMMAND...: the command fails and says TEXT.
finds() {
	name=$1 text=$2
	shift 2
	if "$@" >"$tmp/out" 2>&1; then
		echo "not ok $name: nothing found"
		failed=1
	elif ! grep -qF "$text" "$tmp/out"; then
		echo "not ok $name: said otherwise"
		sed 's/^/# /' "$tmp/out"
		failed=1
	else
		echo "ok $name"
	fi
}

# tree LAYERS FILE TEXT: a source tree of one file.
tree() {
	rm -rf "$tmp/tree"
	mkdir -p "$tmp/tree/$(dirname "$2")"
	printf '%b' "$1" >"$tmp/tree/LAYERS"
	printf '%b' "$3" >"$tmp/tree/$2"
}

rows='base:\nmem: base\ndev: base mem\n'

tree "$rows" src/mem/ram.c '#include "dev/uart.h"\n'
finds layers_include_upward 'src/mem/ram.c:1: mem may not include dev/uart.h' \
	tools/check-layers "$tmp/tree"

tree "$rows" src/mem/ram.h '\n  # include "ram.h"\n'
finds layers_path_from_src 'src/mem/ram.h:2: write "part/ram.h"' \
	tools/check-layers "$tmp/tree"

tree "$rows" src/net/tap.c '#include "base/log.h"\n'
finds layers_unknown_part 'LAYERS has no row for net' tools/check-layers "$tmp/tree"

tree 'base: mem\nmem: base\n' src/base/log.c '#include "base/log.h"\n'
finds layers_cycle 'LAYERS:1: mem is not a row above base' \
	tools/check-layers "$tmp/tree"

tree "$rows" src/dev/uart.c '#include "mem/io.h"\n#include "dev/uart.h"\n'
if tools/check-layers "$tmp/tree"; then
	echo "ok layers_allowed"
else
	echo "not ok layers_allowed"
	failed=1
fi

# A loop that reaches memset through a static function and a table of functions.
mkdir -p "$tmp/src"
gcc -x c -O2 -ffunction-sections -fdata-sections -c -o "$tmp/loop.o" - <<'END'
static __attribute__((noinline)) void clear(char *p) { __builtin_memset(p, 0, 1 << 20); }
static void nop(char *p) { (void)p; }
static void op(char *p) { clear(p); }
static void (*const ops[])(char *) = { nop, op };
void step_block(char *p, int i);
void step_block(char *p, int i) { ops[i](p); }
END
ar rc "$tmp/src/libinterp.a" "$tmp/loop.o"
finds vecfree_memset 'step_block > ops > op > clear > memset' tools/check-vecfree "$tmp"

exit "$failed"
