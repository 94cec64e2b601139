#!/usr/bin/env python3
"""
Stock gdb on a small guest of our own and on Debian's kernel, with each engine: stop, look,
change, watch, step, go on, come back. (Python is there because meson needs it.)

The kernel's symbols come from its own /proc/kallsyms, so no debug package is needed.
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = os.environ["BUILD"]
UMBRA = BUILD + "/umbra"
ENGINES = ["interp", "translate"]
SECONDS = 120
tmp = tempfile.mkdtemp()
failures = 0


class Failed(Exception):
    pass


class Machine:
    """Umbra waiting for gdb at a socket."""

    def __init__(self, *args, where=None):
        self.socket = tmp + "/gdb.sock"
        self.where = where or "unix:" + self.socket
        self.process = subprocess.Popen(
            [UMBRA, "run", "-gdb", self.where, *args], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        end = time.time() + SECONDS
        while not os.path.exists(self.socket):
            if time.time() > end or self.process.poll() is not None:
                raise Failed("no socket: " + self.process.communicate()[1])
            time.sleep(0.01)

    def end(self, status):
        """Wait for it; what it printed."""
        try:
            out, err = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("the machine does not end") from None
        if self.process.returncode != status:
            raise Failed(f"status {self.process.returncode}: {err}")
        return out

    def kill(self):
        self.process.kill()
        self.process.communicate()
        if os.path.exists(self.socket):
            os.unlink(self.socket)


class Gdb:
    """One session, as a list of commands; interrupt=N sends Ctrl-C after as many seconds."""

    def __init__(self, machine, *commands, file=None, interrupt=0):
        script = ["set pagination off", "set confirm off", "set width 0",
                  "target remote " + machine.socket, *commands]
        words = ["gdb", "-nx", "-q", "-batch", *([file] if file else [])]
        for line in script:
            words += ["-ex", line]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace")
        if interrupt:
            time.sleep(interrupt)
            process.send_signal(signal.SIGINT)
        try:
            self.text = process.communicate(timeout=SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed("gdb hangs: " + process.communicate()[0]) from None

    def says(self, *patterns):
        """Each of them, in this order."""
        rest = self.text
        for pattern in patterns:
            found = re.search(pattern, rest, re.MULTILINE)
            if not found:
                raise Failed(f"gdb does not say {pattern!r}:\n{self.text}")
            rest = rest[found.end():]
        return self


def case(name, test, *args):
    global failures
    try:
        test(*args)
        print("ok", name, flush=True)
    except Failed as why:
        failures += 1
        print("not ok", name)
        print("# " + str(why).replace("\n", "\n# "), flush=True)


# ---- a guest of our own ----

GUEST = tmp + "/guest"


def small(engine, *args):
    return Machine("-engine", engine, "-S", *args, "-kernel", GUEST)


def looks(engine):
    machine = small(engine, "-no-reboot")
    try:
        Gdb(machine, "info registers rip", "break add", "continue", "bt",
            "info registers rdi cs efer", "x/2i $rip", "watch *(int *)&total", "continue",
            "continue", "delete", "next", "p $xmm1.v2_double[0]", "stepi", "info threads",
            "set var $rbx = 999", "continue", file=GUEST).says(
                r"^rip .*<_start>", r"Breakpoint 1, add", r"#1 .* in main", r"^rdi +0x0 ",
                r"^cs +0x8 ", r"^efer +0x500 ", r"add +%edi,",
                # It adds 0 first, which is no change.
                r"Hardware watchpoint 2", r"Breakpoint 1, add",
                r"Old value = 0\nNew value = 1", r"ret", r"\$1 = 1$", r"main \(\)", r"Thread 1 \(CPU 0",
                r"Inferior 1 .* exited normally")
        machine.end(0)
    finally:
        machine.kill()


def comes_back(engine):
    machine = small(engine)
    try:
        Gdb(machine, "break add", "continue", "set var $rip = (long)&forever", "delete",
            "detach", file=GUEST).says("Breakpoint 1, add", "detached")
        time.sleep(0.3)
        Gdb(machine, "info symbol $rip", "p *(unsigned *)&total > 100", "break forever",
            "continue", "continue", file=GUEST).says(
                "forever", r"\$1 = 1$", "Breakpoint 1, forever", "Breakpoint 1, forever")
        Gdb(machine, "continue", "info symbol $rip", "monitor info registers",
            "monitor reset", "maintenance flush register-cache", "info symbol $rip", "kill", file=GUEST, interrupt=1).says(
                "SIGINT", "forever", "64-bit mode", "_start")
        machine.end(0)
    finally:
        machine.kill()


def crashes(engine):
    machine = small(engine)
    try:
        # There is no IDT.
        Gdb(machine, "break add", "continue", "set var *(short *)$rip = 0x0b0f", "continue",
            "info symbol $rip", "monitor info registers", "continue", file=GUEST).says(
                "SIGSEGV", "add", "last exception", "exited with code 03")
        machine.end(3)
    finally:
        machine.kill()


# ---- Debian's kernel ----

SYMBOLS = ["__x64_sys_newuname", "linux_banner", "jiffies_64", "do_syscall_64"]


def kernel_symbols():
    """Where they are without KASLR, from the kernel itself."""
    done = subprocess.run(
        [UMBRA, "run", "-append", "nokaslr", "--", "grep", "-wE", "|".join(SYMBOLS),
         "/proc/kallsyms"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=SECONDS)
    found = {}
    for line in done.stdout.splitlines():
        address, _, name = line.split()[:3]
        found.setdefault(name, int(address, 16))
    if set(SYMBOLS) - set(found):
        raise Failed("not in kallsyms: " + done.stdout + done.stderr)
    # As an object file for gdb.
    with open(tmp + "/symbols.s", "w") as f:
        for name, address in found.items():
            f.write(f".globl {name}\n.set {name}, {address:#x}\n")
    subprocess.run(["as", "-o", tmp + "/symbols.o", tmp + "/symbols.s"], check=True)
    return found


def kernel_session(engine, symbols):
    machine = Machine("-engine", engine, "-S", "-append", "nokaslr", "--", "uname", "-r")
    call = symbols["__x64_sys_newuname"]
    try:
        text = Gdb(
            machine, f"break *{call:#x}", "continue", "info registers rip cs",
            f"x/s {symbols['linux_banner']:#x}", "p $cr0 & 0x80000001", "x/2gx $rsp",
            "x/gx $gs_base", "delete",
            # The return, that of the caller in do_syscall_64.
            "break *(*(long *)$rsp)", "continue", "p (long)$rip - " + hex(symbols["do_syscall_64"]),
            "p $rax", "delete", f"watch *(unsigned long *){symbols['jiffies_64']:#x}",
            "continue", "continue", "delete", "p $a = (long)$rip", "stepi", "stepi", "stepi",
            "p (long)$rip != $a", "monitor info mem", "info threads", "detach").says(
                "Breakpoint 1, ", f"^rip +{call:#x}", r"^cs +0x10 ", "Linux version",
                r" = 2147483649$", "Breakpoint 2, ", r"\$2 = \d{1,3}$", r"\$3 = 0$",
                "Old value = ", "New value = ", "Old value = ", "New value = ",
                r"= 1$", "-w-$", "Thread 1 ", "detached").text
        values = re.findall(r"(?:Old|New) value = (\d+)", text)
        if len(values) != 4 or values[1] != values[2] or int(values[3]) <= int(values[0]):
            raise Failed("jiffies went " + " ".join(values))
        if not re.match(r"\d+\.\d+", machine.end(0)):
            raise Failed("the command did not go on")
    finally:
        machine.kill()


def kernel_threads(engine, symbols):
    """One CPU steps while the others are held; all go on."""
    machine = Machine("-engine", engine, "-smp", "2", "-S", "-append", "nokaslr", "--",
                      "sh", "-c", "uname -r & uname -r & wait")
    call = symbols["__x64_sys_newuname"]
    try:
        Gdb(machine, f"break *{call:#x}", "continue", "info threads",
            "set scheduler-locking on", "stepi", "stepi", "p (long)$rip != " + hex(call),
            "set scheduler-locking off", "continue", "thread apply all p $cr0 & 1",
            "delete", "detach").says(
                r"hit Breakpoint 1|Breakpoint 1, ", "Thread 1 ", r"\$1 = 1$",
                "Breakpoint 1, ", "= 1$", "detached")
        if len(machine.end(0).splitlines()) != 2:
            raise Failed("the commands did not go on")
    finally:
        machine.kill()


# ---- the socket ----

def clock_stands(source):
    """Linux's clock of that source does not see that the machine was stopped for 4 seconds."""
    machine = Machine("-append", "clocksource=" + source, "--", "sh", "-c",
                      "cat /sys/devices/system/clocksource/clocksource0/current_clocksource /proc/uptime; sleep 2;"
                      "cat /proc/uptime")
    try:
        names = [machine.process.stdout.readline().strip()]
        first = machine.process.stdout.readline().split()
        began = time.monotonic()
        Gdb(machine, "shell sleep 4", "detach").says("detached")
        last = machine.process.stdout.readline().split()
        took = time.monotonic() - began
        machine.end(0)
    finally:
        machine.kill()
    if names != [source] or not first or not last:
        raise Failed(f"{names} {first} {last}")
    seen = float(last[0]) - float(first[0])
    if seen < 2 or seen > took - 3.9:
        raise Failed(f"the guest saw {seen} s of {took} s, 4 of which it was stopped for")


