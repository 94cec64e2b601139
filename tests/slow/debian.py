#!/usr/bin/env python3
"""A Debian with systemd, from `umbra image debian`, in daily use. By hand: see HACKING.md.

    tests/slow/debian.py [--build DIR] [--image IMAGE] [--boots N] [--engine NAME]

Makes build/debian/debian.qcow2 unless it is there or IMAGE is given, and works on an overlay
of it. Needs ssh, and network access for a new image only. The name that is looked up is that
of the host's own mirror.
"""

import argparse
import hashlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

LIMIT = 300
QEMU = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-nographic", "-monitor",
        "none", "-serial", "stdio"]
failed = False


def case(name, good, why=""):
    global failed
    print("ok" if good else "not ok", name, flush=True)
    if not good:
        failed = True
        print("#", str(why)[-2000:], flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Guest:
    """A machine with its console."""

    def __init__(self, program, image, initrd, port=None, more=()):
        stem = os.path.splitext(initrd)[0]
        args = program + ["-m", "1G", "-smp", "2", "-kernel", stem + ".vmlinuz", "-initrd", initrd,
                          "-append", "root=LABEL=root console=ttyS0",
                          "-drive", "file=%s,if=virtio,format=qcow2" % image, "-nic",
                          # QEMU's default card is one that Debian's cloud kernel has no driver for.
                          "user,model=virtio-net-pci" + (
                              ",hostfwd=tcp:127.0.0.1:%d-:22" % port if port else ""), *more]
        self.began = time.monotonic()
        self.text = b""
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)

    def wait_for(self, pattern, limit=LIMIT):
        """What comes up to and with the pattern; None when it does not come."""
        end = time.monotonic() + limit
        while True:
            m = re.search(pattern, self.text)
            if m:
                out, self.text = self.text[:m.end()], self.text[m.end():]
                return out.decode(errors="replace")
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return None
            self.text += data

    def login(self):
        """Seconds of clock and of CPU until the shell of the serial console is there."""
        if not self.wait_for(rb"login: root \(automatic login\)") or not self.wait_for(rb"root@debian:~# "):
            return None
        return time.monotonic() - self.began, cpu_seconds(self.process.pid)

    def type(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, command):
        """Its output, by the console."""
        self.type(command + "; echo do''ne")
        out = self.wait_for(rb"[\r\n]done\r")
        return out or "(nothing) " + self.text.decode(errors="replace")[-1000:]

    def end(self, limit=LIMIT):
        """The exit status, once it has switched itself off."""
        self.wait_for(rb"reboot: Power down", limit)
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            return -1
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.communicate()


def cpu_seconds(pid):
    # Linux's clock number for the CPU time of a process: clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


class Server(threading.Thread):
    """Gives what it has to a GET, and keeps what it is PUT."""

    def __init__(self, content):
        super().__init__(daemon=True)
        self.content, self.got = content, b""
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.start()

    def run(self):
        while True:
            c, _ = self.sock.accept()
            with c, c.makefile("rwb") as f:
                method = f.readline()
                length = 0
                while (line := f.readline().strip()):
                    key, _, value = line.lower().partition(b":")
                    if key == b"content-length":
                        length = int(value)
                if method.startswith(b"PUT"):
                    f.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    f.flush()
                    self.got = f.read(length)
                    f.write(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
                else:
                    f.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.content))
                    f.write(self.content)


def mirror():
    """The name of the mirror that this host itself uses, if it can be looked up."""
    out = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
                         capture_output=True, text=True).stdout
    for name in re.findall(r"^https?://([^/:]+)", out, re.M):
        try:
            socket.gethostbyname(name)
            return name
        except OSError:
            pass
    return None


