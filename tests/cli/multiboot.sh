#!/bin/sh
# Test kernels with the command lines they are written for: multiboot, fw_cfg, the debug
# exit port, the test device. On each engine that works here.
set -eu
. tests/cli/cases.sh

guests=$BUILD/tests/guest
if [ ! -e "$guests/multiboot-32" ]; then
	echo "skip multiboot: no kernels in $guests"
	exit 77
fi
for kind in 32 64 flat; do
	cp "$guests/multiboot-$kind" "$tmp/$kind"
done
printf 'hello' >"$tmp/one"
printf 'world!' >"$tmp/a,b"
"$umbra" doctor | sed -n '/^Engines/,/^Host/s/^  yes  \([^ ]*\).*/\1/p' >"$tmp/engines"

# has NAME LINE: the kernel printed this line.
has() {
	if grep -qxF -e "$2" "$tmp/out"; then
		case_ok "$1"
	else
		case_bad "$1" "no line: $2"
	fi
}

# ends NAME STATUS ARG...: the command line of such kernels, and more; that status.
ends() {
	name=$1 want=$2
	shift 2
	run run -device isa-debug-exit,iobase=0xf4,iosize=0x4 -serial stdio \
		-display none --no-reboot "$@"
	if [ "$status" -eq "$want" ]; then
		case_ok "$name"
	else
		case_bad "$name" "status $status, want $want"
	fi
}

while read -r engine; do
	# It compares two engines on one CPU.
	[ "$engine" = check ] && smp=1 || smp=4
	for kind in 32 64 flat; do
		e=${engine}_$kind
		ends "${e}_status" 11 -engine "$engine" -kernel "$tmp/$kind" -smp $smp -m 64M \
			-append 'one testdev hostile exit=5' -device pc-testdev \
			-initrd "$tmp/one x y,$tmp/a,,b z" \
			-fw_cfg name=opt/test,string=a,,b
		has "${e}_eax" 'eax 2badb002'
		has "${e}_protected_mode" 'cr0 1'
		has "${e}_interrupts_off" 'if_vm 0'
		has "${e}_a20" 'a20 12345678'
		has "${e}_info_outside" 'info_outside 1'
		has "${e}_flags" 'flags 24d'
		has "${e}_mem_lower" 'mem_lower 27f'
		has "${e}_mem_upper" 'mem_upper fc00'
		has "${e}_cmdline" "cmdline [$tmp/$kind one testdev hostile exit=5]"
		has "${e}_modules" 'mods 2'
		has "${e}_module_1" "mod [$tmp/one x y]"
		has "${e}_module_1_sum" 'mod_sum 214'
		has "${e}_module_2" "mod [$tmp/a,b z]"
		has "${e}_module_2_sum" 'mod_sum 249'
		has "${e}_fw_signature" 'fw_signature 554d4551'
		has "${e}_fw_ram" 'fw_ram 4000000'
		has "${e}_fw_cpus" "$(sed -n 's/^cmos_cpus/fw_cpus/p' "$tmp/out")"
		has "${e}_fw_dma_cpus" "$(sed -n 's/^cmos_cpus/fw_dma_cpus/p' "$tmp/out")"
		has "${e}_fw_file" 'opt/test [a,b]'
		has "${e}_fw_dma_nowhere" 'fw_dma_nowhere 1'
		has "${e}_fw_dma_ioapic" 'fw_dma_ioapic 1'
		has "${e}_fw_dma_long" 'fw_dma_long 1'
		has "${e}_fw_dma_write" 'fw_dma_write 1'
		has "${e}_latch" 'latch 11225544'
		has "${e}_latch_bytes" 'latch_bytes 11225544'
		has "${e}_scratch" 'scratch cafe'
		has "${e}_line" 'irr 20'
		if grep -qE '^(bad segment|not ended)' "$tmp/out"; then
			case_bad "${e}_rest" 'segments or the end are bad'
		fi
		# With more than one CPU all of them came up at page 0.
		cpus=$(sed -n 's/^fw_cpus //p' "$tmp/out")
		[ "$cpus" = 1 ] || has "${e}_started" "started $cpus"
	done
	# As many CPUs as there can be: what each takes of scarce memory is enough for all.
	if [ "$engine" != check ]; then
		ends "${engine}_all_cpus" 11 -engine "$engine" -kernel "$tmp/32" -smp 64 -append exit=5
		has "${engine}_all_started" 'started 40'
	fi
	k=$tmp/32
	for code in 0 1 127 128 300; do
		ends "${engine}_exit_$code" $(((code * 2 + 1) % 256)) -engine "$engine" \
			-kernel "$k" -append "exit=$code"
	done
	ends "${engine}_poweroff" 0 -engine "$engine" -kernel "$k" -append poweroff
	ends "${engine}_reset" 0 -engine "$engine" -kernel "$k" -append reset
	ends "${engine}_triple" 3 -engine "$engine" -kernel "$k" -append triple
	if grep -q 'triple fault' "$tmp/err"; then
		case_ok "${engine}_triple_report"
	else
		case_bad "${engine}_triple_report" 'it is not said'
	fi
