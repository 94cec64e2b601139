"""The table of rows, bench/rows, and which of them to run."""

import fnmatch
import shlex


class Row:
    def __init__(self, name, group, cpus, n, quick, command):
        self.name, self.group, self.cpus, self.n, self.quick = name, group, cpus, n, quick
        self.command = command

    @property
    def image(self):
        """The smallest guest that has what the row needs."""
        return "full" if self.group in ("program", "smp", "one") else "small"


# In the order of the report; "boot" has no line in the table, it is measured at each start.
GROUPS = {
    "boot": "boot to init",
    "integer": "integer",
    "float": "float and vector",
    "memory": "memory",
    "kernel": "kernel paths",
    "program": "real programs",
    "smp": "two CPUs",
    "one": "the same on one",
}


def parse_line(line):
    name, group, cpus, n, quick, command = line.split(None, 5)
    if command == "-":
        command = "kernel %s $N" % shlex.quote(name)
    return Row(name, group, int(cpus), int(n), None if quick == "-" else int(quick), command)


def read(path):
    with open(path) as f:
        return [parse_line(line.rstrip("\n")) for line in f
                if line.strip() and not line.startswith("#")]


def matches(name, group, patterns):
    return not patterns or any(fnmatch.fnmatch(name, p) or group == p for p in patterns)


def choose(rows, patterns, quick):
    chosen = []
    for row in rows:
        if quick:
            if row.quick is None:
                continue
            row.n = row.quick
        if matches(row.name, row.group, patterns):
            chosen.append(row)
    return chosen
