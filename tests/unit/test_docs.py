"""The documents and the tree say the same: links, paths, commands, flags, fields."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
import yaml

from skerry.cli import app
from skerry.cli.options import DEFAULT_NAMESPACE
from skerry_api import names
from skerry_node import __main__ as agent_main
from skerry_operator import settings as operator_settings
from skerry_operator.gateway import settings as gateway_settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
MAPS = (ROOT / "README.md", ROOT / "ARCHITECTURE.md")
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".venv", ".git", ".cache"}
WHERE_NAMES_LIE = (ROOT, ROOT / "nodeagent/skerry_node")
_PATH = re.compile(r"(?<![\w/.~$-])[\w.-]+(?:/[\w.*-]+)+/?|(?<![\w/.-])[\w-]+\.(?:py|yaml|toml|lock)\b")
_LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_BULLET = re.compile(r"^- ((?:`-[^`]+`(?:, )?)+)", re.MULTILINE)
MAX_COLUMNS = 150


def named_paths(text: str) -> Iterator[str]:
    """What *text* names as a path of this tree: it begins with a top folder, or ends as a source file does."""
    for token in _PATH.findall(text):
        if token.split("/")[0] in TOP or token.endswith((".py", ".yaml", ".toml", ".lock")):
            yield token.rstrip("/.")


def is_there(token: str) -> bool:
    """Whether *token* is a path from the root, from the agent's package, or the name of a source file."""
    if any((base / token).exists() for base in WHERE_NAMES_LIE):
        return True
    return token in source_files()


@functools.cache
def source_files() -> frozenset[str]:
    """The names of all files of the components."""
    tops = ("api", "operator", "nodeagent", "client", "crds", "tests", "dashboards")
    return frozenset(path.name for top in tops for path in (ROOT / top).rglob("*.*"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    """Every relative link of every page names a file or folder of the tree."""
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: pathlib.Path) -> None:
    """Every path of the tree that a page names is there."""
    missing = sorted({token for token in named_paths(page.read_text(encoding="utf-8")) if not is_there(token)})
    assert missing == []


def test_the_code_map_names_what_is_there() -> None:
    """In the tables of the code map the first name of a row is a path, and those behind it lie beside it."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    part = text[text.index("### The operator") : text.index("### On the node")]
    missing = []
    for row in re.findall(r"^\| (`[^|]+) \|", part, flags=re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row)
        missing += [name for name in (first, *(str(pathlib.PurePath(first).parent / each) for each in others)) if not (ROOT / name).exists()]
    assert missing == []


def test_paths_are_found_in_text() -> None:
    """The search of the test above finds what it should, and leaves other people's paths alone."""
    text = "see `nodeagent/skerry_node/plan.py`, `nope/x.py`, api/gone, /run/skerry/x, docker.io/library/busybox, spawn.py."
    assert set(named_paths(text)) == {"nodeagent/skerry_node/plan.py", "nope/x.py", "api/gone", "spawn.py"}
    assert [is_there(token) for token in ("nodeagent/skerry_node/plan.py", "spawn.py", "api/gone", "nope/x.py")] == [True, True, False, False]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_fit(page: pathlib.Path) -> None:
    """No line is longer than the code's."""
    assert [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > MAX_COLUMNS] == []


def test_readme_opens_with_the_two_commands() -> None:
    """Who opens README sees how to run it and how to test it first."""
    first = (ROOT / "README.md").read_text(encoding="utf-8")[:300]
    assert first.index("make demo") < first.index("make test")


@functools.cache
def cli_commands() -> dict[str, Any]:
    """Every command by what is typed: `skerry image import`."""
    top = typer.main.get_command(app.app)
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("skerry", top)]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner:
            waiting += [(f"{name} {word}", each) for word, each in inner.items()]
        else:
            found[name] = command
    return found


def cli_flags(command: Any) -> set[str]:
    """The options of *command*, short and long."""
    return {flag for param in command.params if param.param_type_name == "option" for flag in (*param.opts, *param.secondary_opts)}


