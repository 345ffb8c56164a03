"""Images on the real kernel: what we write, it reads; and overlay takes our whiteouts for its own. Root."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess

import pytest

from skerry_node.image import importing, store
from tests.harness import images, machine
from tests.harness.images import member

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
FSCK = shutil.which("fsck.erofs")
LARGE_BYTES = 64 << 20 if machine.IS_EMULATED else 5 << 30
MANY = 20_000 if machine.IS_EMULATED else 100_000


@contextlib.contextmanager
def mounted(source, directory, *, kind="erofs", options="ro"):
    """The tree of a mount, while it is there."""
    directory.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, source, str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def import_tars(tmp_path, tars):
    """Paths of the sealed layers, lowest first, each of which passes fsck.erofs."""
    layout = images.write_layout(str(tmp_path / "layout"), tars)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as kept:
        image = importing.import_layout(kept, layout, reference="test")
    paths = [os.path.join(kept.layers_dir, layer.path) for layer in image.layers]
    for path in paths:
        if FSCK:
            done = subprocess.run([FSCK, "-d0", path], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return paths


def describe_tree(root):
    """Everything that a program can see of a tree, by path."""
    found, inodes = {}, {}
    for directory, names, files in sorted(os.walk(root)):
        for name in sorted([*names, *files, "."]):
            path = os.path.join(directory, name)
            info = os.lstat(path)
            relative = os.path.relpath(path, root)
            first = inodes.setdefault((info.st_dev, info.st_ino), relative)
            what = ""
            if stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                what = content_of(path, info.st_size)
            attributes = {}
            if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
                attributes = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            is_directory = stat.S_ISDIR(info.st_mode)
            found[relative] = (
                oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, 0 if is_directory else info.st_size,
                info.st_nlink, info.st_rdev, what, attributes, None if is_directory else first,
            )  # fmt: skip
    return found


def content_of(path, size):
    with open(path, "rb") as file:
        if size > 1 << 30:
            file.seek(size - 4096)
        return hashlib.sha256(file.read()).hexdigest()


def make_tree(root):
    """A tree with one of everything, sorted so that both walks meet hard links in the same order."""
    root.mkdir()
    (root / "empty").write_bytes(b"")
    (root / "small").write_bytes(b"x")
    for size in (4095, 4096, 4097, 1 << 20, (3 << 20) + 1):
        (root / f"file-{size}").write_bytes(os.urandom(size))
    (root / "many").mkdir()
    for number in range(3000):
        (root / "many" / f"name-{number}").write_bytes(b"%d" % number)
    deep = root
    for level in range(30):
        deep = deep / f"level-{level}"
        deep.mkdir()
    (root / ("n" * 255)).write_bytes(b"long name")
    for length in (1, 50, 2047, 2048, 2049, 4000, 4095):
        os.symlink("t" * length, root / f"link-{length}")
    os.link(root / "small", root / "other-name")
    os.link(root / "small", root / "many" / "third-name")
    os.mkfifo(root / "fifo")
    os.mknod(root / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o640, os.makedev(4095, 0xFFFFF))
    (root / "owned").write_bytes(b"owned")
    os.chown(root / "owned", 0xFFFFFFFE, 3_000_000_000)
    os.chmod(root / "owned", 0o6755)
    (root / "old").write_bytes(b"old")
    os.utime(root / "old", ns=(0, -1_500_000_000))
    os.utime(root / "empty", ns=(0, 1_234_567_890_123_456_789))
    os.setxattr(root / "small", "user.one", b"1")
    os.setxattr(root / "many", "user.binary", bytes(range(256)))
    os.setxattr(root / "owned", "user.large", bytes(3000))
    with open(root / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(LARGE_BYTES)
        file.seek(LARGE_BYTES - 1)
        file.write(b"e")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--format=posix", "--xattrs", "--sparse"], id="pax, sparse 1.0"),
        pytest.param(["--format=posix", "--xattrs", "--sparse", "--sparse-version=0.1"], id="pax, sparse 0.1"),
        pytest.param(["--format=gnu", "--sparse"], id="gnu"),
    ],
)
def test_the_kernel_reads_what_gnu_tar_wrote(tmp_path, options):
    """Names, modes, owners, times, links, devices, attributes and content come through as GNU tar itself unpacks them."""
    make_tree(tmp_path / "tree")
    archive = tmp_path / "tree.tar"
    subprocess.run(["tar", "-C", str(tmp_path / "tree"), *options, "--sort=name", "-cf", str(archive), "."], check=True)
    out = tmp_path / "unpacked"
    out.mkdir()
    subprocess.run(["tar", "-C", str(out), "--xattrs", "-xpf", str(archive)], check=True)
    (path,) = import_tars(tmp_path, [archive.read_bytes()])
    with mounted(path, tmp_path / "mounted") as root:
        expected, seen = describe_tree(out), describe_tree(root)
    assert seen.keys() == expected.keys()
    assert {name: (seen[name], expected[name]) for name in seen if seen[name] != expected[name]} == {}


def test_overlay_hides_what_the_upper_layer_hides(tmp_path):
    """A whiteout hides one name, opaque a directory's old content, a replaced directory starts empty."""
    lower = b"".join(
        member(name, b"lower") for name in (b"gone", b"kept", b"dir/gone", b"dir/kept", b"opaque/old", b"again/old", b"implied/old", b"swap/old")
    ) + bytes(1024)
    upper = b"".join(
        (
            member(b".wh.gone"), member(b"dir/.wh.gone"), member(b"opaque/.wh..wh..opq"), member(b"opaque/new", b"upper"),
            member(b".wh.again"), member(b"again", kind=b"5", mode=0o700), member(b".wh.implied"), member(b"implied/new", b"upper"),
            member(b"swap", b"upper"), member(b"fake", kind=b"3", device=(0, 0)),
        )
    ) + bytes(1024)  # fmt: skip
    below, above = import_tars(tmp_path, [lower, upper])
    with (
        mounted(below, tmp_path / "below") as first,
        mounted(above, tmp_path / "above") as second,
        mounted("overlay", tmp_path / "merged", kind="overlay", options=f"ro,lowerdir={second}:{first}") as merged,
    ):
        names = sorted(os.path.relpath(path, merged) for path in merged.rglob("*"))
        assert names == [
            "again", "dir", "dir/kept", "implied", "implied/new", "kept", "opaque", "opaque/new", "swap",
        ]  # fmt: skip
        assert (merged / "swap").read_bytes() == b"upper"
        assert stat.S_IMODE((merged / "again").stat().st_mode) == 0o700


