"""Dockerfiles as text: what they mean, and what is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_node.build import instructions as kinds
from skerry_node.build import parser, words
from skerry_node.build.errors import InvalidDockerfile


def steps(text: str) -> tuple[kinds.Instruction, ...]:
    """The instructions behind one FROM."""
    return parser.parse(b"FROM scratch\n" + text.encode()).stages[0].steps


def shell(text: str) -> kinds.Command:
    return kinds.Command((text,), is_shell=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("RUN echo hi", shell("echo hi"), id="shell form"),
        pytest.param('RUN ["echo", "$hi"]', kinds.Command(("echo", "$hi"), is_shell=False), id="exec form"),
        pytest.param("RUN ['echo']", shell("['echo']"), id="single quotes are no JSON"),
        pytest.param("RUN [ -f /x ] && true", shell("[ -f /x ] && true"), id="a test is no JSON"),
        pytest.param("RUN a \\\n  b", shell("a   b"), id="continued, blanks kept"),
        pytest.param("RUN a \\\n# comment\n\n b", shell("a  b"), id="comments and empty lines inside are left out"),
        pytest.param("RUN a \\   \nb", shell("a b"), id="blanks behind the escape character"),
        pytest.param("run echo # not a comment", shell("echo # not a comment"), id="lower case, and # inside a line"),
        pytest.param("RUN --network=none echo", shell("echo"), id="a flag"),
        pytest.param("RUN a\r\n", shell("a"), id="carriage returns"),
    ],
)
def test_run_commands(text: str, expected: kinds.Command) -> None:
    """RUN's command is what Docker would run."""
    (step,) = steps(text)
    assert isinstance(step, kinds.Run)
    assert step.command == expected


@pytest.mark.parametrize(
    ("text", "names", "contents"),
    [
        pytest.param("RUN <<EOF\na\n# b\nEOF\n", ["EOF"], ["a\n# b\n"], id="comments inside stay"),
        pytest.param("RUN <<-EOF\n\ta\n\tEOF\n", ["EOF"], ["a\n"], id="tabs are stripped"),
        pytest.param("COPY <<a <<b /x/\n1\na\n2\nb\n", ["a", "b"], ["1\n", "2\n"], id="two"),
        pytest.param("RUN cat <<'E' > /x\n$x\nE\n", ["E"], ["$x\n"], id="quoted"),
        pytest.param("RUN echo '<<EOF'", [], [], id="inside quotes it is text"),
        pytest.param("RUN cat <<< hi", [], [], id="a here-string"),
        pytest.param("RUN echo $((1<<n))", [], [], id="a shift"),
    ],
)
def test_heredocs(text: str, names: list[str], contents: list[str]) -> None:
    """Here-documents are taken from the lines behind the instruction."""
    (step,) = steps(text)
    assert isinstance(step, kinds.Run | kinds.Copy)
    assert [each.name for each in step.heredocs] == names
    assert [each.content for each in step.heredocs] == contents


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ENV a=1 b='x y' c=\"z\"", (("a", "1"), ("b", "'x y'"), ("c", '"z"')), id="pairs; quotes are for later"),
        pytest.param("ENV a b c ", (("a", "b c"),), id="the old form"),
        pytest.param("ENV a=x\\ y", (("a", "x\\ y"),), id="an escaped blank"),
        pytest.param("ENV a=", (("a", ""),), id="empty"),
        pytest.param("ENV a=b=c", (("a", "b=c"),), id="two equals"),
        pytest.param('LABEL "a b"=c', (('"a b"', "c"),), id="a quoted name"),
    ],
)
def test_pairs(text: str, expected: tuple[tuple[str, str], ...]) -> None:
    """ENV and LABEL take pairs, or one in the old form."""
    (step,) = steps(text)
    assert isinstance(step, kinds.Env | kinds.Label)
    assert step.pairs == expected


