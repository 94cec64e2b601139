# What the tests of the command line share: `. tests/cli/cases.sh` in the top directory.
#
# A case prints a line (tests/meson.build) and the script ends with `finish`.

umbra=$BUILD/umbra
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failures=0

# case_ok NAME, case_bad NAME REASON
case_ok() {
	echo "ok $1"
}

case_bad() {
	echo "not ok $1"
	echo "# $2"
	tail -n 20 "$tmp/out" | sed 's/^/# out: /'
	tail -n 50 "$tmp/err" | sed 's/^/# err: /'
	failures=$((failures + 1))
}

# run ARG...: umbra, its output in $tmp/out and $tmp/err, its exit status in $status.
run() {
	status=0
	timeout 60 "$umbra" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
}

# refuses NAME TEXT ARG...: status 2, one line on standard error with TEXT, nothing else,
# and no file made in $tmp/new.
refuses() {
	name=$1 text=$2
	shift 2
	mkdir -p "$tmp/new"
	run "$@"
	if [ "$status" -ne 2 ]; then
		case_bad "$name" "status $status"
	elif [ -s "$tmp/out" ]; then
		case_bad "$name" 'something on standard output'
	elif [ "$(wc -l <"$tmp/err")" -ne 1 ]; then
		case_bad "$name" 'not one line on standard error'
	elif ! grep -qF -e "$text" "$tmp/err" || ! grep -q '^umbra: ' "$tmp/err"; then
		case_bad "$name" "does not say: $text"
	elif [ -n "$(ls "$tmp/new")" ]; then
		case_bad "$name" "left behind: $(ls "$tmp/new")"
	else
		case_ok "$name"
	fi
}

# prints NAME STATUS TEXT ARG...: that status, TEXT on standard output, nothing on the other.
prints() {
	name=$1 want=$2 text=$3
	shift 3
	run "$@"
	if [ "$status" -ne "$want" ]; then
		case_bad "$name" "status $status"
	elif [ -s "$tmp/err" ]; then
		case_bad "$name" 'something on standard error'
	elif ! grep -qF -e "$text" "$tmp/out"; then
		case_bad "$name" "does not say: $text"
	else
		case_ok "$name"
	fi
}

# need_guest: skip the whole script without something to boot.
need_guest() {
	if [ ! -e "$BUILD/guest/vmlinuz" ] || [ ! -e "$BUILD/guest/initrd" ]; then
		echo "skip ${0##*/}: no guest in $BUILD"
		exit 77
	fi
}

finish() {
	[ "$failures" -eq 0 ]
	exit
}
