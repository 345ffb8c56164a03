"""A writable layer becomes an OCI layer on the real kernel: what overlay merges, the layers of the new image merge to as well. Root."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import subprocess
import threading

import pytest

from skerry_node.image import diffing, importing, store, tar
from skerry_node.image.errors import InvalidTree
from tests.harness import images, machine
from tests.harness.images import member
from tests.kernel.test_images import describe_tree, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
ID_BASE = 700_000
SPARSE_BYTES = 64 << 20 if machine.IS_EMULATED else 1 << 30
LOWER = (
    b"".join(
        (
            member(b"etc", kind=b"5", mode=0o755), member(b"etc/gone", b"g"), member(b"etc/changed", b"old"), member(b"etc/kept", b"k"),
            member(b"replaced", kind=b"5", mode=0o755), member(b"replaced/old", b"o"), member(b"was-dir", kind=b"5", mode=0o755),
            member(b"was-dir/below", b"b"), member(b"was-file", b"f"), member(b"deep", kind=b"5", mode=0o755),
            member(b"deep/er", kind=b"5", mode=0o700), member(b"deep/er/file", b"d"),
        )
    )
    + bytes(1024)
)  # fmt: skip


def write(directory, **options: int):
    """The layer of the tree at *directory*, and what was said of it."""
    out = io.BytesIO()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = diffing.write_layer(fd, out, **{"id_base": 0, **options})
    finally:
        os.close(fd)
    return out.getvalue(), done


def entries_of(layer):
    return {entry.path: entry for entry in tar.Reader(io.BytesIO(layer))}


@contextlib.contextmanager
def layers_mounted(tmp_path, name, tars):
    """Sealed layers of *tars*, each mounted; uppermost first, as overlay wants them."""
    layout = images.write_layout(str(tmp_path / f"layout-{name}"), tars)
    with contextlib.closing(store.Store(str(tmp_path / f"store-{name}"))) as kept, contextlib.ExitStack() as stack:
        image = importing.import_layout(kept, layout, reference="test")
        paths = [os.path.join(kept.layers_dir, layer.path) for layer in image.layers]
        mounts = [stack.enter_context(mounted(path, tmp_path / f"{name}-{number}")) for number, path in enumerate(paths)]
        yield [str(mount) for mount in reversed(mounts)]


@contextlib.contextmanager
def changed_overlay(tmp_path):
    """An overlay over LOWER, on a filesystem of its own; gives (merged, upper)."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(scratch)], check=True)
    try:
        for name in ("upper", "work"):
            (scratch / name).mkdir()
        with layers_mounted(tmp_path, "lower", [LOWER]) as (lower,):
            options = f"lowerdir={lower},upperdir={scratch / 'upper'},workdir={scratch / 'work'},index=off,metacopy=off,redirect_dir=off"
            with mounted("overlay", tmp_path / "merged", kind="overlay", options=options) as merged:
                yield merged, scratch / "upper"
    finally:
        subprocess.run(["umount", str(scratch)], check=True)


