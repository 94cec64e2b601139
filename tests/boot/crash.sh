#!/bin/sh
# A guest that triple-faults: status 3, and a report of what the CPU was doing.
set -eu
. tests/cli/cases.sh

gcc -m32 -nostdlib -static -no-pie -Wl,-T,tests/boot/crash.ld -Wl,--build-id=none \
	-Wl,--no-warn-rwx-segments -o "$tmp/crash" tests/boot/crash.S

# The engines that work here, but for auto.
"$umbra" doctor | sed -n '/^Engines/,/^Host/s/^  yes  \([^ ]*\).*/\1/p' >"$tmp/engines"

while read -r engine; do
	run run -engine "$engine" -kernel "$tmp/crash"
	if [ "$status" -ne 3 ]; then
		case_bad "${engine}_status" "status $status"
	elif [ -s "$tmp/out" ]; then
		case_bad "${engine}_quiet" 'something on standard output'
	elif [ "$(wc -l <"$tmp/err")" -gt 40 ]; then
		case_bad "${engine}_report_fits_screen" 'too long'
	else
		case_ok "${engine}_status"
	fi
	for text in 'umbra: the guest crashed: triple fault' '32-bit protected mode, paging off' \
		'RAX 0000000012345678' 'CS   0010 base 0000000000000000 limit ffffffff' \
		'CR0 00000011 PE ET' 'IDTR base 0000000000000000 limit 0000' \
		'10000c  0f 0b' 'ud2'; do
		if grep -qF "$text" "$tmp/err"; then
			case_ok "${engine}_report: $text"
		else
			case_bad "${engine}_report: $text" 'not there'
		fi
	done
done <"$tmp/engines"

# Nobody can say that the command ended.
run run -kernel "$tmp/crash" -initrd tests/boot/crash.S -- true
if [ "$status" -eq 125 ] && grep -q 'triple fault' "$tmp/err"; then
	case_ok command_status
else
	case_bad command_status "status $status"
fi
finish
