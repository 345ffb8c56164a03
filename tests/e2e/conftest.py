"""One real cluster with the chart installed, for all tests of the session, in the order in which they stand: the last one takes it away again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from tests.e2e import needs
from tests.harness import subreaper
from tests.harness.installation import Installation, volumes
from tests.harness.realcluster import RealCluster

subreaper.adopt_orphans()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The chart at version 0.1.0, every node ready."""
    if missing := list(needs.find_missing()):
        pytest.exit("make e2e cannot run on this machine: " + "; ".join(missing), returncode=1)
    try:
        lock = needs.claim()
    except TimeoutError as error:
        pytest.exit(f"make e2e cannot run: {error}; end it, or wait for its end", returncode=1)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.__stderr__, flush=True)

    directory = os.path.realpath(tmp_path_factory.mktemp("e2e"))
    with volumes(), RealCluster.start(os.path.join(directory, "cluster"), say=say) as cluster:
        made = Installation(cluster, say)
        made.load("0.1.0")
        made.apply("0.1.0")
        made.import_busybox()
        say("installed")
        yield made
        say("ending the cluster")
    os.close(lock)
