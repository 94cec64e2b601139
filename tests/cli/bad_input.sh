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
refuses image_debian_package "'Fio' is not the name of a package" \
	image debian --packages openssh-server,Fio "$new"
refuses image_debian_size "--size '5M': 1G to 16T" image debian --size 5M "$new"
refuses image_debian_suite "--suite '../x'" image debian --suite ../x "$new"
refuses image_debian_kernel "--kernel 'vim': the name of a package linux-image" \
	image debian --kernel vim "$new"
refuses image_debian_key 'not a public key' image debian --ssh-key "$tmp/text" "$new"
# Not even apt-get is found: it names the package, and makes nothing.
if env PATH= "$umbra" image debian "$tmp/none.qcow2" >"$tmp/out" 2>"$tmp/err"; then
	case_bad image_debian_tool 'status 0'
elif ! grep -qF 'apt-get is missing; the package apt has it' "$tmp/err" || ls "$tmp"/none* 2>/dev/null; then
	case_bad image_debian_tool 'does not name the package'
else
	case_ok image_debian_tool
fi
refuses image_debian_elsewhere 'only debian has this option' image info --size 5G "$new"
refuses option_stray "'image.img' is not an option" run image.img
refuses option_dash "'-' is not an option" run -
refuses command_empty 'a command is needed behind --' run --
refuses drive_missing 'No such file or directory' run -drive file=/nosuch,format=raw
refuses drive_reconnect 'a number from 0 to 3600' run -drive file=x,reconnect-delay=-1
refuses drive_unused '-drive id=d: no -device uses it' run -drive file=x,if=none,id=d
refuses drive_unknown "there is no -drive with id 'x'" run -device virtio-blk-pci,drive=x
refuses drive_needed 'drive=ID is needed' run -device virtio-blk-pci
refuses seed_missing "--seed: $tmp/none: No such file" run --seed "$tmp/none"
refuses seed_text "$tmp/text: cloud-init would ignore it" run --seed "$tmp/text"
refuses seed_empty 'is empty' run --seed "$tmp/empty"
refuses seed_directory "$tmp/directory/user-data: No such file" run --seed "$tmp/directory"
refuses seed_fifo 'not a regular file' run --seed "$tmp/fifo"
refuses seed_key "'metadata'" run --seed "$tmp/text,metadata=x"
refuses seed_twice 'there is one already' run --seed "$tmp/text" --seed "$tmp/text"
refuses device_property "there is no property 'drvie'" run -device virtio-blk-pci,drvie=x
refuses device_number 'num-queues is a number from 1 to 16' \
	run -device virtio-blk-pci,drive=x,num-queues=0
refuses device_slot 'addr is a slot from 1 to 1e' run -device virtio-rng-pci,addr=1f
refuses device_slot_twice 'addr=05.0 is taken' \
	run -device virtio-rng-pci,addr=5 -device virtio-rng-pci,addr=5
refuses device_mmio_bus 'bus is virtio-mmio-bus.N' run -device virtio-rng-device,bus=virtio-mmio-bus.8
refuses device_mmio_slot 'addr, disable-legacy' run -device virtio-rng-device,addr=3
refuses device_mmio_twice 'bus=virtio-mmio-bus.2 is taken' run \
	-device virtio-rng-device,bus=virtio-mmio-bus.2 -device virtio-rng-device,bus=virtio-mmio-bus.2
nine=
for i in 1 2 3 4 5 6 7 8 9; do nine="$nine -device virtio-rng-device"; done
refuses device_mmio_many 'at most 8 virtio devices over MMIO' run $nine
refuses nvme_device "there is no such device" run -device nvme-device
refuses netdev_unused '-netdev id=n: no -device uses it' run --netdev user,id=n
refuses netdev_type 'the network is user, tap, stream, dgram or none' run -nic bridge
refuses nvme_drive 'drive=ID is needed' run -device nvme,serial=x
refuses nvme_block_size 'logical_block_size is 512' run -device nvme,drive=x,logical_block_size=8192
refuses hd_drive 'drive=ID is needed' run -device ide-hd
refuses hd_bus 'bus is ide.N' run -drive file=/dev/null,if=none,id=a -device ide-hd,drive=a,bus=x.1
refuses hd_port 'bus is ide.N' run -drive file=/dev/null,if=none,id=a -device ide-hd,drive=a,bus=ide.6
refuses hd_twice 'the port is taken' run -drive file=a,if=none,id=a -drive file=b,if=none,id=b \
	-device ide-hd,drive=a,bus=ide.1 -device ide-hd,drive=b,bus=ide.1
