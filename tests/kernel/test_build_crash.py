"""A build killed before each of its state-changing system calls: nothing half made is visible, and the next build comes to the same end.

`make test` takes every sixth point, `make test-all` takes all (tests/harness/points.py).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys

import pytest

from skerry_node.build import cache
from skerry_node.image.store import Store
from tests.harness import agents, build_once, builds, killpoints
from tests.harness import points as parts

pytestmark = pytest.mark.host("a build killed before each call of our own files says nothing about the kernel, and takes an hour emulated")

LEAST_POINTS = 100

if shutil.which("strace") is None:
    pytest.skip("needs strace", allow_module_level=True)


ENVIRONMENT = agents.python_environment()


def command(directory):
    """A build in a process of its own, all in one thread, because strace counts the calls of each by itself."""
    return [sys.executable, "-m", "tests.harness.build_once", str(directory)]


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


def test_killed_before_every_call(tmp_path, record_property):
    """At every point: what is visible is whole, nothing else is left, and building again gives the same digest."""
    origin = tmp_path / "origin"
    origin.mkdir()
    builds.make_bench(str(origin)).store.close()
    whole, looked = tmp_path / "whole", tmp_path / "looked"
    shutil.copytree(origin, whole)
    digest = subprocess.run(command(whole), check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout.strip()
    expected, strays = look(str(whole))
    assert (digest[:7], strays) == ("sha256:", set())
    shutil.copytree(origin, looked)
    points, killed = killpoints.find(command(looked), below=str(looked), environment=ENVIRONMENT, log=str(tmp_path / "log")), 0
    taken = parts.take(points, 6)
    for number, point in enumerate(taken):
        directory = tmp_path / f"killed-{number}"
        shutil.copytree(origin, directory)
        killed += killpoints.run_killed(command(directory), point, environment=ENVIRONMENT)
        check_point(str(directory), expected, digest, where=point)
        shutil.rmtree(directory)
    record_property(parts.KEY, f"build: {killed} of {len(points)}")
    assert killed == len(taken)
    assert len(points) >= LEAST_POINTS


def check_point(directory, expected, digest, *, where):
    """What is visible is whole, nothing else is left, and building again comes to the same."""
    trees, strays = look(directory)
    assert strays == set(), where
    assert {name: tree for name, tree in trees.items() if not cache.is_stage(name) and expected.get(name) != tree} == {}, where
    assert asyncio.run(build_once.build(directory)) == digest, where
    again, strays = look(directory)
    assert (again, strays) == (expected, set()), where
