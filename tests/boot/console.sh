#!/bin/sh
# `umbra run` without a terminal: standard input is typed into the console, its end ends the
# guest. The kernel finds nothing to complain about.
set -eu
. tests/cli/cases.sh
need_guest

# has NAME TEXT, has_not NAME EXPRESSION: about the standard output of the last run.
has() {
	if grep -qF -e "$2" "$tmp/out"; then
		case_ok "$1"
	else
		case_bad "$1" "not there: $2"
	fi
}

has_not() {
	if grep -qE "$2" "$tmp/out"; then
		case_bad "$1" "there: $(grep -E "$2" "$tmp/out" | head -n 3)"
	else
		case_ok "$1"
	fi
}

# types TEXT ARG...: run, with that on standard input.
types() {
	text=$1
	shift
	status=0
	printf "$text" | timeout 120 "$umbra" run "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
	tr -d '\r' <"$tmp/out" >"$tmp/plain"
	mv "$tmp/plain" "$tmp/out"
}

powers_off() {
	if [ "$status" -eq 0 ]; then
		case_ok "$1"
	else
		case_bad "$1" "status $status"
	fi
}

complaints='WARNING|Oops|BUG:|Call Trace|unchecked MSR|Firmware Bug|[Uu]nknown NMI|soft lockup'

# What `make run </dev/null` shows. (The engine "check" would take minutes.)
for engine in $("$umbra" doctor | sed -n '/^Engines/,/^Host/s/^  yes  \([^ ]*\).*/\1/p' | grep -v check); do
	run run -engine "$engine"
	tr -d '\r' <"$tmp/out" >"$tmp/plain"
	mv "$tmp/plain" "$tmp/out"
	powers_off "${engine}_facts_end"
	has "${engine}_facts_boot" 'Linux version'
	has "${engine}_facts_uname" 'Linux umbra '
	has "${engine}_facts_cpu" 'model name'
	has "${engine}_facts_memory" 'MemTotal:'
	has "${engine}_facts_off" 'reboot: Power down'
	has_not "${engine}_no_complaints" "$complaints"
	if [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -q "$engine engine" "$tmp/err"; then
		case_ok "${engine}_first_line"
	else
		case_bad "${engine}_first_line" 'standard error is not one line with the engine'
	fi
done

types 'echo the sum is $((40 + 2))\nid -u\nfalse || echo last without newline'
powers_off script_end
has script_runs 'the sum is 42'
has script_last_line 'last without newline'
has_not script_no_echo '^echo the sum'

types 'poweroff\nsleep 60; echo survived\n'
powers_off poweroff
has_not poweroff_at_once survived

# A kernel and RAM disk of the user's: an interactive shell, which gets its end of file too.
types 'echo and $((6 * 7))\n' -kernel "$BUILD/guest/vmlinuz" -initrd "$BUILD/guest/initrd" \
	-append 'console=ttyS0 quiet'
powers_off own_kernel_end
has own_kernel 'and 42'

# More input than a UART and the guest's terminal hold at once.
i=0
while [ "$i" -lt 2000 ]; do
	echo "echo $i"
	i=$((i + 1))
done >"$tmp/lines"
status=0
timeout 200 "$umbra" run <"$tmp/lines" >"$tmp/all" 2>"$tmp/err" || status=$?
tr -d '\r' <"$tmp/all" | grep -xE '[0-9]+' >"$tmp/out" || :
if [ "$status" -eq 0 ] && [ "$(seq 0 1999 | cksum)" = "$(cksum <"$tmp/out")" ]; then
	case_ok long_script
else
	tail -n 5 "$tmp/out" >"$tmp/tail"
	mv "$tmp/tail" "$tmp/out"
	case_bad long_script "status $status, or lines are missing"
fi

# A reset ends it, unless the user wants to see the guest come up again.
types 'echo once; reboot -f\n'
powers_off reset_ends
has reset_once once

types 'echo c >/proc/sysrq-trigger\n'
if [ "$status" -eq 3 ] && grep -q 'the guest crashed: Kernel panic' "$tmp/err"; then
	case_ok panic
else
	case_bad panic "status $status"
fi

run run -smp 4 -m 300M -append loglevel=1
if [ "$(grep -c '^umbra: ' "$tmp/err")" -eq 1 ] && grep -q ' 4 CPUs, ' "$tmp/err"; then
	case_ok smp_says_four
else
	case_bad smp_says_four 'one line is expected, with 4 CPUs'
fi
powers_off smp_goes_on

# The real-time clock.
types 'date -u +%%F\n' -rtc base=2001-02-03T04:05:06 -append loglevel=1
has rtc_date 2001-02-03

# Output to a file; nothing comes to standard output then, and nothing is read.
run run -serial "file:$tmp/log" -kernel "$BUILD/guest/vmlinuz" \
	-append 'console=ttyS0 panic=-1' -no-reboot
if [ "$status" -eq 3 ] && [ ! -s "$tmp/out" ] && grep -q 'Linux version' "$tmp/log" &&
	grep -q 'Unable to mount root' "$tmp/log"; then
	case_ok serial_file
else
	case_bad serial_file "status $status"
fi
finish