class Ssh:
    def __init__(self, key, port):
        self.args = ["ssh", "-i", key, "-p", str(port), "-o", "BatchMode=yes", "-o",
                     "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                     "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", "root@127.0.0.1"]

    def run(self, command, data=None):
        return subprocess.run(self.args + [command], input=data, capture_output=True, timeout=LIMIT)


def make_image(umbra, directory):
    os.makedirs(directory, exist_ok=True)
    key, image = directory + "/key", directory + "/debian.qcow2"
    if not os.path.exists(key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    if not os.path.exists(image):
        subprocess.run([umbra, "image", "debian", "--packages", "openssh-server,curl,fio,python3-minimal",
                        "--ssh-key", key + ".pub", image], check=True)
    return image


def overlay(umbra, image, path):
    subprocess.run([umbra, "image", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
                    os.path.abspath(image), path], check=True)
    return path


def use(program, umbra, image, disk):
    """A day's work in one machine."""
    initrd = os.path.splitext(image)[0] + ".initrd"
    port = free_port()
    content = os.urandom(1 << 20) * 16
    server = Server(content)
    g = Guest(program, disk, initrd, port)
    took = g.login()
    case("boots_to_a_shell", took, g.text[-2000:])
    if not took:
        return g.kill()
    print("# %.1f s, %.1f s of CPU" % took, flush=True)
    # Where something is still starting this waits for it.
    out = g.run("systemctl is-system-running --wait; systemctl --failed --no-legend --plain | sed s/^/b''ad:/")
    case("nothing_has_failed", "running" in out and "bad:" not in out, out)
    out = g.run("systemd-analyze | cat")
    print("#", " ".join(re.findall(r"Startup finished.*", out)).strip(), flush=True)
    ssh = Ssh(os.path.dirname(os.path.abspath(image)) + "/key", port)
    r = ssh.run("echo $((6 * 7)); nproc")
    case("ssh_by_a_forwarded_port", r.stdout.split() == [b"42", b"2"], r)
    r = ssh.run("curl -sS http://10.0.2.2:%d/ | md5sum" % server.port)
    case("http_to_the_guest", hashlib.md5(content).hexdigest().encode() in r.stdout, r)
    r = ssh.run("curl -sS http://10.0.2.2:%d/ >f && curl -sS -T f http://10.0.2.2:%d/f" % (
        server.port, server.port))
    case("http_from_the_guest", server.got == content, r)
    r = ssh.run("cat >g; md5sum <g; sync", content)
    case("ssh_carries_a_file", hashlib.md5(content).hexdigest().encode() in r.stdout, r)
    name = mirror()
    if name:
        r = ssh.run("resolvectl query --cache=no %s" % name)
        case("dns_by_the_user_network", r.returncode == 0 and name.encode() in r.stdout, r)
    else:
        print("skip dns_by_the_user_network: this host cannot look up its mirror")
    r = ssh.run("ping -c 2 -W 5 10.0.2.2")
    case("ping", r.returncode == 0, r)
    g.type("reboot")
    case("reboots", g.wait_for(rb"reboot: Restarting system") and g.login(), g.text[-2000:])
    out = g.run("md5sum <g")
    case("files_survive_a_reboot", hashlib.md5(content).hexdigest() in out, out)
    out = g.run("dmesg | grep -E 'EXT4-fs error|I/O error|BUG:|WARNING:|soft lockup' | sed s/^/b''ad:/")
    case("the_kernel_is_content", "bad:" not in out, out)
    g.type("poweroff")
    status = g.end()
    case("powers_off", status == 0, (status, g.text[-2000:]))
    r = subprocess.run([umbra, "image", "check", disk], capture_output=True)
    case("the_image_is_sound", r.returncode == 0, r)


def boots(name, program, umbra, image, tmp, n):
    """Boot n fresh copies, one after the other, to the shell, and switch them off."""
    initrd = os.path.splitext(image)[0] + ".initrd"
    walls, cpus, bad = [], [], []
    for i in range(n):
        disk = overlay(umbra, image, "%s/boot.qcow2" % tmp)
        g = Guest(program, disk, initrd)
        took = g.login()
        if took:
            walls.append(took[0])
            cpus.append(took[1])
            g.type("systemctl is-system-running --wait; poweroff")
            if not g.wait_for(rb"[\r\n]running\r"):
                bad.append("%d: not running: %r" % (i, g.text[-500:]))
            elif g.end() != 0:
                bad.append("%d: did not power off: %r" % (i, g.text[-500:]))
        else:
            bad.append("%d: no login: %r" % (i, g.text[-500:]))
            g.kill()
        if g.process.poll() is None:
            g.kill()
    if walls:
        print("# %-6s to the shell: median %.1f s of CPU, %.1f s (%.1f to %.1f)" % (
            name, sorted(cpus)[len(cpus) // 2], sorted(walls)[len(walls) // 2], min(walls), max(walls)))
    case("%s_%d_boots" % (name, n), not bad, bad)


def main():
    p = argparse.ArgumentParser()
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    p.add_argument("--build", default=os.environ.get("BUILD", top + "/build"))
    p.add_argument("--image", help="with its .vmlinuz, .initrd and the file key beside it")
    p.add_argument("--engine", default="auto")
    p.add_argument("--boots", type=int, default=0, metavar="N", help="this many more, and as many of QEMU")
    p.add_argument("--only-boots", action="store_true")
    p.add_argument("--qemu-boots", type=int, metavar="N", help="that many of QEMU")
    o = p.parse_args()
    umbra = o.build + "/umbra"
    image = o.image or make_image(umbra, o.build + "/debian")
    program = [umbra, "run", "-engine", o.engine]
    tmp = tempfile.mkdtemp(prefix="umbra-debian-")
    try:
        if not o.only_boots:
            use(program, umbra, image, overlay(umbra, image, tmp + "/disk.qcow2"))
        if o.boots:
            boots("umbra", program, umbra, image, tmp, o.boots)
        n = o.boots if o.qemu_boots is None else o.qemu_boots
        if n and shutil.which("qemu-system-x86_64"):
            boots("qemu", QEMU, umbra, image, tmp, n)
    finally:
        shutil.rmtree(tmp)
    return failed


if __name__ == "__main__":
    sys.exit(main())