def port_in_use():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        where = "tcp::%d" % s.getsockname()[1]
        done = subprocess.run([UMBRA, "run", "-gdb", where, "-kernel", GUEST],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=SECONDS)
    lines = [line for line in done.stderr.splitlines() if "engine (" not in line]
    if done.returncode != 1 or lines != [f"umbra: -gdb {where}: Address already in use"]:
        raise Failed(f"status {done.returncode}: {done.stderr}")


def hostile_client():
    """It sends nonsense, asks without reading the answers, and goes."""
    machine = Machine("-S", "-kernel", GUEST)
    try:
        for data in [b"$" + b"a" * 100000 + b"#00", bytes(range(256)) * 100,
                     b"+$m0,ffffffff#00$#00$g#67" * 2000, b"\x03" * 1000, b"$g#67" * 20000]:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(machine.socket)
                s.settimeout(1)
                try:
                    s.sendall(data)
                except (TimeoutError, BrokenPipeError, ConnectionResetError):
                    pass
        time.sleep(0.2)
        if machine.process.poll() is not None:
            raise Failed("it died: " + machine.process.communicate()[1])
    finally:
        machine.kill()


def main():
    if not shutil.which("gdb"):
        print("skip gdb: there is no gdb")
        sys.exit(77)
    subprocess.run(["gcc", "-g", "-nostdlib", "-static", "-no-pie", "-Wl,-T,tests/boot/gdb.ld",
                    "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-o", GUEST,
                    "tests/boot/gdb.S"], check=True)
    for engine in ENGINES:
        case(engine + "_break_look_watch_step", looks, engine)
        case(engine + "_detach_reconnect_interrupt_reset_kill", comes_back, engine)
        case(engine + "_shows_a_crash", crashes, engine)
    case("port_in_use", port_in_use)
    case("hostile_client", hostile_client)
    if not os.path.exists(BUILD + "/guest/vmlinuz"):
        print("skip kernel_session: no guest in " + BUILD)
    else:
        symbols = kernel_symbols()
        for engine in ENGINES:
            case(engine + "_kernel_session", kernel_session, engine, symbols)
            case(engine + "_kernel_threads", kernel_threads, engine, symbols)
        for source in ("tsc", "kvm-clock"):
            case("clock_stands_" + source.replace("-", "_"), clock_stands, source)
    shutil.rmtree(tmp)
    sys.exit(failures != 0)


main()
