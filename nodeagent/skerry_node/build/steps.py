"""One instruction of one stage: what it changes in the config, and the layer that it makes or that the cache has."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skerry_node.build import cache, configs, copies, progress, running, scope, scripts, sealing, shape, threads, words
from skerry_node.build import instructions as kinds
from skerry_node.build.errors import BuildError, CommandFailed
from skerry_node.image import config as image_config
from skerry_node.image import diffing, tarwriting
from skerry_node.image.record import Image, Layer

if TYPE_CHECKING:
    from skerry_node.build.engine import Request, Tools


@dataclass(slots=True)
class Stage:
    """A stage as far as it has come. *done* has the finished ones by number; *keep* has a state outlast this build, and blocks."""

    current: shape.Shape
    dockerfile: kinds.Dockerfile
    number: int
    done: dict[int, shape.Shape]
    tools: Tools
    request: Request
    held: contextlib.ExitStack
    now_ns: int
    scope: scope.Scope
    keep: Callable[[shape.Shape], None]

    async def perform(self, step: kinds.Instruction, emit: progress.Emit) -> None:
        """Do *step*. Raises BuildError, ImageError, OSError."""
        match step:
            case kinds.Arg():
                self.scope.declare(step, self.current.config.variables)
                self._advance(step, self.current.config, None)
            case kinds.Run():
                await self._run(step, emit)
            case kinds.Copy():
                await self._copy(step, emit)
            case kinds.Text(word="WORKDIR"):
                await self._enter(step, emit)
            case _:
                self._advance(step, configs.apply(self.current.config, step, self.expander(step.line)), None)

    def expander(self, line: int) -> Callable[[str], str]:
        """Replaces the variables that hold now."""
        variables = self.scope.variables(self.current.config.variables)
        return lambda text: words.expand(text, variables, escape=self.dockerfile.escape, line=line)

    def _advance(self, step: kinds.Instruction, config: configs.Config, layer: Layer | None) -> None:
        self.current = shape.add_step(self.current, config, layer, text=step.text, now_ns=self.now_ns)

    async def _enter(self, step: kinds.Text, emit: progress.Emit) -> None:
        config = configs.apply(self.current.config, step, self.expander(step.line))
        key = cache.key_of(["WORKDIR", self.current.diff_ids, config.working_dir, self.request.source_date_epoch])
        layer = await self._cached(key, emit, lambda: copies.make_directory(self, config.working_dir))
        self._advance(step, config, layer)

    async def _copy(self, step: kinds.Copy, emit: progress.Emit) -> None:
        source = await copies.find_source(self, step)
        with contextlib.ExitStack() as opened:
            copying = await threads.run(copies.prepare, self, step, source, opened)
            digest = await threads.run(copying.digest)
            key = cache.key_of(["COPY", self.current.diff_ids, digest, self.request.source_date_epoch])
            layer = await self._cached(key, emit, lambda: self.seal(copying.write))
        self._advance(step, self.current.config, layer)

    async def _run(self, step: kinds.Run, emit: progress.Emit) -> None:
        config = self.current.config
        argv = scripts.command(config, step)
        arguments = tuple(f"{name}={value}" for name, value in self.scope.arguments.items() if name not in config.variables)
        has_network = self.request.has_network if step.network is None else step.network == "default"
        parts = ["RUN", self.current.diff_ids, argv, sorted(arguments), config.env, config.user, config.working_dir, has_network]
        key = cache.key_of([*parts, self.request.source_date_epoch])
        is_known, layer = await self._find_cached(key, emit)
        if not is_known:
            proxies = tuple(f"{name}={value}" for name, value in self.scope.proxies().items())
            order = running.Order(image=self._image(), argv=argv, env=(*proxies, *arguments), has_network=has_network)
            await threads.run(self.keep, self.current)  # a RUN may take long, and the agent may die in it
            layer = await self._execute(step, order, emit)
            await self._note(key, layer, emit)
        self._advance(step, config, layer)

    async def _execute(self, step: kinds.Run, order: running.Order, emit: progress.Emit) -> Layer | None:
        async def say(stream: str, data: bytes) -> None:
            await emit(progress.Said(stream=stream, data=data.decode("utf-8", "replace")))

        async with self.tools.runner.run(order, say) as finished:
            if finished.exit_code != 0:
                why = f" ({finished.reason})" if finished.reason else ""
                problem = f"{step.text[:200]} ended with exit code {finished.exit_code}{why}"
                raise CommandFailed(problem, line=step.line, exit_code=finished.exit_code)

            def write(out: tarwriting.Output) -> int:
                epoch = self.request.source_date_epoch
                return diffing.write_layer(finished.upper_fd, out, id_base=finished.id_base, clamp_seconds=epoch).entries

            return await threads.run(self.seal, write)

    def seal(self, write: Callable[[tarwriting.Output], int]) -> Layer | None:
        """The layer of what *write* writes. Blocks."""
        return sealing.make_layer(self.tools.store, write, directory=self.tools.directory, held=self.held)

    async def _cached(self, key: str, emit: progress.Emit, make: Callable[[], Layer | None]) -> Layer | None:
        is_known, layer = await self._find_cached(key, emit)
        if not is_known:
            layer = await threads.run(make)
            await self._note(key, layer, emit)
        return layer

    async def _find_cached(self, key: str, emit: progress.Emit) -> tuple[bool, Layer | None]:
        if not self.request.use_cache:
            return False, None
        is_known, layer = await threads.run(self.tools.cache.find, key)
        if layer is not None:
            self.held.enter_context(self.tools.store.hold([layer.diff_id], blobs=[layer.blob.digest]))
            is_known, layer = await threads.run(self.tools.cache.find, key)  # again, now that nobody can take it away
        if is_known:
            await emit(progress.Cached())
        return is_known, layer

    async def _note(self, key: str, layer: Layer | None, emit: progress.Emit) -> None:
        await threads.run(self.tools.cache.write, key, layer)
        if layer is not None:
            await emit(progress.Sealed(diff_id=layer.diff_id, size_bytes=layer.size_bytes))

    def _image(self) -> Image:
        """The stage so far, as what a sandbox starts from."""
        raw = {"config": configs.render(self.current.config)}
        name = hashlib.sha256("".join(self.current.diff_ids).encode()).hexdigest()
        config = dataclasses.replace(image_config.parse_config(raw), diff_ids=self.current.diff_ids)
        if not self.current.layers:
            raise BuildError("RUN in an empty image: it has no program", hint="COPY one first, or build FROM another image")
        blob = self.current.layers[0].blob
        return Image(
            reference=f"{cache.PREFIX}:{name}", digest=f"sha256:{name}", media_type="", manifest_bytes=0, config_blob=blob, config=config,
            layers=self.current.layers, is_local=True,
        )  # fmt: skip
