"""How many in what time, and what a launch costs beside a teardown: the rate rows of the node."""

from __future__ import annotations

import datetime
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from bench.row import Row
from tests.harness import images, standalone

_BURST, _SUSTAINED, _IN_FLIGHT, _TORN_DOWN, _BESIDE = 100, 400, 12, 40, 20
_CLIENTS = 4


def measure(directory: str) -> Iterable[Row]:
    """With Bridge, through the agent's door; clients and agent share the machine. Times of starts are the agent's own, from status."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    for name, shells, one in (("burst", _BURST, _burst), ("sustained", 32, _sustain), ("beside", _BESIDE, _beside)):
        place = os.path.join(directory, name)
        os.makedirs(place)
        with standalone.running(place, tag="br", flags=(f"--shells={shells}",)) as agent:
            agent.client.import_image(layout)
            with agent.sandbox("first", "true"):  # from now on shells are made with this image's root
                agent.wait_end("first")
            _wait_shells(agent, shells)
            yield from one(agent)


def _burst(agent: standalone.Standalone) -> Iterable[Row]:
    began = time.time()
    _at_once(lambda number: agent.create(f"b{number}", "sleep", "1000"), _BURST)
    standalone.until(lambda: sum(_started(each) > 0 for each in agent.client.list()) == _BURST, seconds=60)
    last = max(_started(each) for each in agent.client.list())
    yield Row("skerry", f"{_BURST} at once from shells, asked to the last running", "a second", [_BURST / (last - began)])
    began = time.time()
    _at_once(lambda number: agent.client.delete(f"b{number}"), _BURST)
    standalone.until(lambda: not agent.client.list(), seconds=60)
    yield Row("skerry", f"{_BURST} deleted at once, asked to all gone", "s", [time.time() - began])


def _sustain(agent: standalone.Standalone) -> Iterable[Row]:
    """A new sandbox for each that ended, shells refilled meanwhile: the first shells are used up soon."""
    began = time.time()
    ends: list[float] = []
    guard = threading.Lock()

    def live(number: int) -> None:
        agent.create(f"u{number}", "true")
        agent.client.wait(f"u{number}")
        agent.client.delete(f"u{number}")
        with guard:
            ends.append(time.time())

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        list(pool.map(live, range(_SUSTAINED)))
    standalone.until(lambda: not agent.client.list(), seconds=60)
    yield Row("skerry", f"whole lives of `true`, {_IN_FLIGHT} in flight, shells refilled", "a second", [_SUSTAINED / (max(ends) - began)])


def _beside(agent: standalone.Standalone) -> Iterable[Row]:
    for number in range(_TORN_DOWN):
        agent.run(f"t{number}", "sleep", "1000")
    _wait_shells(agent, _BESIDE)
    quiet = _launch(agent, "q")
    _wait_shells(agent, _BESIDE)
    deletion = threading.Thread(target=_at_once, args=(lambda number: agent.client.delete(f"t{number}"), _TORN_DOWN))
    deletion.start()
    loud = _launch(agent, "l")
    deletion.join()
    for what, found in (("in quiet", quiet), (f"while {_TORN_DOWN} others are torn down", loud)):
        yield Row("skerry", f"launch from a shell, seen to running, {what}", "ms", found)


def _launch(agent: standalone.Standalone, prefix: str) -> list[float]:
    """Milliseconds of the agent's reconcile for each of _BESIDE launches, one right after the other."""
    names = [f"{prefix}{number}" for number in range(_BESIDE)]
    for name in names:
        agent.run(name, "sleep", "1000")
    uids = {each.metadata.uid for each in agent.client.list() if each.metadata.name in names}
    with open(agent.log_path, encoding="utf-8") as file:
        launched = re.findall(r"launched uid=(\S+) .* seconds=([0-9.]+)", file.read())
    return [float(seconds) * 1000 for uid, seconds in launched if uid in uids]


def _wait_shells(agent: standalone.Standalone, count: int) -> None:
    standalone.until(lambda: agent.client.info()["details"]["shellsReady"] >= count, seconds=60)
    time.sleep(1.0)


def _at_once(call: Callable[[int], object], count: int) -> None:
    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(call, range(count)))


def _started(found: object) -> float:
    """When the agent saw it run, in Unix time; 0 when it has not."""
    text = getattr(found, "status").started_at  # noqa: B009 - the harness's client is not typed here
    return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
