"""Tar as we write it: read back by our own reader, by Python's and by GNU tar; the bytes depend on nothing but the members."""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_node.image import tar, tarwriting
from skerry_node.image.errors import InvalidTree


def write(members):
    """The archive of (entry, content) pairs."""
    out = io.BytesIO()
    writer = tarwriting.Writer(out)
    for entry, content in members:
        writer.add(entry, content)
    writer.finish()
    assert writer.size_bytes == len(out.getvalue())
    return out.getvalue()


def file_entry(path=b"file", **changes: Any):
    return tar.Entry(**{"path": path, "mode": stat.S_IFREG | 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, **changes})


def read(archive):
    """What our reader gives: entries, and content with zeros for holes."""
    reader = tar.Reader(io.BytesIO(archive))
    found = []
    for entry in reader:
        pieces = reader.read_content() if stat.S_ISREG(entry.mode) else ()
        found.append((entry, b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in pieces)))
    return found


ENTRIES = [
    pytest.param(file_entry(), id="plain"),
    pytest.param(file_entry(b"n" * 100), id="name of 100 bytes"),
    pytest.param(file_entry(b"d/" + b"n" * 255), id="name of more than 100 bytes"),
    pytest.param(file_entry(b"/".join([b"p" * 200] * 20)), id="path of 4,019 bytes"),
    pytest.param(file_entry(b"\xff\xfe not utf-8 \n"), id="name that is no text"),
    pytest.param(file_entry(uid=8**7 - 1, gid=8**7 - 1), id="largest octal owner"),
    pytest.param(file_entry(uid=8**7, gid=0xFFFFFFFE), id="32-bit owners"),
    pytest.param(file_entry(mtime_ns=1_700_000_000_123_456_789), id="nanoseconds"),
    pytest.param(file_entry(mtime_ns=-1_500_000_000), id="before 1970"),
    pytest.param(file_entry(mtime_ns=8_589_934_591_000_000_000), id="the last second of 33 bits"),
    pytest.param(file_entry(mode=stat.S_IFREG | 0o7777), id="all mode bits"),
    pytest.param(file_entry(xattrs=((b"user.a", b"1"), (b"user.b", bytes(range(256)) * 10))), id="attributes"),
    pytest.param(file_entry(b"dir/", mode=stat.S_IFDIR | 0o1777), id="directory"),
    pytest.param(file_entry(b"link", mode=stat.S_IFLNK | 0o777, target=b"t"), id="symlink"),
    pytest.param(file_entry(b"link", mode=stat.S_IFLNK | 0o777, target=b"t" * 4095), id="symlink of 4,095 bytes"),
    pytest.param(file_entry(b"fifo", mode=stat.S_IFIFO | 0o600), id="fifo"),
    pytest.param(file_entry(b"null", mode=stat.S_IFCHR | 0o666, device=(1, 3)), id="device"),
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_our_reader_gives_back_what_was_written(entry):
    """Every field of every kind."""
    ((found, content),) = read(write([(entry, None)]))
    assert found == entry
    assert content == b""


@pytest.mark.parametrize("entry", ENTRIES)
def test_another_reader_agrees(entry):
    """Python's tarfile, which we use nowhere else: path, mode, owner, time, target, attributes."""
    with tarfile.open(fileobj=io.BytesIO(write([(entry, None)])), errors="surrogateescape") as archive:
        (member,) = archive.getmembers()
    assert member.name.encode("utf-8", "surrogateescape") == entry.path.rstrip(b"/")
    assert (member.mode, member.uid, member.gid) == (stat.S_IMODE(entry.mode), entry.uid, entry.gid)
    assert member.linkname.encode() == entry.target
    assert member.mtime == pytest.approx(entry.mtime_ns / 1e9, abs=1e-6)
    attributes = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")}
    assert attributes.keys() == {"SCHILY.xattr." + name.decode() for name, _ in entry.xattrs}


def test_a_hard_link_names_its_first_name():
    """It has no type and no content of its own."""
    first, link = file_entry(b"a", size=3), file_entry(b"b", target=b"a", is_hardlink=True)
    found = read(write([(first, tarwriting.Content([b"abc"])), (link, None)]))
    assert found[0] == (first, b"abc")
    assert (found[1][0].is_hardlink, found[1][0].target, found[1][0].path) == (True, b"a", b"b")


@pytest.mark.parametrize(
    ("size", "pieces", "expected"),
    [
        pytest.param(6, [b"abc", b"def"], b"abcdef", id="all is well"),
        pytest.param(6, [b"abc"], b"abc\0\0\0", id="the file was cut meanwhile"),
        pytest.param(4, [b"abc", b"def"], b"abcd", id="the file grew meanwhile"),
        pytest.param(2 << 20, [], bytes(2 << 20), id="the file was emptied meanwhile"),
    ],
)
def test_content_has_the_size_that_was_announced(size, pieces, expected):
    """Whatever the pieces are, the archive stays sound: the next member is found."""
    found = read(write([(file_entry(size=size), tarwriting.Content(pieces)), (file_entry(b"next"), None)]))
    assert found[0][1] == expected
    assert found[1][0].path == b"next"


@pytest.mark.parametrize(
    ("size", "extents"),
    [
        pytest.param(5000, [(0, 512), (1024, 512)], id="hole at the end"),
        pytest.param(100, [(90, 10)], id="hole at the start"),
        pytest.param(100, [], id="nothing but a hole"),
        pytest.param(5 << 30, [(0, 512), ((5 << 30) - 7, 7)], id="more than 4 GiB"),
    ],
)
def test_holes_come_back(tmp_path, size, extents):
    """Our reader gives the same extents; GNU tar unpacks a file of that size with the content in its places."""
    content = b"".join(bytes([65 + number]) * length for number, (_, length) in enumerate(extents))
    entry = file_entry(b"d/" + b"s" * 150, size=size)
    archive = write([(entry, tarwriting.Content([content], extents=extents)), (file_entry(b"next"), None)])
    assert len(archive) <= 20_480
    reader = tar.Reader(io.BytesIO(archive))
    pieces, position, names = [], 0, []
    for each in reader:
        names.append((each.path, each.size))
        for piece in reader.read_content() if each.size else ():
            if isinstance(piece, bytes):
                pieces.append((position, len(piece)))
            position += piece if isinstance(piece, int) else len(piece)
    assert (pieces, position) == (extents, size)
    assert names == [(entry.path, size), (b"next", 0)]
    (tmp_path / "a.tar").write_bytes(archive)
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(tmp_path / "a.tar")], check=True)
    unpacked = tmp_path / entry.path.decode()
    assert unpacked.stat().st_size == size
    with unpacked.open("rb") as file:
        for number, (offset, length) in enumerate(extents):
            file.seek(offset)
            assert file.read(length) == bytes([65 + number]) * length


