"""Output at full speed with readers that do not read: what it costs the agent and the keeper in memory, and a launch in time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench import node
from bench.row import Row
from tests.harness import images, standalone

_WRITERS, _LAUNCHES, _SECONDS = 20, 30, 10.0


def measure(directory: str) -> Iterable[Row]:
    """Launches and memory before, and while 20 sandboxes write as fast as they can, each with a follower that has stopped reading."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    with standalone.running(directory, tag="bl") as agent:
        agent.client.import_image(layout)
        time.sleep(1.0)
        quiet_launches = _launch(agent, "q")
        quiet_bytes = _memory(agent)
        with _writing(agent), ExitStack() as readers:
            for number in range(_WRITERS):
                readers.enter_context(_stalled_reader(agent, f"w{number}"))
            time.sleep(_SECONDS)
            busy_launches = _launch(agent, "b")
            grown = (_memory(agent) - quiet_bytes) / 1e6
        yield Row("skerry", "launch, keeper, quiet", "ms", quiet_launches)
        yield Row("skerry", f"launch, keeper, beside {_WRITERS} that write at full speed", "ms", busy_launches)
        yield Row("skerry", f"agent and keeper beyond idle, {_WRITERS} writers, stalled readers", "MB", [grown])


def _launch(agent: Any, prefix: str) -> list[float]:
    """Keeper milliseconds of warm launches, one at a time."""
    before = len(node.read_launches(agent.log_path, "Warm")[0])
    for number in range(_LAUNCHES):
        agent.run(f"{prefix}{number}", "sleep", "1000")
        time.sleep(0.1)
        agent.remove(f"{prefix}{number}")
    return node.read_launches(agent.log_path, "Warm")[0][before:]


def _memory(agent: Any) -> float:
    return node.agent_memory_bytes(agent)


@contextmanager
def _writing(agent: Any) -> Iterator[None]:
    for number in range(_WRITERS):
        agent.run(f"w{number}", "yes", "a line that is written again and again, as fast as it goes")
    try:
        yield
    finally:
        for number in range(_WRITERS):
            agent.remove(f"w{number}")


@contextmanager
def _stalled_reader(agent: Any, name: str) -> Iterator[None]:
    """A follower of the log that asks, and never reads the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(agent.socket_path)
        connection.sendall(f"GET /v1/sandboxes/default/{name}/logs?follow=true HTTP/1.1\r\nHost: skerry\r\n\r\n".encode())
        yield
