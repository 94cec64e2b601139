#!/usr/bin/env python3
"""Debian's own kernels, each to a shell, with few and many CPUs. By hand: see HACKING.md.

    tests/slow/kernels.py [--cpus 1,2,8,32] [--boots N] [--qemu] [--build DIR] [KERNEL...]
    tests/slow/kernels.py --parameters [--qemu]

KERNEL is one of the names of `kernels` below; without any, all. The packages are fetched once, into
BUILD/kernels; those of i386 through lists of their own, so that the host's dpkg does not hear of
that architecture. A boot is good when the shell answers, the CPUs are there and count
interrupts, the machine switches itself off, and dmesg has no warning that `accepted` does not
explain. --parameters boots the generic kernel once with each of `parameters`.
"""

import argparse
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

# Name here: package and architecture.
KERNELS = {
    "cloud": ("linux-image-cloud-amd64", "amd64"),
    "generic": ("linux-image-amd64", "amd64"),
    "686": ("linux-image-686", "i386"),
    "686-pae": ("linux-image-686-pae", "i386"),
}

# Warnings that are not about what we made of the machine: pattern, and why QEMU's guests have them too.
BUSY = "the host gave the CPU to others for longer than the kernel thinks possible; with KVM too, where the host is as busy"
ACCEPTED = [
    (r"^hpet: Lost \d+ RTC interrupts$", BUSY),
    (r"^hrtimer: interrupt took \d+ ns$", BUSY),
    (r"^( +#\d+)+$", "the list of CPUs that start: where each of them says something in between (32 bits and more "
     "than 8 CPUs: \"Leaving ESR disabled\") its rest gets the level of a warning"),
    (r"^acpi resource window \(\[0x[0-9a-f]{9,}-0x[0-9a-f]+\] ignored, not CPU addressable\)$",
     "a window of PCI above 4 GiB, which a kernel without PAE cannot reach; the q35 of QEMU 7.2 was seen to have it say "
     "the same"),
]

# Not warnings by their level, but nothing that a sound machine shows.
ODD = re.compile(r"Firmware Bug|BIOS bug|Hardware Error|unchecked MSR|soft lockup|unstable|unsynchronized"
                 r"|Call Trace|BUG:|WARNING:|rcu.*stall|Spurious|spurious|lost|stuck|broken|not functional")

PARAMETERS = [
    "noapic", "nolapic", "acpi=off", "acpi=off noapic", "nosmp", "maxcpus=1", "clocksource=hpet",
    "clocksource=acpi_pm", "clocksource=tsc", "clocksource=kvm-clock", "no-kvmclock", "no-steal-acc",
    "no_timer_check", "pti=on", "nopcid", "no5lvl",
    "mitigations=off", "nopat", "hpet=disable", "idle=poll", "idle=halt", "idle=nomwait",
    "nox2apic", "notsc", "tsc=reliable", "tsc=unstable", "lpj=4000000", "noxsave", "nosmap", "nokaslr",
    "pci=off", "pci=nommconf", "pci=conf1", "pci=nomsi", "nohz=off highres=off", "lapic=notscdeadline",
    "nolapic_timer", "apic=debug", "x2apic_phys", "spectre_v2=retpoline", "spec_store_bypass_disable=on",
    "mem=256M", "nohugepages", "nofsgsbase", "nopku", "iommu=soft", "debug_pagealloc=on",
    "slub_debug=FZP", "reboot=t", "reboot=p", "nmi_watchdog=1", "clearcpuid=rdrand", "mce=off",
    "nolapic nosmp acpi=off", "vsyscall=emulate", "page_poison=1 init_on_alloc=1 init_on_free=1",
]

