"""The lock file of the images is the part of requirements.lock that the programs need."""

from __future__ import annotations

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
_PIN = re.compile(r"^([a-z0-9-]+)==([^ ;]+)", re.MULTILINE)


def _pins(name: str) -> dict[str, str]:
    return dict(_PIN.findall((ROOT / name).read_text(encoding="utf-8")))


def test_versions_are_those_that_were_tested() -> None:
    """Every pin of the images is a pin of the tests."""
    assert _pins("requirements-runtime.lock").items() <= _pins("requirements.lock").items()


def test_every_dependency_is_there() -> None:
    """What pyproject.toml asks for is in the images."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    names = {re.split(r"[<>=~!\[; ]", each, maxsplit=1)[0].lower().replace("_", "-") for each in wanted}
    assert names <= set(_pins("requirements-runtime.lock"))
