"""The operator's Events: the same thing of the same object within ten minutes is one, with a count."""

import asyncio

from skerry_api.sandbox import Metadata, Sandbox, SandboxSpec
from skerry_operator import errors
from skerry_operator.events import Recorder

SANDBOX = Sandbox(Metadata(name="box", uid="u1"), SandboxSpec(image="busybox"))


class Api:
    """Keeps Events as the API server does."""

    def __init__(self) -> None:
        self.events = {}

    async def post_event(self, _, event):
        self.events[event["metadata"]["name"]] = dict(event)

    async def count_event(self, _, name, changes):
        if name not in self.events:
            raise errors.NotFound(name)
        self.events[name] |= changes


async def told(api, recorder, count):
    """Messages and counts, once *count* Events were sent in all."""
    task = asyncio.create_task(recorder.run())
    while sum(each["count"] for each in api.events.values()) < count:  # noqa: ASYNC110 - turns of this loop are all it takes
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [(each["reason"], each["message"], each["count"]) for each in api.events.values()]


async def test_what_happens_again_is_counted():
    """Another message of the same reason is the same Event, as last said; another reason is another."""
    api = Api()
    recorder = Recorder(api, now=lambda: "2026-01-01T00:00:00Z")
    for message in ("0/1 nodes", "0/2 nodes", "0/3 nodes"):
        recorder.about_sandbox(SANDBOX, reason="FailedScheduling", message=message)
    recorder.about_sandbox(SANDBOX, reason="NodeLost", message="silence")
    assert await told(api, recorder, 4) == [("FailedScheduling", "0/3 nodes", 3), ("NodeLost", "silence", 1)]


async def test_after_ten_minutes_or_when_the_event_has_expired_it_is_a_new_one():
    api, clock = Api(), ["2026-01-01T00:00:00Z"]
    recorder = Recorder(api, now=lambda: clock[0])
    recorder.about_sandbox(SANDBOX, reason="FailedScheduling", message="first")
    await told(api, recorder, 1)
    clock[0] = "2026-01-01T00:11:00Z"
    recorder.about_sandbox(SANDBOX, reason="FailedScheduling", message="second")
    assert await told(api, recorder, 2) == [("FailedScheduling", "first", 1), ("FailedScheduling", "second", 1)]
    api.events.clear()
    recorder.about_sandbox(SANDBOX, reason="FailedScheduling", message="third")
    assert await told(api, recorder, 1) == [("FailedScheduling", "third", 1)]
