#!/bin/sh
# Where time goes: --stats, -profile, -symbols, -perfmap.
set -eu
. tests/cli/cases.sh
need_guest

# known ARG...: a run of which the name of the map file for perf is in $map.
known() {
	status=0
	sh -c 'echo "/tmp/perf-$$.map" >"$0"; exec "$@"' "$tmp/name" \
		"$umbra" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
	map=$(cat "$tmp/name")
}

# checks NAME: the last run ended with 0, and the Python on standard input finds
# its statistics, 'stats', and $tmp/profile, 'text', right.
checks() {
	{
		cat <<'END'
import json, re, sys
stats = json.load(open(sys.argv[1] + "/err"))
try:
    text = open(sys.argv[1] + "/profile").read()
except OSError:
    text = ""
times = stats.get("cpu_ns")
END
		cat
	} >"$tmp/check.py"
	if [ "$status" -ne 0 ]; then
		case_bad "$1" "status $status"
	elif python3 "$tmp/check.py" "$tmp" >"$tmp/out" 2>&1; then
		case_ok "$1"
	else
		case_bad "$1" 'wrong numbers'
	fi
}

work='i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; find /proc/self /sys/kernel | wc -l'

run run --stats=json -smp 2 -- sh -c "$work"
checks times <<'END'
parts = sum(v for k, v in times.items() if k != "total")
assert abs(parts - times["total"]) < 20, (parts, times)
assert len(stats["cpu_ns_of"]) == 2, stats["cpu_ns_of"]
for k, v in times.items():
    assert abs(sum(c[k] for c in stats["cpu_ns_of"]) - v) < 20, k
assert 0.2 * times["total"] < times["code"] + times["direct"] < times["total"], times
assert times["interpreter"] and times["translator"] and times["decoder"], times
assert "functions" not in stats
END

run run --stats=json -- true
checks translations <<'END'
made, rates = stats["translator"], stats["rates"]
assert made["guest_bytes"] > made["insns_translated"] > made["blocks_translated"] > 1000, made
assert made["code_bytes"] > made["cold_bytes"] > 0, made
assert abs(rates["code_bytes_per_guest_byte"] - made["code_bytes"] / made["guest_bytes"]) < .001
assert rates["tlb_misses_per_1000_insns"] is None, rates
guest = times["code"] + times["interpreter"] + times["tlb_fill"]
want = stats["mmu"]["tlb_misses"] / (guest / 1e6)
assert abs(rates["tlb_misses_per_ms"] / want - 1) < .001, (rates, want)
END

run run -engine interp --stats=json -- true
checks interpreted <<'END'
assert times["code"] == times["translator"] == times["direct"] == 0, times
assert times["interpreter"] > 0.8 * times["total"], times
want = 1000 * stats["mmu"]["tlb_misses"] / stats["cpu"]["insns"]
assert abs(stats["rates"]["tlb_misses_per_1000_insns"] / want - 1) < .001
assert stats["rates"]["code_bytes_per_guest_byte"] is None
END

run run --stats -- true
if [ "$status" -eq 0 ] && grep -q '^CPU time' "$tmp/err" && grep -q 's translated code, [0-9.]*%$' "$tmp/err"; then
	case_ok times_text
else
	case_bad times_text "status $status"
fi

# A computation, whose traps and time are those of a process of its own.
run run -engine translate-direct --stats=json -profile "$tmp/profile" -- sh -c "$work"
checks direct <<'END'
assert times["direct"] > 0 and times["direct_switch"] > 0, times
assert 0 < stats["functions"]["all"]["traps"] <= stats["direct"]["direct_entries"]
END

# The kernel is somewhere else at each boot, and still its functions have names.
run run -- cat /proc/kallsyms
cp "$tmp/out" "$tmp/symbols"
run run --stats=json -profile "$tmp/profile" -symbols "$tmp/symbols" -- sh -c "$work"
checks functions <<'END'
lists = stats["functions"]
for order in "by_time", "by_exits":
    assert len(lists[order]) == 20, lists
    assert sum(f["name"] is not None for f in lists[order]) >= 8, lists[order]
    assert all(f["user"] or f["name"] or f["address"].endswith("000") for f in lists[order])
