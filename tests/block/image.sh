#!/bin/sh
# `umbra image`: what it prints and refuses, and that a command that fails leaves nothing.
set -eu
. tests/cli/cases.sh
new=$tmp/new

prints help 0 'Usage: umbra image COMMAND' image --help
for command in create info check convert commit rebase resize snapshot map compare; do
	prints help_$command 0 "Usage: umbra image $command" image $command --help
done
refuses command_missing 'a command is needed' image
refuses command_unknown "unknown command 'burn'" image burn
refuses command_near 'is convert meant?' image convrt a b
refuses option_unknown 'is not known' image info --frob x
refuses option_value 'needs a value' image create -f
refuses file_missing 'a name or size is missing' image info
refuses file_many 'is one too many' image info a b
refuses size_missing 'a size is needed' image create -f qcow2 "$new/a"
refuses size_word "the size 'big'" image create -f qcow2 "$new/a" big
refuses format_unknown "'vmdk' is not supported" image create -f vmdk "$new/a" 1M
refuses convert_format "'vmdk' is not supported" image convert -O vmdk "$tmp/none" "$new/a"
refuses option_o_unknown 'have no such option' image create -f qcow2 -o color=red "$new/a" 1M
refuses option_o_raw 'raw images have no such option' image create -o cluster_size=4k "$new/a" 1M
refuses option_o_value "the value '3.0' is not possible" image create -f qcow2 -o compat=3.0 "$new/a" 1M
refuses extended_l2 "-o extended_l2" image create -f qcow2 -o extended_l2=on "$new/a" 1M
refuses check_repair 'leaks or all is needed' image check -r some "$tmp/none"
refuses backing_raw 'only qcow2 has a backing file' image create -b x -F raw "$new/a" 1M
refuses rebase_what '-b BACKING is needed' image rebase "$tmp/none"

# fails NAME TEXT ARG...: status 1, one line with TEXT, nothing in $tmp/new.
fails() {
	name=$1 text=$2
	shift 2
	mkdir -p "$new"
	run "$@"
	if [ "$status" -ne 1 ]; then
		case_bad "$name" "status $status"
	elif [ "$(wc -l <"$tmp/err")" -ne 1 ] || ! grep -qF -e "$text" "$tmp/err"; then
		case_bad "$name" "does not say, in one line: $text"
	elif [ -n "$(ls "$new")" ]; then
		case_bad "$name" "left behind: $(ls "$new")"
	else
		case_ok "$name"
	fi
}

fails no_file 'No such file' image info "$tmp/none"
fails no_folder 'No such file' image create -f qcow2 "$tmp/none/a" 1M
fails directory 'neither a regular file' image info /tmp
fails device 'neither a regular file nor a block device' image info /dev/zero
mkfifo "$tmp/fifo"
fails fifo 'neither a regular file' image info "$tmp/fifo"
fails cluster_size 'cluster_size: a power of two' image create -f qcow2 -o cluster_size=1000 "$new/a" 1M
fails too_large 'too large for clusters' image create -f qcow2 -o cluster_size=512 "$new/a" 1T
fails backing_missing 'No such file' image create -f qcow2 -b none -F raw "$new/a"
fails backing_format 'its format is needed too' image create -f qcow2 -b "$tmp/b" "$new/a" 1M
fails convert_missing 'No such file' image convert "$tmp/none" "$new/a"
fails raw_snapshot 'only qcow2 has internal snapshots' image snapshot -f raw -c x "$tmp/out"

i=$tmp/i.qcow2
run image create -f qcow2 "$i" 10M
prints info 0 'virtual size: 10 MiB (10485760 bytes)' image info "$i"
prints info_json 0 '"virtual-size": 10485760' image info --output=json "$i"
prints check_sound 0 'No errors were found' image check "$i"
prints check_json 0 '"leaks": 0' image check --output=json "$i"
prints map_json 0 '"zero": true' image map --output=json "$i"
prints resize_more 0 'Image resized' image resize "$i" +1M
fails resize_less '--shrink allows that' image resize "$i" -2M
prints resize_shrink 0 'Image resized' image resize --shrink "$i" -2M
prints size_now 0 '(9437184 bytes)' image info "$i"
prints snapshot_none 0 'TAG' image snapshot -l "$i"
fails snapshot_unknown "has no snapshot 'x'" image snapshot -a x "$i"
run image snapshot -c before "$i"
prints snapshot_list 0 'before' image snapshot -l "$i"
fails resize_snapshot 'has snapshots' image resize "$i" +1M
prints compare_same 0 'Images are identical' image compare "$i" "$i"
head -c 9437184 /dev/zero | tr '\0' 'x' >"$tmp/x.raw"
prints compare_differ 1 'Content mismatch at offset 0!' image compare "$i" "$tmp/x.raw"
run image convert -f raw -O qcow2 -p "$tmp/x.raw" "$tmp/x.qcow2"
if grep -q '(100.00/100%)' "$tmp/out"; then case_ok progress; else case_bad progress 'no progress'; fi
prints convert_same 0 'Images are identical' image compare -f raw "$tmp/x.raw" "$tmp/x.qcow2"

# In use by QEMU, and QEMU's in use by us.
if command -v qemu-io >/dev/null; then
	(sleep 3) | qemu-io "$i" >/dev/null 2>&1 &
	sleep 1
	fails in_use 'is in use' image check -r all "$i"
	prints in_use_shared 0 'virtual size' image info -U "$i"
	wait
else
	echo 'skip in_use: no qemu-io'
fi

# The disk is full: the half-made image goes.
if [ "$(id -u)" -eq 0 ] && mkdir "$tmp/small" && mount -t tmpfs -o size=2M none "$tmp/small" 2>/dev/null; then
	run image convert -O qcow2 "$tmp/x.raw" "$tmp/small/full.qcow2"
	if [ "$status" -ne 1 ] || ! grep -q 'No space left' "$tmp/err"; then
		case_bad disk_full "status $status"
	elif [ -n "$(ls "$tmp/small")" ]; then
		case_bad disk_full 'the image is still there'
	else
		case_ok disk_full
	fi
	umount "$tmp/small"
else
	echo 'skip disk_full: no tmpfs can be mounted here'
fi

# Terminated: the same.
head -c 300M /dev/zero | tr '\0' y >"$tmp/y.raw"
"$umbra" image convert -c -O qcow2 "$tmp/y.raw" "$new/y.qcow2" 2>/dev/null &
pid=$!
sleep 0.3
if kill $pid 2>/dev/null; then
	wait $pid || :
	if [ -e "$new/y.qcow2" ]; then
		case_bad terminated 'the image is still there'
	else
		case_ok terminated
	fi
else
	echo 'skip terminated: it was too quick'
fi

# Hostile images from outside: a backing file that is a device, and a circle.
run image create -u -f qcow2 -b /dev/zero -F raw "$tmp/dev.qcow2" 1M
fails backing_device 'not a regular file' image convert -O raw "$tmp/dev.qcow2" "$new/a"
run image create -u -f qcow2 -b loop.qcow2 -F qcow2 "$tmp/loop.qcow2" 1M
fails backing_self 'circle' image convert -O raw "$tmp/loop.qcow2" "$new/a"
run image create -u -f qcow2 -b nbd://localhost/x -F raw "$tmp/net.qcow2" 1M
fails backing_network 'No such file' image convert -O raw "$tmp/net.qcow2" "$new/a"
printf 'KDMV' >"$tmp/v.vmdk"
fails other_format 'looks like vmdk' image info "$tmp/v.vmdk"
finish
