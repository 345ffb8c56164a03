"""The tar of copies: what is rendered is read back, by us and by others; what is damaged is refused."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_node.keeper import archive

NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and b"\n" not in name)


@given(
    name=NAMES,
    target=NAMES,
    kind=st.sampled_from([archive.FILE, archive.SYMLINK, archive.DIRECTORY, archive.FIFO]),
    mode=st.integers(0, 0o7777),
    owner=st.integers(0, 65_535),
    size=st.integers(0, 1 << 62),
    mtime_ns=st.integers(-(10**18), 10**19),
)
def test_what_is_rendered_is_read_back(name, target, kind, mode, owner, size, mtime_ns):
    """Every field, of any name, size and time."""
    member = archive.Member(name=name, kind=kind, mode=mode, uid=owner, gid=owner, size=size, mtime_ns=mtime_ns, target=target, real_size=size)
    assert _read(archive.render(member)) == member


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 20)), max_size=200),
)
def test_maps_are_read_back(steps):
    """A sparse file's map, whatever its length: blocks of 512 bytes, numbers across their borders."""
    segments, place = [], 0
    for gap, length in steps:
        segments.append((place + gap, length))
        place += gap + length
    text = archive.render_map(segments)
    assert len(text) % archive.BLOCK == 0
    numbers = [int(line) for line in text.rstrip(b"\0").split(b"\n") if line]
    assert numbers[0] == len(segments)
    assert archive.parse_map(numbers[1:], place) == segments


def test_others_read_it():
    """Python's tarfile sees the names, owners, times and links that we wrote, and a sparse file's holes."""
    long = b"d/" + b"x" * 150
    body = archive.render_map([(4, 3), (10, 0)]) + b"abc"
    members = [
        (archive.Member(name=long, kind=archive.FILE, mode=0o4755, uid=1, gid=3_000_000, size=3, mtime_ns=1_700_000_000_123_456_789), b"abc"),
        (archive.Member(name="ü".encode(), kind=archive.SYMLINK, target=b"/t" * 80), b""),
        (archive.Member(name=b"hole", kind=archive.FILE, size=len(body), real_size=10, is_sparse=True), body),
    ]
    data = b"".join(archive.render(member) + body + bytes(-len(body) % 512) for member, body in members) + archive.END
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        first, link, hole = opened.getmembers()
        assert (first.name, first.mode, first.gid, first.pax_headers["mtime"]) == (long.decode(), 0o4755, 3_000_000, "1700000000.123456789")
        assert (link.name, link.linkname) == ("ü", "/t" * 80)
        assert opened.extractfile(hole).read() == b"\0\0\0\0abc\0\0\0"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda data: data, None, id="all is well"),
        pytest.param(lambda data: data[:10] + b"y" + data[11:], "checksum", id="a byte of the header"),
        pytest.param(lambda data: data[:124] + b"zzzzzzzzzzz\0" + data[136:], "checksum", id="a size that is no number"),
    ],
)
def test_a_damaged_header_is_refused(change, problem):
    """The checksum is looked at first."""
    data = change(archive.render(archive.Member(name=b"name", kind=archive.FILE, size=3)))
    if problem is None:
        assert _read(data).name == b"name"
        return
    with pytest.raises(archive.BadArchive, match=problem):
        _read(data)


@pytest.mark.parametrize("body", [b"5 a=b\n", b"99 path=x\n", b"x path=y\n", b"6 a=b", b"8 path\n\n", b"0 a=b\n", b"7 a=bcd\n"])
def test_a_damaged_pax_header_is_refused(body):
    """Lengths that do not fit, records without a value."""
    with pytest.raises(archive.BadArchive):
        archive.parse_records(body)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(b"a/b", b"a/b", id="all is well"),
        pytest.param(b"./a//b/./c/", b"a/b/c", id="dots and empty parts"),
        pytest.param(b".", b"", id="the directory itself"),
        pytest.param(b"..", None, id="the parent"),
        pytest.param(b"a/../../b", None, id="a way out through a directory"),
        pytest.param(b"/etc/passwd", None, id="absolute"),
        pytest.param(b"a" * 5000, None, id="too long"),
    ],
)
def test_names_stay_inside(name, expected):
    """Only names below the directory, spelled plainly."""
    if expected is not None:
        assert archive.check_name(name) == expected
        return
    with pytest.raises(archive.BadArchive):
        archive.check_name(name)


@pytest.mark.parametrize("numbers", [(5, 3, 2, 1), (0, 11), (0, 5, 4, 1)], ids=["backwards", "beyond the end", "overlapping"])
def test_a_damaged_map_is_refused(numbers):
    with pytest.raises(archive.BadArchive):
        archive.parse_map(numbers, 10)


def _read(data):
    records = {}
    while True:
        member, data = archive.parse(data[:512]), data[512:]
        assert member is not None
        if member.kind != archive.PAX:
            archive.amend(member, records)
            return member
        records = archive.parse_records(data[: member.size])
        data = data[member.size + -member.size % 512 :]
