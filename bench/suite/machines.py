"""The systems that are measured: a process that runs bench/guest/runner.c in one way or another.

What a row costs is read from outside: the CPU clock of the whole process of the emulator, all
its threads and the kernel's work for it, between the lines in which the runner says that the
command begins and ends. The machine's own clocks are recorded beside it.
"""

import os
import select
import signal
import subprocess
import time

RAM = "1024"
APPEND = "console=ttyS0 quiet panic=-1"
BOOT_TIMEOUT = 120
# The runner does nothing for 50 ms around a command. Linux brings the CPU clock of another
# process up to date when its threads stop or at the next tick, so it is read when they sleep.
SETTLE = 0.025


class Failed(Exception):
    """The machine did not do what it should; it has been ended."""


def cpu_ns(pid):
    """The CPU time of a process and of those it started and has not waited for."""
    # Linux's clock number for the CPU time of a process: time(7), clock_getcpuclockid(3).
    total = time.clock_gettime_ns((~pid << 3) | 2)
    try:
        for thread in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, thread)) as f:
                total += sum(cpu_ns(int(child)) for child in f.read().split())
    except OSError:
        pass
    return total


class Machine:
    """One run of one system. Use as `with machine.start(...):`."""

    name = ""
    boots = True

    def __init__(self, build):
        self.build, self.process, self.facts = build, None, {}
        self.boot_cpu = self.boot_wall = None

    def arguments(self, image, cpus):
        raise NotImplementedError

    def log(self):
        return "%s/logs/%s" % (self.build, self.name)

    def start(self, image, cpus):
        os.makedirs(self.build + "/logs", exist_ok=True)
        self.rest = b""
        began = time.monotonic_ns()
        with open(self.log() + ".err", "ab") as err:
            self.process = subprocess.Popen(self.arguments(image, cpus), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=err,
                                            start_new_session=True)
        line = self.line("@ready", time.monotonic() + BOOT_TIMEOUT)
        self.boot_cpu = cpu_ns(self.process.pid)
        self.boot_wall = time.monotonic_ns() - began
        self.facts = dict(fact.split("=", 1) for fact in line.split()[1:])
        if int(self.facts["cpus"]) < cpus and self.boots:
            self.fail("has %s CPUs of %d" % (self.facts["cpus"], cpus))

    def line(self, prefix, deadline):
        """The next line that begins so; what comes before it is dropped."""
        while True:
            line = self.any_line(deadline)
            if line.startswith(prefix):
                return line

    def any_line(self, deadline):
        fd = self.process.stdout.fileno()
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                self.fail("took too long")
            data = os.read(fd, 65536)
            if not data:
                self.fail(self.how_it_ended())
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def how_it_ended(self):
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its console"
        return "ended by signal %d" % -code if code < 0 else "ended with status %d" % code

    def fail(self, why):
        self.kill()
        raise Failed(why)

    def kill(self):
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
        self.process = None

    def stop(self):
        """Switches it off in the orderly way; its CPU time over all."""
        if not self.process:
            return None
        try:
            os.write(self.process.stdin.fileno(), b"off\n")
        except BrokenPipeError:
            pass
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            pid, _, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = 0
                self.kill_rest()
                return usage.ru_utime + usage.ru_stime
            time.sleep(0.02)
        self.kill()
        return None

    def kill_rest(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    def run(self, n, command, timeout):
        """Runs a command: a dictionary with seconds by each clock, status and output."""
        deadline = time.monotonic() + timeout
        pid = self.process.pid
        try:
            os.write(self.process.stdin.fileno(), b"%d %s\n" % (n, command.encode()))
        except BrokenPipeError:
            self.fail(self.how_it_ended())
        self.line("@b", deadline)
        time.sleep(SETTLE)
        cpu = cpu_ns(pid)
        self.line("@s", deadline)
        wall = time.monotonic_ns()
        words = self.line("@e", deadline).split()
        wall = time.monotonic_ns() - wall
        time.sleep(SETTLE)
        cpu = cpu_ns(pid) - cpu
        output = []
        while True:
            line = self.any_line(deadline)
            if line == "@done":
                break
            if line.startswith("|"):
                output.append(line[1:])
        own_wall, own_cpu = int(words[2]) / 1e9, int(words[3]) / 1e9
        return {"status": int(words[1]), "output": output,
                "cpu": cpu / 1e9 if self.boots else own_cpu, "wall": wall / 1e9,
                "own_wall": own_wall, "own_cpu": own_cpu}


class Native(Machine):
    """The host itself, in the guest's root directory where it lets us."""

    name = "native"
    boots = False

    def __init__(self, build, root):
        super().__init__(build)
        self.root = root

    def arguments(self, image, cpus):
        return [self.root + "/init", self.root, str(cpus)]


class Qemu(Machine):
    name = "qemu"

    def arguments(self, image, cpus):
        # Nothing that the guest does not use: QEMU boots faster without.
        return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display",
                "none", "-no-reboot"] + guest_arguments(self, image, cpus)


class Umbra(Machine):
    def __init__(self, build, umbra, engine):
        super().__init__(build)
        self.umbra, self.engine, self.name = umbra, engine, engine

    def arguments(self, image, cpus):
        return [self.umbra, "run", "-engine", self.engine, "--stats=json", "-no-reboot"] + \
            guest_arguments(self, image, cpus)


def guest_arguments(machine, image, cpus):
    kernel = os.path.dirname(machine.build) + "/guest/vmlinuz"
    return ["-m", RAM, "-smp", str(cpus), "-kernel", kernel, "-initrd",
            "%s/%s.cpio" % (machine.build, image), "-append", APPEND,
            "-serial", "file:%s.console" % machine.log(), "-serial", "stdio"]