done <"$tmp/engines"

k=$tmp/32
ends chips_left_out 1 -kernel "$k" -append 'pit exit=0' \
	-machine q35,accel=tcg,pit=off,hpet=off,i8042=off,vmport=off
has no_pit 'pit ff'
has no_i8042 'kbd ff'
has no_hpet 'hpet ffffffff'
ends chips_there 1 -kernel "$k" -append 'pit exit=0' -nodefaults -no-user-config -accel tcg \
	-vga none -net none -vnc none
has pit 'pit f6'
has hpet 'hpet 8086a201'

ends debugcon 1 -kernel "$k" -append 'debugcon exit=0' -debugcon "file:$tmp/log"
has debugcon_read 'e9 e9'
[ "$(cat "$tmp/log")" = D ] && case_ok debugcon_file || case_bad debugcon_file 'not D'
ends debugcon_device 1 -kernel "$k" -append 'debugcon exit=0' \
	-chardev "file,id=c,path=$tmp/log2" -device isa-debugcon,chardev=c,readback=0x42
has debugcon_device_read 'e9 42'
[ "$(cat "$tmp/log2")" = D ] && case_ok debugcon_device_file || case_bad debugcon_device_file ''

# CPUs, with vendor and signature as QEMU's of these names.
cpu() {
	ends "cpu_$1" 1 -kernel "$k" -append 'cpuid exit=0' -cpu "$1"
	has "cpu_$1_vendor" "vendor [$2]"
	has "cpu_$1_signature" "signature $3"
}
cpu qemu64 AuthenticAMD 60fb1
cpu Opteron_G1 AuthenticAMD f61
cpu Core2 GenuineIntel 6fb
cpu Skylake-Client-noTSX-IBRS GenuineIntel 506e3
cpu Skylake-Server GenuineIntel 50654
cpu EPYC-v2 AuthenticAMD 800f12
cpu max,vendor=GenuineIntel,family=6,model=26,stepping=3 GenuineIntel 106a3
cpu max,vendor=AuthenticAMD,family=25,model=1,stepping=1 AuthenticAMD a00f11
ends cpu_host 1 -kernel "$k" -append 'cpuid exit=0' -cpu host,-avx2,-x2apic
ends cpu_feature_off 1 -kernel "$k" -append 'cpuid exit=0' -cpu qemu64,-apic,-sse3
d=$(sed -n 's/^features_d //p' "$tmp/out") c=$(sed -n 's/^features_c //p' "$tmp/out")
if [ $((0x$d & 0x200)) -eq 0 ] && [ $((0x$c & 1)) -eq 0 ] && [ $((0x$d & 1)) -eq 1 ]; then
	case_ok cpu_feature_off_bits
else
	case_bad cpu_feature_off_bits "ECX $c EDX $d"
fi

# What nobody asked for is not there.
run run -kernel "$k" -append 'testdev poweroff'
has no_testdev 'latch ffffffff'
has no_scratch 'scratch ffffffff'

# A reset loads kernel and modules again: without -no-reboot it never ends.
status=0
timeout 5 "$umbra" run -kernel "$k" -append reset -initrd "$tmp/one" >"$tmp/out" 2>"$tmp/err" \
	</dev/null || status=$?
if [ "$(grep -c '^mod_sum 214' "$tmp/out")" -gt 1 ]; then
	case_ok reset_boots_again
else
	case_bad reset_boots_again "status $status"
fi
finish
