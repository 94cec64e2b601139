#!/usr/bin/env python3
"""
Umbra at a terminal: a pseudo-terminal stands for it. Its mode must be what it was,
however Umbra ends. (Python is there because meson needs it.)
"""
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

BUILD = os.environ["BUILD"]
UMBRA = BUILD + "/umbra"
PROMPT = b"/root# "
SECONDS = 90
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT,
           signal.SIGSEGV]
failures = 0


class Failed(Exception):
    pass


class Terminal:
    """Umbra running on a new terminal."""

    def __init__(self, *args, rows=30, cols=100):
        self.master, self.slave = pty.openpty()
        self.resize(rows, cols)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(self.slave, fd)
            os.closerange(3, 20)
            # Who started the tests may ignore some, like `nohup` and `make test &` do,
            # and what is ignored stays so.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.environ["TERM"] = "vt220"
            os.execv(UMBRA, [UMBRA, *args])

    def resize(self, rows, cols):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text):
        os.write(self.master, text)

    def read(self, seconds):
        """What comes within that time; None when nothing does."""
        if not select.select([self.master], [], [], seconds)[0]:
            return None
        data = os.read(self.master, 65536)
        self.seen += data
        return data

    def expect(self, text, seconds=SECONDS):
        """Wait for that, and give everything up to it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            if time.monotonic() > end or (self.read(1) is None and self.ended()):
                raise Failed(f"{text!r} did not come")
        at = self.seen.index(text) + len(text)
        before, self.seen = self.seen[:at], self.seen[at:]
        return before

    def settle(self):
        """Nothing more comes."""
        while self.read(0.7) is not None:
            pass
        self.seen = b""

    def command(self, line):
        """A command at the shell's prompt, and what it says."""
        self.settle()
        self.type(line + b"; echo END''OF\r")
        said = self.expect(b"ENDOF\r\n")
        self.expect(PROMPT)
        return said

    def boot(self):
        self.expect(PROMPT)
        self.settle()

    def ended(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def raw(self):
        return termios.tcgetattr(self.slave) != self.before

    def wait(self, what=None):
        """Its end, as a shell has the status."""
        end = time.monotonic() + SECONDS
        while not self.ended():
            if time.monotonic() > end:
                raise Failed("it does not end")
            self.read(0.2)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.master)
        os.close(self.slave)


def check(claim, *about):
    if not claim:
        raise Failed("; ".join(map(repr, about)) or "it is not so")


def case(name, *args, **more):
    """A test case: the function gets a terminal with Umbra on it."""

    def run(function):
        global failures
        term = Terminal(*args, **more)
        try:
            function(term)
            print("ok", name, flush=True)
        except (Failed, OSError) as why:
            failures += 1
            print("not ok", name, flush=True)
            print("#", why)
            for line in term.seen[-2000:].decode(errors="replace").splitlines():
                print("#", line)
        finally:
            term.close()

    return run


if not os.path.exists(BUILD + "/guest/vmlinuz") or not os.path.exists(BUILD + "/guest/initrd"):
    print("skip terminal: no guest in", BUILD)
    sys.exit(77)


@case("shell", "run")
def _(t):
    first = t.expect(b"\n")
    check(b"engine" in first and b"Ctrl-a x" in first and b"512 MiB" in first, first)
    t.boot()
    check(t.raw(), "the mode is not raw")
    check(b"Linux umbra" in t.command(b"uname -a"))
    check(b"30 100" in t.command(b"stty size"))
    check(b"vt220" in t.command(b"echo $TERM"))
    check(b"model name" in t.command(b"cat /proc/cpuinfo"))
    for word in b"WARNING", b"Oops", b"BUG:", b"Call Trace", b"unchecked MSR", b"Firmware Bug":
        check(word not in t.command(b"dmesg"), word)
    # Control-C is the guest's.
    t.type(b"sleep 1000\r")
    t.expect(b"sleep 1000\r\n")
    time.sleep(1)
    t.type(b"\x03")
    t.expect(PROMPT)
    # The size follows the terminal's.
    t.resize(44, 123)
    os.kill(t.pid, signal.SIGWINCH)
    time.sleep(1)
    check(b"44 123" in t.command(b"stty size"))
    t.settle()
    t.type(b"poweroff\r")
    check(t.wait() == 0, "status")
    check(not t.raw(), "the mode was not restored")


