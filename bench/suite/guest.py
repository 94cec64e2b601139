"""Builds the benchmarks' guest in build/bench, from Debian packages and our own programs.

    root/        a Debian root directory: the packages below, busybox, /bench
    small.cpio   an initramfs of /bench/kernel and busybox
    full.cpio    an initramfs of everything in root/

Both have guest/runner.c as /init. Nothing needs root rights: packages are only extracted.
What exists is used again; the packages stay at their versions until build/bench/root is
removed, so that numbers taken weeks apart can be compared.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys

PACKAGES = ["zstd", "xz-utils", "openssl", "python3-minimal", "perl-base", "sqlite3", "gawk", "gcc"]

# Dependencies which only matter to a system that is installed.
WITHOUT = {"dpkg", "debconf", "install-info", "tar", "media-types", "libgprofng0", "libasan8",
           "libtsan2", "libubsan1", "liblsan0", "libgomp1", "libitm1", "libquadmath0"}

# Large files that no row uses.
UNUSED = re.compile(r"/usr/share/(doc|man|locale|info|gcc|lintian|bug)/|/lto1$|/lto-wrapper$|"
                    r"/usr/bin/.*(gprof|lto-dump|gcov|dwp|gold)|/include/|"
                    r"libstdc\+\+|\.a$|/plugin/|/gconv/|/install-tools/")

C_FLAGS = ["-std=gnu17", "-O2", "-fno-math-errno", "-Wall", "-Wextra"]


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


def command(args, **kw):
    return subprocess.run(args, check=True, stdout=subprocess.PIPE, **kw).stdout


# ---- Debian packages ----

def control_fields(packages):
    """{package: {field: value}} of the newest versions apt knows."""
    text = command(["apt-cache", "show", "--no-all-versions"] + sorted(packages)).decode()
    known = {}
    for block in text.strip().split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", block, re.M))
        known[fields["Package"]] = fields
    return known


def dependencies(fields):
    """The first alternative of each dependency, without the versions."""
    text = ", ".join(fields[f] for f in ("Pre-Depends", "Depends") if f in fields)
    for dependency in filter(None, (d.strip() for d in text.split(","))):
        yield re.split(r"[ |:(]", dependency)[0]


def closure(packages):
    """{package: version} of these and what they need."""
    found, wanted = {}, set(packages)
    while wanted:
        known = control_fields(wanted)
        found.update((name, known[name]["Version"]) for name in wanted if name in known)
        wanted = {d for fields in known.values() for d in dependencies(fields)}
        wanted -= set(found) | WITHOUT
        # A virtual package has no entry of its own; nothing of ours needs one.
        wanted = {w for w in wanted if w in known or is_real(w)}
    return found


def is_real(package):
    return subprocess.run(["apt-cache", "show", package], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def extract_packages(top, build, root):
    command([top + "/tools/setup", "lists"])
    versions = closure(PACKAGES)
    debs = build + "/debs"
    shutil.rmtree(debs, ignore_errors=True)
    os.makedirs(debs)
    say("fetching %d Debian packages" % len(versions))
    user = command(["id", "-un"]).decode().strip()
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=" + user, "download"]
    if subprocess.run(fetch + sorted(versions), cwd=debs).returncode:
        # The lists may be stale.
        command([top + "/tools/setup", "refresh"])
        versions = closure(PACKAGES)
        command(fetch + sorted(versions), cwd=debs)
    say("extracting them")
    for deb in sorted(os.listdir(debs)):
        command(["dpkg-deb", "-x", debs + "/" + deb, root])
    shutil.rmtree(debs)
    for path in walk(root):
        if UNUSED.search(path[len(root):]) and not os.path.isdir(path):
            os.unlink(path)
    with open(root + "/packages", "w") as f:
        f.writelines("%s %s\n" % item for item in sorted(versions.items()))


def walk(root):
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            yield folder + "/" + name


# ---- what the programs work on ----

def c_source(functions, seed):
    """A C file that gives a compiler something to do: loops, switches, structs, inlining."""
    out = ["typedef unsigned long u64;",
           "struct point { int x, y; u64 tag; struct point *next; };",
           "static u64 seen[64];"]
    state = seed
    for i in range(functions):
        state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        r = [state >> s & 63 for s in (8, 14, 20, 26, 32, 38)]
        callee = "f%d_%d(x ^ %d, p)" % (seed, i - 1 - r[5] % min(i, 9), r[0]) if i else "x"
        out.append("""
