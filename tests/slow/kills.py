#!/usr/bin/env python3
"""Umbra is killed at random moments while a guest writes: nothing acknowledged is lost.

    tests/slow/kills.py [--build DIR] [--kills N] [--image-options OPTIONS] [--drive OPTIONS]

A guest with a journaling file system (ext4) on qcow2 makes and removes files, while it adds
records to one, each with an fsync, and says when each is done. After each SIGKILL the image has
leaks at most, the file system is sound once its journal is replayed, and all records that the
guest spoke of are there. The next round goes on with the same image. By hand: see HACKING.md.
"""

import argparse
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time

LIMIT = 120
RECORD = 16
GUEST = """
mkdir /tmp/m; mount -t ext4 /dev/vda /tmp/m || exit 1; cd /tmp/m
load() {
    while :; do
        dd if=/dev/urandom of=junk$1 bs=${2}k count=$((n %% 40 + 1)) 2>/dev/null
        [ $((n %% 3)) = 0 ] && fstrim .
        n=$((n + 1)); mv junk$1 old$1
    done
}
n=0; load 1 64 & n=1; load 2 4 &
n=%d
while :; do
    n=$((n + 1))
    printf '%%15d\\n' $n | dd of=log bs=16 seek=$((n - 1)) conv=notrunc,fsync 2>/dev/null || exit 1
    echo $n
done
"""


def run(*args, good=(0,)):
    r = subprocess.run(args, capture_output=True, text=True)
    if r.returncode not in good:
        raise AssertionError("%s: status %d: %s" % (" ".join(args), r.returncode, r.stdout + r.stderr))
    return r


def one_round(umbra, image, options, start):
    """Kill it some time after its first word. The last record it spoke of."""
    p = subprocess.Popen([umbra, "run", "-smp", "2", "-m", "256M", "-drive", "file=%s,if=virtio,%s" % (
        image, options), "--", "sh", "-c", GUEST % start], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text, end = b"", time.monotonic() + LIMIT
    more = random.uniform(0, 4)
    try:
        while time.monotonic() < end:
            if select.select([p.stdout], [], [], 0.05)[0]:
                data = os.read(p.stdout.fileno(), 65536)
                if not data:
                    raise AssertionError("the guest ended")
                if b"\n" not in text and b"\n" in text + data:
                    end = time.monotonic() + more
                text += data
    finally:
        p.kill()
        # What it had said before.
        text += p.communicate()[0]
    if b"\n" not in text:
        raise AssertionError("the guest does not write")
    return int(text[:text.rindex(b"\n")].split()[-1])


def records(umbra, image, tmp):
    """How many there are, of a sound image and file system."""
    run(umbra, "image", "check", image, good=(0, 3))
    if shutil.which("qemu-img"):
        run("qemu-img", "check", image, good=(0, 3))
    raw, log = tmp + "/raw", tmp + "/log"
    run(umbra, "image", "convert", "-O", "raw", image, raw)
    # What a mount would do: it fails where more than the journal and orphans needs repair.
    run("e2fsck", "-p", raw, good=(0, 1))
    run("e2fsck", "-fn", raw)
    run("debugfs", "-R", "dump /log " + log, raw)
    with open(log, "rb") as f:
        data = f.read()
    n = 0
    while data[n * RECORD:(n + 1) * RECORD] == b"%15d\n" % (n + 1):
        n += 1
    return n


def main():
    p = argparse.ArgumentParser()
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    p.add_argument("--build", default=os.environ.get("BUILD", top + "/build"))
    p.add_argument("--kills", type=int, default=20)
    p.add_argument("--image-options", default="cluster_size=4k", help="of the qcow2")
    p.add_argument("--drive", default="discard=unmap", help="more of -drive")
    o = p.parse_args()
    umbra = o.build + "/umbra"
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    tmp = tempfile.mkdtemp(prefix="umbra-kills-")
    image, start = tmp + "/image.qcow2", 0
    try:
        run("mke2fs", "-q", "-t", "ext4", tmp + "/raw", "200M")
        run(umbra, "image", "convert", "-O", "qcow2", "-o", o.image_options, tmp + "/raw", image)
        for i in range(o.kills):
            said = one_round(umbra, image, o.drive, start)
            there = records(umbra, image, tmp)
            if there < said:
                raise AssertionError("the guest was told that %d records are stable, and %d are there" % (
                    said, there))
            print("# kill %d: %d records, %d acknowledged" % (i + 1, there, said), flush=True)
            start = there
        print("ok killed_%d_times" % o.kills)
    except AssertionError as e:
        print("not ok killed_%d_times\n# %s" % (o.kills, e))
        return 1
    finally:
        shutil.rmtree(tmp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
