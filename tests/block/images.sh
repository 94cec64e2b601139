#!/bin/sh
# qcow2 beside qemu-img: images made by either side, random requests by either (fixed seeds),
# checked and compared by both.
#
#   tests/block/images.sh RANDIO
set -eu
. tests/cli/cases.sh
randio=$1
command -v qemu-img >/dev/null || { echo 'skip images: no qemu-img (qemu-utils)'; exit 77; }
size=30000128

# agree NAME IMAGE COPY [LEAKS]: both find the image sound and equal to the raw copy. With
# LEAKS, leaked clusters are no fault.
agree() {
	name=$1 image=$2 copy=$3 why=
	for check in "qemu-img check -q" "$umbra image check -q"; do
		rc=0
		$check "$image" >"$tmp/out" 2>"$tmp/err" || rc=$?
		[ "$rc" -eq 0 ] || [ "$rc" -eq 3 -a "${4-}" = leaks ] || why="$check: $rc"
	done
	for compare in "qemu-img compare -q" "$umbra image compare -q"; do
		[ -z "$why" ] && [ "$copy" != - ] || continue
		$compare "$image" "$copy" >"$tmp/out" 2>"$tmp/err" || why="$compare: $?"
	done
	if [ -z "$why" ]; then case_ok "$name"; else case_bad "$name" "$why"; fi
}

# io IMAGE SEED COUNT COPY OPTION...: random requests by us.
io() {
	image=$1 seed=$2 count=$3 copy=$4
	shift 4
	timeout 120 "$randio" "$image" qcow2 "$seed" "$count" "$copy" unsafe "$@" \
		>"$tmp/out" 2>"$tmp/err"
}

# The same by qemu-io, and on a raw file too.
qemu_io() {
	awk -v seed="$2" -v count="$3" -v size="$size" 'BEGIN {
		srand(seed)
		for (i = 0; i < count; i++) {
			off = int(rand() * size / 512) * 512
			len = int(rand() * 60 + 1) * 512
			if (rand() < 0.3) { off -= off % 65536; len = 65536 * int(rand() * 3 + 1) }
			if (off + len > size) len = size - off
			if (rand() < 0.2) print "write -q -z " (rand() < 0.5 ? "-u " : "") off " " len
			else print "write -q -P " int(rand() * 255 + 1) " " off " " len
			if (rand() < 0.05) print "flush"
		}
	}' >"$tmp/commands"
	qemu-io -t unsafe -f qcow2 "$1" <"$tmp/commands" >"$tmp/out" 2>"$tmp/err"
	qemu-io -t unsafe -f raw "$4" <"$tmp/commands" >"$tmp/out" 2>"$tmp/err"
}

seed=1
for options in cluster_size=512 cluster_size=4k cluster_size=64k cluster_size=2M compat=0.10 \
	refcount_bits=1 refcount_bits=64,cluster_size=1k lazy_refcounts=on \
	compression_type=zstd preallocation=metadata; do
	seed=$((seed + 1))
	i=$tmp/i.qcow2
	qemu-img create -q -f qcow2 -o "$options" "$i" $size
	io "$i" $seed 1500 "$tmp/copy" discard || case_bad "randio $options" "status $?"
	agree "theirs_ours $options" "$i" "$tmp/copy"
	"$umbra" image create -q -f qcow2 -o "$options" "$i" $size
	rm -f "$tmp/copy"
	truncate -s $size "$tmp/copy"
	qemu_io "$i" $seed 300 "$tmp/copy"
	agree "ours_theirs $options" "$i" "$tmp/copy"
	io "$i" $seed 800 "$tmp/copy" || case_bad "randio $options" "status $?"
	agree "ours_both $options" "$i" "$tmp/copy"
done

