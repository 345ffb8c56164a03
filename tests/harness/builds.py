"""Builds in tests: contexts as tars, a store with a small base image, and trees as plain values to compare."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from skerry_node.build import archives, cache, engine, progress, running, trees, union
from skerry_node.image import importing
from skerry_node.image.errors import ImageNotFound
from skerry_node.image.record import Image
from skerry_node.image.store import Store
from tests.harness import images

EPOCH = 1_600_000_000
BASE = "docker.io/library/base:latest"
BASE_FILES: images.Files = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n",
    "etc/group": b"root:x:0:\nstaff:x:50:alice\n",
    "usr/bin/tool": b"tool",
    "bin": "usr/bin",
    "tmp": None,
    "srv/data/old": b"old",
    "srv/link": "data",
    "away": "/etc",
    "up": "../../../../etc",
}


def pack(files: images.Files) -> archives.Archive:
    """A context of *files*, as images.Files has them."""
    return archive(images.make_tar(files))


def archive(content: bytes) -> archives.Archive:
    """A tar as a context."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the archive's
    file.write(content)
    file.flush()
    return archives.Archive(file, what="the context")


class NoRunner:
    """Runs nothing; counts what it was asked for."""

    def __init__(self) -> None:
        self.orders: list[running.Order] = []

    @asynccontextmanager
    async def run(self, order: running.Order, output: running.Output) -> AsyncIterator[running.Finished]:
        """Say that it ran, with an empty writable layer of this process' own ids."""
        self.orders.append(order)
        await output("stdout", b"ran\n")
        with tempfile.TemporaryDirectory() as directory:
            os.mkdir(os.path.join(directory, f"made-{len(self.orders)}"), 0o700)
            fd = os.open(directory, os.O_RDONLY)
            try:
                yield running.Finished(exit_code=0, reason="", upper_fd=fd, id_base=os.getuid())
            finally:
                os.close(fd)


@dataclasses.dataclass
class Bench:
    """A store with BASE in it, and what builds need."""

    directory: str
    store: Store
    runner: Any
    events: list[progress.Event] = dataclasses.field(default_factory=list)

    @property
    def tools(self) -> engine.Tools:
        """The tools of a build."""
        return engine.Tools(
            store=self.store, cache=cache.Cache(f"{self.directory}/cache", self.store), runner=self.runner, find_image=self._find,
            directory=self.directory, architecture="amd64",
        )  # fmt: skip

    async def build(self, dockerfile: str, context: archives.Archive | None = None, **options: Any) -> Image:
        """Build *dockerfile* as localhost/test:latest."""
        self.events.clear()
        options.setdefault("source_date_epoch", EPOCH)
        options.setdefault("references", ("localhost/test:latest",))
        context = context or pack({})
        request = engine.Request(dockerfile=dockerfile.encode(), context=context, **options)
        with contextlib.closing(context):
            return await engine.build(request, self.tools, self._emit)

    async def _emit(self, event: progress.Event) -> None:
        self.events.append(event)

    async def _find(self, name: str) -> Image:
        found = self.store.find(name)
        if found is None:
            raise ImageNotFound(f"no image {name!r} here")
        return found

    def config(self, image: Image) -> dict[str, Any]:
        """The whole image config."""
        raw: dict[str, Any] = json.loads(self.store.blobs.read(image.config_blob.digest))
        return raw

    def tree(self, image: Image) -> dict[str, Any]:
        """The image's root."""
        return read_tree(self.store, image)


def make_bench(directory: str, runner: Any = None, *, files: images.Files | None = None, config: Mapping[str, Any] | None = None) -> Bench:
    """A bench in *directory*."""
    layout = images.write_layout(f"{directory}/layout", [images.make_tar(files or BASE_FILES)], name=BASE, config=config or {"Env": ["PATH=/bin"]})
    store = Store(f"{directory}/images")
    importing.import_layout(store, layout)
    return Bench(directory=directory, store=store, runner=runner or NoRunner())


def read_tree(store: Store, image: Image) -> dict[str, Any]:
    """Every path of *image*: kind, mode, owner, time, and content or target."""
    found: dict[str, Any] = {}
    with union.opened(store.layers_fd, [layer.path for layer in image.layers]) as root:
        waiting: list[tuple[str, trees.Node]] = [("", root)]
        while waiting:
            path, node = waiting.pop()
            for name, child in node.children().items():
                inner = f"{path}/{name.decode()}"
                found[inner] = describe(child)
                waiting.append((inner, child))
    return found


def describe(node: trees.Node) -> tuple[Any, ...]:
    """One node as a plain value: type and mode, owner, content or target."""
    body: Any = None
    if stat.S_ISREG(node.mode):
        body = b"".join(node.read())
    elif stat.S_ISLNK(node.mode):
        body = node.target.decode()
    return (stat.filemode(node.mode), node.uid, node.gid, body)
