#!/bin/sh
# What one can ask for: help, lists, the version, the doctor.
set -eu
. tests/cli/cases.sh

prints help 0 'Usage: umbra COMMAND' help
prints help_dashes 0 'Usage: umbra COMMAND' --help
prints help_lists_run 0 'boot a machine' help
prints help_of_run 0 'Usage: umbra run [OPTION]' help run
prints run_help 0 '-kernel FILE' run --help
prints run_help_short 0 '-kernel FILE' run -h
prints run_help_after_option 0 '-kernel FILE' run -m 512 --help
prints doctor_help 0 'Usage: umbra doctor' doctor --help
prints version 0 'umbra 0.' --version
prints cpu_list 0 'max' run -cpu help
prints engine_list 0 'interp' run -engine help
prints machine_list 0 'q35' run -M help
prints device_list 0 'isa-debug-exit' run -device help
prints device_properties 0 'iosize' run -device isa-debug-exit,help
prints doctor_engines 0 'interp' doctor
prints doctor_kvm 0 '/dev/kvm' doctor
prints doctor_code 0 'can be executed' doctor

# Each option of the help is in the manual page, and the other way round.
"$umbra" run --help | sed -n 's/^  --*\([a-z_-]*\).*/\1/p' | sort >"$tmp/help"
awk '
	/^\.SH/ { options = /OPTIONS/ }
	options && last == ".TP" {
		gsub(/\\-/, "-")
		sub(/^\.BI? -+/, "")
		print $1
	}
	{ last = $0 }
' docs/umbra.1 | sort >"$tmp/manual"
if diff "$tmp/help" "$tmp/manual" >"$tmp/out" 2>"$tmp/err"; then
	case_ok manual_has_all_options
else
	case_bad manual_has_all_options 'help (<) and docs/umbra.1 (>) differ'
fi

# A full disk is noticed.
if [ -e /dev/full ]; then
	status=0
	"$umbra" help >/dev/full 2>"$tmp/err" || status=$?
	: >"$tmp/out"
	if [ "$status" -eq 1 ]; then
		case_ok help_write_error
	else
		case_bad help_write_error "status $status"
	fi
fi
finish