u64 f%d_%d(u64 x, struct point *p)
{
	u64 sum = %d, table[%d];
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		table[i] = (x >> (i & 31)) * %d + seen[(i + %d) & 63];
	for (struct point *q = p; q; q = q->next) {
		switch ((q->x + %d) & 7) {
		case 0: sum += q->tag / (q->y | 1); break;
		case 1: sum ^= table[q->y & 3]; break;
		case 3: q->x -= %d; break;
		case 4: sum = sum << 3 | sum >> 61; break;
		case 6: if (q->y > %d) return sum; break;
		default: q->y += (int)sum;
		}
		sum += q->x > q->y ? table[q->x & 3] : ~q->tag;
	}
	seen[x & 63] += sum;
	return x & %d ? sum : sum + %s;
}""" % (seed, i, r[1], 8 + r[2] % 24, 2 * r[3] + 1, r[4], r[5], r[0], r[1] * 16, 1 << r[2] % 8, callee))
    return "\n".join(out) + "\n"


def gather(paths, size):
    data = b""
    for path in sorted(paths):
        if len(data) >= size:
            break
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as f:
                data += f.read(size - len(data))
    return data


def make_data(root, data):
    os.makedirs(data, exist_ok=True)
    text = gather((p for p in walk(root) if re.search(r"\.(pm|pl|py)$", p)), 4 << 20)
    cc1 = command(["find", root, "-name", "cc1", "-type", "f"]).decode().split()
    with open(data + "/text", "wb") as f:
        f.write(text)
    with open(data + "/mixed", "wb") as f:
        f.write(text[:2 << 20] + gather(cc1, 2 << 20))
    for name, functions, seed in (("big.c", 700, 1), ("half1.c", 350, 2), ("half2.c", 350, 3),
                                  ("little.c", 30, 4)):
        with open("%s/%s" % (data, name), "w") as f:
            f.write(c_source(functions, seed))
    # Of no secret: made here and now, and only signs numbers.
    in_root(root, ["/usr/bin/openssl", "genrsa", "-out", data + "/key", "2048"])


def in_root(root, args):
    """Runs a program of the root directory, with its libraries, on this system."""
    lib = root + "/lib/x86_64-linux-gnu"
    libraries = "%s:%s/usr/lib/x86_64-linux-gnu" % (lib, root)
    command([lib + "/ld-linux-x86-64.so.2", "--library-path", libraries, root + args[0]] + args[1:],
            stderr=subprocess.DEVNULL)


# ---- the initramfs ----

def cpio_entry(name, st, content, ino):
    name = name.encode() + b"\0"
    head = b"070701" + b"".join(b"%08X" % n for n in (
        ino, st.st_mode, 0, 0, st.st_nlink if stat.S_ISDIR(st.st_mode) else 1, 0, len(content),
        0, 0, 0, 0, len(name), 0))
    head += name
    head += b"\0" * (-len(head) % 4)
    return head + content + b"\0" * (-len(content) % 4)


def write_cpio(out, pairs):
    """An archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst) of
    (name in the guest, path here), in order of names, without times and owners."""
    with open(out + ".new", "wb") as f:
        size = 0
        for ino, (name, path) in enumerate(sorted(pairs), 1):
            st = os.lstat(path)
            content = b""
            if stat.S_ISLNK(st.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as source:
                    content = source.read()
            elif not stat.S_ISDIR(st.st_mode):
                continue
            size += f.write(cpio_entry(name, st, content, ino))
        trailer = cpio_entry("TRAILER!!!", os.stat_result((0o100000,) + (0,) * 9), b"", 0)
        size += f.write(trailer)
        # Another archive could be appended: the kernel wants it aligned.
        f.write(b"\0" * (-size % 512))
    os.rename(out + ".new", out)


def archive(out, root, keep=None):
    write_cpio(out, ((path[len(root) + 1:], path) for path in walk(root)
                     if keep is None or keep(path[len(root) + 1:])))


# ---- all of it ----

def compile_program(out, sources, *flags):
    command(["gcc"] + C_FLAGS + ["-o", out] + sources + list(flags))


def in_folder(folder):
    return sorted(os.path.join(folder, name) for name in os.listdir(folder))


def digest(paths):
    h = hashlib.sha256()
    for path in paths:
        if os.path.isfile(path):
            with open(path, "rb") as f:
                h.update(path.encode() + f.read())
    return h.hexdigest()


def install_busybox(busybox, root):
    os.makedirs(root + "/bin", exist_ok=True)
    shutil.copy(busybox, root + "/bin/busybox")
    for applet in command([busybox, "--list"]).decode().split():
        link = root + "/bin/" + applet
        # A program of Debian's own goes first.
        if not any(os.path.lexists(root + d + applet) for d in ("/bin/", "/usr/bin/", "/usr/sbin/")):
            os.symlink("busybox", link)


def alternatives(root):
    """The names that a package's installation script would make."""
    for link, target in (("/usr/bin/awk", "gawk"), ("/usr/bin/cc", "gcc")):
        if not os.path.lexists(root + link):
            os.symlink(target, root + link)