@case("exit_powers_off", "run")
def _(t):
    t.boot()
    t.type(b"exit\r")
    check(t.wait() == 0, "status")
    check(not t.raw(), "the mode was not restored")


@case("keys", "run")
def _(t):
    t.boot()
    t.type(b"\x01h")
    t.expect(b"leave")
    t.settle()
    t.type(b"\x01c")
    t.expect(b" interrupts, ")
    t.type(b"\x01s")
    t.expect(b"port writes\r\n")
    t.settle()
    # A Ctrl-a for the guest: to the start of the line.
    t.type(b"o one\x01\x01ech\r")
    t.expect(b"\none\r\n")
    t.settle()
    t.type(b"\x01x")
    check(t.wait() == 0, "status")
    check(not t.raw(), "the mode was not restored")


@case("leave_at_once", "run")
def _(t):
    t.expect(b"Linux version")
    t.type(b"\x01x")
    check(t.wait() == 0, "status")
    check(not t.raw(), "the mode was not restored")


for number in SIGNALS:

    @case(f"restored_after_{signal.Signals(number).name}", "run")
    def _(t):
        t.expect(b"Linux version")
        check(t.raw(), "the mode is not raw")
        os.kill(t.pid, number)
        check(t.wait() == -number, "status")
        check(not t.raw(), "the mode was not restored")


@case("suspend", "run", "-append", "loglevel=1")
def _(t):
    t.boot()
    os.kill(t.pid, signal.SIGTSTP)
    os.waitid(os.P_PID, t.pid, os.WSTOPPED)
    check(not t.raw(), "the mode was not restored")
    time.sleep(2)
    os.kill(t.pid, signal.SIGCONT)
    time.sleep(0.5)
    check(t.raw(), "the mode is not raw again")
    check(b"42" in t.command(b"echo $((6 * 7))"))


@case("bad_option_touches_nothing", "run", "-m", "abc")
def _(t):
    check(t.wait() == 2, "status")
    check(not t.raw(), "the mode was changed")


@case("command_terminal", "run", "--", "sh", "-c",
      "tty; stty size; echo $TERM; trap 'stty size; exit 5' WINCH; while :; do sleep 0.1; done")
def _(t):
    check(b"/dev/pts/0\r\n30 100\r\nvt220" in t.expect(b"vt220"))
    check(t.raw(), "the mode is not raw")
    t.resize(25, 70)
    os.kill(t.pid, signal.SIGWINCH)
    t.expect(b"25 70")
    check(t.wait() == 5, "status")
    check(not t.raw(), "the mode was not restored")


@case("command_keys", "run", "--", "cat")
def _(t):
    while not t.raw():
        check(not t.ended(), "it ended")
        t.read(0.1)
    t.type(b"some text\r")
    t.expect(b"some text\r\nsome text\r\n")
    t.type(b"\x04")
    check(t.wait() == 0, "status")
    check(not t.raw(), "the mode was not restored")


@case("command_interrupted", "run", "--", "sleep", "1000")
def _(t):
    while not t.raw():
        check(not t.ended(), "it ended")
        t.read(0.1)
    time.sleep(1)
    t.type(b"\x03")
    check(t.wait() == 130, "status")
    check(not t.raw(), "the mode was not restored")


@case("command_interrupted_early", "run", "--", "sleep", "1000")
def _(t):
    time.sleep(0.3)
    t.type(b"\x03")
    check(t.wait() == -signal.SIGINT, "status")
    check(not t.raw(), "the mode was not restored")


sys.exit(1 if failures else 0)
