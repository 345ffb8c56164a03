"""What .dockerignore leaves out, as Docker's own documentation and tests have it."""

from __future__ import annotations

import pytest

from skerry_api import ignoring


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        pytest.param("", "a", False, id="nothing is said"),
        pytest.param("a", "a", True, id="a name"),
        pytest.param("a", "b/a", False, id="a name is of the root only"),
        pytest.param("a", "a/b", True, id="a directory takes what is below it"),
        pytest.param("/a", "a", True, id="a slash in front means nothing"),
        pytest.param("a/", "a/b", True, id="nor behind"),
        pytest.param("./a", "a", True, id="nor a dot"),
        pytest.param("# a\n#b", "#b", False, id="comments"),
        pytest.param(" a ", "a", True, id="blanks around"),
        pytest.param("*", "a", True, id="everything"),
        pytest.param("*.md", "x.md", True, id="a star"),
        pytest.param("*.md", "d/x.md", False, id="a star stops at a slash"),
        pytest.param("*/x", "d/x", True, id="one directory"),
        pytest.param("*/x", "d/e/x", False, id="not two"),
        pytest.param("*/*/x", "d/e/x", True, id="two"),
        pytest.param("**/x", "x", True, id="any number of directories, none"),
        pytest.param("**/x", "d/e/x", True, id="any number of directories, two"),
        pytest.param("d/**", "d/e/x", True, id="all below"),
        pytest.param("d/**", "d", False, id="but not itself"),
        pytest.param("d/**/x", "d/x", True, id="in the middle"),
        pytest.param("te?p", "temp", True, id="a question mark"),
        pytest.param("te?p", "te/p", False, id="which is no slash"),
        pytest.param("[a-c]x", "bx", True, id="a class"),
        pytest.param("[^a]x", "ax", False, id="a class of others"),
        pytest.param("a.b", "axb", False, id="a dot is a dot"),
        pytest.param("a+(b)$", "a+(b)$", True, id="so is all else"),
        pytest.param(r"\*", "*", True, id="an escaped star"),
        pytest.param(r"\*", "a", False, id="is no star"),
        pytest.param("*\n!a", "a", False, id="an exception"),
        pytest.param("*.md\n!R*.md", "README.md", False, id="an exception by pattern"),
        pytest.param("*.md\n!R*.md\nREADME-s.md", "README-s.md", True, id="the last one decides"),
        pytest.param("*.md\nREADME-s.md\n!R*.md", "README-s.md", False, id="whatever stood before"),
        pytest.param("d\n!d/e", "d/e/x", False, id="below an excepted directory"),
        pytest.param("d\n!d/e", "d/x", True, id="beside it"),
        pytest.param("!a", "a", False, id="an exception to nothing"),
        pytest.param("../a", "a", False, id="above the context"),
    ],
)
def test_what_is_ignored(lines, path, expected) -> None:
    """The last pattern that matches a path, or a directory above it, decides."""
    assert ignoring.parse(lines).is_ignored(path) is expected


@pytest.mark.parametrize("lines", ["!", "a\n! ", "[a"])
def test_lines_that_are_no_pattern(lines: str) -> None:
    """They are errors that name the line."""
    with pytest.raises(ignoring.InvalidIgnoreFile, match=r"line \d"):
        ignoring.parse(lines)