def make_root(top, build, root):
    tmp = root + ".new"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    extract_packages(top, build, tmp)
    alternatives(tmp)
    install_busybox(top_guest(build) + "/busybox", tmp)
    for folder in ("dev", "proc", "sys", "tmp", "bench", "root", "run"):
        os.makedirs(tmp + "/" + folder, exist_ok=True)
    make_data(tmp, tmp + "/bench/data")
    os.rename(tmp, root)


def top_guest(build):
    return os.path.join(os.path.dirname(build), "guest")


def install_programs(top, root):
    bench = top + "/bench"
    for path in in_folder(bench + "/programs"):
        if not path.endswith(".c"):
            shutil.copy(path, root + "/bench")
    kernels = [p for p in in_folder(bench + "/kernels") if p.endswith(".c")]
    compile_program(root + "/bench/kernel", kernels, "-pthread", "-lm")
    libcrypto = command(["find", root, "-name", "libcrypto.so.3"]).decode().split()[0]
    compile_program(root + "/bench/crypto", [bench + "/programs/crypto.c", libcrypto])
    compile_program(root + "/init", [bench + "/guest/runner.c"], "-static")


LIB = "lib/x86_64-linux-gnu"
SMALL = ("init", "bench", "bench/kernel", "bench/script.sh", "dev", "proc", "sys", "tmp", "bin", "root", "run",
         "lib", LIB, LIB + "/ld-linux-x86-64.so.2", LIB + "/libc.so.6", LIB + "/libm.so.6",
         "lib64", "lib64/ld-linux-x86-64.so.2")


def in_small(root):
    def keep(name):
        path = root + "/" + name
        busybox = name == "bin/busybox" or (os.path.islink(path) and os.readlink(path) == "busybox")
        return name in SMALL or busybox
    return keep


def prepare(top, build):
    """Makes what is missing or out of date; the root directory's path."""
    root = build + "/root"
    for name in ("vmlinuz", "busybox"):
        if not os.path.exists(top_guest(build) + "/" + name):
            raise SystemExit("bench: %s/%s is missing; `make bench` makes it" % (top_guest(build), name))
    os.makedirs(build, exist_ok=True)
    if not os.path.isdir(root):
        make_root(top, build, root)
    sources = [p for folder in ("kernels", "programs", "guest", "suite")
               for p in in_folder(top + "/bench/" + folder) if p.endswith(("c", "h", "guest.py"))]
    sources += in_folder(top + "/bench/programs")
    now = digest(sources + [root + "/packages"])
    stamp = build + "/made"
    if os.path.exists(stamp) and open(stamp).read() == now:
        return root
    say("compiling the kernels, writing the initramfs")
    install_programs(top, root)
    archive(build + "/small.cpio", root, in_small(root))
    archive(build + "/full.cpio", root)
    with open(stamp, "w") as f:
        f.write(now)
    return root
