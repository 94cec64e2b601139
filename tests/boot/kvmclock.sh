#!/bin/sh
# Linux takes KVM's clock: it does not measure the TSC, its clock source is the TSC where that is
# invariant and kvm-clock elsewhere, and programs read either without a system call, on two CPUs.
#
#   kvmclock.sh VDSO      the program tests/boot/vdso.c
set -eu
. tests/cli/cases.sh
need_guest

# on NAME SOURCE ARG...: with these arguments the clock source is SOURCE, and is fine.
on() {
	name=$1
	printf '%s\n' "$2" 'time goes on' >"$tmp/want"
	shift 2
	status=0
	timeout 300 "$umbra" run -smp 2 "$@" -- sh -c \
		'cat /sys/devices/system/clocksource/clocksource0/current_clocksource
		cat >/tmp/vdso; chmod +x /tmp/vdso; /tmp/vdso
		dmesg | grep -E "calibrate against|unstable|MP-BIOS|PIT calib|skew|warp" |
			grep -vE "'"$allowed"'" || :' \
		<"$vdso" >"$tmp/out" 2>"$tmp/err" || status=$?
	if [ "$status" -eq 0 ] && cmp -s "$tmp/want" "$tmp/out"; then
		case_ok "$name"
	else
		case_bad "$name" "status $status: $(tr '\n' ';' <"$tmp/out")"
	fi
}

vdso=$1
allowed=nothing
for engine in translate interp translate-direct; do
	on "tsc_on_$engine" tsc -engine $engine
	on "kvm_clock_on_$engine" kvm-clock -engine $engine -append clocksource=kvm-clock
done
# Not invariant, and not all that a processor can do.
on model_without_invariant_tsc kvm-clock -cpu Haswell
# Linux says this of every AMD processor without it.
allowed='TSC unstable due to TSCs unsynchronized$'
on model_of_amd kvm-clock -cpu EPYC

# what NAME CPU TEXT: the kernel says so of what it runs on.
what() {
	status=0
	timeout 120 "$umbra" run -cpu "$2" -- dmesg </dev/null >"$tmp/out" 2>"$tmp/err" || status=$?
	if [ "$status" -ne 0 ]; then
		case_bad "$1" "status $status"
	elif [ "$(grep -o 'Hypervisor detected.*' "$tmp/out")" != "$3" ]; then
		case_bad "$1" "$(grep -o 'Hypervisor detected.*' "$tmp/out")"
	else
		case_ok "$1"
	fi
}

what detected max 'Hypervisor detected: KVM'
what switched_off max,kvm=off ''
what hidden max,hypervisor=off ''

finish
