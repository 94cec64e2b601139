#!/bin/sh
# The default guest with 2 and 4 CPUs, on the translator and the interpreter: all come up, each
# runs what is put on it, all work at the same time, and the kernel finds nothing to complain of.
set -eu
. tests/cli/cases.sh
need_guest

# What is checked is what this prints.
guest='n=$(nproc); echo "cpus $n"
i=0; while [ $i -lt $n ]; do
	taskset -c $i sh -c "echo runs on \$(cut -d\\  -f39 /proc/self/stat)"; i=$((i + 1))
done
i=0; while [ $i -lt $n ]; do
	(k=0; while [ $k -lt 20 ]; do echo $k; k=$((k + 1)); done | md5sum >/tmp/sum.$i
	 gzip -c /bin/busybox | gunzip -c | cmp - /bin/busybox) & i=$((i + 1))
done
wait; echo sums $(cat /tmp/sum.* | sort -u | wc -l) of $(cat /tmp/sum.* | wc -l)
dmesg | grep -iE "unstable|lockup|stall|hung task|WARNING|BUG:|skew|warp|not respond"
# These say how busy the host is.
dmesg -r | grep "^<[0-4]>" | grep -vE "interrupt took|hpet: Lost" || :'

for engine in translate interp; do
	for cpus in 2 4; do
		{
			echo "cpus $cpus"
			i=0
			while [ $i -lt $cpus ]; do echo "runs on $i"; i=$((i + 1)); done
			echo "sums 1 of $cpus"
		} >"$tmp/want"
		status=0
		timeout 300 "$umbra" run -engine "$engine" -smp "$cpus" -- sh -c "$guest" \
			</dev/null >"$tmp/out" 2>"$tmp/err" || status=$?
		if [ "$status" -eq 0 ] && cmp -s "$tmp/want" "$tmp/out"; then
			case_ok "smp_${cpus}_on_$engine"
		else
			case_bad "smp_${cpus}_on_$engine" "status $status: $(tr '\n' ';' <"$tmp/out")"
		fi
	done
done

finish
