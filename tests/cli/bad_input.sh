#!/bin/sh
# Everything a user can get wrong: status 2, one line that names the thing, and nothing
# left behind.
set -eu
. tests/cli/cases.sh

new=$tmp/new
: >"$tmp/empty"
echo 'not a kernel' >"$tmp/text"
mkdir "$tmp/directory"
gzip -c "$tmp/text" >"$tmp/packed.gz"
mkfifo "$tmp/fifo"
# What a bzImage is recognized by, and nothing behind it.
head -c 514 /dev/zero >"$tmp/cut"
printf '\125\252HdrS' | dd of="$tmp/cut" bs=1 seek=510 conv=notrunc 2>/dev/null

refuses command_missing 'a command is needed'
refuses command_unknown "unknown command 'fly'" fly
refuses command_near 'is run meant?' rnu
refuses command_option '--m' --m 5
refuses help_unknown "unknown command 'fly'" help fly
refuses doctor_argument "doctor: 'x'" doctor x

refuses option_unknown "unknown option '-frobnicate'" run -frobnicate
refuses option_near "is -kernel meant?" run --kernal x
refuses option_near_swap "is -append meant?" run -appned x
refuses option_no_value '-m needs a value' run -m
refuses option_value_unwanted '-no-reboot takes no value' run --no-reboot=yes
refuses option_stray "'image.img' is not an option" run image.img
refuses option_dash "'-' is not an option" run -
refuses command_empty 'a command is needed behind --' run --
refuses missing_drive '-drive is not supported yet' run -drive file=x
refuses missing_netdev '-netdev is not supported yet' run --netdev user,id=n
refuses missing_nic '-nic user is not supported yet' run -nic user
refuses missing_display '-display gtk is not supported yet' run -display gtk
refuses missing_kvm '-enable-kvm is not supported yet' run -enable-kvm

refuses memory_small 'memory of 1024 KiB is too small' run -m 1 -kernel "$tmp/text"
refuses memory_zero 'memory of 0 KiB is too small' run -m 0 -kernel "$tmp/text"
refuses memory_huge '-m: 1048576000 MiB are more than' run -m 1000T
refuses memory_ten_terabytes '-m: 10485760 MiB are more than' run -m 10T
refuses memory_word "-m 'abc': a size" run -m abc
refuses memory_empty "-m '': a size" run -m ''
refuses memory_negative "-m '-5': a size" run -m -5
refuses memory_overflow "-m '99999999999999999999G'" run -m 99999999999999999999G
refuses memory_suffix "-m '5X'" run -m 5X
refuses memory_slots "'slots' is not supported" run -m 512,slots=3
refuses memory_odd 'not a multiple of 4 KiB' run -m 4097.3K -kernel "$tmp/text"

refuses smp_zero '-smp 0: cpus is a number' run -smp 0
refuses smp_word '-smp two: cpus is a number' run -smp two
refuses smp_key "'dies' is not one of" run -smp 4,dies=2
refuses smp_product 'does not make 4 CPUs' run -smp 4,cores=3
refuses smp_many '-smp 1000' run -smp 1000
refuses smp_check 'the check engine runs 1 CPU' run -smp 2 -engine check
refuses cpu_model "'nosuch'" run -cpu nosuch
refuses cpu_feature "'nosuch'" run -cpu max,+nosuch
refuses cpu_comma 'empty item' run -cpu max,,+avx
refuses engine_unknown '-engine warp' run -engine warp
refuses machine_unknown '-machine isapc' run -M isapc
refuses machine_property "'accel'" run -machine q35,accel=kvm
refuses rtc_word 'base is utc, localtime, or a date' run -rtc base=never
refuses rtc_date 'base is utc, localtime, or a date' run -rtc base=2023-02-29
refuses rtc_key "'speed'" run -rtc speed=2
refuses stats_format '--stats=xml' run --stats=xml
refuses name_list 'only a plain name' run -name a,debug-threads=on

refuses kernel_missing "$tmp/none: No such file" run -kernel "$tmp/none"
refuses kernel_no_name '-kernel: an empty file name' run -kernel ''
refuses kernel_empty "$tmp/empty: is empty" run -kernel "$tmp/empty"
refuses kernel_text 'a text file' run -kernel "$tmp/text"
refuses kernel_packed 'a gzip file' run -kernel "$tmp/packed.gz"
refuses kernel_directory 'is a directory' run -kernel "$tmp/directory"
refuses kernel_fifo 'not a regular file' run -kernel "$tmp/fifo"
refuses kernel_device 'not a regular file' run -kernel /dev/zero
refuses kernel_cut "$tmp/cut" run -kernel "$tmp/cut"
refuses kernel_newline 'a?b' run -kernel "$tmp/a
b"

refuses serial_word '-serial tty' run -serial tty
refuses serial_no_path 'a path is needed behind file:' run -serial file:
refuses serial_fifth 'only 4 serial ports' run -serial null -serial null -serial null \
	-serial null -serial null
refuses serial_two_stdio 'stdio can be used for only one' run -serial stdio -serial mon:stdio
refuses serial_stdio_command 'belong to the command' run -serial stdio -- true
refuses serial_second_command 'the second port is needed' run -serial null -serial null -- true
refuses serial_file_bad_kernel 'No such file' run -serial "file:$new/log" -kernel "$tmp/none"
refuses serial_file_bad_memory 'too small' run -m 1 -serial "file:$new/log" -kernel "$tmp/text"
refuses debugcon_word '-debugcon foo' run -debugcon foo

if [ -e "$BUILD/guest/vmlinuz" ] && [ -e "$BUILD/guest/initrd" ]; then
	kernel=$BUILD/guest/vmlinuz
	head -c 100000 "$kernel" >"$tmp/truncated"
	truncate -s 300M "$tmp/large"
	refuses kernel_truncated 'truncated, has 100000 bytes' run -kernel "$tmp/truncated"
	refuses initrd_missing "$tmp/none: No such file" run -initrd "$tmp/none"
	refuses initrd_empty "$tmp/empty: is empty" run -kernel "$kernel" -initrd "$tmp/empty"
	refuses initrd_directory 'is a directory' run -kernel "$kernel" -initrd "$tmp"
	refuses initrd_large 'do not fit' run -m 256 -initrd "$tmp/large"
	refuses append_long 'command line of' run -append "$(printf %05000d 0)"
	refuses memory_no_kernel "$kernel" run -m 16
	refuses serial_unwritable "file:$tmp/directory: Is a directory" run \
		-serial "file:$tmp/directory"
	# The first file is taken back when the second cannot be opened.
	refuses serial_second_unwritable "$tmp/none/log: No such file" run \
		-serial "file:$new/log" -serial "file:$tmp/none/log"
	echo precious >"$tmp/old"
	refuses serial_keeps_old "$tmp/none/log: No such file" run \
		-serial "file:$tmp/old" -serial "file:$tmp/none/log"
	if [ "$(cat "$tmp/old")" = precious ]; then
		case_ok serial_old_unharmed
	else
		case_bad serial_old_unharmed 'the old file was emptied'
	fi
else
	echo "skip bad_guest_files: no guest in $BUILD"
fi
finish
