"""Build contexts as archives: what is in them, and what stays behind."""

from __future__ import annotations

import io
import os
import pathlib
import stat
import tarfile

import pytest

from skerry import building, packing
from skerry.errors import SkerryError
from skerry_api import ignoring


@pytest.fixture
def context(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"a" * 513)
    (tmp_path / "a").chmod(0o4751)
    (tmp_path / "d/x").write_text("x")
    (tmp_path / "d/e/y").write_text("")
    (tmp_path / "ü").write_text("name")
    (tmp_path / "l").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    os.utime(tmp_path / "a", ns=(0, 1_600_000_000_123_456_789))
    return tmp_path


def members(context: pathlib.Path, rules: str = "") -> list[tarfile.TarInfo]:
    content = b"".join(packing.pack(str(context), ignoring.parse(rules)))
    assert len(content) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = archive.getmembers()
        assert archive.extractfile("a").read() == b"a" * 513 if any(each.name == "a" for each in found) else True
        return found


def test_what_is_in_it(context: pathlib.Path) -> None:
    """Directories, files and links, in order; links are not followed; owners are root; times to the nanosecond."""
    found = members(context)
    assert [(each.name, each.type) for each in found] == [
        (".", tarfile.DIRTYPE), ("a", tarfile.REGTYPE), ("d", tarfile.DIRTYPE), ("d/e", tarfile.DIRTYPE), ("d/e/y", tarfile.REGTYPE),
        ("d/x", tarfile.REGTYPE), ("l", tarfile.SYMTYPE), ("loop", tarfile.SYMTYPE), ("ü", tarfile.REGTYPE),
    ]  # fmt: skip
    assert {(each.uid, each.gid, each.uname) for each in found} == {(0, 0, "")}
    assert (found[1].mode, found[1].pax_headers["mtime"]) == (0o4751, "1600000000.123456789")
    assert found[6].linkname == "/etc/passwd"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param("d", ["a", "l", "loop", "ü"], id="a directory"),
        pytest.param("*\n!d/e/y", ["d", "d/e", "d/e/y"], id="one file, with the directories above it"),
        pytest.param("*\n!d/n", [], id="an exception that is not there leaves no directory"),
        pytest.param("*\n!d/e/y\n!ü", ["d", "d/e", "d/e/y", "ü"], id="what is behind a directory is not below it"),
    ],
)
def test_what_is_left_out(context: pathlib.Path, rules: str, expected: list[str]) -> None:
    """.dockerignore is applied here, so that what it names is never sent."""
    assert [each.name for each in members(context, rules)[1:]] == expected


def test_a_directory_exchanged_for_a_link(context: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk holds directories open and follows no link: what takes a directory's place meanwhile is an error, not its content."""
    real = os.stat

    def racing(name: object, **options: object) -> os.stat_result:
        found = real(name, **options)  # type: ignore[arg-type]
        if name == "d" and stat.S_ISDIR(found.st_mode):
            os.rename(context / "d", context / "was")
            os.symlink("/etc", context / "d")
        return found

    monkeypatch.setattr(packing.os, "stat", racing)
    with pytest.raises(OSError, match="d"):
        list(packing.pack(str(context), ignoring.Rules()))


def test_the_ignore_file_of_the_dockerfile_comes_first(context: pathlib.Path) -> None:
    """FILE.dockerignore wins over .dockerignore; none is no rule; a bad one is an error that names it."""
    assert not building.read_rules(str(context), None).patterns
    (context / ".dockerignore").write_text("a")
    assert building.read_rules(str(context), None).is_ignored("a")
    (context / "other.dockerignore").write_text("b")
    rules = building.read_rules(str(context), str(context / "other"))
    assert (rules.is_ignored("a"), rules.is_ignored("b")) == (False, True)
    (context / ".dockerignore").write_text("!")
    with pytest.raises(SkerryError, match=r"\.dockerignore: line 1"):
        building.read_rules(str(context), None)