refuses e1000_netdev 'netdev=ID is needed' run -device e1000,mac=52:54:00:12:34:57
refuses netdev_unknown "there is no -netdev with id 'n'" run -device virtio-net-pci,netdev=n
refuses nic_model 'model is virtio-net-pci or e1000' run -nic user,model=rtl8139
refuses nic_mac 'mac is an address like' run -nic user,mac=52:54
refuses nic_hostfwd 'tcp:[ADDR]:PORT-[ADDR]:PORT is needed' run -nic user,hostfwd=tcp::22
refuses nic_net 'ADDRESS/BITS' run -nic user,net=10.0.0.0/99
refuses nic_socket 'No such file or directory' run -nic stream,addr.path=/nosuch/socket
refuses port_chardev "there is no -chardev with id 'c'" run -device virtconsole,chardev=c
refuses object 'only filter-dump is supported' run -object rng-random,id=r
refuses missing_display '-display gtk is not supported yet' run -display gtk
refuses missing_kvm '-enable-kvm is not supported yet' run -enable-kvm

refuses gdb_port "'99999' is no port" run -gdb tcp::99999
refuses gdb_word "'x' is no port" run -gdb tcp::x
refuses gdb_scheme '-gdb udp::1234: tcp:HOST:PORT' run -gdb udp::1234
refuses gdb_empty "-gdb : tcp:HOST:PORT" run -gdb ''
refuses gdb_path '-gdb unix:: tcp:HOST:PORT' run -gdb unix:
refuses gdb_path_long 'has at most 107 bytes' run -gdb "unix:$(printf %0200d 0)"
refuses gdb_twice 'there is one already' run -s -gdb tcp::1
refuses gdb_stop_alone '-S: nobody could let the machine go' run -S

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
refuses smp_hundred_thousand '-smp 100000: cpus is a number from 1 to 64' run -smp 100000
refuses smp_check 'the check engine runs 1 CPU' run -smp 2 -engine check
refuses cpu_model "'nosuch'" run -cpu nosuch
refuses cpu_feature "'nosuch'" run -cpu max,+nosuch
refuses cpu_comma 'empty item' run -cpu max,,+avx
refuses engine_unknown '-engine warp' run -engine warp
refuses machine_unknown '-machine isapc' run -M isapc
refuses machine_accel 'accel=kvm is not supported yet' run -machine q35,accel=kvm
refuses machine_property "'warp' is not a property" run -machine q35,warp=9
refuses machine_chip 'pit=maybe: on or off' run -machine pit=maybe
refuses machine_fixed 'usb=on: it can only be off' run -machine usb=on
refuses accel_kvm '-accel kvm is not supported yet' run -accel kvm
refuses cpu_pmu 'no performance counters' run -cpu max,pmu=on
refuses cpu_property_value "'enforce=maybe': on or off" run -cpu max,enforce=maybe
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

refuses profile_directory "-profile $tmp/directory: Is a directory" run -profile "$tmp/directory"
refuses profile_nowhere '-profile /nosuch/x: No such file' run -profile /nosuch/x
refuses symbols_missing '-symbols /nosuch: No such file' run -profile "$new/p" -symbols /nosuch
refuses symbols_text "-symbols $tmp/text: line 1 is not ADDRESS TYPE NAME" \
	run -profile "$new/p" -symbols "$tmp/text"
refuses symbols_fifo 'not a regular file' run -profile "$new/p" -symbols "$tmp/fifo"
refuses symbols_empty 'there are no functions in it' run -profile "$new/p" -symbols "$tmp/empty"
refuses symbols_alone '-symbols: only -profile and -perfmap show them' run -symbols "$tmp/text"
refuses symbols_offset 'offset is a number' run -profile "$new/p" -symbols "$tmp/text,offset=x"
# What was created before something else could not be is gone again.
refuses profile_undone '-serial file:/nosuch/x' run -profile "$new/p" -serial file:/nosuch/x
# The map has its place: here it is taken by a directory.
status=0
sh -c 'mkdir "/tmp/perf-$$.map"; echo "/tmp/perf-$$.map" >"$0"; exec "$@"' "$tmp/name" \
	"$umbra" run -perfmap -profile "$new/p" >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
map=$(cat "$tmp/name")
if [ "$status" -eq 2 ] && [ "$(cat "$tmp/err")" = "umbra: -perfmap: $map: Is a directory" ] &&
	[ -z "$(ls "$new")" ]; then
	case_ok perfmap_taken
else
	case_bad perfmap_taken "status $status"
fi
rmdir "$map"
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

# Devices.
k=$tmp/kernel
refuses device_unknown '-device e2000: there is no such device' run -device e2000
refuses device_unknown_help '-device e2000: there is no such device' run -device e2000,help
refuses device_empty 'there is no such device' run -device ''
refuses device_property "isa-debug-exit: there is no property 'speed'" run \
	-device isa-debug-exit,speed=9
