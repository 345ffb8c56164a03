"""The agent's HTTP door over a backend made of values."""

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import stat
import struct

import aiohttp
import pytest

from skerry_api import sandbox as api
from skerry_api import waiting
from skerry_api.conditions import Condition
from skerry_node.serving import backend, logs, server
from skerry_node.standalone import errors

SECOND = 1_000_000_000


def ready(status, reason, *, generation=1):
    return Condition(type="Ready", status=status, reason=reason, message="", last_transition_time="", observed_generation=generation)


def sandbox(name="hello", *, ready_status="True", reason="Running", termination=None, **spec: object):
    return api.Sandbox(
        metadata=api.Metadata(name=name, uid=f"uid-{name}", generation=1),
        spec=api.SandboxSpec(image="busybox:latest", **spec),
        status=api.SandboxStatus(observed_generation=1, conditions=(ready(ready_status, reason),), termination=termination),
    )


def ended(code=0, *, reason="Completed"):
    return api.Termination(reason=api.TerminationReason(reason), exit_code=code)


class FakeBackend:
    """A node in memory."""

    def __init__(self, logs_dir) -> None:
        self.sandboxes = {("default", "hello"): sandbox()}
        self.stored = {"busybox:latest": backend.Image("busybox:latest", "sha256:1", size_bytes=5, layers=1)}
        self.is_standalone = True
        self.logs_dir = str(logs_dir)
        self.grace_seconds = None
        self.has_no_list = False

    def info(self):
        return backend.Info("1.2.3", "node-1", is_standalone=self.is_standalone, details={"kernel": "6.12"})

    async def await_list(self):
        if self.has_no_list:
            raise backend.Refused("no list yet", status=503, reason="Unavailable")

    def list(self):
        return tuple(self.sandboxes.values())

    def find(self, namespace, name):
        return self.sandboxes.get((namespace, name))

    async def inspect(self, sandbox):
        return {"pids": [7], "name": sandbox.metadata.name}

    async def create(self, raw):
        created = api.parse_sandbox(raw)
        key = (created.metadata.namespace, created.metadata.name)
        if key in self.sandboxes:
            raise errors.AlreadyExists(f"sandbox {key[1]} exists")
        self.sandboxes[key] = created
        return created

    async def set_desired_state(self, sandbox, *, state, grace_seconds=None):
        self.grace_seconds = grace_seconds
        changed = dataclasses.replace(sandbox, spec=dataclasses.replace(sandbox.spec, desired_state=state))
        self.sandboxes[sandbox.metadata.namespace, sandbox.metadata.name] = changed
        return changed

    async def delete(self, sandbox):
        del self.sandboxes[sandbox.metadata.namespace, sandbox.metadata.name]

    async def import_image(self, path, *, reference):
        if path == "/bad":
            raise backend.Refused("sha256:9 is damaged", field="path")
        self.stored[reference] = backend.Image(reference, "sha256:2", size_bytes=9, layers=2)
        return (self.stored[reference],)

    async def pull_image(self, reference, *, docker_config):
        if reference == "bad":
            raise backend.Refused("no such name", field="reference")
        yield {"reference": reference, "config": docker_config.decode() if docker_config else None}
        if reference == "late":
            raise backend.Refused("it broke", reason="ImagePullFailed", field="reference")
        yield backend.Image(reference, "sha256:3", size_bytes=9, layers=2)

    def images(self):
        return tuple(self.stored.values())

    async def remove_image(self, reference):
        if self.stored.pop(reference, None) is None:
            raise errors.NotFound(f"no image {reference}")

    def log_directory(self, sandbox):
        return os.path.join(self.logs_dir, sandbox.metadata.uid)


class Door:
    """A client of a served backend."""

    def __init__(self, session, fake, path) -> None:
        self.session, self.backend, self.path = session, fake, path

    async def ask(self, method, target, **options: object):
        async with self.session.request(method, f"http://agent{target}", **options) as response:
            return response.status, await response.json()

    async def read(self, target):
        async with self.session.get(f"http://agent{target}") as response:
            return await response.read()


