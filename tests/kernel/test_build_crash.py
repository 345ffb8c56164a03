"""A build killed before each of its state-changing system calls: nothing half made is visible, and the next build comes to the same end."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys

import pytest

from skerry_node.build import cache
from skerry_node.image.store import Store
from tests.harness import agents, build_once, builds

CALLS = (
    "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "link", "linkat", "write", "pwrite64", "fsync", "fdatasync",
    "ftruncate", "utimensat",
)  # fmt: skip
LEAST_POINTS = 80

if shutil.which("strace") is None:
    pytest.skip("needs strace", allow_module_level=True)


def run_once(directory, *, call="", number=0):
    """A build in a process of its own, killed before its *call* of that *number*; the finished process."""
    command = [sys.executable, "-m", "tests.harness.build_once", directory]
    if call:  # strace counts each call of each thread by itself
        command = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}", *command]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=agents.python_environment())


def look(directory):
    """The store as the next agent finds it: every image by reference, with its tree; temporary files; layers that nobody uses."""
    store = Store(f"{directory}/images")
    try:
        trees = {image.reference: builds.read_tree(store, image) for image in store.list()}
        used = {layer.path for image in store.list() for layer in image.layers}
        used |= {blob.digest.removeprefix("sha256:") for image in store.list() for blob in image.blobs}
        there = {name for place in ("layers", "blobs/sha256") for name in os.listdir(f"{directory}/images/{place}")}
        half = {name for name in os.listdir(f"{directory}/images/images") if not name.endswith(".json")}
    finally:
        store.close()
    return trees, half | {name for name in there - used if not name.startswith("base-")}


def test_killed_before_every_call(tmp_path):
    """At every point: what is visible is whole, nothing else is left, and building again gives the same digest."""
    origin = tmp_path / "origin"
    origin.mkdir()
    builds.make_bench(str(origin)).store.close()
    whole = tmp_path / "whole"
    shutil.copytree(origin, whole)
    done = run_once(str(whole))
    digest = done.stdout.strip()
    expected, strays = look(str(whole))
    assert (digest[:7], strays) == ("sha256:", set())
    points = 0
    for call in CALLS:
        for number in itertools.count(1):
            directory = str(tmp_path / "killed")
            shutil.copytree(origin, directory)
            code = run_once(directory, call=call, number=number).returncode
            if code != 0:
                assert code in {-9, 137}, (call, number)
                points += 1
                check_point(directory, expected, digest, where=f"{call} {number}")
            shutil.rmtree(directory)
            if code == 0:
                break
    print(f"killed at {points} points")
    assert points >= LEAST_POINTS


def check_point(directory, expected, digest, *, where):
    """What is visible is whole, nothing else is left, and building again comes to the same."""
    trees, strays = look(directory)
    assert strays == set(), where
    assert {name: tree for name, tree in trees.items() if not cache.is_stage(name) and expected.get(name) != tree} == {}, where
    assert asyncio.run(build_once.build(directory)) == digest, where
    again, strays = look(directory)
    assert (again, strays) == (expected, set()), where