INIT = r"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec setsid cttyhack sh
"""

CHECK = r"""#!/bin/sh
echo "@online $(cat /sys/devices/system/cpu/online)"
echo "@clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo @interrupts
cat /proc/interrupts
echo @vulnerabilities
cd /sys/devices/system/cpu/vulnerabilities && grep . *
echo @cpuinfo
cat /proc/cpuinfo
echo @dmesg
dmesg -r
echo @end
exec poweroff -f
"""


# --- what to boot ---

def apt_of(arch, top):
    """The environment in which apt knows the packages of that architecture."""
    if arch == subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip():
        return dict(os.environ)
    root = os.path.join(top, "apt-" + arch)
    conf = os.path.join(root, "apt.conf")
    for d in ("state/lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(root, d), exist_ok=True)
    # Where Debian is fetched from here; other archives need not have the architecture.
    form = "$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    out = subprocess.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
                         capture_output=True, text=True, check=True).stdout
    with open(os.path.join(root, "sources.list"), "w") as f:
        f.writelines(sorted({line[7:] + "\n" for line in out.splitlines() if line.startswith("Debian deb ")}))
    open(os.path.join(root, "status"), "w").close()
    with open(conf, "w") as f:
        f.write('APT::Architecture "%s";\nAPT::Architectures { "%s"; };\n' % (arch, arch) +
                'Dir::State "%s/state";\nDir::State::status "%s/status";\nDir::Cache "%s/cache";\n' % (
                    root, root, root) +
                'Dir::Etc::sourcelist "%s/sources.list";\nDir::Etc::sourceparts "/dev/null";\n' % root +
                'Acquire::Languages "none";\n')
    env = dict(os.environ, APT_CONFIG=conf)
    # An archive that cannot be read just now does not matter while another has the package.
    subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "update"], env=env, stderr=subprocess.DEVNULL)
    return env


def fetch(env, package, want, to):
    """The file 'want' of the package, as 'to'."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(to)) as tmp:
        subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], env=env, cwd=tmp,
                       check=True)
        deb = os.path.join(tmp, os.listdir(tmp)[0])
        subprocess.run("dpkg-deb --fsys-tarfile '%s' | tar -x -C '%s' './%s'" % (deb, tmp, want), shell=True,
                       check=True)
        os.rename(os.path.join(tmp, want), to)


def make_initrd(top, arch):
    """busybox and two scripts."""
    path = os.path.join(top, "initrd-" + arch)
    busybox = os.path.join(top, "busybox-" + arch)
    with tempfile.TemporaryDirectory(dir=top) as root:
        for d in ("bin", "dev", "proc", "sys"):
            os.mkdir(os.path.join(root, d))
        shutil.copy(busybox, root + "/bin/busybox")
        for name in ("sh mount setsid cttyhack cat grep dmesg poweroff echo cd").split():
            os.symlink("busybox", root + "/bin/" + name)
        for name, text in (("init", INIT), ("check", CHECK)):
            with open(os.path.join(root, name), "w") as f:
                f.write(text)
            os.chmod(os.path.join(root, name), 0o755)
        subprocess.run("find . | cpio --quiet -o -H newc -R 0:0 >'%s'" % path, shell=True, cwd=root, check=True)
    return path


def kernel_of(name, top):
    """Its release, kernel and initrd; fetched unless they are there."""
    package, arch = KERNELS[name]
    path, release = os.path.join(top, "vmlinuz-" + name), os.path.join(top, "release-" + name)
    busybox = os.path.join(top, "busybox-" + arch)
    if not os.path.exists(release) or not os.path.exists(busybox):
        print("# fetching", package, flush=True)
        env = apt_of(arch, top)
        text = subprocess.run(["apt-cache", "show", "--no-all-versions", package], env=env, check=True,
                              capture_output=True, text=True).stdout
        depends = re.search(r"^Depends: (linux-image-([^ ,]+))", text, re.M)
        if not os.path.exists(busybox):
            fetch(env, "busybox-static", "bin/busybox", busybox)
        fetch(env, depends[1], "boot/vmlinuz-" + depends[2], path)
        with open(release, "w") as f:
            f.write(depends[2])
    with open(release) as f:
        return f.read(), path, make_initrd(top, arch)


# --- one boot ---