@pytest.fixture
async def door(tmp_path):
    fake = FakeBackend(tmp_path / "logs")
    path = str(tmp_path / "agent.sock")
    served = await server.start(fake, path=path, metrics=lambda: b"up 1\n")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=path)) as session:
        yield Door(session, fake, path)
    await served.close()
    assert os.listdir(tmp_path) in ([], ["logs"])


MANIFEST = {
    "apiVersion": "skerry.dev/v1alpha1",
    "kind": "Sandbox",
    "metadata": {"name": "new"},
    "spec": {"image": "busybox:latest"},
}
HELLO = "/v1/sandboxes/default/hello"


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "fields"),
    [
        pytest.param("GET", "/v1/version", None, 200, {"version": "1.2.3"}, id="version"),
        pytest.param("GET", "/v1/info", None, 200, {"mode": "standalone", "nodeName": "node-1"}, id="info"),
        pytest.param("GET", HELLO, None, 200, {"kind": "Sandbox"}, id="read"),
        pytest.param("GET", f"{HELLO}/inspect", None, 200, {"node": {"pids": [7], "name": "hello"}}, id="inspect"),
        pytest.param("POST", "/v1/sandboxes", MANIFEST, 201, {"kind": "Sandbox"}, id="create"),
        pytest.param("PATCH", HELLO, {"desiredState": "Stopped"}, 200, {"kind": "Sandbox"}, id="stop"),
        pytest.param("DELETE", HELLO, None, 202, {"uid": "uid-hello"}, id="delete"),
        pytest.param("GET", "/v1/nothing", None, 404, {"reason": "NotFound"}, id="no such path"),
        pytest.param("PUT", HELLO, None, 405, {"reason": "MethodNotAllowed"}, id="no such method"),
        pytest.param("GET", "/v1/sandboxes/default/no", None, 404, {"reason": "NotFound"}, id="no such sandbox"),
        pytest.param("GET", "/v1/sandboxes/default/..%2f..%2fx", None, 404, {"reason": "NotFound"}, id="path in name"),
        pytest.param("POST", "/v1/sandboxes", [], 400, {"reason": "BadRequest"}, id="body is a list"),
        pytest.param("POST", "/v1/sandboxes", {**MANIFEST, "spec": {}}, 422, {"field": "spec.image"}, id="no image"),
        pytest.param("PATCH", HELLO, {"desiredState": "Asleep"}, 422, {"field": "desiredState"}, id="unknown state"),
        pytest.param(
            "PATCH",
            HELLO,
            {"desiredState": "Stopped", "terminationGracePeriodSeconds": -1},
            422,
            {"field": "terminationGracePeriodSeconds"},
            id="negative grace",
        ),
        pytest.param("GET", f"{HELLO}/wait?for=Rain", None, 422, {"field": "for"}, id="wait for nothing known"),
        pytest.param("GET", f"{HELLO}/wait?timeout=x", None, 422, {"field": "timeout"}, id="bad timeout"),
        pytest.param("GET", f"{HELLO}/wait?timeout=nan", None, 422, {"field": "timeout"}, id="timeout is not a number"),
        pytest.param("GET", f"{HELLO}/wait?timeout=0.01", None, 408, {"reason": "Timeout"}, id="wait in vain"),
        pytest.param("GET", f"{HELLO}/logs?tail=-1", None, 422, {"field": "tail"}, id="bad tail"),
        pytest.param("GET", f"{HELLO}/logs?since=monday", None, 422, {"field": "since"}, id="bad since"),
        pytest.param("GET", f"{HELLO}/logs?stream=stdin", None, 422, {"field": "stream"}, id="bad stream"),
        pytest.param("GET", f"{HELLO}/logs?cursor=x:1", None, 422, {"field": "cursor"}, id="bad cursor"),
        pytest.param("POST", "/v1/images", {"path": "rel", "reference": "a"}, 422, {"field": "path"}, id="relative"),
        pytest.param("POST", "/v1/images", {"path": "/bad", "reference": "a"}, 422, {"field": "path"}, id="damaged"),
        pytest.param("POST", "/v1/images", {"path": "/a", "reference": "a:1"}, 201, {"sizeBytes": 9}, id="import"),
        pytest.param("POST", "/v1/images/pull", {}, 422, {"field": "reference"}, id="pull what"),
        pytest.param("POST", "/v1/images/pull", {"reference": "bad"}, 422, {"field": "reference"}, id="pull no name"),
        pytest.param("POST", "/v1/images/pull", {"reference": "a", "dockerConfig": 1}, 422, {"field": "dockerConfig"}, id="pull with a number"),
        pytest.param("DELETE", "/v1/images?reference=busybox:latest", None, 200, {}, id="remove image"),
        pytest.param("DELETE", "/v1/images?reference=none", None, 404, {"reason": "NotFound"}, id="no such image"),
        pytest.param("DELETE", "/v1/images", None, 422, {"field": "reference"}, id="which image"),
    ],
)
async def test_every_request_gets_its_status_and_says_what_is_wrong(door, method, target, body, status, fields):
    """Good requests are granted, bad ones name the part at fault."""
    found, answer = await door.ask(method, target, **({} if body is None else {"json": body}))
    assert (found, {key: answer.get(key) for key in fields}) == (status, fields)
    assert status < 400 or answer["message"]