@pytest.mark.host("too many names for an emulated processor; test_the_kernel_reads_what_gnu_tar_wrote reads the same format")
def test_a_directory_of_many_names_is_found_by_each(tmp_path):
    """The kernel's binary search over directory blocks meets every name."""
    names = [f"d/{number:x}-{'y' * (number % 40)}" for number in range(MANY)]
    (path,) = import_tars(tmp_path, [b"".join(member(name.encode()) for name in names) + bytes(1024)])
    with mounted(path, tmp_path / "mounted") as root:
        assert set(os.listdir(root / "d")) == {name[2:] for name in names}
        assert all(os.path.lexists(root / name) for name in names)
        assert not os.path.lexists(root / "d" / "absent")


def test_busybox_runs_from_its_layer(tmp_path):
    """The image of the demo is a root filesystem that works."""
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as kept:
        image = importing.import_layout(kept, images.busybox_layout(str(tmp_path / "layout")))
    assert image.reference == images.REFERENCE
    with mounted(os.path.join(kept.layers_dir, image.layers[0].path), tmp_path / "mounted") as root:
        done = subprocess.run(["chroot", str(root), "/bin/sh", "-c", "id alice; cat /etc/lower-file"], capture_output=True, text=True, check=True)
        assert done.stdout == "uid=1000(alice) gid=1000(alice) groups=1000(alice),10(wheel)\na file of the image\n"
        assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
