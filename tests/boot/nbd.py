#!/usr/bin/env python3
"""A guest whose disk is at an NBD server that hangs, or goes and comes back.

The server is in here: the newstyle handshake, simple replies.
"""

import hashlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

BUILD = os.environ["BUILD"]
UMBRA = os.path.join(BUILD, "umbra")
LIMIT = 120
tmp = tempfile.mkdtemp(prefix="umbra-nbd-")
failed = False
content = os.urandom(1 << 20) * 16


def case(name, good, why=""):
    global failed
    if good:
        print("ok", name, flush=True)
    else:
        failed = True
        print("not ok", name, flush=True)
        print("#", why, flush=True)


class Server:
    """Serves 'content'. From byte 'limit' on reads are not answered, or with 'drop' end the
    connection."""

    def __init__(self, name, limit=None, drop=False):
        self.path = os.path.join(tmp, name)
        self.limit, self.drop = limit, drop
        self.hung = threading.Event()
        self.conns = []
        self.sock = socket.socket(socket.AF_UNIX)
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.sock.bind(self.path)
        self.sock.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def drive(self, more=""):
        return ["-drive", f"file=nbd+unix:///?socket={self.path},format=raw{more}"]

    def accept(self):
        while True:
            c, _ = self.sock.accept()
            self.conns.append(c)
            threading.Thread(target=self.serve, args=[c], daemon=True).start()

    def serve(self, c):
        f = c.makefile("rb")

        def get(n):
            data = f.read(n)
            if len(data) < n:
                raise EOFError
            return data

        try:
            c.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
            get(4)
            while True:
                _, option, size = struct.unpack(">8sII", get(16))
                get(size)

                def reply(kind, data=b""):
                    c.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(data)) + data)

                if option != 7:
                    reply(0x80000001)
                    continue
                reply(3, struct.pack(">HQH", 0, len(content), 1 | 4))
                reply(1)
                break
            while True:
                _, _, kind, cookie, off, size = struct.unpack(">IHHQQI", get(28))
                if kind == 2:
                    return
                if kind == 1:
                    get(size)
                if self.limit is not None and off + size > self.limit:
                    self.hung.set()
                    if self.drop:
                        return
                    continue
                c.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) +
                          (content[off:off + size] if kind == 0 else b""))
        except (EOFError, OSError):
            pass
        finally:
            c.shutdown(socket.SHUT_RDWR)


def start(args, script):
    return subprocess.Popen([UMBRA, "run", *args, "--", "sh", "-c", script],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def finish(p, limit=LIMIT):
    """Seconds, standard output, standard error."""
    begin = time.time()
    try:
        out, err = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
    return time.time() - begin, out.decode(), err.decode()


READ = "dd if=/dev/vda bs=64k 2>/dev/null | md5sum"
md5 = hashlib.md5(content).hexdigest()

s = Server("good")
_, out, err = finish(start(s.drive(), READ))
case("nbd_read", out.split()[:1] == [md5], (out, err))

# The guest ends with requests on their way that nobody will answer.
WHILE_IT_HANGS = ("d=$(ls /dev/vda /dev/nvme0n1 2>/dev/null); dd if=$d of=/dev/null bs=1M & "
                  "n=0; while [ $n -lt 20 ]; do sleep 0.1; n=$((n + 1)); done; exit 7")
for name, device in (("virtio", "virtio-blk-pci,drive=d"), ("mmio", "virtio-blk-device,drive=d"),
                     ("nvme", "nvme,drive=d,serial=1")):
    s = Server(name, 8 << 20)
    p = start(s.drive(",if=none,id=d") + ["-device", device], WHILE_IT_HANGS)
    s.hung.wait(LIMIT)
    took, out, err = finish(p)
    case(f"nbd_hangs_at_the_end_{name}", p.returncode == 7 and took < 25 and s.path in err and
         "no answer" in err, (p.returncode, took, out, err))



def boot(args, script):
    """As the first program, without an agent."""
    guest = os.path.join(BUILD, "guest")
    script = ("mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys; "
              "modprobe -a virtio_pci virtio_blk; " + script)
    return subprocess.Popen([UMBRA, "run", *args, "-kernel", f"{guest}/vmlinuz", "-initrd",
                             f"{guest}/initrd", "-append",
                             f'console=ttyS0 quiet rdinit=/bin/sh -- -c "{script}"'],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# The machine is reset while it hangs, and finds the disk again.
s = Server("reset", 8 << 20)
p = boot(s.drive(), "dd if=/dev/vda of=/dev/null bs=64k & sleep 5; kill -0 $! && reboot -f; "
                    "md5sum </dev/vda; poweroff -f")
s.hung.wait(LIMIT)
s.limit = None
took, out, err = finish(p)
case("nbd_hangs_and_is_reset", p.returncode == 0 and md5 in out and "connected again" in err,
     (p.returncode, took, out[-500:], err))

# A machine is told to end.
s = Server("term", 8 << 20)
p = boot(s.drive(), "dd if=/dev/vda of=/dev/null bs=64k")
s.hung.wait(LIMIT)
p.terminate()
took, out, err = finish(p)
case("nbd_hangs_and_is_told_to_end", took < 25 and s.path in err, (p.returncode, took, out, err))

# The same, while the CPU waits for a reset of the disk, as it does for a driver over MMIO. Linux
# resets it when it powers off.
s = Server("held", 8 << 20)
p = boot(s.drive(",if=none,id=d") + ["-device", "virtio-blk-device,drive=d"],
         "modprobe virtio_mmio; dd if=/dev/vda of=/dev/null bs=64k & sleep 5; poweroff -f")
s.hung.wait(LIMIT)
time.sleep(7)
p.terminate()
took, out, err = finish(p)
case("nbd_hangs_and_holds_the_cpu", took < 15 and s.path in err, (p.returncode, took, out, err))

# Gone in the middle, and back: without and with waiting for it.
for name, more, good in (("fails", "", False), ("waits", ",reconnect-delay=60", True)):
    s = Server(name, 8 << 20, drop=True)
    p = start(s.drive(more), READ)
    s.hung.wait(LIMIT)
    time.sleep(1)
    s.limit = None
    _, out, err = finish(p)
    case(f"nbd_lost_{name}", (out.split()[:1] == [md5]) == good and s.path in err and
         ("connected again" in err) >= good, (out, err))

shutil.rmtree(tmp)
sys.exit(failed)