key = lambda f: f["loop"] + f["call_outs"] + f["traps"]
assert lists["by_time"] == sorted(lists["by_time"], key=lambda f: -f["ns"])
assert lists["by_exits"] == sorted(lists["by_exits"], key=lambda f: -key(f))
# The same numbers as text.
rows = re.findall(r"^ *([\d.]+) +[\d.]+% +(\d+) +(\d+) +(\d+) +([03]) +([0-9a-f]{16}) (\S+)$", text, re.M)
assert len(rows) == 40, text
for row, f in zip(rows, lists["by_time"] + lists["by_exits"]):
    assert [int(n) for n in row[1:4]] == [f["loop"], f["call_outs"], f["traps"]], (row, f)
    assert abs(float(row[0]) - f["ns"] / 1e9) < .001 and int(row[5], 16) == int(f["address"], 16)
    assert row[6] == (f["name"] or "(page)") and row[4] == ("3" if f["user"] else "0")
total = re.search(r"^all\n *([\d.]+) +(\d+) +(\d+) +(\d+)$", text, re.M)
every = lists["all"]
assert [int(n) for n in total.groups()[1:]] == [every["loop"], every["call_outs"], every["traps"]]
assert every["call_outs"] == stats["translator"]["call_outs"], every
assert abs(every["ns"] / (times["total"] - times["direct"]) - 1) < .2, (every, times)
# Where they are: from the symbols' places by a multiple of 2 MiB, all by the same.
known = {}
for line in open(sys.argv[1] + "/symbols"):
    address, kind, name = line.split()[:3]
    known.setdefault(name, []).append(int(address, 16))
moved = [{int(f["address"], 16) - a for a in known[f["name"]]} for f in lists["by_time"] if f["name"]]
same = set.intersection(*moved)
assert len(same) == 1 and same.pop() % (2 << 20) == 0, moved
END

# Told that it has not moved, by a file that is not at its place, it has no names.
run run --stats=json -profile "$tmp/profile" -symbols "$tmp/symbols,offset=0x100000000" -- true
checks moved_wrongly <<'END'
assert not any(f["name"] for f in stats["functions"]["by_time"]), stats["functions"]
END

known run --stats=json -perfmap -symbols "$tmp/symbols" -- sh -c "$work"
mv "$map" "$tmp/map"
checks perf_map <<'END'
code = []
for line in open(sys.argv[1] + "/map"):
    m = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) (guest_(user|kernel)_0x[0-9a-f]+|[^\s+]+\+0x[0-9a-f]+)\n", line)
    assert m, line
    code.append((int(m[1], 16), int(m[2], 16), m[3]))
assert sum(size for _, size, _ in code) == stats["translator"]["code_bytes"]
names = {name.split("+")[0] for _, _, name in code}
assert {"clear_page_erms", "copy_page_range", "do_syscall_64"} <= names, len(names)
assert any(name.startswith("guest_user") for _, _, name in code)
END

# Perf finds the names.
if ! command -v perf >/dev/null || ! perf record -o "$tmp/perf" true >/dev/null 2>&1; then
	echo 'skip perf_report: perf does not work here'
else
	status=0
	perf record -o "$tmp/perf" -F 500 "$umbra" run -engine translate-eager -perfmap \
		-symbols "$tmp/symbols" -- sh -c "$work" >"$tmp/out" 2>"$tmp/err" || status=$?
	perf report -i "$tmp/perf" --stdio --sort sym >"$tmp/out" 2>"$tmp/err" || status=$?
	rm -f $(perf script -i "$tmp/perf" -F pid 2>/dev/null | sort -u |
		awk '{ print "/tmp/perf-" $1 ".map" }')
	if [ "$status" -eq 0 ] && [ "$(grep -c '\[\.\] [^ ]*+0x[0-9a-f]*$' "$tmp/out")" -ge 20 ]; then
		case_ok perf_report
	else
		case_bad perf_report "status $status, or no names"
	fi
fi

# Nothing is written to what somebody has put there.
status=0
sh -c 'echo keep >"$1"; ln -s "$1" "/tmp/perf-$$.map"; echo "/tmp/perf-$$.map" >"$0"; shift; exec "$@"' \
	"$tmp/name" "$tmp/victim" "$umbra" run -perfmap -- true >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
map=$(cat "$tmp/name")
if [ "$status" -eq 0 ] && [ ! -L "$map" ] && [ -s "$map" ] && [ "$(cat "$tmp/victim")" = keep ]; then
	case_ok perf_map_link
else
	case_bad perf_map_link "status $status, or the link was followed"
fi
rm -f "$map"

# A report that cannot be written is no success.
run run -profile /dev/full -- true
if [ "$status" -eq 1 ] && grep -q -e '-profile /dev/full: cannot be written' "$tmp/err"; then
	case_ok profile_full
else
	case_bad profile_full "status $status"
fi

finish
