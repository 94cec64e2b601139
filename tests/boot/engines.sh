#!/bin/sh
# The default guest boots to its shell and runs a command on every engine, those for tests
# among them; with 'check' the interpreter and the translator agree on each block until then.
#
#   engines.sh [ENGINE...]
set -eu
. tests/cli/cases.sh
need_guest

[ $# -gt 0 ] || set -- interp translate translate-eager translate-one translate-tiny \
	translate-slow check
for engine; do
	status=0
	timeout 600 "$umbra" run -engine "$engine" -- sh -c 'echo $((6 * 7)); exit 3' </dev/null \
		>"$tmp/out" 2>"$tmp/err" || status=$?
	if [ "$status" -eq 3 ] && [ "$(cat "$tmp/out")" = 42 ]; then
		case_ok "boots_on_$engine"
	else
		case_bad "boots_on_$engine" "status $status"
	fi
done

finish
