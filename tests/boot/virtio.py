#!/usr/bin/env python3
"""Virtio devices in a Debian kernel: disk, network, console, entropy, balloon.

Everything is on this machine: images in a temporary directory, servers on the loopback.
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
tmp = tempfile.mkdtemp(prefix="umbra-virtio-")
failed = False


def case(name, good, why=""):
    global failed
    if good:
        print("ok", name, flush=True)
    else:
        failed = True
        print("not ok", name, flush=True)
        print("#", why, flush=True)


def start(args, script):
    return subprocess.Popen([UMBRA, "run", *args, "--", "sh", "-c", script],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def run(args, script):
    """Status, standard output, standard error."""
    p = start(args, script)
    try:
        out, err = p.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
        return -1, out.decode(), err.decode() + "(timed out)"
    return p.returncode, out.decode(), err.decode()


def image(name, size="64M"):
    path = os.path.join(tmp, name)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path, size], check=True,
                   stdout=subprocess.DEVNULL)
    return path


# ---- disks

def disk(name, device, append="", model="virtio-blk-pci"):
    """A file system keeps its files over a reboot, and is clean afterwards."""
    path = image(name)
    args = ["-drive", f"file={path},format=raw,if=none,id=d0", "-device",
            f"{model},drive=d0,{device}"]
    if append:
        args += ["-append", append]
    write = ("set -e; mkdir /tmp/m; mount /dev/vda /tmp/m; dd if=/dev/urandom of=/tmp/m/a bs=64k "
             "count=300 2>/dev/null; cp /tmp/m/a /tmp/m/b; sync; md5sum </tmp/m/a; "
             "echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/m/a /tmp/m/b; rm /tmp/m/b; "
             "umount /tmp/m; dmesg | grep -E 'I/O error|BUG|WARNING' >&2 || true")
    status, first, err = run(args, write)
    status2, second, err2 = run(args, "mkdir /tmp/m; mount /dev/vda /tmp/m; md5sum </tmp/m/a; "
                                      "grep virtio /proc/interrupts >&2; "
                                      "cat /sys/bus/virtio/devices/virtio0/features >&2; umount /tmp/m")
    features = err2.split()[-1] if err2 else ""
    # Bits 32 (version 1) and 34 (packed ring), as letters.
    good = features[32:33] + features[34:35] == {"packed": "11", "legacy": "00"}.get(
        name, features[32:33] + features[34:35])
    fsck = subprocess.run(["e2fsck", "-fn", path], capture_output=True)
    case(f"disk_{name}",
         status == 0 and status2 == 0 and first == second and len(first) > 30 and
         fsck.returncode == 0 and good, (first, second, err, err2, fsck.stdout.decode()))
    return path, err2


disk("packed", "serial=one")
disk("split", "packed=off,event_idx=off,num-queues=4,disable-legacy=on")
disk("legacy", "packed=off", "virtio_pci.force_legacy=1")
_, pin = disk("pin", "num-queues=2", "pci=nomsi")
disk("mmio", "serial=one,num-queues=2", model="virtio-blk-device")
_, interrupts = disk("mmio_split", "packed=off,event_idx=off,bus=virtio-mmio-bus.3", "acpi=noirq",
                     "virtio-blk-device")
case("disk_mmio_without_ioapic", "XT-PIC" in interrupts, interrupts)
case("disk_pin_is_used", "IO-APIC" in pin, pin)

path = image("readonly")
before = hashlib.sha256(open(path, "rb").read()).hexdigest()
status, out, err = run(["-drive", f"file={path},format=raw,readonly=on,serial=a-serial"],
                       "cat /sys/block/vda/serial; echo; cat /sys/block/vda/ro; "
                       "echo x >/dev/vda || echo refused")
case("disk_read_only", out.split() == ["a-serial", "1", "refused"], (out, err))
status, out, err = run(["-drive", f"file={path},format=raw", "-snapshot"],
                       "dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null; sync; echo $?")
case("disk_snapshot", out.strip() == "0" and
     hashlib.sha256(open(path, "rb").read()).hexdigest() == before, (out, err))

# A queue for each CPU, unless it is said otherwise.
QUEUES = "ls /sys/block/vda/mq | wc -l; ls /sys/class/net/eth0/queues | grep -c rx"
DISK = ["-drive", f"file={image('queues')},format=raw,if=none,id=d0"]
CARD = ["-netdev", "user,id=n0"]
for name, args, want in (
        ("each_cpu", ["-smp", "2", "-device", "virtio-blk-pci,drive=d0", "-device",
                      "virtio-net-pci,netdev=n0"], ["2", "2"]),
        ("one", ["-smp", "2", "-device", "virtio-blk-pci,drive=d0,num-queues=1", "-device",
                 "virtio-net-pci,netdev=n0,mq=off"], ["1", "1"]),
        ("of_mmio", ["-smp", "2", "-device", "virtio-blk-device,drive=d0", "-device",
                     "virtio-net-device,netdev=n0"], ["1", "1"])):
    status, out, err = run(DISK + CARD + args, QUEUES)
    case(f"queues_{name}", out.split() == want, (out, err))

# Resets while it is read, twice; the disk is found again each time.
path = image("reboot")
script = ("mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys; "
          "modprobe -a virtio_pci virtio_blk virtio_net; mkdir /m; mount /dev/vda /m; "
          "echo x >>/m/n; sync; [ $(wc -l </m/n) -ge 3 ] && poweroff -f; "
          "dd if=/dev/vda of=/dev/null bs=1M & reboot -f")
guest = os.path.join(BUILD, "guest")
p = subprocess.run([UMBRA, "run", "-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd",
                    "-drive", f"file={path},format=raw", "-nic", "user", "-append",
                    f'console=ttyS0 quiet rdinit=/bin/sh -- -c "{script}"'],
                   stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
fsck = subprocess.run(["e2fsck", "-fn", path], capture_output=True)
case("disk_reboots", p.returncode == 0 and p.stdout.count(b"Restarting") == 2 and
     b"Power down" in p.stdout and fsck.returncode == 0, (p.stdout[-500:], p.stderr))

# ---- network

DHCP = """cat >/tmp/dhcp <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/24 dev eth0
ip route add default via $router
echo lease $ip $router $dns
END
chmod +x /tmp/dhcp; ip link set eth0 up; udhcpc -q -n -i eth0 -s /tmp/dhcp 2>/dev/null; """

content = os.urandom(1 << 20) * 20


class Server(threading.Thread):
    """Answers each GET with the content, a few times."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.start()

    def run(self):
        while True:
            c, _ = self.sock.accept()
            c.recv(4096)
            c.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
            c.close()