async def test_a_body_that_is_not_json_is_refused(door):
    """Whatever the bytes, and however many."""
    for data in (b"\xff\xfe", b"{", b"[" * 100_000):
        status, answer = await door.ask("POST", "/v1/sandboxes", data=data)
        assert (status, answer["reason"]) == (400, "BadRequest")
    status, answer = await door.ask("POST", "/v1/sandboxes", data=io.BytesIO(b" " * 2_000_000))
    assert status == 413


async def test_a_taken_name_is_a_conflict(door):
    """The second of two equal creations is told so."""
    assert (await door.ask("POST", "/v1/sandboxes", json=MANIFEST))[0] == 201
    assert (await door.ask("POST", "/v1/sandboxes", json=MANIFEST))[0] == 409


async def test_what_was_created_or_changed_is_found_at_once(door):
    """The answer comes when the agent knows of it: the next request does not miss it."""
    real = door.backend.find
    asked = []

    def find_late(namespace, name):
        asked.append(name)
        found = real(namespace, name)
        if name == "new":
            return found if len(asked) > 3 else None
        return found

    door.backend.find = find_late
    await door.ask("POST", "/v1/sandboxes", json=MANIFEST)
    assert len(asked) == 4


async def test_in_a_cluster_changes_go_through_the_api_server(door):
    """The answer says what to type instead; looking and images are allowed."""
    door.backend.is_standalone = False
    for method, target in (("POST", "/v1/sandboxes"), ("PATCH", HELLO), ("DELETE", HELLO)):
        status, answer = await door.ask(method, target, json=MANIFEST)
        assert status == 405
        assert "kubectl" in answer["message"]
    assert (await door.ask("GET", HELLO))[0] == 200
    assert (await door.ask("GET", "/v1/info"))[1]["mode"] == "cluster"


async def test_lists(door):
    """Sandboxes by namespace, images, metrics."""
    assert len((await door.ask("GET", "/v1/sandboxes"))[1]["items"]) == 1
    assert (await door.ask("GET", "/v1/sandboxes?namespace=other"))[1]["items"] == []
    assert (await door.ask("GET", "/v1/images"))[1]["items"][0]["reference"] == "busybox:latest"
    assert await door.read("/metrics") == b"up 1\n"


async def test_nothing_is_called_missing_before_the_first_list(door):
    """An agent that has just been started says so, for every question about sandboxes; what is no sandbox's is answered."""
    door.backend.has_no_list = True
    door.backend.sandboxes.clear()
    for method, target in (("GET", "/v1/sandboxes"), ("GET", HELLO), ("GET", f"{HELLO}/logs"), ("POST", "/v1/sandboxes")):
        assert (await door.ask(method, target))[0] == 503
    assert (await door.ask("GET", "/v1/version"))[0] == 200


async def test_stop_hands_the_grace_period_on(door):
    """`skerry stop -t 3` reaches the backend."""
    await door.ask("PATCH", HELLO, json={"desiredState": "Stopped", "terminationGracePeriodSeconds": 3})
    assert door.backend.grace_seconds == 3


