#!/usr/bin/env python3
"""Disks without virtio in a Debian kernel. Its cloud kernel has a driver for NVMe, not for AHCI."""

import os
import shutil
import subprocess
import sys
import tempfile

BUILD = os.environ["BUILD"]
UMBRA = os.path.join(BUILD, "umbra")
LIMIT = 120
tmp = tempfile.mkdtemp(prefix="umbra-disks-")
failed = False


def case(name, good, why=""):
    global failed
    if good:
        print("ok", name, flush=True)
    else:
        failed = True
        print("not ok", name, flush=True)
        print("#", why, flush=True)


def run(args, script):
    """Status, standard output, standard error."""
    p = subprocess.Popen([UMBRA, "run", *args, "--", "sh", "-c", script],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = p.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
        return -1, out.decode(), err.decode() + "(timed out)"
    return p.returncode, out.decode(), err.decode()


def image(name, size="64M"):
    path = os.path.join(tmp, name)
    subprocess.run(["mke2fs", "-q", "-b", "4096", "-t", "ext4", path, size], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def nvme(name, device, more=(), interrupt="PCI-MSI"):
    """A file system keeps its files over a reboot, and is clean afterwards."""
    path = image(name)
    args = ["-drive", f"file={path},format=raw,if=none,discard=unmap,id=d0", "-device",
            f"nvme,drive=d0,{device}", *more]
    write = ("set -e; mkdir /tmp/m; mount /dev/nvme0n1 /tmp/m; dd if=/dev/urandom of=/tmp/m/a "
             "bs=64k count=300 2>/dev/null; cp /tmp/m/a /tmp/m/b; sync; md5sum </tmp/m/a; "
             "echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/m/a /tmp/m/b; rm /tmp/m/b; sync; "
             "fstrim /tmp/m; umount /tmp/m; "
             "dmesg | grep -E 'I/O error|nvme.*(timeout|fail)|BUG|WARNING' >&2 || true")
    status, first, err = run(args, write)
    space = os.stat(path).st_blocks * 512
    status2, second, err2 = run(args, "mkdir /tmp/m; mount /dev/nvme0n1 /tmp/m; md5sum </tmp/m/a; "
                                      "grep nvme /proc/interrupts >&2; umount /tmp/m")
    fsck = subprocess.run(["e2fsck", "-fn", path], capture_output=True)
    case(f"nvme_{name}", status == 0 and status2 == 0 and first == second and len(first) > 30 and
         fsck.returncode == 0 and not err and interrupt in err2 and space < 40 << 20,
         (first, second, err, err2, space, fsck.stdout.decode()))


nvme("one_cpu", "serial=one")
nvme("two_cpus", "serial=two,max_ioqpairs=2", ["-smp", "2"])
nvme("pin", "logical_block_size=4096", ["-append", "pci=nomsi"], "IO-APIC")

path = image("readonly")
status, out, err = run(["-drive", f"file={path},format=raw,readonly=on,serial=a-serial,if=none,id=d0",
                        "-device", "nvme,drive=d0"],
                       "cat /sys/block/nvme0n1/device/serial /sys/block/nvme0n1/ro; "
                       "echo x >/dev/nvme0n1 || echo refused")
case("nvme_read_only", out.split() == ["a-serial", "1", "refused"], (out, err))

# The machine resets while it is read, twice; the disk is found again each time.
path = image("reboot")
script = ("mount -t devtmpfs d /dev; mount -t proc p /proc; mkdir /m; mount /dev/nvme0n1 /m; "
          "echo x >>/m/n; sync; [ $(wc -l </m/n) -ge 3 ] && poweroff -f; "
          "dd if=/dev/nvme0n1 of=/dev/null bs=1M & reboot -f")
guest = os.path.join(BUILD, "guest")
p = subprocess.run([UMBRA, "run", "-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd", "-drive",
                    f"file={path},format=raw,if=none,id=d0", "-device", "nvme,drive=d0", "-append",
                    f'console=ttyS0 quiet rdinit=/bin/sh -- -c "{script}"'],
                   stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
fsck = subprocess.run(["e2fsck", "-fn", path], capture_output=True)
case("nvme_reboots", p.returncode == 0 and p.stdout.count(b"Restarting") == 2 and
     b"Power down" in p.stdout and fsck.returncode == 0, (p.stdout[-500:], p.stderr))

# The guest resets the controller while it is read.
path = image("reset")
status, out, err = run(["-smp", "2", "-drive", f"file={path},format=raw,if=none,id=d0", "-device",
                        "nvme,drive=d0"],
                       "for i in 1 2 3 4 5; do dd if=/dev/nvme0n1 of=/dev/null bs=1M 2>/dev/null & "
                       "echo 1 >/sys/class/nvme/nvme0/reset_controller || echo failed; wait; done; "
                       "dd if=/dev/nvme0n1 bs=1M 2>/dev/null | wc -c")
case("nvme_reset_while_read", out.split() == [str(64 << 20)], (out, err))

# A seed is the last disk, and cannot be written; isofs is no part of this guest.
path = image("root")
data = os.path.join(tmp, "user-data")
with open(data, "w") as f:
    f.write("#cloud-config\nhostname: guest\n")
status, out, err = run(["--seed", data, "-drive", f"file={path},format=raw"],
                       "cat /sys/block/vdb/serial; echo; cat /sys/block/vda/ro /sys/block/vdb/ro; "
                       "dd if=/dev/vdb bs=2048 skip=16 count=1 2>/dev/null | head -c 46 | tail -c 6; "
                       "grep -a -o -e '#cloud-config' -e 'hostname: guest' -e 'instance-id: umbra-' /dev/vdb")
case("seed_is_the_last_disk", status == 0 and out == "cidata\n0\n1\ncidata#cloud-config\n"
     "hostname: guest\ninstance-id: umbra-\n", (status, out, err))

shutil.rmtree(tmp)
sys.exit(failed)