def change(merged):
    """One of every change that a program can make."""
    (merged / "etc/gone").unlink()
    (merged / "etc/changed").write_bytes(b"new")
    (merged / "etc/added").write_bytes(b"added")
    os.link(merged / "etc/added", merged / "etc/other-name")
    os.link(merged / "etc/added", merged / "linked-from-above")
    subprocess.run(["rm", "-r", str(merged / "replaced"), str(merged / "was-dir"), str(merged / "was-file")], check=True)
    (merged / "replaced").mkdir(mode=0o711)
    (merged / "replaced/new").write_bytes(b"n")
    (merged / "was-dir").write_bytes(b"now a file")
    (merged / "was-file").mkdir()
    os.chmod(merged / "deep/er", 0o2755)
    os.symlink("../anywhere/" + "x" * 200, merged / "deep/link")
    os.mkfifo(merged / "fifo", 0o640)
    os.chown(merged / "etc/changed", 1234, 60_000)
    os.utime(merged / "etc/changed", ns=(0, 1_234_567_890_123_456_789))
    (merged / ("n" * 250)).write_bytes(b"long")
    with (merged / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(SPARSE_BYTES)


def test_the_layers_merge_to_what_overlay_merged(tmp_path):
    """Whiteouts, opaque directories, links, owners, modes, times, holes: the image of lower and new layer is the tree that the program saw."""
    with changed_overlay(tmp_path) as (merged, upper):
        change(merged)
        layer, done = write(upper)
        assert (done.dropped, done.size_bytes) == ([], len(layer))
        assert len(layer) < 3 << 20
        expected = describe_tree(merged)
    found = entries_of(layer)
    assert {b"etc/.wh.gone", b"replaced/.wh..wh..opq"} <= found.keys()
    assert found[b"sparse"].is_sparse
    with (
        layers_mounted(tmp_path, "again", [LOWER, layer]) as lowers,
        mounted("overlay", tmp_path / "merged-again", kind="overlay", options="ro,lowerdir=" + ":".join(lowers)) as again,
    ):
        seen = describe_tree(again)
    for each in (seen, expected):  # the root is the base layer's; overlay counts links of directories its own way
        each.pop(".")
        for name, what in each.items():
            each[name] = (*what[:5], *what[6:]) if stat.S_ISDIR(int(what[0], 8)) else what
    assert seen.keys() == expected.keys()
    assert {name: (seen[name], expected[name]) for name in seen if seen[name] != expected[name]} == {}


@pytest.mark.host("the bytes of a layer do not depend on the kernel")
def test_the_same_tree_gives_the_same_bytes(tmp_path):
    """In whatever order it was made, and however its holes lie on the disk."""
    names = [b"b", b"a", b"c/z", b"c/y", b"ab", b"\xff"]
    layers = []
    for number, order in enumerate((names, names[::-1])):
        root = os.fsencode(tmp_path / str(number))
        os.makedirs(root + b"/c")
        for name in order:
            with open(root + b"/" + name, "wb") as file:
                if number:
                    file.write(bytes(2 << 20) + name)
                else:
                    file.seek(2 << 20)
                    file.write(name)
        for directory, _, files in os.walk(root):
            for name in (*files, b"."):
                os.utime(os.path.join(directory, name), ns=(0, 5_000_000_000))
        layers.append(write(root)[0])
    assert layers[0] == layers[1]
    assert list(entries_of(layers[0])) == [b"a", b"ab", b"b", b"c/", b"c/y", b"c/z", b"\xff"]


@pytest.mark.host("arithmetic does not depend on the kernel")
def test_owners_and_times_are_those_inside(tmp_path):
    """Host ids become the sandbox's; those of nobody there become nobody; times are clamped, never raised."""
    for name, owner, seconds in (("root", ID_BASE, 50), ("last", ID_BASE + 65_535, 100), ("host", 0, 101), ("other", ID_BASE + 65_536, 10**9)):
        (tmp_path / name).write_bytes(b"x")
        os.chown(tmp_path / name, owner, owner)
        os.utime(tmp_path / name, ns=(0, seconds * 10**9 + 5))
    found = entries_of(write(tmp_path, id_base=ID_BASE, clamp_seconds=100)[0])
    owners = {name: (each.uid, each.gid, each.mtime_ns) for name, each in found.items() if name != b"./"}
    assert owners == {
        b"root": (0, 0, 50 * 10**9 + 5), b"last": (65_535, 65_535, 100 * 10**9), b"host": (65_534, 65_534, 100 * 10**9),
        b"other": (65_534, 65_534, 100 * 10**9),
    }  # fmt: skip


def test_attributes_of_users_pass_and_no_others(tmp_path):
    """Those of overlay, of the kernel's security and of ACLs stay behind."""
    (tmp_path / "file").write_bytes(b"x")
    os.setxattr(tmp_path / "file", "user.kept", b"1")
    os.setxattr(tmp_path / "file", "user.a=b", b"1")
    os.setxattr(tmp_path / "file", "trusted.other", b"1")
    os.setxattr(tmp_path / "file", "user.overlay.opaque", b"y")
    os.setxattr(tmp_path / "file", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(tmp_path / "file", "trusted.overlay.origin", b"x")
    layer, done = write(tmp_path)
    assert entries_of(layer)[b"file"].xattrs == ((b"user.kept", b"1"),)
    assert done.dropped == [(b"file", "its attribute has '=' in the name")]


@pytest.mark.host("what is left out is decided by name and type")
def test_what_has_no_place_in_a_layer_is_told(tmp_path):
    """Devices, sockets and names that would hide others are left out, by name and reason."""
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    (tmp_path / ".wh.passwd").write_bytes(b"")
    (tmp_path / ".wh..wh..opq").write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
    os.chmod(tmp_path, 0o755)
    layer, done = write(tmp_path)
    assert list(entries_of(layer)) == []
    assert done.dropped_count == 5
    assert {path for path, _ in done.dropped} == {b"null", b"disk", b".wh.passwd", b".wh..wh..opq", b"sock"}


@pytest.mark.host("the format of a layer does not depend on the kernel")
def test_a_root_of_its_own_kind_is_written(tmp_path):
    """The image's root is 0755 and root's; only another one is told."""
    os.chmod(tmp_path, 0o755)
    assert list(entries_of(write(tmp_path)[0])) == []
    os.chmod(tmp_path, 0o1777)
    assert entries_of(write(tmp_path)[0])[b"./"].mode == stat.S_IFDIR | 0o1777


def test_a_renamed_directory_is_refused(tmp_path):
    """A layer cannot say what redirect says; leaving it out would lose the files below it."""
    (tmp_path / "moved").mkdir()
    os.setxattr(tmp_path / "moved", "trusted.overlay.redirect", b"old")
    with pytest.raises(InvalidTree, match=r"moved.*redirect_dir"):
        write(tmp_path)


def test_a_mount_below_is_passed_over(tmp_path):
    """The walk stays on the filesystem on which it began."""
    tree = tmp_path / "tree"
    (tree / "mnt").mkdir(parents=True)
    (tree / "file").write_bytes(b"x")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tree / "mnt")], check=True)
    try:
        (tree / "mnt/secret").write_bytes(b"x")
        assert set(entries_of(write(tree)[0])) == {b"file"}
    finally:
        subprocess.run(["umount", str(tree / "mnt")], check=True)