refuses device_port 'a number from 0 to 0xffff' run -device isa-debug-exit,iobase=0x10000
refuses device_port_word 'a number from 0 to 0xffff' run -device isa-debug-exit,iobase=f4
refuses device_size 'a number from 1 to 0x8' run -device isa-debug-exit,iosize=0
refuses device_no_chardev 'chardev=ID is needed' run -device isa-debugcon
refuses device_chardev_unknown "no -chardev with id 'c'" run -device isa-debugcon,chardev=c
refuses chardev_kind 'one of stdio, file, null' run -chardev pty,id=c
refuses chardev_no_id 'id= is needed' run -chardev null
refuses debugcon_twice 'there is a debug console already' run -debugcon null -debugcon null
refuses fw_cfg_name 'a name is needed' run -fw_cfg file=x
refuses fw_cfg_content 'either file= or string=' run -fw_cfg opt/x
refuses vnc '-vnc :1 is not supported yet' run -vnc :1

# Multiboot kernels: a header in a text file, made of numbers.
word() {
	for v in "$@"; do
		printf "\\$(printf %o $((v & 255)))\\$(printf %o $((v >> 8 & 255)))"
		printf "\\$(printf %o $((v >> 16 & 255)))\\$(printf %o $((v >> 24 & 255)))"
	done
}
# multiboot FLAGS CHECKSUM_ERROR HEADER LOAD LOAD_END BSS_END ENTRY
multiboot() {
	word 0x1badb002 "$1" $((-0x1badb002 - $1 + $2)) >"$k"
	shift 2
	word "$@" >>"$k"
	echo 'and this is its code' >>"$k"
}
multiboot 0x10000 1 0x100000 0x100000 0 0 0x100000
refuses multiboot_checksum 'checksum of its multiboot header at 0 is wrong' run -kernel "$k"
multiboot 0x10008 0 0x100000 0x100000 0 0 0x100000
refuses multiboot_demand 'demands by bits 8h' run -kernel "$k"
multiboot 0 0 0x100000 0x100000 0 0 0x100000
refuses multiboot_no_addresses 'header without addresses' run -kernel "$k"
multiboot 0x10000 0 0x100000 0x100004 0 0 0x100000
refuses multiboot_header_addr 'damaged' run -kernel "$k"
multiboot 0x10000 0 0x100000 0x100000 0x200000 0 0x100000
refuses multiboot_truncated 'truncated' run -kernel "$k"
multiboot 0x10000 0 0x100000 0x100000 0 0 0x200000
refuses multiboot_entry 'where nothing is loaded' run -kernel "$k"
multiboot 0x10000 0 0 0 0 0 0
refuses multiboot_page_0 'hold boot data' run -kernel "$k"
multiboot 0x10000 0 0xf0000 0xf0000 0 0 0xf0000
refuses multiboot_bios 'over the BIOS area' run -kernel "$k"
multiboot 0x10000 0 0x90000 0x90000 0 0x110000 0x90000
refuses multiboot_bss_bios 'over the BIOS area' run -kernel "$k"
multiboot 0x10000 0 0x4000000 0x4000000 0 0 0x4000000
refuses multiboot_past_memory 'needs at least 65 MiB' run -m 64 -kernel "$k"
multiboot 0x10000 0 0xfffff000 0xfffff000 0 0 0xfffff000
refuses multiboot_past_ram 'beyond 3 GiB' run -kernel "$k"
multiboot 0x10000 0 0x100000 0x100000 0 0 0x100000
refuses module_missing "$tmp/none: No such file" run -kernel "$k" -initrd "$k a,$tmp/none b"
refuses module_no_name 'module 2 of -initrd has no file name' run -kernel "$k" -initrd "$k, "
refuses modules_many 'only 64 modules' run -kernel "$k" -initrd \
	"$(yes "$k" | head -n 65 | paste -sd,)"
truncate -s 40M "$tmp/module"
refuses modules_large 'do not fit behind the kernel in 64 MiB' run -m 64 -kernel "$k" \
	-initrd "$tmp/module,$tmp/module"
refuses port_of_board 'PIC has one of them' run -kernel "$k" -device isa-debug-exit,iobase=0x20
refuses port_twice 'isa-debug-exit has one of them' run -kernel "$k" \
	-device isa-debug-exit,iobase=0xf4 -device isa-debug-exit,iobase=0xf5
refuses port_debugcon 'isa-debugcon has one of them' run -kernel "$k" -debugcon null \
	-device pc-testdev
refuses port_beyond 'go beyond ffffh' run -kernel "$k" \
	-device isa-debug-exit,iobase=0xffff
refuses testdev_twice 'pc-testdev has one of them' run -kernel "$k" -device pc-testdev \
	-device pc-testdev
refuses fw_cfg_missing "$tmp/none: No such file" run -kernel "$k" -fw_cfg "opt/a,file=$tmp/none"
refuses fw_cfg_long 'a name has 1 to 55 bytes' run -kernel "$k" \
	-fw_cfg "opt/$(printf %060d 0),string=x"
refuses fw_cfg_twice '-fw_cfg opt/a: there is one already' run -kernel "$k" \
	-fw_cfg opt/a,string=x -fw_cfg opt/a,string=y

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
