#!/usr/bin/env python3
"""A tap device: what can be wrong with it, and TCP both ways with a guest, offloads and all.

In a network namespace of its own; where that is not possible it says so and is skipped.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

BUILD = os.environ["BUILD"]
UMBRA = os.path.join(BUILD, "umbra")
LIMIT = 120
NOBODY = 65534
failed = False


def skip(why):
    print("skip tap:", why)
    sys.exit(0)


def case(name, good, why=""):
    global failed
    if good:
        print("ok", name, flush=True)
    else:
        failed = True
        print("not ok", name, flush=True)
        print("#", why, flush=True)


if "UMBRA_TAP" not in os.environ:
    if not shutil.which("unshare") or not shutil.which("ip"):
        skip("no unshare or ip")
    flags = "-mn" if os.getuid() == 0 else "-rmn"
    if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode:
        skip("no network namespace can be made")
    os.environ["UMBRA_TAP"] = "root" if os.getuid() == 0 else "user"
    os.execvp("unshare", ["unshare", flags, sys.executable, __file__])

try:
    tun = os.open("/dev/net/tun", os.O_RDWR)
except OSError as e:
    skip(f"/dev/net/tun: {e.strerror}")


def ip(*args):
    return subprocess.run(["ip", *args], capture_output=True).returncode


if ip("tuntap", "add", "t0", "mode", "tap") or ip("addr", "add", "10.7.0.1/24", "dev", "t0") or \
        ip("link", "set", "t0", "up") or ip("link", "set", "lo", "up"):
    skip("no tap device can be made")


def refused(name, text, ifname, **how):
    p = subprocess.run([UMBRA, "run", "-nic", f"tap,ifname={ifname}"], stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=LIMIT, **how)
    err = p.stderr.decode()
    case(name, p.returncode == 2 and text in err and err.count("\n") == 1, (p.returncode, err))


refused("tap_no_such_interface", "ifname=nosuch: there is no such interface", "nosuch")
refused("tap_no_tap", "ifname=lo: is no tap device", "lo")
refused("tap_long_name", "is longer than 15 letters", "a-name-of-16-abc")
# TUNSETIFF with IFF_TAP and IFF_NO_PI: here we are the other program.
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", b"t0", 0x1002))
refused("tap_busy", "ifname=t0: another program uses it", "t0")
os.close(tun)
nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
if os.environ["UMBRA_TAP"] == "root" and not subprocess.run(
        [UMBRA, "--version"], capture_output=True, **nobody).returncode:
    refused("tap_no_permission", "no permission", "t0", **nobody)
else:
    print("skip tap_no_permission: not root, or another user cannot run it")

# ---- a guest on it

content = os.urandom(1 << 20) * 24


class Server(threading.Thread):
    """Sends the content to who says 'get', and takes it from who says 'put'."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sock = socket.create_server(("10.7.0.1", 80))
        self.got = []
        self.start()

    def run(self):
        while True:
            c, _ = self.sock.accept()
            f = c.makefile("rb")
            if f.readline() == b"get\n":
                c.sendall(content)
                c.shutdown(socket.SHUT_WR)
            else:
                h = hashlib.md5()
                while d := f.read(1 << 16):
                    h.update(d)
                self.got.append(h.hexdigest())
                c.sendall(b"done\n")
            f.close()
            c.close()


class Watcher(threading.Thread):
    """The longest frame that the guest has sent."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.bind(("t0", 0))
        self.longest = 0
        self.start()

    def run(self):
        head = bytearray(64)
        while True:
            n, address = self.sock.recvfrom_into(head, len(head), socket.MSG_TRUNC)
            if address[2] != socket.PACKET_OUTGOING:
                self.longest = max(self.longest, n)


server = Server()
watcher = Watcher()
md5 = hashlib.md5(content).hexdigest()
SCRIPT = ("ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up; "
          "echo get | nc 10.7.0.1 80 >/tmp/f; md5sum </tmp/f; "
          "(echo put; cat /tmp/f) | nc 10.7.0.1 80; dmesg | grep -E 'csum|BUG|WARNING' || true")


def transfer(name, device, big):
    watcher.longest = 0
    server.got.clear()
    p = subprocess.run([UMBRA, "run", "-netdev", "tap,id=n0,ifname=t0", "-device",
                        f"{device},netdev=n0", "--", "sh", "-c", SCRIPT], stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=LIMIT)
    out = p.stdout.decode().split()
    case(name, p.returncode == 0 and out[:1] == [md5] and server.got == [md5],
         (out, server.got, p.stderr.decode()))
    # What the guest leaves to the host's kernel comes in frames above its MTU.
    case(name + "_sizes", (watcher.longest > 1514) == big, watcher.longest)


transfer("tap_offloads", "virtio-net-pci", True)
transfer("tap_no_offloads", "virtio-net-pci,csum=off,mrg_rxbuf=off", False)
sys.exit(failed)