class Boot:
    """A machine from its start to its end, and what it said."""

    def __init__(self, program, kernel, initrd, cpus, more="", limit=600, memory="512M"):
        # What the kernel prints goes to dmesg only, so that it does not come in between.
        args = program + ["-m", memory, "-smp", str(cpus), "-kernel", kernel, "-initrd", initrd, "-append",
                          ("console=ttyS0 quiet loglevel=1 " + more).strip()]
        self.text, self.wrong, self.parts = "", [], {}
        began = time.monotonic()
        p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        typed, ended, raw, end = False, False, b"", began + limit
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([p.stdout], [], [], left)[0]:
                self.wrong.append("does not switch off" if ended else "no end after %d s" % limit)
                p.kill()
                break
            data = os.read(p.stdout.fileno(), 65536)
            if not data:
                break
            raw += data
            if not typed and re.search(rb"# (\x1b\[6n)?$", raw):
                p.stdin.write(b"/check\n")
                p.stdin.flush()
                typed = True
            if not ended and b"\n@end" in raw:
                ended, end = True, time.monotonic() + 30
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = status
        self.wall = time.monotonic() - began
        self.cpu = usage.ru_utime + usage.ru_stime
        self.text = raw.decode(errors="replace").replace("\r", "")
        if not typed:
            self.wrong.append("no shell")
        if status and not self.wrong:
            self.wrong.append("status %d" % os.waitstatus_to_exitcode(status))
        for m in re.finditer(r"^@(\w+) ?(.*)\n((?:[^@\n].*\n|\n)*)", self.text, re.M):
            self.parts[m[1]] = m[2] or m[3]
        if typed and "end" not in self.parts:
            self.wrong.append("the check did not end")

    def messages(self):
        """Of dmesg, (level, text)."""
        for m in re.finditer(r"^<(\d+)>\[ *[\d.]+\] (.*)$", self.parts.get("dmesg", ""), re.M):
            yield int(m[1]) & 7, m[2]

    def warnings(self):
        return [t for level, t in self.messages() if level <= 4 or ODD.search(t)]

    def check(self, cpus):
        """Adds to 'wrong' what is."""
        if "end" not in self.parts:
            return
        online = self.parts["online"]
        if online != ("0-%d" % (cpus - 1) if cpus > 1 else "0"):
            self.wrong.append("of %d CPUs there are %s" % (cpus, online))
        self.check_interrupts(cpus)
        for line in self.parts["vulnerabilities"].splitlines():
            if re.search("Vulnerable|[Uu]nknown|no microcode", line):
                self.wrong.append(line)

    def check_interrupts(self, cpus):
        rows = {}
        for line in self.parts["interrupts"].splitlines()[1:]:
            name, *numbers = line.split()
            rows[name.rstrip(":")] = [int(n) for n in numbers if n.isdigit()][:cpus]
        if 0 in rows.get("LOC", [0]):
            self.wrong.append("a CPU without interrupts of its timer: %s" % rows.get("LOC"))
        for name in "ERR MIS SPU MCE THR TRM DFR NMI".split():
            if any(rows.get(name, [])):
                self.wrong.append("%s: %s" % (name, rows[name]))


def unexpected(lines):
    return [t for t in lines if not any(re.search(pattern, t) for pattern, _ in ACCEPTED)]


# --- tables ---