def sections() -> dict[str, str]:
    """The parts of docs/cli.md by their headings."""
    parts = re.split(r"^## (.+)$", (ROOT / "docs/cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_flags(text: str) -> set[str]:
    """Flags that a section explains in a list."""
    return {flag for bullet in _BULLET.findall(text) for flag in re.findall(r"`(--?[a-zA-Z][a-z-]*)", bullet)}


GLOBAL_FLAGS = {"--help", "-h", "--socket", "--local", "--kubeconfig", "--context", "--namespace", "-n"}


def test_every_command_has_a_section() -> None:
    """docs/cli.md explains every command, and no command that is not there."""
    assert {name for name in sections() if name.startswith("skerry ")} == set(cli_commands())


@pytest.mark.parametrize("name", sorted(cli_commands()))
def test_every_flag_is_explained(name: str) -> None:
    """A command's section lists the options of its help, and names no other."""
    text, flags = sections()[name], cli_flags(cli_commands()[name])
    assert documented_flags(text) == flags - GLOBAL_FLAGS
    assert set(_FLAG.findall(text)) - flags - GLOBAL_FLAGS == set()


def test_flags_for_all_commands_are_the_callbacks() -> None:
    """What holds for all commands is what stands before them."""
    flags = cli_flags(typer.main.get_command(app.app)) | {"-h", "--help"}
    assert documented_flags(sections()["Options of all commands"]) == flags
    assert DEFAULT_NAMESPACE in sections()["Options of all commands"]


def test_the_agents_flags_are_explained() -> None:
    """docs/cli.md and docs/standalone.md name the agent's flags, all of them, and no other."""
    parser = agent_main._parser()
    flags = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    told = set(_FLAG.findall(sections()["skerry-agent"]))
    assert told == flags
    standalone = set(_FLAG.findall((ROOT / "docs/standalone.md").read_text(encoding="utf-8")))
    assert standalone - flags - GLOBAL_FLAGS == set()


def test_the_operators_flags_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/cli.md names the operator's flags, all of them, and no other."""
    with pytest.raises(SystemExit):
        operator_settings.parse(["--help"], environ={})
    assert set(_FLAG.findall(sections()["skerry-operator"])) == set(_FLAG.findall(capsys.readouterr().out))


def test_the_gateways_flags_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/cli.md names the gateway's flags, all of them, and no other."""
    with pytest.raises(SystemExit):
        gateway_settings.parse(["--help"])
    assert set(_FLAG.findall(sections()["skerry-gateway"])) == set(_FLAG.findall(capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_examples_exist(page: pathlib.Path) -> None:
    """Every `skerry ...` line of an example begins with a command that is there."""
    commands = cli_commands()
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
        for line in re.findall(r"(?:^|\$\()skerry ([a-z][^#)\n]*)", block, flags=re.MULTILINE):
            words = line.split()
            name = "skerry " + " ".join(words[: 2 if words[0] in {"image", "node"} else 1])
            assert name in commands, f"{page.name}: {name}"


def leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The fields of a schema that hold a value: `network.mode`, `env[].name`."""
    inner = schema.get("properties") or {}
    for name, each in inner.items():
        yield from leaves(each, f"{prefix}.{name}" if prefix else name)
    if "properties" in schema.get("items", {}):
        yield from leaves(schema["items"], f"{prefix}[]")
    if not inner and prefix:
        yield prefix


def test_every_field_of_spec_is_described() -> None:
    """docs/sandbox.md has a row for every field that a manifest may have."""
    text = (ROOT / "docs/sandbox.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-zA-Z.\[\]]+)`", text, flags=re.MULTILINE))
    crd = yaml.safe_load((ROOT / "crds/sandbox.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert {path for path in leaves(spec) if "tolerations[]" not in path} - rows == set()
    assert names.API_VERSION in text
