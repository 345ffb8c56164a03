"""Whole images beside umoci: overlay over our layers shows the tree that `umoci unpack` makes, in names, modes, owners, links, times and attributes.

Both read the same OCI layout. What overlay itself changes is left out: link counts of files that an upper layer changed, sizes of directories.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from typing import Any

import pytest

from skerry_node.image import importing, store
from tests.harness import images
from tests.harness.images import member
from tests.kernel.test_images import content_of, make_tree

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed"),
]
END = bytes(1024)


def d(name, mode=0o755, **fields: Any):
    return member(name, kind=b"5", mode=mode, mtime=b"14500000000\0", **fields)


def stacked():
    """Whiteouts, links, replacements, over three layers."""
    return [
        d(b"usr") + d(b"usr/lib", 0o750) + member(b"lib", kind=b"2", target=b"usr/lib") + member(b"usr/lib/a", b"a", mode=0o4755)
        + member(b"usr/lib/b", b"b", uid=1000, gid=1001) + d(b"etc") + member(b"etc/x", b"x") + member(b"etc/y", kind=b"1", target=b"etc/x")
        + d(b"var", 0o700) + member(b"var/old", b"o") + member(b"f", b"file") + member(b"pipe", kind=b"6")
        + member(b"null", kind=b"3", device=(1, 3)),
        d(b"usr") + d(b"usr/lib", 0o711) + member(b"usr/lib/.wh.b") + member(b"usr/lib/c", b"c") + d(b"var") + member(b"var/.wh..wh..opq")
        + member(b"var/new", b"n") + member(b".wh.pipe") + d(b"f") + member(b"f/in", b"i"),
        d(b"etc") + member(b"etc/x", b"changed") + member(b".wh.f") + member(b"lib", b"now a file"),
    ]  # fmt: skip


def forty_layers():
    """Each adds, changes and removes; a directory comes and goes."""
    layers = []
    for n in range(40):
        layer = d(b"d") + member(b"d/f%d" % n, b"%d" % n, mode=0o600 + n, uid=n, gid=2 * n) + member(b"same", b"layer %d" % n)
        layer += member(b"d/.wh.f%d" % (n - 3)) if n % 5 == 4 else b""
        layer += d(b"comes") + member(b"comes/%d" % n, b"x") if n % 4 == 1 else b""
        layer += member(b".wh.comes") if n % 4 == 3 else b""
        layer += d(b"clears") + member(b"clears/.wh..wh..opq") + member(b"clears/%d" % n, b"y") if n % 7 == 0 else b""
        layers.append(layer)
    return layers


def attributes():
    """Attributes that many files share, and those of one alone; 32-bit owners; nanoseconds; links over directories."""
    shared = {"SCHILY.xattr.user.all": b"the same", "SCHILY.xattr.user.kind": b"k" * 300}
    lower = d(b"x", pax={"SCHILY.xattr.user.all": b"the same"})
    for n in range(50):
        lower += member(b"x/%d" % n, b"%d" % n, pax={**shared, f"SCHILY.xattr.user.own{n % 3}": b"%d" % n, "mtime": b"1700000000.%09d" % n})
        lower += member(b"x/link%d" % n, kind=b"1", target=b"x/%d" % (n // 2))
    lower += member(b"x/far", b"far", uid=0xFFFFFFF0, gid=3_000_000_000)
    return [lower, d(b"x", pax={"SCHILY.xattr.user.all": b"another"}) + member(b"x/1", b"new", pax=shared)]


def tar_of(tree, *options: str):
    command = ["tar", "-C", str(tree), "--format=posix", "--sort=name", "--numeric-owner", *options, "-cf", "-", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def everything(tmp_path):
    """One of everything that GNU tar writes."""
    make_tree(tmp_path / "tree")
    os.truncate(tmp_path / "tree" / "sparse", 64 << 20)
    return [tar_of(tmp_path / "tree", "--xattrs", "--sparse")]


def debian(tmp_path):
    """A Debian root, and a layer that removes its documentation and changes a file."""
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    root = tmp_path / "debian"
    cached = os.path.expanduser("~/.cache/skerry/assets/debian-minbase.tar")
    os.makedirs(os.path.dirname(cached), exist_ok=True)
    if not os.path.exists(cached):
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(root)], check=True, capture_output=True)
        content = tar_of(root, "--xattrs", "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*")
        with open(cached + ".tmp", "wb") as file:
            file.write(content)
        os.rename(cached + ".tmp", cached)
        shutil.rmtree(root)
    with open(cached, "rb") as file:
        lower = file.read()
    upper = d(b"usr") + d(b"usr/share") + member(b"usr/share/.wh.doc") + d(b"etc") + member(b"etc/hostname", b"box\n") + member(b"etc/.wh.motd")
    return [lower, upper]


def describe(root):
    """What a program can see, by path, but for what overlay makes anew."""
    found, inodes = {}, {}
    for directory, names, files in sorted(os.walk(root)):
        for name in sorted([*names, *files]):
            path = os.path.join(directory, name)
            info = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
            if stat.S_ISREG(info.st_mode):
                what = content_of(path, info.st_size)
            plain = stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)
            found[os.path.relpath(path, root)] = {
                "mode": oct(info.st_mode), "owner": (info.st_uid, info.st_gid), "mtime": info.st_mtime_ns,
                "size": 0 if stat.S_ISDIR(info.st_mode) else info.st_size, "device": info.st_rdev, "content": what,
                "xattrs": {key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith("user.")} if plain else {},
                "links to": None if stat.S_ISDIR(info.st_mode) else inodes.setdefault((info.st_dev, info.st_ino), os.path.relpath(path, root)),
            }  # fmt: skip
    return found


@contextlib.contextmanager
def merged(kept, image, directory):
    """The tree that a sandbox of *image* would see."""
    with contextlib.ExitStack() as stack:
        lowers = []
        for number, layer in enumerate(image.layers):
            target = directory / str(number)
            target.mkdir(parents=True)
            subprocess.run(["mount", "-t", "erofs", "-o", "ro", os.path.join(kept.layers_dir, layer.path), str(target)], check=True)
            stack.callback(subprocess.run, ["umount", str(target)], check=True)
            lowers.append(str(number))
        if len(lowers) == 1:
            yield directory / "0"
            return
        target = directory / "merged"
        target.mkdir()
        options = "ro,index=off,xino=off,lowerdir=" + ":".join(reversed(lowers))
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(target)], check=True, cwd=directory)
        stack.callback(subprocess.run, ["umount", str(target)], check=True)
        yield target


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda _: stacked(), id="whiteouts, links, replacements"),
        pytest.param(lambda _: forty_layers(), id="40 layers"),
        pytest.param(lambda _: attributes(), id="attributes, owners, times"),
        pytest.param(everything, id="one of everything"),
        pytest.param(debian, id="a Debian root"),
    ],
)
def test_trees_equal_umocis(tmp_path, make):
    """Every name, and everything about it; fsck.erofs passes for every layer."""
    tars = [tar if tar.endswith(END) else tar + END for tar in make(tmp_path)]
    layout = images.write_layout(str(tmp_path / "layout"), tars, name="latest")
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:latest", str(tmp_path / "bundle")], check=True, capture_output=True)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as kept:
        image = importing.import_layout(kept, layout, reference="image:1")
        for layer in image.layers:
            done = subprocess.run(["fsck.erofs", "-d0", os.path.join(kept.layers_dir, layer.path)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        with merged(kept, image, tmp_path / "mounts") as root:
            seen, expected = describe(root), describe(tmp_path / "bundle" / "rootfs")
    different = {name: (seen.get(name), expected.get(name)) for name in seen.keys() | expected if seen.get(name) != expected.get(name)}
    assert different == {}
    print(f"{len(seen)} names in {len(tars)} layers equal")
