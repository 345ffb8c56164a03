"""Builds through the command line, against a node of tests: run, begun, waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.harness import agents


def build(node, context, *arguments: str, environment=None):
    """Run `skerry build`; the finished process comes back."""
    command = [sys.executable, "-m", "skerry", "build", "--socket", node.socket_path, *arguments, str(context)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**agents.python_environment(), **(environment or {})})


def write(directory, files):
    """Files below *directory*."""
    for name, content in files.items():
        os.makedirs(os.path.dirname(directory / name), exist_ok=True)
        (directory / name).write_text(content)
    return directory


def wait_for_line(stream, line):
    """Read until *line*."""
    for found in stream:
        if found == line:
            return
    raise AssertionError(f"no {line!r}")


def wait_until(is_done, *, seconds=120.0):
    """Poll."""
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def guests(node):
    """Runtime directories of sandboxes that no manifest wants."""
    return os.listdir(f"{node.place.run_dir}/sandboxes")


def start(node, context, *arguments: str):
    """Begin `skerry build`; the process."""
    command = [sys.executable, "-m", "skerry", "build", "--socket", node.socket_path, *arguments, str(context)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=agents.python_environment())
