"""The commands of docs/getting-started.md: the lines of its `sh` blocks, by section."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Mapping

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "getting-started.md"


def read_section(title: str) -> list[str]:
    """Its commands in order. Raises ValueError when there is no such section."""
    section = next((each for each in PAGE.read_text(encoding="utf-8").split("\n## ") if each.startswith(title + "\n")), None)
    if section is None:
        raise ValueError(f"{PAGE} has no section {title}")
    blocks = section.replace("\\\n", "").split("```sh\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].splitlines() if line]


def run_section(title: str, *, which: slice = slice(None), directory: pathlib.Path, env: dict[str, str], more: Mapping[str, str] = {}) -> str:
    """Run *which* of them in *directory*, each as a person would type it; what all of them said comes back."""
    said = ""
    for command in read_section(title)[which]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=directory, env={**os.environ, **env, **more}, capture_output=True, text=True, check=False, timeout=400
        )
        if done.returncode != 0:
            pytest.fail(f"$ {command}\n{done.stdout}{done.stderr}", pytrace=False)
        said += done.stdout
    return said
