#!/usr/bin/env python3
"""A Debian with systemd, from `umbra image debian`, in daily use. By hand: see HACKING.md.

    tests/slow/debian.py [--build DIR] [--only NAME,...] [--boots N] [--engine NAME]

Makes build/debian/debian.qcow2 and generic.qcow2 unless they are there, and works on overlays
of them: virtio with Debian's kernel for clouds, NVMe and SATA disks, each with an e1000, with
its other kernel, and a system that a seed sets up. Needs ssh and dpkg-deb, and network access
for new images only. The name that is looked up is that of the host's own mirror.
"""

import argparse
import hashlib
import http.server
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
# Options of the disk, given its image.
DISKS = {
    "virtio": lambda image: ["-drive", "file=%s,if=virtio,format=qcow2" % image],
    "nvme": lambda image: ["-drive", "file=%s,if=none,id=d0,format=qcow2" % image, "-device",
                           "nvme,drive=d0,serial=debian"],
    "ahci": lambda image: ["-drive", "file=%s,if=ide,format=qcow2" % image],
}
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

    def __init__(self, program, image, initrd, port=None, more=(), disk="virtio",
                 # QEMU's default card is one that Debian's cloud kernel has no driver for.
                 card="virtio-net-pci"):
        stem = os.path.splitext(initrd)[0]
        args = program + ["-m", "1G", "-smp", "2", "-kernel", stem + ".vmlinuz", "-initrd", initrd,
                          "-append", "root=LABEL=root console=ttyS0",
                          *DISKS[disk](image), "-nic", "user,model=" + card + (
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
        if not self.wait_for(rb"login: root \(automatic login\)") or not self.wait_for(rb"root@\w+:~# "):
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

    def clock(self):
        """The guest's seconds since it started, and ours."""
        out = self.run("cut -d ' ' -f 1 /proc/uptime")
        m = re.search(r"[\r\n](\d+\.\d+)\r", out)
        return (float(m.group(1)) if m else -1), time.monotonic() - self.began

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


class Repository(threading.Thread):
    """A place for apt to take one package from: umbra-hello, with a program and a script."""

    def __init__(self, tmp):
        super().__init__(daemon=True)
        top, root = tmp + "/repository", tmp + "/hello"
        control = ("Package: umbra-hello\nVersion: 1.0\nArchitecture: all\nDepends: base-files\n"
                   "Maintainer: Umbra <umbra@localhost>\nDescription: says hello\n")
        for path, text in (("DEBIAN/control", control),
                           ("DEBIAN/postinst", "#!/bin/sh\necho \"$1\" >/var/lib/umbra-hello\n"),
                           ("usr/bin/umbra-hello", "#!/bin/sh\necho hello from a package\n")):
            os.makedirs(os.path.dirname(root + "/" + path), exist_ok=True)
            with open(root + "/" + path, "w") as f:
                f.write(text)
            os.chmod(root + "/" + path, 0o644 if path.endswith("control") else 0o755)
        os.makedirs(top)
        deb = top + "/umbra-hello_1.0_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, deb], check=True,
                       stdout=subprocess.DEVNULL)
        with open(deb, "rb") as f:
            data = f.read()
        with open(top + "/Packages", "w") as f:
            f.write(control + "Filename: ./%s\nSize: %d\nSHA256: %s\n\n" % (
                os.path.basename(deb), len(data), hashlib.sha256(data).hexdigest()))

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=top)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.start()

    def run(self):
        self.server.serve_forever()

    def install(self, ssh):
        """In a guest, from this place alone."""
        line = "deb [trusted=yes] http://10.0.2.2:%d/ ./" % self.server.server_port
        apt = ("apt-get -qq -o Dir::Etc::sourcelist=/etc/apt/local -o Dir::Etc::sourceparts=- "
               "-o APT::Get::List-Cleanup=0 ")
        return ssh.run("echo '%s' >/etc/apt/local && %s update && DEBIAN_FRONTEND=noninteractive "
                       "%s -y install umbra-hello && umbra-hello && cat /var/lib/umbra-hello" % (
                           line, apt, apt))


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
    def __init__(self, key, port, user="root"):
        self.args = ["ssh", "-i", key, "-p", str(port), "-o", "BatchMode=yes", "-o",
                     "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                     "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", user + "@127.0.0.1"]

    def run(self, command, data=None):
        return subprocess.run(self.args + [command], input=data, capture_output=True, timeout=LIMIT)


IMAGES = {
    "debian": ["--packages", "openssh-server,curl,fio,python3-minimal"],
    # With drivers for SATA and e1000, and what a seed is for; without one it does nothing.
    "generic": ["--packages", "openssh-server,curl,cloud-init", "--kernel", "linux-image-amd64"],
}


def make_image(umbra, directory, name="debian"):
    os.makedirs(directory, exist_ok=True)
    key, image = directory + "/key", "%s/%s.qcow2" % (directory, name)
    if not os.path.exists(key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    if not os.path.exists(image):
        subprocess.run([umbra, "image", "debian", *IMAGES[name], "--ssh-key", key + ".pub", image],
                       check=True)
    return image


def overlay(umbra, image, path):
    subprocess.run([umbra, "image", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
                    os.path.abspath(image), path], check=True)
    return path


def use(program, umbra, image, tmp, name, card):
    """A day's work in one machine, with this disk and card."""
    disk = overlay(umbra, image, "%s/%s.qcow2" % (tmp, name))

    def check(what, good, why=""):
        case("%s_%s" % (name, what), good, why)

    initrd = os.path.splitext(image)[0] + ".initrd"
    port = free_port()
    content = os.urandom(1 << 20) * 16
    server = Server(content)
    g = Guest(program, disk, initrd, port, disk=name, card=card)
    took = g.login()
    check("boots_to_a_shell", took, g.text[-2000:])
    if not took:
        return g.kill()
    print("# %.1f s, %.1f s of CPU" % took, flush=True)
    clock = g.clock()
    # Where something is still starting this waits for it.
    out = g.run("systemctl is-system-running --wait; systemctl --failed --no-legend --plain | sed s/^/b''ad:/")
    check("nothing_has_failed", "running" in out and "bad:" not in out, out)
    out = g.run("systemd-analyze | cat")
    print("#", " ".join(re.findall(r"Startup finished.*", out)).strip(), flush=True)
    ssh = Ssh(os.path.dirname(os.path.abspath(image)) + "/key", port)
    r = ssh.run("echo $((6 * 7)); nproc")
    check("ssh_by_a_forwarded_port", r.stdout.split() == [b"42", b"2"], r)
    r = ssh.run("curl -sS http://10.0.2.2:%d/ | md5sum" % server.port)
    check("http_to_the_guest", hashlib.md5(content).hexdigest().encode() in r.stdout, r)
    r = ssh.run("curl -sS http://10.0.2.2:%d/ >f && curl -sS -T f http://10.0.2.2:%d/f" % (
        server.port, server.port))
    check("http_from_the_guest", server.got == content, r)
    r = ssh.run("cat >g; md5sum <g; sync", content)
    check("ssh_carries_a_file", hashlib.md5(content).hexdigest().encode() in r.stdout, r)
    known = mirror()
    if known:
        r = ssh.run("resolvectl query --cache=no %s" % known)
        check("dns_by_the_user_network", r.returncode == 0 and known.encode() in r.stdout, r)
    else:
        print("skip %s_dns_by_the_user_network: this host cannot look up its mirror" % name)
    os.makedirs(tmp + "/" + name)
    r = Repository(tmp + "/" + name).install(ssh)
    check("installs_a_package", r.returncode == 0 and r.stdout.endswith(
        b"hello from a package\nconfigure\n"), r)
    r = ssh.run("ping -c 2 -W 5 10.0.2.2")
    check("ping", r.returncode == 0, r)
    later = g.clock()
    check("keeps_time", clock[0] < clock[1] + 0.5 and
          abs(later[0] - clock[0] - (later[1] - clock[1])) < 0.5 + 0.01 * (later[1] - clock[1]),
          (clock, later, g.run("dmesg | grep -i -e tsc -e clocksource -e calibr")))
    g.type("reboot")
    check("reboots", g.wait_for(rb"reboot: Restarting system") and g.login(), g.text[-2000:])
    out = g.run("md5sum <g; umbra-hello")
    check("files_survive_a_reboot", hashlib.md5(content).hexdigest() in out and
         "hello from a package" in out, out)
    out = g.run("dmesg | grep -E 'EXT4-fs error|I/O error|BUG:|WARNING:|soft lockup' | sed s/^/b''ad:/")
    check("the_kernel_is_content", "bad:" not in out, out)
    g.type("poweroff")
    status = g.end()
    check("powers_off", status == 0, (status, g.text[-2000:]))
    r = subprocess.run([umbra, "image", "check", disk], capture_output=True)
    check("the_image_is_sound", r.returncode == 0, r)


SEED = """#cloud-config
hostname: %s
locale: false
users:
  - name: ada
    shell: /bin/bash
    lock_passwd: true
    ssh_authorized_keys:
      - %s
write_files:
  - path: /etc/written
    content: "by %s"
"""


def seeded(program, umbra, image, tmp):
    """An image with cloud-init learns from a seed who it is, and from another who it is now."""
    key = os.path.dirname(os.path.abspath(image)) + "/key"
    disk = overlay(umbra, image, tmp + "/seeded.qcow2")
    initrd = os.path.splitext(image)[0] + ".initrd"
    with open(key + ".pub") as f:
        public = f.read().strip()
    for name in ("first", "second"):
        with open(tmp + "/user-data", "w") as f:
            f.write(SEED % (name, public, name))
        port = free_port()
        g = Guest(program, disk, initrd, port, ["--seed", tmp + "/user-data"])
        if not g.login():
            case("seed_%s_boots" % name, False, g.text[-2000:])
            return g.kill()
        out = g.run("cloud-init status --wait; cloud-init query v1.instance_id; "
                    "systemctl is-system-running --wait; systemctl --failed --no-legend --plain | "
                    "sed s/^/b''ad:/")
        case("seed_%s_is_taken" % name, "status: done" in out and "umbra-" in out and
             "\nrunning" in out and "bad:" not in out, out)
        r = Ssh(key, port, "ada").run("id -un; hostname; cat /etc/written")
        case("seed_%s_user_key_and_name" % name, r.stdout == b"ada\n%s\nby %s" % (
            name.encode(), name.encode()), r)
        g.type("poweroff")
        case("seed_%s_powers_off" % name, g.end() == 0, g.text[-2000:])


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
            bad.append("%d: no login: %r: %r" % (i, re.findall(rb"tsc: [^\r]*", g.text), g.text[-500:]))
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
    p.add_argument("--only", default="virtio,nvme,ahci,seed", metavar="NAME,...")
    p.add_argument("--engine", default="auto")
    p.add_argument("--boots", type=int, default=0, metavar="N", help="this many more, and as many of QEMU")
    p.add_argument("--only-boots", action="store_true")
    p.add_argument("--qemu-boots", type=int, metavar="N", help="that many of QEMU")
    o = p.parse_args()
    umbra, only = o.build + "/umbra", o.only.split(",")
    image = make_image(umbra, o.build + "/debian")
    program = [umbra, "run", "-engine", o.engine]
    tmp = tempfile.mkdtemp(prefix="umbra-debian-")
    try:
        if not o.only_boots:
            if "virtio" in only:
                use(program, umbra, image, tmp, "virtio", "virtio-net-pci")
            generic = make_image(umbra, o.build + "/debian", "generic")
            for disk in ("nvme", "ahci"):
                if disk in only:
                    use(program, umbra, generic, tmp, disk, "e1000")
            if "seed" in only:
                seeded(program, umbra, generic, tmp)
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
