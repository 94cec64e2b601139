#!/bin/sh
# `umbra run -- COMMAND`: bytes, statuses and signals go through unharmed.
set -eu
. tests/cli/cases.sh
need_guest

# gives NAME STATUS OUT ERR: what the last run gave; OUT and ERR are the whole of it.
gives() {
	if [ "$status" -ne "$2" ]; then
		case_bad "$1" "status $status"
	elif [ "$(cat "$tmp/out")" != "$3" ]; then
		case_bad "$1" 'standard output'
	elif [ "$(cat "$tmp/err")" != "$4" ]; then
		case_bad "$1" 'standard error'
	else
		case_ok "$1"
	fi
}

# says NAME STATUS TEXT: the last run had that status and TEXT on standard error.
says() {
	if [ "$status" -ne "$2" ]; then
		case_bad "$1" "status $status"
	elif ! grep -qF -e "$3" "$tmp/err"; then
		case_bad "$1" "does not say: $3"
	else
		case_ok "$1"
	fi
}

# with INPUT ARG...: run, with a file as standard input.
with() {
	input=$1
	shift
	status=0
	timeout 120 "$umbra" "$@" <"$input" >"$tmp/out" 2>"$tmp/err" || status=$?
}

echo hello >"$tmp/hello"
with "$tmp/hello" run -- cat
gives cat 0 hello ''

with "$tmp/hello" run -engine interp -- cat
gives cat_interpreted 0 hello ''

run run -- sh -c 'echo out; echo err >&2; exit 7'
gives status_and_streams 7 out err

run run -- nosuchcommand
gives not_found 127 '' 'umbra: nosuchcommand: not found'

run run -- /etc
gives not_executable 126 '' 'umbra: /etc: Permission denied'

run run -- sh -c 'kill -KILL $$'
gives killed 137 '' ''

run run -- printf '<%s>' 'a  b' '' "it's" '"$x" \n' "$(printf 'x\ty')" 'äöü'
gives arguments 0 "<a  b><><it's><\"\$x\" \\n><x	y><äöü>" ''

# On a busy host Linux may find that the timer does not work: it is not to look.
run run -- grep -ow no_timer_check /proc/cmdline
gives timer_is_trusted 0 no_timer_check ''

# Every byte value, more than all buffers hold, through both directions.
head -c 500000 /dev/urandom >"$tmp/random"
with "$tmp/random" run -- cat
if cmp -s "$tmp/random" "$tmp/out" && [ "$status" -eq 0 ]; then
	case_ok binary
else
	: >"$tmp/out"
	case_bad binary "status $status, or other bytes"
fi

# A reader that is late gets everything.
status=0
timeout 120 "$umbra" run -- seq 1 30000 2>"$tmp/err" | (sleep 4; cksum) >"$tmp/out"
gives slow_reader 0 "$(seq 1 30000 | cksum)" ''

# A reader that goes away ends the command.
(status=0; timeout 120 "$umbra" run -- yes 2>"$tmp/err" || status=$?
	echo "$status" >"$tmp/status") | head -n 1 >"$tmp/out"
status=$(cat "$tmp/status")
gives reader_gone 141 y ''

# A command that does not read its input, which is endless.
status=0
yes | timeout 120 "$umbra" run -- echo done >"$tmp/out" 2>"$tmp/err" || status=$?
gives endless_input 0 done ''

status=0
timeout 120 "$umbra" run -- cat <&- >"$tmp/out" 2>"$tmp/err" || status=$?
gives closed_input 0 '' ''

run run -- sh -c 'uname -sm; test -e /proc/self && tty; pwd; echo $HOME'
gives surroundings 0 'Linux x86_64
not a tty
/
/root' ''

run run --verbose -- true
says verbose_console 0 'Linux version'

run run -serial "file:$tmp/log" -- true
if [ "$status" -eq 0 ] && grep -q 'umbra.agent' "$tmp/log"; then
	case_ok console_to_file
else
	case_bad console_to_file "status $status, or no command line in the log"
fi

# The sum of the arguments is larger than a guest takes, each is not.
long=$(printf %0100000d 0)
run run -- echo "$long" "$long" "$long" "$long" "$long" "$long" "$long" "$long" "$long" "$long" "$long"
gives too_long 126 '' 'umbra: the command and its arguments have 1100004 bytes, at most 1048576 are possible'

run run -- sh -c 'echo c >/proc/sysrq-trigger'
says panic 125 'the guest crashed: Kernel panic - not syncing: sysrq triggered crash'

run run -- poweroff -f
says switched_off 125 'the guest switched off before the command had ended'

run run --stats=json -- true
if [ "$status" -eq 0 ] && python3 - "$tmp/err" <<'END' >"$tmp/out" 2>&1
import json, sys
stats = json.load(open(sys.argv[1]))
assert stats["cpus"] == 1 and stats["ram_bytes"] == 512 << 20, stats
assert stats["exits"]["port_writes"] > 0 and stats["elapsed_ns"] > 0, stats
END
then
	case_ok stats_json
else
	case_bad stats_json "status $status"
fi

run run --stats -- true
says stats_text 0 'port writes'

# signalled NAME SIGNALS STATUS OUT: the command says that it is ready and is then sent these.
signalled() {
	name=$1 signals=$2 want=$3 text=$4
	shift 4
	status=0
	: >"$tmp/out"
	"$umbra" run -- sh -c "$@" >"$tmp/out" 2>"$tmp/err" </dev/null &
	pid=$!
	for i in $(seq 600); do
		[ -s "$tmp/out" ] && break
		sleep 0.1
	done
	for signal in $signals; do
		kill "-$signal" "$pid"
		sleep 1
	done
	wait "$pid" || status=$?
	gives "$name" "$want" "$text" ''
}

# The shell would report that its sleep was terminated.
loop='exec 2>/dev/null; while :; do sleep 0.1; done'
signalled signal_caught TERM 9 'ready
caught' "trap 'echo caught; exit 9' TERM; echo ready; $loop"
signalled signal_kills TERM 143 ready "echo ready; $loop"
signalled signal_twice 'TERM TERM' 143 ready "trap '' TERM; echo ready; $loop"

finish
