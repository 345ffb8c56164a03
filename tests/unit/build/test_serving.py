"""A build through the door: the SDK's end, the agent's end, and a real build between them; only RUN is stood in for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from skerry import building, transport
from skerry.errors import Refused, SkerryError
from skerry_api import ignoring
from skerry_node.build import engine, progress, running
from skerry_node.image.record import Image
from skerry_node.serving import building as door
from skerry_node.serving.routes import errors_as_json
from tests.harness import builds


class Builder:
    """The agent's part, over a store of tests."""

    def __init__(self, bench: builds.Bench) -> None:
        self.bench = bench
        self.requests: list[engine.Request] = []

    @property
    def directory(self) -> str:
        return self.bench.directory

    async def build(self, request: engine.Request, emit: progress.Emit) -> Image:
        self.requests.append(request)
        return await engine.build(request, self.bench.tools, emit)


class Node:
    """A socket with the one route behind it."""

    def __init__(self, path: str, builder: Builder) -> None:
        self.path, self.builder = path, builder

    def build(self, directory: pathlib.Path, dockerfile: str, **options: Any) -> list[dict[str, Any]]:
        """What the SDK gives, event by event."""
        found = building.build(
            transport.Transport(self.path),
            str(directory),
            dockerfile=dockerfile.encode(),
            rules=ignoring.Rules(),
            options=building.Options(**options),
        )
        return list(found)


@pytest.fixture
async def node(tmp_path: pathlib.Path) -> AsyncIterator[Node]:
    (tmp_path / "bench").mkdir()
    builder = Builder(builds.make_bench(str(tmp_path / "bench")))
    application = web.Application(middlewares=[errors_as_json])
    door.add_routes(application, builder)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    path = str(tmp_path / "agent.sock")
    await web.UnixSite(runner, path).start()
    yield Node(path, builder)
    await runner.cleanup()
    builder.bench.store.close()


@pytest.fixture
def context(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "a").write_bytes(os.urandom(300_000))
    return directory


async def test_a_build(node: Node, context: pathlib.Path) -> None:
    """The context arrives whole, progress comes in order, and the last word is the image."""
    text = "FROM base\nARG v\nCOPY a /a\nRUN something\n"
    events = await asyncio.to_thread(node.build, context, text, tags=("app:1", "app:2"), arguments={"v": "1"}, source_date_epoch=builds.EPOCH)
    kinds = [event["event"] for event in events]
    assert kinds == ["started", "started", "started", "sealed", "started", "said", "sealed", "done"]
    assert (events[2]["step"], events[2]["steps"], events[2]["line"], events[2]["text"]) == (3, 4, 3, "COPY a /a")
    assert events[5]["data"] == "ran\n"
    store = node.builder.bench.store
    image = store.find("app:1")
    assert image is not None
    assert events[-1]["image"] == {
        "reference": "docker.io/library/app:1", "digest": image.digest, "sizeBytes": image.size_bytes, "layers": 3,
    }  # fmt: skip
    assert store.find("app:2") is not None
    assert node.builder.bench.tree(image)["/a"][3] == (context / "a").read_bytes()
    assert os.listdir(node.builder.directory).count("cache") == 1


async def test_a_build_without_a_name(node: Node, context: pathlib.Path) -> None:
    """It is called by its digest."""
    events = await asyncio.to_thread(node.build, context, "FROM scratch\nCOPY a /a\n")
    image = events[-1]["image"]
    assert image["reference"] == f"localhost/unnamed:{image['digest'].removeprefix('sha256:')[:12]}"


async def test_a_build_that_fails(node: Node, context: pathlib.Path) -> None:
    """The last word is the reason, with the line; nothing of the context stays."""
    with pytest.raises(building.BuildFailed, match="line 2: unknown instruction COPPY; did you mean COPY") as caught:
        await asyncio.to_thread(node.build, context, "FROM scratch\nCOPPY a /a\n")
    assert (caught.value.line, caught.value.exit_code, caught.value.reason) == (2, None, "InvalidDockerfile")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        pytest.param({"tags": ("UPPER",)}, "tags", id="a name that is none"),
        pytest.param({"tags": ("a@sha256:" + "0" * 64,)}, "tags", id="a digest as a name"),
        pytest.param({"tags": ("a",) * 17}, "tags", id="too many names"),
        pytest.param({"arguments": {"a b": "c"}}, "buildArgs", id="an argument's name that is none"),
        pytest.param({"arguments": {"a": "\0"}}, "buildArgs", id="a NUL in an argument"),
        pytest.param({"source_date_epoch": -1}, "sourceDateEpoch", id="a time before all"),
        pytest.param({"target": 5}, "target", id="a target that is no text"),
    ],
)
async def test_what_is_refused_at_the_door(node: Node, context: pathlib.Path, options: dict[str, Any], field: str) -> None:
    """A request that is wrong is refused with the field's name before anything is done."""
    with pytest.raises(Refused) as caught:
        await asyncio.to_thread(node.build, context, "FROM scratch\nCOPY a /", **options)
    assert caught.value.field == field
    assert node.builder.requests == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0\0\5{}", id="cut short"),
        pytest.param(struct.pack(">I", 1 << 31), id="a head without end"),
        pytest.param(struct.pack(">I", 2) + b"[]", id="no object"),
        pytest.param(struct.pack(">I", 2) + b"{}", id="no Dockerfile"),
        pytest.param(struct.pack(">I", 26) + json.dumps({"dockerfile": "", "x": 1}).encode().ljust(26), id="an unknown field"),
        pytest.param(struct.pack(">I", 18) + b'{"dockerfile": ""}' + b"\1" * 512, id="a context that is no tar"),
    ],
)
async def test_bodies_that_are_no_request(node: Node, body: bytes) -> None:
    """Whatever comes, it is a refusal, and no build."""
    via = transport.Transport(node.path)
    with pytest.raises(Refused):
        await asyncio.to_thread(lambda: list(via.send("/v1/build", iter([body]))))
    assert node.builder.requests == []


async def test_a_client_that_goes(node: Node, context: pathlib.Path) -> None:
    """Its build ends with it, and the half context is gone."""
    ended = asyncio.Event()

    class Waits(builds.NoRunner):
        @contextlib.asynccontextmanager
        async def run(self, _: running.Order, output: running.Output) -> AsyncIterator[running.Finished]:
            try:
                await output("stdout", b"here")
                await asyncio.sleep(60)
                raise AssertionError
                yield
            finally:
                ended.set()

    node.builder.bench.runner = Waits()
    via = transport.Transport(node.path)
    head = json.dumps({"dockerfile": "FROM base\nRUN x"}).encode()

    def read_and_leave() -> None:
        for line in (lines := via.send("/v1/build", iter([struct.pack(">I", len(head)) + head, bytes(1024)]))):
            if b"here" in line:
                lines.close()

    await asyncio.to_thread(read_and_leave)
    await asyncio.wait_for(ended.wait(), 30)


def test_a_socket_that_is_not_there(context: pathlib.Path) -> None:
    """It is said, with the next step."""
    with pytest.raises(SkerryError, match="no agent answers"):
        Node("/nonexistent.sock", None).build(context, "FROM scratch")  # type: ignore[arg-type]