@pytest.mark.parametrize(
    ("text", "sources", "target", "flags"),
    [
        pytest.param("COPY a b /c/", ("a", "b"), "/c/", {}, id="words"),
        pytest.param('COPY ["a b", "/c"]', ("a b",), "/c", {}, id="a JSON list"),
        pytest.param("COPY --from=x --chown=1:2 --chmod=755 a /b", ("a",), "/b", {"from": "x", "chown": "1:2", "chmod": "755"}, id="flags"),
        pytest.param("COPY --link a /b", ("a",), "/b", {"link": "true"}, id="a flag without a value"),
        pytest.param("ADD a.tar /b", ("a.tar",), "/b", {}, id="ADD"),
    ],
)
def test_copies(text: str, sources: tuple[str, ...], target: str, flags: dict[str, str]) -> None:
    """COPY and ADD: sources, then the target, flags in front."""
    (step,) = steps(text)
    assert isinstance(step, kinds.Copy)
    assert (step.sources, step.target, step.flags) == (sources, target, flags)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        pytest.param("FROM a\n\nRUNN x", 3, "unknown instruction RUNN; did you mean RUN", id="unknown, with a suggestion"),
        pytest.param("FROM a\nFOOBARBAZ x", 2, "instructions are ", id="unknown, without"),
        pytest.param("RUN x", 1, "must be FROM", id="no FROM first"),
        pytest.param("", 1, "has no FROM", id="empty"),
        pytest.param("ARG a", 1, "has no FROM", id="only ARG"),
        pytest.param("FROM", 1, "FROM takes", id="FROM of nothing"),
        pytest.param("FROM a b", 1, "FROM takes", id="FROM without AS"),
        pytest.param("FROM a AS 1x", 1, "name of a stage", id="a stage's name that is none"),
        pytest.param("FROM a AS x\nFROM b AS X", 2, "two stages", id="a name twice"),
        pytest.param("FROM a\nRUN \\\n --mount=type=cache,target=/x y", 2, "--mount is refused", id="RUN --mount"),
        pytest.param("FROM a\nRUN --network=host x", 2, "network=host is refused", id="the host's network"),
        pytest.param("FROM a\nRUN --security=insecure x", 2, "every RUN is confined", id="insecure"),
        pytest.param("FROM a\nRUN", 2, "needs a command", id="RUN of nothing"),
        pytest.param("FROM a\nADD https://x/y /z", 2, "nothing remote is fetched", id="ADD of a URL"),
        pytest.param("FROM a\nADD git@x:y.git /z", 2, "nothing remote is fetched", id="ADD of a repository"),
        pytest.param("FROM a\nCOPY x", 2, "at least one source", id="COPY of one"),
        pytest.param("FROM a\nCOPY --parents x /y", 2, "knows no --parents", id="an unknown flag"),
        pytest.param("FROM a\nCOPY --from x /y", 2, "needs a value", id="a flag without its value"),
        pytest.param("FROM a\nENV a", 2, "has no value", id="ENV of a name"),
        pytest.param("FROM a\nENV a=1 b", 2, "no NAME=VALUE", id="ENV with a stray word"),
        pytest.param("FROM a\nARG 1x=2", 2, "no name of a variable", id="ARG with a name that is none"),
        pytest.param("FROM a\nSHELL /bin/sh -c", 2, "takes a JSON list", id="SHELL without JSON"),
        pytest.param("FROM a\nWORKDIR", 2, "needs an operand", id="WORKDIR of nothing"),
        pytest.param("FROM a\nRUN <<EOF\nx", 2, "has no end", id="an open here-document"),
        pytest.param("# escape=x\nFROM a", 1, "escape must be", id="an escape that is none"),
        pytest.param("# escape=`\n# escape=`\nFROM a", 2, "twice", id="a directive twice"),
        pytest.param("FROM a\nRUN x\0", 2, "a NUL", id="a NUL"),
    ],
)
def test_refused_with_its_line(text: str, line: int, problem: str) -> None:
    """What cannot be understood is an error that names its line."""
    with pytest.raises(InvalidDockerfile) as caught:
        parser.parse(text.encode())
    assert caught.value.line == line
    assert problem in str(caught.value)
    assert f"line {line}" in str(caught.value)


