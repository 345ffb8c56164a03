"""Variables from options and files."""

import pytest

from skerry.cli import variables


def test_a_file_is_read_as_docker_reads_it(tmp_path):
    """Comments and empty lines are nothing, a name alone is passed on, quotes are part of the value; -e wins; a later file over an earlier."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("\ufeff# words\n\nA=1\n  B='two words' # no comment\nHOME\nUNSET\nC=\n", encoding="utf-8")
    second.write_text("A=2\r\nD=x=y", encoding="utf-8")
    found = variables.collect([str(first), str(second)], ["C=last", "E"], {"HOME": "/root"})
    assert found == ["A=2", "B='two words' # no comment", "HOME=/root", "C=last", "D=x=y"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"A=1\nB C=2\n", "line 2", id="a space in a name"),
        pytest.param(b"A =1\n", "line 1", id="a space behind a name"),
        pytest.param(b"=1\n", "line 1", id="no name"),
        pytest.param(b"A=\xff\n", "UTF-8", id="bytes"),
        pytest.param(b"A=" + b"x" * variables.MAX_FILE_BYTES, "more than", id="large"),
        pytest.param(None, "No such file", id="missing"),
    ],
)
def test_a_file_that_cannot_be_meant_is_named(tmp_path, content, words):
    """With the line, and the option."""
    path = tmp_path / "env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(variables.BadVariableError, match=words) as caught:
        variables.collect([str(path)], [], {})
    assert caught.value.option == "--env-file"
    assert str(path) in str(caught.value)
