"""Entries of objects as files: which, how large, and what a write that failed or was killed leaves."""

from __future__ import annotations

import os

import pytest

from skerry_api.errors import InvalidManifest
from skerry_api.volumes import Item, ObjectKind, Projection, parse_entries
from skerry_node.volumes import projecting
from skerry_node.volumes.errors import VolumeFailed

_ENTRIES = {"a": b"1", "b": b"2"}


def _projection(*items: tuple[str, str], optional=False):
    pairs = tuple(Item(key=key, path=path) for key, path in items)
    return Projection(kind=ObjectKind.CONFIG_MAP, name="c", items=pairs, is_optional=optional)


@pytest.mark.parametrize(
    ("projection", "entries", "expected"),
    [
        pytest.param(_projection(), _ENTRIES, _ENTRIES, id="all of them"),
        pytest.param(_projection(("a", "x/y")), _ENTRIES, {"x/y": b"1"}, id="one, elsewhere"),
        pytest.param(_projection(("a", "x"), ("a", "y")), _ENTRIES, {"x": b"1", "y": b"1"}, id="one, twice"),
        pytest.param(_projection(optional=True), None, {}, id="missing, and optional"),
        pytest.param(_projection(("c", "x"), ("a", "y"), optional=True), _ENTRIES, {"y": b"1"}, id="a key missing, and optional"),
    ],
)
def test_what_is_chosen(projection, entries, expected):
    assert projecting.choose(projection, entries, "f") == expected


@pytest.mark.parametrize(
    ("projection", "entries", "says", "is_lasting"),
    [
        pytest.param(_projection(), None, "no ConfigMap c", False, id="no object"),
        pytest.param(_projection(("c", "x")), _ENTRIES, "has no key c", False, id="no key"),
        pytest.param(_projection(), {"a": bytes(projecting.MAX_BYTES + 1)}, "more than", False, id="too large"),
        pytest.param(_projection(*(("a", str(n)) for n in range(256))), {"a": bytes(1 << 20)}, "more than", False, id="one entry 256 times"),
        pytest.param(_projection(("a", "x"), ("b", "x/y")), _ENTRIES, "a file and a directory", True, id="a file as a directory"),
    ],
)
def test_what_is_refused(projection, entries, says, is_lasting):
    with pytest.raises(VolumeFailed, match=says) as caught:
        projecting.choose(projection, entries, "f")
    assert caught.value.is_lasting is is_lasting


@pytest.mark.parametrize("key", ["..data", "..", ".", "a/b", "", "a\0", "a b"])
def test_keys_that_no_api_server_takes_are_refused(key):
    """Standalone, a file may say anything."""
    with pytest.raises(InvalidManifest):
        parse_entries(ObjectKind.CONFIG_MAP, {"data": {key: "x"}})


def test_writes_replace_and_leave_nothing_between(tmp_path):
    """The same again writes nothing; a change is whole; what a killed writer left is swept by the next."""
    directory = str(tmp_path)
    assert projecting.write(directory, {"a": b"1", "d/b": b"2"}, mode=0o644, owner=os.getuid())
    assert not projecting.write(directory, {"a": b"1", "d/b": b"2"}, mode=0o644, owner=os.getuid())
    assert (tmp_path / "d" / "b").read_bytes() == b"2"
    (tmp_path / "..half").mkdir()
    (tmp_path / "..half" / "a").write_bytes(b"x")
    (tmp_path / "..data_new").symlink_to("..half")
    assert projecting.write(directory, {"a": b"3"}, mode=0o600, owner=os.getuid())
    assert (tmp_path / "a").read_bytes() == b"3"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(directory)) == sorted(["..data", os.readlink(tmp_path / "..data"), "a"])