@pytest.mark.host("our own bounds do not depend on the kernel")
def test_a_deep_tree_is_refused_and_nothing_stays_open(tmp_path):
    """Bounded, with a sentence; the ledger compares the open files."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(400):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    with pytest.raises(InvalidTree, match="deeper than"):
        write(tmp_path)


def test_a_racer_leads_nowhere(tmp_path):
    """While a directory, a file and a link to a canary take turns under one name, no byte of the canary is ever written."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_bytes(b"CANARY" * 100)
    tree = tmp_path / "tree"
    tree.mkdir()
    stop = threading.Event()

    def race():
        for name, make in (("d", os.mkdir), ("f", lambda path: open(path, "wb").close())):
            make(tmp_path / f"spare-{name}")
        os.symlink(canary, tmp_path / "spare-l")
        os.symlink(canary / "secret", tmp_path / "spare-s")
        while not stop.is_set():
            for name in "dfls":
                os.rename(tmp_path / f"spare-{name}", tree / "x")
                os.rename(tree / "x", tmp_path / f"spare-{name}")

    racer = threading.Thread(target=race)
    racer.start()
    try:
        kinds = set()
        for _ in range(3000):
            layer, _ = write(tree)
            assert b"CANARYCANARY" not in layer
            kinds |= {stat.S_IFMT(entry.mode) for path, entry in entries_of(layer).items() if path != b"./"}
    finally:
        stop.set()
        racer.join()
    assert len(kinds) >= 2  # the race was real: several of them were met