# A chain: base by them, overlay by us, and the other way round; a smaller base.
qemu-img create -q -f qcow2 "$tmp/base.qcow2" 20000256
io "$tmp/base.qcow2" 77 500 -
"$umbra" image create -q -f qcow2 -b base.qcow2 -F qcow2 "$tmp/top.qcow2" $size
io "$tmp/top.qcow2" 78 500 "$tmp/copy" discard
agree chain "$tmp/top.qcow2" "$tmp/copy"
"$umbra" image convert -O qcow2 -c "$tmp/top.qcow2" "$tmp/packed.qcow2"
agree chain_packed "$tmp/packed.qcow2" "$tmp/copy"
io "$tmp/packed.qcow2" 79 500 "$tmp/copy2" discard
agree write_to_packed "$tmp/packed.qcow2" "$tmp/copy2"
qemu-img convert -O qcow2 -c -o compression_type=zstd "$tmp/top.qcow2" "$tmp/packed.qcow2"
agree packed_theirs "$tmp/packed.qcow2" "$tmp/copy"
io "$tmp/packed.qcow2" 80 500 "$tmp/copy2" discard
agree write_to_packed_theirs "$tmp/packed.qcow2" "$tmp/copy2"
cp "$tmp/top.qcow2" "$tmp/top2.qcow2"
"$umbra" image rebase -b '' "$tmp/top2.qcow2"
agree rebase_to_none "$tmp/top2.qcow2" "$tmp/copy"
"$umbra" image create -q -f qcow2 "$tmp/other.qcow2" 10M
cp "$tmp/top.qcow2" "$tmp/top2.qcow2"
"$umbra" image rebase -b other.qcow2 -F qcow2 "$tmp/top2.qcow2"
agree rebase "$tmp/top2.qcow2" "$tmp/copy"
"$umbra" image commit -q "$tmp/top.qcow2"
agree commit_top "$tmp/top.qcow2" "$tmp/copy"
agree commit_base "$tmp/base.qcow2" "$tmp/copy"

# Snapshots, both ways.
for maker in umbra qemu; do
	[ $maker = umbra ] && img="$umbra image" || img=qemu-img
	[ $maker = umbra ] && other=qemu-img || other="$umbra image"
	i=$tmp/s.qcow2
	qemu-img create -q -f qcow2 -o cluster_size=4k "$i" $size
	io "$i" 90 300 "$tmp/one"
	$img snapshot -c first "$i"
	agree "snapshot_create $maker" "$i" "$tmp/one"
	io "$i" 91 300 "$tmp/two" discard
	agree "snapshot_write $maker" "$i" "$tmp/two"
	$img snapshot -c second "$i"
	io "$i" 92 300 "$tmp/three" discard
	$other snapshot -a first "$i"
	agree "snapshot_apply $maker" "$i" "$tmp/one"
	$other snapshot -d first "$i"
	agree "snapshot_delete $maker" "$i" "$tmp/one"
	$img snapshot -a second "$i"
	agree "snapshot_apply_again $maker" "$i" "$tmp/two"
	$img snapshot -d second "$i"
	agree "snapshot_none $maker" "$i" "$tmp/two"
done

# Sizes.
"$umbra" image create -q -f qcow2 -o cluster_size=512 "$tmp/z.qcow2" $size
io "$tmp/z.qcow2" 95 500 "$tmp/copy"
"$umbra" image resize -q "$tmp/z.qcow2" +20M
truncate -s +20M "$tmp/copy"
agree resize_grow "$tmp/z.qcow2" "$tmp/copy"
"$umbra" image resize -q --shrink "$tmp/z.qcow2" 10M
truncate -s 10M "$tmp/copy"
agree resize_shrink "$tmp/z.qcow2" "$tmp/copy"

# An external data file.
for raw in off on; do
	qemu-img create -q -f qcow2 -o "data_file=$tmp/data,data_file_raw=$raw" "$tmp/e.qcow2" $size
	io "$tmp/e.qcow2" 96 500 "$tmp/copy" || case_bad data_file_io "status $?"
	agree "data_file raw=$raw" "$tmp/e.qcow2" "$tmp/copy"
	if [ $raw = on ] && ! cmp -s -n $size "$tmp/data" "$tmp/copy"; then
		case_bad data_file_is_raw 'the data file is not what the disk shows'
	fi
	rm -f "$tmp/data"
	"$umbra" image create -q -f qcow2 -o "data_file=$tmp/data,data_file_raw=$raw" "$tmp/e.qcow2" $size
	cp --sparse=always /dev/null "$tmp/copy"; truncate -s $size "$tmp/copy"
	qemu_io "$tmp/e.qcow2" 97 100 "$tmp/copy"
	agree "data_file_ours raw=$raw" "$tmp/e.qcow2" "$tmp/copy"
	rm -f "$tmp/data"
done

