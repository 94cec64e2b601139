"""The table: medians, ratios, geometric means."""

import math
import statistics

from rows import GROUPS

NOISY = 0.25  # of the median, between the fastest and the slowest run


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def median(results, row, system, key):
    """Of the runs that ended well; None without one."""
    samples = [s[key] for s in results["rows"][row]["samples"].get(system, []) if s["status"] == 0]
    return statistics.median(samples) if samples else None


def ratio(results, row, system, base, key="cpu"):
    mine, other = (median(results, row, s, key) for s in (system, base))
    return mine / other if mine and other else None


def noisy(results, row, system):
    samples = [s["cpu"] for s in results["rows"][row]["samples"].get(system, []) if s["status"] == 0]
    return len(samples) > 1 and max(samples) - min(samples) > NOISY * statistics.median(samples)


def rows_of(results, group):
    return [name for name, row in results["rows"].items() if row["group"] == group]


def emulators(results):
    return [s for s in results["systems"] if s != "native"]


def mean_ratio(results, rows, system, base, key="cpu"):
    return geometric_mean(filter(None, (ratio(results, r, system, base, key) for r in rows)))


# ---- text ----

def number(val, width):
    if val is None:
        return "-".rjust(width)
    digits = 3 if val < 10 else 2 if val < 100 else 1
    return ("%.*f" % (digits, val)).rjust(width)


def times(val, width):
    if val is None:
        return "-".rjust(width)
    digits = 3 if val < 0.1 else 2 if val < 10 else 1 if val < 100 else 0
    return ("%.*f" % (digits, val)).rjust(width)


def columns(results):
    """(title over it, title, width, function of a row's name, function of a list of rows)"""
    out = []

    def ratios(over, title, width, system, base, key="cpu"):
        out.append((over, title, width, lambda r: times(ratio(results, r, system, base, key), width),
                    lambda rows: times(mean_ratio(results, rows, system, base, key), width)))

    def seconds(system):
        def cell(row):
            val = median(results, row, system, "cpu")
            if val is None and failure(results, row, system):
                return failure(results, row, system).rjust(10)
            return number(val, 9) + ("~" if noisy(results, row, system) else " ")
        out.append((system, "CPU s ", 10, cell, lambda rows: " " * 10))

    has_native = "native" in results["systems"]
    for system in results["systems"]:
        seconds(system)
        if system == "native":
            continue
        if has_native:
            ratios("", "/native", 8, system, "native")
            ratios("", "clock", 7, system, "native", "own_wall")
        if system != "qemu" and "qemu" in results["systems"]:
            ratios("", "/qemu", 7, system, "qemu")
    return out


def failure(results, row, system):
    samples = results["rows"][row]["samples"].get(system, [])
    if not samples:
        return ""
    return "n/a" if all(s["status"] == 77 for s in samples) else "failed"


def table(results):
    cols = columns(results)
    lines = [" " * 16 + "".join(c[0].rjust(c[2]) for c in cols),
             "row".ljust(16) + "".join(c[1].rjust(c[2]) for c in cols)]
    width = len(lines[1])
    for group in GROUPS:
        rows = rows_of(results, group)
        if not rows:
            continue
        lines.append("-" * width)
        lines += [name.ljust(16) + "".join(c[3](name) for c in cols) for name in rows]
    lines += ["=" * width, "geometric means"]
    everything = []
    for group, title in GROUPS.items():
        rows = rows_of(results, group)
        if not rows:
            continue
        everything += rows
        lines.append(title.ljust(16) + "".join(c[4](rows) for c in cols))
    lines.append("all rows".ljust(16) + "".join(c[4](everything) for c in cols))
    return "\n".join(lines)


def speedup_table(results):
    """How much sooner two CPUs are done than one, by the machine's own clock: rows smp-x, one-x."""
    lines = []
    for one in rows_of(results, "one"):
        two = one.replace("one-", "smp-")
        if two not in results["rows"]:
            continue
        cells = []
        for system in results["systems"]:
            took = [median(results, row, system, "own_wall") for row in (one, two)]
            cells.append(times(took[0] / took[1] if all(took) else None, 12))
        lines.append("  " + two.ljust(20) + "".join(cells))
    if not lines:
        return ""
    return "\n".join(["two CPUs against one  " + "".join(s.rjust(12) for s in results["systems"])] + lines)


def percentile_table(results):
    """Interrupt latency: microseconds between a timer's moment and the thread that waits."""
    lines = []
    for name in rows_of(results, "latency"):
        lines = ["wake-up latency, us   " + "".join(k.rjust(9) for k in ("min", "p50", "p90", "p99", "max"))]
        for system in results["systems"]:
            notes = [s["notes"] for s in results["rows"][name]["samples"].get(system, [])
                     if s["status"] == 0]
            if notes:
                lines.append("  " + system.ljust(20) + "".join(
                    number(statistics.median(n[k] for n in notes) / 1000, 9)
                    for k in ("min", "p50", "p90", "p99", "max")))
    return "\n".join(lines)


def mips_line(results):
    mips = results.get("mips")
    if not mips:
        return ""
    return ("interpreter: %.1f million guest instructions a CPU second on the sieve kernel "
            "(%.1f booting)" % (mips["sieve"], mips["boot"]))


def legend(results):
    lines = ["CPU s    median CPU seconds of the whole process, over %d run%s; ~ they differ by more than %d%%"
             % (results["runs"], "" if results["runs"] == 1 else "s", NOISY * 100)]
    if "native" in results["systems"]:
        lines += ["/native  times what the same program takes on this host",
                  "clock    the same by the machine's own clock, elapsed"]
    if len(results["systems"]) > 2:
        lines.append("/qemu    times what QEMU takes: below 1 is faster than QEMU")
    return "\n".join(lines)


def text(results):
    parts = [results["host"], table(results), legend(results), speedup_table(results),
             percentile_table(results),
             mips_line(results)]
    # A row that fails in each run is said once.
    parts.append("\n".join(dict.fromkeys("%s: %s" % (row, what) for row, what in results["wrong"])))
    return "\n\n".join(p for p in parts if p) + "\n"