def test_not_utf8() -> None:
    """Bytes that are no text are an error with their line."""
    with pytest.raises(InvalidDockerfile) as caught:
        parser.parse(b"FROM a\nRUN \xff")
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        pytest.param("FROM a", None, id="all is well"),
        pytest.param("# syntax=docker/dockerfile:1\nFROM a", None, id="Docker's own frontend"),
        pytest.param("# syntax=evil.example/frontend\nFROM a", "no frontend is fetched", id="another frontend"),
        pytest.param("FROM a\nONBUILD RUN x", "line 2: ONBUILD is ignored", id="ONBUILD"),
        pytest.param("FROM a\nHEALTHCHECK CMD x", "line 2: HEALTHCHECK is ignored", id="HEALTHCHECK"),
        pytest.param("FROM a\nMAINTAINER x", "line 2: MAINTAINER is deprecated", id="MAINTAINER"),
    ],
)
def test_warnings(text: str, warning: str | None) -> None:
    """What is ignored is said."""
    found = parser.parse(text.encode()).warnings
    assert [warning in each for each in found if warning] == ([True] if warning else [])
    assert bool(found) == (warning is not None)


def test_stages_and_global_arguments() -> None:
    """ARG before FROM is for FROM lines; each FROM opens a stage; another escape character holds throughout."""
    found = parser.parse(b"# escape=`\nARG v=1\nFROM --platform=linux/amd64 a:$v AS Base\nRUN x `\n y\nFROM base\nCMD z")
    assert [argument.pairs for argument in found.arguments] == [(("v", "1"),)]
    assert [(stage.origin.base, stage.origin.name, stage.origin.platform) for stage in found.stages] == [
        ("a:$v", "base", "linux/amd64"),
        ("base", None, None),
    ]
    assert found.escape == "`"


VARIABLES = {"x": "1", "e": "", "path": "/a b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"), ("$x", "1"), ("${x}y", "1y"), ("$xy", ""), ("\\$x", "$x"), ("'$x'", "$x"), ('"$x"', "1"), ('"\\$x"', "$x"),
        ('"\\n"', "\\n"), ("a\\ b", "a b"), ("${n:-d}", "d"), ("${e:-d}", "d"), ("${e-d}", ""), ("${n-d}", "d"), ("${x:-d}", "1"),
        ("${x:+d}", "d"), ("${e:+d}", ""), ("${e+d}", "d"), ("${n+d}", ""), ("${n:-$x}", "1"), ("${n:-${e:-z}}", "z"), ("$", "$"),
        ("$$", "")  , ("${x:?no}", "1"), ("$path", "/a b"), ("'a''b'", "ab"), ("a#b", "a#b"), ("${n}", ""), ("$1", ""), ("\\", ""),
    ],
)  # fmt: skip
def test_expansion(text: str, expected: str) -> None:
    """Variables and quotes as Docker reads them."""
    assert words.expand(text, VARIABLES, escape="\\", line=1) == expected


@pytest.mark.parametrize("text", ["${x", "${}", "'x", '"x', "${x%y}", "${n:?it is needed}", "${x:-"])
def test_expansion_fails_with_the_line(text: str) -> None:
    """What cannot be expanded is an error of its line."""
    with pytest.raises(InvalidDockerfile) as caught:
        words.expand(text, VARIABLES, escape="\\", line=7)
    assert caught.value.line == 7


@given(st.text(alphabet="ab$x{}:-+\"'\\ \n<EFROMUNCPY#=[],1", max_size=200))
def test_any_text_is_a_dockerfile_or_an_error(text: str) -> None:
    """Nothing but InvalidDockerfile comes out of the parser and the expansion."""
    for content in (text, "FROM a\nRUN " + text, "FROM a\nCOPY " + text, "FROM a\nENV " + text):
        try:
            parser.parse(content.encode())
            words.expand(text, VARIABLES, escape="\\", line=1)
        except InvalidDockerfile:
            pass