# Cache modes; a temporary overlay leaves the image alone.
for cache in writeback none writethrough directsync unsafe 'none threads' 'writeback threads'; do
	qemu-img create -q -f qcow2 "$tmp/c.qcow2" 8M
	rc=0
	io "$tmp/c.qcow2" 98 150 "$tmp/copy" $cache queue=32 || rc=$?
	if grep -q O_DIRECT "$tmp/err"; then
		echo "skip cache_$cache: no O_DIRECT on this file system"
	elif [ $rc -ne 0 ]; then
		case_bad "cache_$cache" "status $rc"
	else
		agree "cache_$cache" "$tmp/c.qcow2" "$tmp/copy"
	fi
done
before=$(md5sum <"$tmp/c.qcow2")
io "$tmp/c.qcow2" 99 300 - snapshot discard
if [ "$(md5sum <"$tmp/c.qcow2")" = "$before" ]; then
	case_ok snapshot_leaves_the_image
else
	case_bad snapshot_leaves_the_image 'it changed'
fi

# Killed at any moment: leaks at most, and what a flush acknowledged is there.
n=0
bad=
kills=${KILLS:-40}
qemu-img create -q -f qcow2 -o cluster_size=4k "$tmp/k.qcow2" 20M
while [ $n -lt "$kills" ] && [ -z "$bad" ]; do
	n=$((n + 1))
	# The shell would say "Killed".
	{ io "$tmp/k.qcow2" $((n + 1000)) 1000000 "$tmp/two" discard kill; } 2>/dev/null || :
	rc=0
	qemu-img check -U -q "$tmp/k.qcow2" >"$tmp/out" 2>"$tmp/err" || rc=$?
	[ $rc -eq 0 ] || [ $rc -eq 3 ] || bad="kill $n: qemu-img check: $rc"
	io "$tmp/k.qcow2" 0 0 "$tmp/two" verify || bad="kill $n: $(cat "$tmp/err")"
done
if [ -z "$bad" ]; then case_ok "killed_${kills}_times"; else case_bad "killed_${kills}_times" "$bad"; fi
"$umbra" image check -q -r leaks "$tmp/k.qcow2" || :
agree leaks_repaired "$tmp/k.qcow2" -

# Damage that they make and we repair.
qemu-img create -q -f qcow2 "$tmp/d.qcow2" 20M
io "$tmp/d.qcow2" 5 200 "$tmp/copy"
# Refcount block 0 at cluster 2: zero all.
dd if=/dev/zero of="$tmp/d.qcow2" bs=65536 seek=2 count=1 conv=notrunc 2>"$tmp/err"
if qemu-img check -q "$tmp/d.qcow2" >"$tmp/out" 2>&1; then
	case_bad repair_counts 'no damage was made'
fi
"$umbra" image check -q -r all "$tmp/d.qcow2" >"$tmp/out" 2>"$tmp/err" || :
agree repair_counts "$tmp/d.qcow2" "$tmp/copy"
# The refcount table points nowhere.
printf '\0\0\0\177\0\0\0\0' | dd of="$tmp/d.qcow2" bs=65536 seek=1 conv=notrunc 2>"$tmp/err"
"$umbra" image check -q -r all "$tmp/d.qcow2" >"$tmp/out" 2>"$tmp/err" || :
agree repair_table "$tmp/d.qcow2" "$tmp/copy"

# A server of disks: qcow2 in it, and raw; it goes away under us.
if command -v qemu-nbd >/dev/null; then
	truncate -s $size "$tmp/served"
	qemu-nbd -k "$tmp/socket" -f raw -e 8 --persistent --fork --pid-file="$tmp/pid" "$tmp/served"
	uri="nbd+unix:///?socket=$tmp/socket"
	rc=0
	timeout 120 "$randio" "$uri" raw 7 800 "$tmp/copy" discard >"$tmp/out" 2>"$tmp/err" || rc=$?
	[ $rc -eq 0 ] && case_ok nbd_io || case_bad nbd_io "status $rc"
	run image compare -f raw -F raw "$uri" "$tmp/copy"
	[ "$status" -eq 0 ] && case_ok nbd_compare || case_bad nbd_compare "status $status"
	# When it is at work, on a busy machine too.
	(sleep 4; kill "$(cat "$tmp/pid")") &
	rc=0
	timeout 60 "$randio" "$uri" raw 7 100000000 - >"$tmp/out" 2>"$tmp/err" || rc=$?
	if [ $rc -eq 1 ] && grep -q 'Input/output error' "$tmp/err"; then
		case_ok nbd_lost
	else
		case_bad nbd_lost "status $rc"
	fi
	wait
else
	echo 'skip nbd: no qemu-nbd'
fi
finish
