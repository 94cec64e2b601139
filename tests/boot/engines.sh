#!/bin/sh
# The default guest boots to its shell and runs a command on every engine, those for tests
# among them; with 'check' the interpreter and the translator agree on each block until then.
# With 'translate-direct' its programs run directly, on one CPU and on two at the same time.
#
#   engines.sh [ENGINE...]
set -eu
. tests/cli/cases.sh
need_guest

# Four programs at a time that compute, fork, and check what the others get too.
load='i=0; while [ $i -lt 4 ]; do
	(k=0; while [ $k -lt 20 ]; do echo $k; k=$((k + 1)); done | md5sum >/tmp/sum.$i
	 awk "BEGIN { for (i = 0; i < 300000; i++) x += i * 0.5; print x }" >>/tmp/sum.$i
	 gzip -c /bin/busybox | gunzip -c | cmp - /bin/busybox) & i=$((i + 1))
done
wait; echo sums $(cat /tmp/sum.* | sort -u | wc -l) of $(cat /tmp/sum.* | wc -l)
dmesg | grep -E "segfault|traps:|general protection|Oops" || :'

# Until the console shows this so many times; half a minute at most.
await() {
	n=300
	until [ "$(grep -a -o -e "$1" "$tmp/out" | wc -l)" -ge "$2" ]; do
		n=$((n - 1))
		[ "$n" -gt 0 ] || return 1
		sleep 0.1
	done
}

# A machine that was reset has new threads, and processes are traced by the thread that made
# them.
reboots_directly() {
	compute='awk "BEGIN { for (i = 0; i < 1000000; i++) x += i; print x }"'
	status=0
	mkfifo "$tmp/keys"
	timeout 120 "$umbra" run -engine translate-direct --stats=json -kernel "$BUILD/guest/vmlinuz" \
		-initrd "$BUILD/guest/initrd" -append console=ttyS0 \
		<"$tmp/keys" >"$tmp/out" 2>"$tmp/err" &
	exec 3>"$tmp/keys"
	await 'root# ' 1 && echo "$compute" >&3 && await 499999500000 1 && echo 'reboot -f' >&3 &&
		await 'Linux version' 2 && await 'root# ' 3 && echo "$compute" >&3 &&
		await 499999500000 2 && echo 'poweroff -f' >&3 || status=1
	exec 3>&-
	wait || status=1
	rm "$tmp/keys"
	if [ "$status" -eq 0 ] && grep -q '"direct_failures":0' "$tmp/err"; then
		case_ok reboots_directly
	else
		case_bad reboots_directly "$(grep -o '"direct_[a-z]*":[0-9]*' "$tmp/err" | tr '\n' ' ')"
	fi
}

[ $# -gt 0 ] || set -- interp translate translate-eager translate-one translate-tiny \
	translate-slow translate-direct check
for engine; do
	status=0
	timeout 600 "$umbra" run -engine "$engine" -- sh -c 'echo $((6 * 7)); exit 3' </dev/null \
		>"$tmp/out" 2>"$tmp/err" || status=$?
	if [ "$status" -eq 3 ] && [ "$(cat "$tmp/out")" = 42 ]; then
		case_ok "boots_on_$engine"
	else
		case_bad "boots_on_$engine" "status $status"
	fi
	[ "$engine" = translate-direct ] || continue
	for cpus in 1 2; do
		status=0
		timeout 600 "$umbra" run -engine "$engine" -smp "$cpus" --stats=json -- \
			sh -c "$load" </dev/null >"$tmp/out" 2>"$tmp/err" || status=$?
		if [ "$status" -eq 0 ] && [ "$(cat "$tmp/out")" = 'sums 2 of 8' ] &&
			grep -q '"direct_entries":[0-9]\{3\}' "$tmp/err"; then
			case_ok "runs_directly_on_$cpus"
		else
			case_bad "runs_directly_on_$cpus" "status $status"
		fi
	done
	reboots_directly
done

finish