server = Server()
pcap = os.path.join(tmp, "pcap")


def download(name, args):
    status, out, err = run(args, DHCP + f"wget -q -O - http://10.0.2.2:{server.port}/ | md5sum; "
                           "dmesg | grep -E 'csum|BUG|WARNING' || true")
    lines = out.splitlines()
    case(f"net_{name}", status == 0 and lines == [
        "lease 10.0.2.15 10.0.2.2 10.0.2.3", hashlib.md5(content).hexdigest() + "  -"],
        (out, err))


download("user", ["-nic", "user", "--pcap", pcap])
head = open(pcap, "rb").read(24) if os.path.exists(pcap) else b""
case("net_pcap", struct.unpack("<I", head[:4])[0] == 0xa1b23c4d and
     os.path.getsize(pcap) > len(content))
N0 = ["-netdev", "user,id=n0", "-device"]
download("split", N0 + ["virtio-net-pci,netdev=n0,packed=off,mq=on"])
download("no_offload", N0 + ["virtio-net-pci,netdev=n0,csum=off,mrg_rxbuf=off"])
download("legacy", N0 + ["virtio-net-pci,netdev=n0", "-append", "virtio_pci.force_legacy=1"])

# All of one kind of wire: places 0 and 4 share an interrupt, and have enough to do.
download("mmio", ["-smp", "2", "-nic", "user,model=virtio-net-device", "-device",
                  "virtio-rng-device,bus=virtio-mmio-bus.4"])
