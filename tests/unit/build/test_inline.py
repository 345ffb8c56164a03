"""Contexts given as names and contents."""

from __future__ import annotations

import contextlib
import pathlib

import pytest

from skerry_node.build import inline, trees
from skerry_node.build.errors import InvalidContext


def test_files_become_a_context(tmp_path: pathlib.Path) -> None:
    """Directories are implied; .dockerignore is heard."""
    files = {"Dockerfile": b"FROM x", "d/e/f": b"1", "./d/g": b"", ".dockerignore": b"*.md", "n.md": b"no"}
    with contextlib.closing(inline.pack(files, directory=str(tmp_path))) as found:
        node = trees.resolve(found.root, b"d/e/f").node
        assert node is not None
        assert (b"".join(node.read()), oct(node.mode)) == (b"1", "0o100644")
        assert sorted(found.root.children()) == [b".dockerignore", b"Dockerfile", b"d"]
        assert sorted(trees.resolve(found.root, b"d").node.children()) == [b"e", b"g"]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"": b""}, id="no name"),
        pytest.param({"../x": b""}, id="upwards"),
        pytest.param({"a\0": b""}, id="a NUL"),
        pytest.param({"a": b"", "a/b": b""}, id="a file as directory"),
        pytest.param({"a" * 300: b""}, id="a long name"),
        pytest.param({"a/" * 2500 + "b": b""}, id="a long path"),
        pytest.param({f"f{number}": b"" for number in range(1001)}, id="too many"),
        pytest.param({".dockerignore": b"!"}, id="an ignore file that is none"),
    ],
)
def test_what_is_no_context(tmp_path: pathlib.Path, files: dict[str, bytes]) -> None:
    """It is an error, and nothing stays open."""
    with pytest.raises(InvalidContext):
        inline.pack(files, directory=str(tmp_path))