async def test_waits_end_when_it_happens(door):
    """Each wait ends with its event, not before."""
    sandboxes = door.backend.sandboxes
    finished = asyncio.ensure_future(door.ask("GET", f"{HELLO}/wait?for=Finished"))
    deleted = asyncio.ensure_future(door.ask("GET", f"{HELLO}/wait?for=Deleted"))
    assert (await door.ask("GET", f"{HELLO}/wait?for=Ready"))[0] == 200
    await asyncio.sleep(0.05)
    assert not finished.done()
    sandboxes["default", "hello"] = sandbox(ready_status="False", reason="Completed", termination=ended(3))
    assert (await finished)[1]["status"]["termination"]["exitCode"] == 3
    assert not deleted.done()
    gone = asyncio.ensure_future(door.ask("GET", f"{HELLO}/wait?for=Ready"))
    assert (await gone)[0] == 200
    del sandboxes["default", "hello"]
    assert await deleted == (200, {})


@pytest.mark.parametrize(
    ("given", "is_ready", "is_finished"),
    [
        pytest.param(sandbox(), True, False, id="runs"),
        pytest.param(sandbox(ready_status="False", reason="Starting"), False, False, id="starts"),
        pytest.param(sandbox(ready_status="False", reason="BackOff", termination=ended()), False, False, id="restarts"),
        pytest.param(sandbox(ready_status="False", reason="Completed", termination=ended()), False, True, id="ended"),
        pytest.param(sandbox(ready_status="False", reason="ImageNotFound"), False, True, id="no image"),
        pytest.param(sandbox(ready_status="False", reason="ImagePullFailed"), False, True, id="a pull that failed"),
        pytest.param(sandbox(ready_status="False", reason="Pulling"), False, False, id="a pull under way"),
        pytest.param(sandbox(ready_status="False", reason="StartFailed"), False, False, id="tried again"),
        pytest.param(sandbox(ready_status="False", reason="KeeperLost"), False, False, id="keeper on its way"),
        pytest.param(
            sandbox(ready_status="False", reason="UserNotFound", termination=ended(reason="StartFailed")),
            False,
            True,
            id="cannot start",
        ),
        pytest.param(
            sandbox(
                ready_status="False",
                reason="UserNotFound",
                termination=ended(reason="StartFailed"),
                restart_policy=api.RestartPolicy.ALWAYS,
            ),
            False,
            False,
            id="could not start, is tried again",
        ),
        pytest.param(
            sandbox(ready_status="False", reason="KeeperLost", termination=ended(reason="KeeperLost")),
            False,
            True,
            id="its end was lost",
        ),
        pytest.param(
            sandbox(ready_status="False", reason="Stopped", desired_state=api.DesiredState.STOPPED),
            False,
            True,
            id="stopped",
        ),
        pytest.param(sandbox(ready_status="False", reason="Stopped"), False, False, id="asked to start again"),
        pytest.param(
            dataclasses.replace(sandbox(), metadata=api.Metadata(name="hello", generation=2)),
            False,
            False,
            id="status has not seen the spec",
        ),
        pytest.param(dataclasses.replace(sandbox(), status=api.SandboxStatus()), False, False, id="no status yet"),
    ],
)
def test_what_counts_as_ready_and_finished(given, is_ready, is_finished):
    """By the condition Ready of a status that has seen the present spec."""
    assert (waiting.is_ready(given), waiting.is_finished(given)) == (is_ready, is_finished)


def write_log(door, data, *, stream="stdout", at=1):
    directory = os.path.join(door.backend.logs_dir, "uid-hello")
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{stream}.{0:020d}", "ab") as file:
        file.write(data)
        end = file.tell()
    with open(f"{directory}/{stream}.index", "ab") as file:
        file.write(struct.pack("<QQ", end, at * SECOND))