status, out, err = run(
    ["-device", "virtio-rng-device", "-device", "virtio-balloon-device,target=16M", "-device",
     "virtio-serial-device", "-chardev", f"file,id=f0,path={tmp}/hvc", "-device",
     "virtconsole,chardev=f0", "-nic", "user,model=virtio-net-device", "-device",
     "virtio-rng-device"],
    "echo on the console >/dev/hvc0; head -c 100000 /dev/hwrng | wc -c; "
    "cat /sys/bus/virtio/devices/*/device; grep -c 'fasteoi *virtio' /proc/interrupts")
case("mmio_devices", out.split() == ["100000", "0x0004", "0x0005", "0x0003", "0x0001", "0x0004", "4"]
     and "on the console" in open(f"{tmp}/hvc").read(), (out, err))

status, out, err = run(["-nic", "user,restrict=on"], DHCP +
                       f"wget -T 3 -q -O - http://10.0.2.2:{server.port}/ || echo refused")
case("net_restrict", out.splitlines()[-1:] == ["refused"], (out, err))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def fetch(port):
    end = time.time() + LIMIT
    while time.time() < end:
        try:
            with socket.create_connection(("127.0.0.1", port)) as s:
                s.sendall(b"GET /f HTTP/1.0\r\n\r\n")
                data = b""
                while True:
                    d = s.recv(65536)
                    if not d:
                        break
                    data += d
            if data:
                return data.split(b"\r\n\r\n", 1)[-1]
        except OSError:
            pass
        time.sleep(0.2)
    return b""


port = free_port()
p = start(["-nic", f"user,hostfwd=tcp:127.0.0.1:{port}-:80"], DHCP +
          "mkdir /tmp/w; dd if=/dev/urandom of=/tmp/w/f bs=1M count=20 2>/dev/null; "
          "md5sum </tmp/w/f; httpd -p 80 -h /tmp/w; sleep 100")
data = fetch(port)
time.sleep(0.2)
p.terminate()
out = p.communicate()[0].decode()
case("net_hostfwd", len(data) == 20 << 20 and hashlib.md5(data).hexdigest() in out,
     (len(data), out))

a, b = os.path.join(tmp, "a.sock"), os.path.join(tmp, "b.sock")


def cable(local, remote):
    return ["-netdev", f"dgram,id=n0,local.type=unix,local.path={local},remote.type=unix,"
            f"remote.path={remote}", "-device", "virtio-net-pci,netdev=n0"]


p = start(cable(a, b), "ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up; sleep 100")
status, out, err = run(cable(b, a), "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; "
                       "for i in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 3 10.9.0.1 && exit 0; done; exit 1")
p.terminate()
p.communicate()
case("net_between_guests", status == 0, (out, err))



def link(server):
    return ["-netdev", f"stream,id=n0,server={server},addr.type=unix,addr.path={tmp}/link", "-device",
            "virtio-net-pci,netdev=n0"]


# Segments are cut by one and joined by the other: a file comes back as it was. nc ends when
# its input does, so that the side that listens gets one that never ends.
p = start(link("on"), "ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up; cd /tmp; mkfifo i; "
                      "exec 3<>i; dd if=/dev/urandom of=f bs=1M count=30 2>/dev/null; "
                      "nc -l -p 98 <f; nc -l -p 99 <&3 >g; cmp f g && echo both are equal")
while not os.path.exists(tmp + "/link") and p.poll() is None:
    time.sleep(0.05)
status, out, err = run(link("off"), "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; cd /tmp; "
                       "mkfifo i; exec 3<>i; for i in 1 2 3 4 5 6 7 8 9 10; do "
                       "nc 10.9.0.1 98 <&3 >f 2>/dev/null && break; sleep 1; done; "
                       "sleep 1; nc 10.9.0.1 99 <f")
try:
    first = p.communicate(timeout=LIMIT)[0].decode()
