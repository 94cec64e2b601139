#!/usr/bin/env python3
"""Images made to hurt who opens them: each is refused with a line or read as far as it makes
sense, in little time and memory, whatever command is given.
"""

import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib

BUILD = os.environ["BUILD"]
UMBRA = os.path.join(BUILD, "umbra")
SECONDS = 20
MEMORY = 1 << 30  # bytes of address space
tmp = tempfile.mkdtemp(prefix="umbra-hostile-")
failed = False

COPIED = 1 << 63
COMPRESSED = 1 << 62


def case(name, good, why=""):
    global failed
    if good:
        print("ok", name, flush=True)
    else:
        failed = True
        print("not ok", name, flush=True)
        print("#", str(why)[:3000], flush=True)


class Image:
    """Version 3. Clusters: 0 header, 1 refcount table, 2 refcount block, 3 L1, 4 L2, 5 data.
    What a test changes is in 'header' (by name), 'put' (offset: bytes) and 'end' (bytes)."""

    FIELDS = ["magic", "version", "backing_off", "backing_len", "bits", "size", "crypt", "l1_size",
              "l1_off", "rt_off", "rt_clusters", "snapshots", "snapshots_off", "incompat", "compat",
              "autoclear", "refcount_order", "length"]

    def __init__(self, bits=16, size=1 << 20, end=None):
        self.c = c = 1 << bits
        self.end = end or 6 * c
        self.header = dict(magic=0x514649fb, version=3, backing_off=0, backing_len=0, bits=bits,
                           size=size, crypt=0, l1_size=max(1, -(-size * 8 // (c * c))), l1_off=3 * c,
                           rt_off=c, rt_clusters=1, snapshots=0, snapshots_off=0, incompat=0,
                           compat=0, autoclear=0, refcount_order=4, length=104)
        self.put = {c: self.table([2 * c]), 2 * c: struct.pack(">6H", *[1] * 6),
                    3 * c: self.table([4 * c | COPIED]), 4 * c: self.table([5 * c | COPIED]),
                    5 * c: b"data" * 128}

    @staticmethod
    def table(entries):
        return struct.pack(f">{len(entries)}Q", *entries)

    def write(self, path):
        with open(path, "wb") as f:
            f.write(struct.pack(">IIQIIQIIQQIIQQQQII", *[self.header[k] for k in self.FIELDS]))
            for at, data in self.put.items():
                f.seek(at)
                f.write(data)
            f.truncate(max(self.end, f.seek(0, 2)))


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def umbra(*args):
    """Status, standard error, seconds."""
    begin = time.time()
    try:
        p = subprocess.run([UMBRA, "image", *args], stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=SECONDS, preexec_fn=limits)
        return p.returncode, p.stderr.decode(errors="replace"), time.time() - begin
    except subprocess.TimeoutExpired:
        return None, "timed out", SECONDS


def commands(path):
    """What can be done with an image, those that change it on a copy."""
    copy = os.path.join(tmp, "copy")
    yield "info", ["info", path]
    yield "check", ["check", path]
    yield "map", ["map", path]
    # No more is copied than that: a disk may be large, and its zeroes take time.
    if os.path.getsize(path) < 1 << 30:
        yield "compare", ["compare", path, path]
    for name, args in (("repair", ["check", "-r", "all"]), ("leaks", ["check", "-r", "leaks"]),
                       ("create", ["snapshot", "-c", "new"]), ("apply", ["snapshot", "-a", "s0"]),
                       ("delete", ["snapshot", "-d", "s0"]), ("resize", ["resize", "+1M"])):
        subprocess.run(["cp", "--sparse=always", path, copy], check=True)
        yield name, [*args, copy] if args[0] != "resize" else ["resize", copy, "+1M"]


def hostile(name, image, text=None):
    """No command crashes, hangs, or says much. 'text': the line with which it is refused."""
    path = os.path.join(tmp, "image.qcow2")
    if isinstance(image, Image):
        image.write(path)
    else:
        path = image
    bad = []
    for what, args in commands(path):
        status, err, took = umbra(*args)
        if status not in (0, 1, 2, 3) or err.count("\n") > 110 or (status == 1 and not err):
            bad.append((what, status, took, err[:500]))
        if text and what == "map" and (status != 1 or text not in err or err.count("\n") != 1):
            bad.append((what, status, took, err[:500]))
    case(name, not bad, bad)


def sound():
    path = os.path.join(tmp, "sound.qcow2")
    Image().write(path)
    case("sound", umbra("check", path)[0] == 0 and umbra("map", path)[0] == 0, umbra("check", path))


sound()

# ---- tables that lead back to themselves, or into each other

i = Image()
i.put[3 * i.c] = i.table([3 * i.c | COPIED])
hostile("l1_is_its_own_l2", i, "overlaps another table")

i = Image()
i.put[4 * i.c] = i.table([4 * i.c | COPIED] * (i.c // 8))
hostile("l2_is_its_own_data", i)

i = Image()
i.put[i.c] = i.table([i.c])
hostile("refcount_table_is_its_own_block", i, "overlaps another table")

i = Image()
i.put[i.c] = i.table([2 * i.c] * (i.c // 8))
hostile("one_refcount_block_for_all", i, "overlaps another table")

i = Image()
i.put[4 * i.c] = i.table([k * i.c | COPIED for k in range(6)])
hostile("data_is_every_table", i)

i = Image()
i.header["l1_off"] = 0
hostile("l1_is_the_header", i, "L1 table is not inside the file")

# ---- bombs: little that stands for much

i = Image(21, (1 << 22) << 39)
i.header["l1_size"] = 1 << 22
i.put = {i.c: i.table([2 * i.c]), 2 * i.c: struct.pack(">24H", *[1] * 24),
         3 * i.c: i.table([22 * i.c | COPIED]) * (1 << 22), 22 * i.c: i.table([23 * i.c] * (1 << 18))}
i.end = 24 * i.c
hostile("one_l2_four_million_times", i, "overlaps another table")

i.put[i.end] = b""
i.put[3 * i.c] = i.table([22 * i.c | COPIED])
i.header["snapshots"] = 60000
i.header["snapshots_off"] = 24 * i.c
entry = struct.pack(">QIHHIIQII", 3 * i.c, 1 << 22, 1, 2, 0, 0, 0, 0, 16) + bytes(16) + b"1s0" + bytes(5)
i.put[24 * i.c] = entry * 60000
hostile("sixty_thousand_snapshots_of_it", i)

i = Image(9, 1 << 20)
i.header.update(snapshots=3, snapshots_off=6 * i.c)
i.put[6 * i.c] = (struct.pack(">QIHHIIQII", 3 * i.c, 1, 1, 2, 0, 0, 0, 0, 16) + bytes(16) + b"1s0" +
                  bytes(5)) * 3
hostile("snapshots_share_the_active_l1", i, "overlaps another table")

i = Image(16, 1 << 40)
l1 = [(8 + k % 2) * i.c for k in range(2048)]
i.header.update(snapshots=1, snapshots_off=6 * i.c, l1_size=2048)
i.put[6 * i.c] = struct.pack(">QIHHIIQII", 7 * i.c, 2048, 1, 2, 0, 0, 0, 0, 16) + bytes(16) + b"1s0"
i.put[7 * i.c] = i.table(l1)
i.put[8 * i.c] = i.table([5 * i.c] * 8192)
i.put[9 * i.c] = i.table([5 * i.c] * 8192)
i.end = 10 * i.c
hostile("snapshot_of_one_cluster_everywhere", i)

i = Image()
i.put[2 * i.c] = b"\xff" * i.c
hostile("all_counts_at_their_end", i)

i = Image()
i.header["refcount_order"] = 6
i.put[2 * i.c] = b"\xff" * i.c
hostile("counts_of_64_bits_at_their_end", i)

# Compressed data that would be more than a cluster, and less, and none.
for name, kind in (("zeroes", b"\0" * (1 << 26)), ("short", b"x" * 100)):
    z = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = (z.compress(kind) + z.flush())[:3 << 16]
    i = Image()
    csize = -(-len(packed) // 512) - 1
    shift = 62 - (16 - 8)
    i.put[4 * i.c] = i.table([COMPRESSED | csize << shift | 5 * i.c] * 16)
    i.put[5 * i.c] = packed
    i.end = 10 * i.c
    hostile(f"compressed_{name}", i)
i = Image()
i.put[4 * i.c] = i.table([COMPRESSED | (1 << 62) - 1] * 16)
hostile("compressed_outside", i)

# ---- numbers without measure

for field, value, text in (
        ("l1_size", 0xffffffff, "L1 table is too large"),
        ("l1_size", 1 << 22, "L1 table is not inside the file"),
        ("l1_size", 0, "L1 table is too small"),
        ("l1_off", (1 << 64) - 65536, "L1 table is not inside the file"),
        ("rt_off", (1 << 64) - 65536, "refcount table is not inside the file"),
        ("rt_clusters", 0xffffffff, "refcount table is too large"),
        ("rt_clusters", 100, "refcount table is not inside the file"),
        ("size", (1 << 64) - 512, "impossible disk size"),
        ("size", 1 << 62, "impossible disk size"),
        ("bits", 63, "cluster size"),
        ("bits", 0, "cluster size"),
        ("refcount_order", 60, "refcounts of more than 64 bits"),
        ("snapshots", 0xffffffff, "more than 65536 snapshots"),
        ("snapshots", 65536, "snapshot table is not inside the file"),
        ("length", 0xfffffff8, "header of an impossible length"),
        ("backing_len", 0xffffffff, None),
        ("incompat", 1 << 40, "bit 40")):
    i = Image()
    i.header[field] = value
    if field == "snapshots":
        i.header["snapshots_off"] = 5 * i.c
    hostile(f"{field}_{value:#x}", i, text)

# A file of terabytes that takes no space, with all of it in the tables.
i = Image(21, 1 << 50, 1 << 43)
i.header["rt_clusters"] = 4
i.put = {i.c: i.table([k * i.c for k in range(8, 8 + (1 << 20))]), 5 * i.c: i.table([])}
i.header.update(l1_off=6 * i.c, l1_size=2048)
hostile("a_sparse_file_of_8_tib", i)

i = Image(21, 1 << 40, 1 << 43)
i.header.update(snapshots=1, snapshots_off=6 * i.c)
i.put[6 * i.c] = struct.pack(">QIHHIIQII", 7 * i.c, 1 << 21, 1, 2, 0, 0, 0, 0, 16) + bytes(16) + b"1s0"
i.put[7 * i.c] = i.table([k * i.c for k in range(32, 32 + (1 << 21))])
hostile("a_sparse_snapshot", i)

# ---- what an image names

def named(name, text, backing=None, fmt="raw", data=None):
    path = os.path.join(tmp, name + ".qcow2")
    i = Image()
    h = b""

    def extension(kind, text):
        return struct.pack(">II", kind, len(text)) + text.encode().ljust(-(-len(text) // 8) * 8, b"\0")

    if fmt and backing:
        h += extension(0xe2792aca, fmt)
    if data:
        h += extension(0x44415441, data)
        i.header["incompat"] = 4
    h += bytes(8)
    i.put[104] = h
    if backing:
        i.put[104 + len(h)] = backing.encode()
        i.header.update(backing_off=104 + len(h), backing_len=len(backing))
    i.write(path)
    status, err, _ = umbra("map", path)
    case(name, status == 1 and text in err and err.count("\n") == 1, (status, err))
    return path


fifo = os.path.join(tmp, "fifo")
os.mkfifo(fifo)
for device in ("/dev/zero", "/dev/tty", "/dev/stdin", "/proc/self/fd/0", fifo, tmp):
    n = device.strip("/").replace("/", "_") if device.startswith("/dev") or device.startswith("/proc") \
        else {fifo: "fifo", tmp: "directory"}[device]
    named("backing_" + n, "regular file", device)
    named("data_" + n, "regular file", data=device)
named("backing_nbd", "No such file", "nbd://127.0.0.1/x")
named("backing_json", "json:", 'json:{"driver":"file","filename":"/dev/zero"}')
named("backing_other_format", "is not supported", "sound.qcow2", "vmdk")
named("backing_itself", "circle", "backing_itself.qcow2", "qcow2")
named("backing_missing", "No such file", "nosuch")
named("data_itself", "its own external data file", data="data_itself.qcow2")
named("data_missing", "No such file", data="nosuch")

# Each the backing file of the next, beyond all measure; and two of each other.
a = os.path.join(tmp, "chain0.qcow2")
Image().write(a)
for n in range(1, 100):
    i = Image()
    i.put[104] = struct.pack(">II", 0xe2792aca, 5) + b"qcow2\0\0\0" + bytes(8)
    b = f"chain{n - 1}.qcow2"
    i.put[128] = b.encode()
    i.header.update(backing_off=128, backing_len=len(b))
    i.write(os.path.join(tmp, f"chain{n}.qcow2"))
status, err, _ = umbra("map", os.path.join(tmp, "chain99.qcow2"))
case("chain_of_100", status == 1 and "more than 64 backing files" in err and err.count("\n") == 1,
     (status, err))
status, err, _ = umbra("map", os.path.join(tmp, "chain60.qcow2"))
case("chain_of_60", status == 0, (status, err))

shutil.rmtree(tmp)
sys.exit(failed)