async def test_logs_come_as_they_are_or_marked(door):
    """Raw, one stream, with times, the tail, from a time or an offset on, framed."""
    assert await door.read(f"{HELLO}/logs") == b""
    write_log(door, b"one\n", at=1)
    write_log(door, b"err\n", stream="stderr", at=2)
    write_log(door, b"two\n", at=3)
    read = {
        query: await door.read(f"{HELLO}/logs?{query}")
        for query in ("", "stream=stderr", "timestamps=1", "tail=2", "since=3", "frames=1", "cursor=stdout:4,stderr:4")
    }
    assert read == {
        "": b"one\nerr\ntwo\n",
        "stream=stderr": b"err\n",
        "timestamps=1": b"".join(b"1970-01-01T00:00:0%d.000000000Z %s\n" % (at, text) for at, text in ((1, b"one"), (2, b"err"), (3, b"two"))),
        "tail=2": b"err\ntwo\n",
        "since=3": b"two\n",
        "frames=1": b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x04err\n\x01\0\0\0\0\0\0\x04two\n",
        "cursor=stdout:4,stderr:4": b"two\n",
    }


async def test_follow_ends_with_the_sandbox(door):
    """Lines come while it runs; after its end the rest comes and the answer is over."""
    write_log(door, b"one\n")
    async with door.session.get(f"http://agent{HELLO}/logs?follow=1") as response:
        assert await response.content.readany() == b"one\n"
        write_log(door, b"two\n")
        assert await response.content.readany() == b"two\n"
        write_log(door, b"three")
        door.backend.sandboxes["default", "hello"] = sandbox(ready_status="False", reason="Completed", termination=ended())
        assert await response.content.read() == b"three"


async def test_a_reader_that_goes_away_leaves_nothing(door):
    """A hundred followers that hang up hold no file and no task."""
    write_log(door, b"one\n")
    before = len(os.listdir("/proc/self/fd"))
    tasks = len(asyncio.all_tasks())
    for _ in range(100):
        reader, writer = await asyncio.open_unix_connection(door.path)
        writer.write(f"GET {HELLO}/logs?follow=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await reader.readuntil(b"one")
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(5):
        while len(os.listdir("/proc/self/fd")) > before or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def test_a_stalled_reader_of_a_large_log_costs_little(door):
    """16 MiB of output wait on disk, not in the agent."""
    write_log(door, b"x" * (16 << 20))
    reader, writer = await asyncio.open_unix_connection(door.path, limit=1 << 16)
    writer.write(f"GET {HELLO}/logs?follow=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.2)
    before = resident_bytes()
    assert (await door.ask("GET", "/v1/version"))[0] == 200
    assert resident_bytes() - before < 4 << 20
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_the_socket_is_for_root_alone_and_replaces_a_dead_agents(tmp_path):
    """Mode 0600 from its first moment; a leftover is no obstacle; closing leaves a successor's socket alone."""
    path = str(tmp_path / "agent.sock")
    first = await server.start(FakeBackend(tmp_path), path=path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    second = await server.start(FakeBackend(tmp_path), path=path)
    await first.close()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=path)) as session:
        async with session.get("http://agent/v1/version") as response:
            assert json.loads(await response.read())["version"] == "1.2.3"
        async with session.get("http://agent/metrics") as response:
            assert response.status == 404
    await second.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("time_ns", "expected"),
    [
        pytest.param(0, "1970-01-01T00:00:00.000000000Z", id="epoch"),
        pytest.param(1_767_225_600_123_456_789, "2026-01-01T00:00:00.123456789Z", id="to the nanosecond"),
    ],
)
def test_times_keep_their_nanoseconds(time_ns, expected):
    """As kubectl prints them."""
    assert logs.render_time(time_ns) == expected


async def test_a_pull_is_told_line_by_line(door):
    """Looks, then the image; a failure after the first look is the last line."""
    async with door.session.post("http://agent/v1/images/pull", json={"reference": "a:1", "dockerConfig": "{}"}) as response:
        lines = [json.loads(line) async for line in response.content]
    image = {"reference": "a:1", "digest": "sha256:3", "sizeBytes": 9, "layers": 2, "created": ""}
    assert lines == [{"progress": {"reference": "a:1", "config": "{}"}}, {"image": image}]
    async with door.session.post("http://agent/v1/images/pull", json={"reference": "late"}) as response:
        lines = [json.loads(line) async for line in response.content]
    assert lines[1] == {"error": {"reason": "ImagePullFailed", "message": "it broke", "field": "reference"}}