def median(values):
    return sorted(values)[len(values) // 2] if values else 0


def series(o, name, cpus):
    """N boots, one after the other."""
    release, kernel, initrd = kernel_of(name, o.top)
    good, walls, cpu, odd, fine = 0, [], [], {}, {}
    for i in range(o.boots):
        b = Boot(o.program, kernel, initrd, cpus, limit=o.limit)
        b.check(cpus)
        if o.logs:
            with open("%s/%s-%d-%d.log" % (o.logs, name, cpus, i), "w") as f:
                f.write(b.text)
        bad = unexpected(b.warnings()) + b.wrong
        for t in bad:
            odd[t] = odd.get(t, 0) + 1
        for t in {re.sub(r"#\d+|\d+ ns|Lost \d+", "...", t) for t in set(b.warnings()) - set(bad)}:
            fine[t] = fine.get(t, 0) + 1
        good += not b.wrong
        walls.append(b.wall)
        cpu.append(b.cpu)
    print("%-24s %4d %5d %6d %9.1f %8.1f %6.1f %11d" % (
        release, cpus, o.boots, good, median(cpu), median(walls), max(walls), len(odd)), flush=True)
    for t, n in [*odd.items(), *(("(accepted) " + t, n) for t, n in fine.items())]:
        print("    %3d times: %s" % (n, t), flush=True)
    return good == o.boots and not odd


def one_parameter(o, program, more):
    _, kernel, initrd = kernel_of("generic", o.top)
    b = Boot(program, kernel, initrd, o.cpus[0], more, limit=o.limit)
    if o.logs:
        with open("%s/%s-%s.log" % (o.logs, program[0].split("/")[-1], more.replace(" ", ",")), "w") as f:
            f.write(b.text)
    return b


def try_parameters(o):
    """Odd but reasonable command lines, with what QEMU makes of those that fail here."""
    fine = True
    for more in o.only or PARAMETERS:
        b = one_parameter(o, o.program, more)
        print("%-40s %-4s %6.1f s, CPUs %s, %s" % (more, "bad" if b.wrong else "ok", b.wall, b.parts.get("online"),
                                                 b.parts.get("clock")), flush=True)
        ours, theirs = b.wrong + unexpected(b.warnings()), []
        if ours or o.qemu:
            q = one_parameter(o, QEMU, more)
            theirs = q.wrong + q.warnings()
            print("    QEMU: %s, CPUs %s, %s" % (q.wrong or "ok", q.parts.get("online"), q.parts.get("clock")))
            fine &= set(b.wrong) <= set(q.wrong)
        for t in ours:
            print("    %s%s" % (t, " (QEMU too)" if t in theirs else ""), flush=True)
    return fine


QEMU = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35", "-nodefaults",
        "-display", "none", "-monitor", "none", "-serial", "stdio"]


def main():
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    p = argparse.ArgumentParser()
    p.add_argument("kernels", nargs="*", metavar="KERNEL", help=" ".join(KERNELS))
    p.add_argument("--build", default=os.environ.get("BUILD", here + "/build"))
    p.add_argument("--cpus", default=None, help="numbers of CPUs, default 1,2,8,32")
    p.add_argument("--boots", type=int, default=1, metavar="N", help="each so many times in a row")
    p.add_argument("--engine", default="auto")
    p.add_argument("--cpu", default="max")
    p.add_argument("--qemu", action="store_true", help="with QEMU instead; with --parameters, too")
    p.add_argument("--limit", type=int, default=600, metavar="SECONDS", help="for one boot")
    p.add_argument("--logs", metavar="DIR", help="keep what each boot said")
    p.add_argument("--parameters", action="store_true", help="odd command lines, with the generic kernel")
    p.add_argument("--only", action="append", metavar="TEXT", help="with --parameters: this one")
    o = p.parse_args()
    for name in o.kernels:
        if name not in KERNELS:
            p.error("no kernel '%s'; there are %s" % (name, ", ".join(KERNELS)))
    o.cpus = [int(n) for n in (o.cpus or ("2" if o.parameters else "1,2,8,32")).split(",")]
    o.top = os.path.join(os.path.abspath(o.build), "kernels")
    os.makedirs(o.top, exist_ok=True)
    if o.logs:
        os.makedirs(o.logs, exist_ok=True)
    o.program = [os.path.join(o.build, "umbra"), "run", "-engine", o.engine, "-cpu", o.cpu]
    if o.parameters:
        return not try_parameters(o)
    if o.qemu:
        o.program = QEMU
    print("%-24s %4s %5s %6s %9s %8s %6s %11s" % ("kernel", "CPUs", "boots", "good", "CPU s", "median s", "max s",
                                             "unexpected"))
    good = [series(o, name, cpus) for name in o.kernels or KERNELS for cpus in o.cpus]
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