except subprocess.TimeoutExpired:
    p.kill()
    first = p.communicate()[0].decode()
case("net_by_a_stream", status == 0 and first == "both are equal\n", (first, out, err))

# ---- the others

status, out, err = run(["-device", "virtio-rng-pci"],
                       "cat /sys/class/misc/hw_random/rng_available; head -c 100000 /dev/hwrng | wc -c")
case("entropy", out.split() == ["virtio_rng.0", "100000"], (out, err))

sock, log = os.path.join(tmp, "port"), os.path.join(tmp, "console")
p = start(["-chardev", f"socket,id=s0,path={sock},server=on,wait=off", "-chardev",
           f"file,id=f0,path={log}", "-device", "virtio-serial-pci", "-device",
           "virtconsole,chardev=f0", "-device", "virtserialport,chardev=s0,name=org.umbra.test"],
          "cat /sys/class/virtio-ports/vport0p1/name; echo on the console >/dev/hvc0; "
          "exec 3<>/dev/vport0p1; read x <&3; echo got $x; head -c 1000000 /dev/zero >&3; sleep 1")
while not os.path.exists(sock) and p.poll() is None:
    time.sleep(0.05)
s = socket.socket(socket.AF_UNIX)
s.connect(sock)
s.settimeout(LIMIT)
s.sendall(b"hello\n")
n = 0
while True:
    d = s.recv(65536)
    if not d:
        break
    n += len(d)
out = p.communicate(timeout=LIMIT)[0].decode()
case("console_ports", out.split() == ["org.umbra.test", "got", "hello"] and n == 1000000 and
     "on the console" in open(log).read(), (out, n))


def shared(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("RssShmem"):
            return int(line.split()[1]) >> 10
    return 0


def balloon(name, device, limit):
    """MiB that the guest's memory takes after it used 300 and freed them. The driver comes
    last, as a balloon that is in the way of those 300 is let go."""
    p = start(["-m", "768M", "-device", device],
              "rmmod virtio_balloon; mkdir /tmp/t; mount -t tmpfs none /tmp/t; "
              "dd if=/dev/zero of=/tmp/t/x bs=1M count=300 2>/dev/null; echo full; sleep 1; "
              "rm /tmp/t/x; insmod /lib/modules/*/virtio_balloon.ko; sleep 60")
    p.stdout.readline()
    full = now = shared(p.pid)
    end = time.time() + 50
    while now > limit and time.time() < end:
        time.sleep(0.5)
        now = shared(p.pid)
    p.kill()
    p.communicate()
    case(name, full >= 300 and now <= limit, (full, now))


balloon("balloon_reports_free_pages", "virtio-balloon-pci,free-page-reporting=on", 200)
# Of the 500 MiB that it takes the guest has never touched 370 at most.
balloon("balloon_inflates", "virtio-balloon-pci,target=500M", 290)



def monitor(path, line):
    """What gdb's `monitor` does, and lets the machine go on."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        s.settimeout(LIMIT)
        for text in "qRcmd," + line.encode().hex(), "D":
            s.sendall(b"+$%s#%02x" % (text.encode(), sum(text.encode()) & 255))
            got = b""
            while b"$OK#" not in got:
                got += s.recv(4096)


sock = os.path.join(tmp, "gdb")
p = start(["-m", "512M", "-device", "virtio-balloon-device", "-gdb", f"unix:{sock}"],
          "total() { read -r _ kb _ </proc/meminfo; }; total; full=$kb; echo $full; "
          "while total; [ $kb -gt $((full - 150000)) ]; do sleep 0.1; done; echo less; "
          "while total; [ $kb -lt $full ]; do sleep 0.1; done; echo again")
said = [p.stdout.readline()]
monitor(sock, "balloon 312")
said.append(p.stdout.readline())
monitor(sock, "balloon 512")
said += p.communicate(timeout=LIMIT)[0].splitlines()
case("balloon_at_run_time", [x.strip() for x in said[1:]] == [b"less", b"again"], said)

shutil.rmtree(tmp)
sys.exit(failed)