def test_what_our_reader_would_refuse_is_not_written():
    """The bounds are the same on both sides."""
    for entry in (file_entry(b"p" * 4096), file_entry(size=tar.MAX_TOTAL_BYTES + 1), file_entry(xattrs=((b"user.a", bytes(60_000)),))):
        with pytest.raises(InvalidTree):
            write([(entry, tarwriting.Content([]))])


def test_entries_are_bounded(monkeypatch):
    """A pax header counts as one."""
    monkeypatch.setattr(tar, "MAX_ENTRIES", 3)
    write([(file_entry(), None)] * 3)
    with pytest.raises(InvalidTree, match="more than 3 entries"):
        write([(file_entry(mtime_ns=1), None)] * 2)


@settings(deadline=None)  # machines differ
@given(
    st.lists(
        st.builds(
            file_entry,
            path=st.binary(min_size=1, max_size=300).map(lambda raw: b"x" + raw.replace(b"\0", b"_") + b"x"),
            uid=st.integers(0, 0xFFFFFFFE),
            gid=st.integers(0, 0xFFFFFFFE),
            mtime_ns=st.integers(-(10**18), 8 * 10**18),
            mode=st.integers(0, 0o7777).map(lambda bits: stat.S_IFREG | bits),
            xattrs=st.dictionaries(st.binary(min_size=1, max_size=40).map(lambda raw: b"user." + raw.translate(None, b"=\0") + b"x"), st.binary())
            .map(lambda pairs: tuple(sorted(pairs.items())))
            .filter(lambda pairs: not any(name.startswith(b"user.overlay.") for name, _ in pairs)),
        ),
        max_size=5,
    )
)
def test_any_entries_come_back(entries):
    """Written and read again they are equal, and the same twice."""
    archive = write([(entry, None) for entry in entries])
    assert [entry for entry, _ in read(archive)] == entries
    assert write([(entry, None) for entry in entries]) == archive
