"""Copies on this side: what they are called, and that nothing a sandbox sends is written where it was not asked for."""

from __future__ import annotations

import io
import os
import pathlib
import tarfile

import pytest

from skerry import archives, copying
from skerry.errors import SkerryError


@pytest.mark.parametrize(
    ("source", "is_directory", "target", "kind", "expected"),
    [
        pytest.param("a/f", False, "/x/new", None, ("/x", "new"), id="a file under a new name"),
        pytest.param("a/f", False, "/x", "d", ("/x", "f"), id="a file into a directory"),
        pytest.param("a/f", False, "/x/g", "-", ("/x", "g"), id="a file over a file"),
        pytest.param("a/f", False, "/x/", None, "no directory", id="a file into a directory that is not there"),
        pytest.param("a/d", True, "/x/new", None, ("/x", "new"), id="a directory under a new name"),
        pytest.param("a/d/", True, "/x", "d", ("/x", "d"), id="a directory into a directory"),
        pytest.param("a/d/.", True, "/x", "d", ("/x", ""), id="what is in a directory"),
        pytest.param("a/d", True, "/x/f", "-", "is a file", id="a directory over a file"),
        pytest.param(".", True, "/x", "d", ("/x", ""), id="what is here"),
        pytest.param("f", False, "new", None, (".", "new"), id="a relative target"),
        pytest.param("f", False, "/new", None, ("/", "new"), id="a target in the root"),
    ],
)
def test_what_a_copy_is_called(source, is_directory, target, kind, expected):
    """Docker's rules."""
    if isinstance(expected, str):
        with pytest.raises(copying.CopyFailed, match=expected):
            copying.find_place(source, is_directory=is_directory, target=target, target_kind=kind)
        return
    found = copying.find_place(source, is_directory=is_directory, target=target, target_kind=kind)
    assert (found.directory, found.name) == expected


def test_a_tree_comes_back(tmp_path):
    """Content, modes, times, links and holes."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"content")
    os.chmod(tree / "sub" / "file", 0o640)
    os.link(tree / "sub" / "file", tree / "hard")
    os.symlink("sub/file", tree / "soft")
    with open(tree / "hole", "wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
        file.truncate(3 << 20)
    os.utime(tree / "sub", ns=(1, 1_600_000_000_987_654_321))
    data = b"".join(archives.pack(str(tree), "copy", follows=False, warn=pytest.fail))
    archives.unpack(io.BytesIO(data), str(tmp_path), "copy", keeps_owners=False, warn=pytest.fail)
    copy = tmp_path / "copy"
    assert (copy / "hard").read_bytes() == b"content"
    assert (copy / "hard").stat().st_ino == (copy / "sub" / "file").stat().st_ino
    assert (copy / "sub" / "file").stat().st_mode & 0o777 == 0o640
    assert os.readlink(copy / "soft") == "sub/file"
    assert (copy / "sub").stat().st_mtime_ns == 1_600_000_000_987_654_321
    assert (copy / "hole").read_bytes() == (tree / "hole").read_bytes()
    assert (copy / "hole").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([("../out", "file", "")], id="the parent"),
        pytest.param([("/tmp/out", "file", "")], id="absolute"),
        pytest.param([("other", "file", "")], id="another name"),
        pytest.param([("copy", "dir", ""), ("copy/a/../../../out", "file", "")], id="a way out through a directory"),
        pytest.param([("copy", "dir", ""), ("copy/l", "link", "../.."), ("copy/l/out", "file", "")], id="through a link"),
        pytest.param([("copy", "link", ".."), ("copy/out", "file", "")], id="through a link in place of the directory"),
        pytest.param([("copy", "dir", ""), ("copy/h", "hard", "../outside")], id="a hard link to a file outside"),
        pytest.param([("copy", "dir", ""), ("copy/l", "link", ".."), ("copy/h", "hard", "copy/l/outside")], id="a hard link through a link"),
        pytest.param([("copy", "dir", ""), ("copy/l", "link", "../../outside"), ("copy/l", "file", "")], id="over a link to a file outside"),
    ],
)
def test_nothing_is_written_outside(tmp_path, members):
    """Whatever the archive says, the directory's surroundings stay as they are (kubectl cp's CVEs, CVE-2018-15664)."""
    place = tmp_path / "in" / "place"
    place.mkdir(parents=True)
    (tmp_path / "in" / "outside").write_text("mine")
    before = _everything(tmp_path, place)
    warnings: list[str] = []
    try:
        archives.unpack(io.BytesIO(_tar(members)), str(place), "copy", keeps_owners=False, warn=warnings.append)
    except SkerryError as error:
        warnings.append(str(error))
    assert _everything(tmp_path, place) == before
    assert warnings or (place / "copy" / "l").read_bytes() == b"evil"
    assert (tmp_path / "in" / "outside").stat().st_nlink == 1


def test_the_table_above_can_fail(tmp_path):
    """The positive control: tarfile without its filters writes outside with the same archive."""
    (tmp_path / "in").mkdir()
    with tarfile.open(fileobj=io.BytesIO(_tar([("../out", "file", "")]))) as archive:
        archive.extractall(tmp_path / "in", filter="fully_trusted")
    assert (tmp_path / "out").read_bytes() == b"evil"


def test_set_id_bits_are_dropped(tmp_path):
    """A file from a sandbox that is ours here must not run as us for others."""
    info = tarfile.TarInfo("copy")
    info.mode = 0o6755
    archives.unpack(io.BytesIO(info.tobuf() + bytes(1024)), str(tmp_path), "copy", keeps_owners=False, warn=pytest.fail)
    assert (tmp_path / "copy").stat().st_mode & 0o7777 == 0o755


def _tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}[kind]
            info.linkname, info.mode = target, 0o755
            info.size = 4 if kind == "file" else 0
            archive.addfile(info, io.BytesIO(b"evil") if kind == "file" else None)
    return out.getvalue()


def _everything(root, place):
    found = {}
    for directory, names, files in os.walk(root):
        if directory.startswith(str(place)):
            continue
        for name in (*names, *files):
            path = os.path.join(directory, name)
            found[path] = os.path.isdir(path) or pathlib.Path(path).read_bytes()
    return found
