"""A build from its Dockerfile to an image in the store: stages in order, instruction by instruction, each layer from the cache where it can be.

Blocking work is done in threads; nothing of a build runs on the agent's loop but decisions. A build that dies leaves complete layers, which the
cache may know, and nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from skerry_node.build import cache, configs, parser, progress, scope, sealing, shape, stages, steps, threads
from skerry_node.build import instructions as kinds
from skerry_node.build.archives import Archive
from skerry_node.build.errors import BuildError, InvalidDockerfile, StepFailed
from skerry_node.build.running import Runner
from skerry_node.image.errors import ImageError
from skerry_node.image.record import Image
from skerry_node.image.store import Store


@dataclass(frozen=True, slots=True)
class Request:
    """What to build. *arguments* are --build-arg; *references* name the image, and are whole; times after *source_date_epoch* become it."""

    dockerfile: bytes
    context: Archive
    references: tuple[str, ...]
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    use_cache: bool = True
    has_network: bool = False
    source_date_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What a build works with. *find_image* gives an image that FROM or --from names, bringing it in where it is missing; raises ImageError.

    *directory* is for anonymous files: contexts and layers under way.
    """

    store: Store
    cache: cache.Cache
    runner: Runner
    find_image: Callable[[str], Awaitable[Image]]
    directory: str
    architecture: str


async def build(request: Request, tools: Tools, emit: progress.Emit) -> Image:
    """The image that *request* asks for, in the store. Raises BuildError, ImageError, OSError."""
    dockerfile = parser.parse(request.dockerfile)
    platform = scope.platform_arguments(tools.architecture)
    outer = scope.Scope(given=request.arguments, platform=platform, escape=dockerfile.escape, is_global=True)
    for step in dockerfile.arguments:
        outer.declare(step, {})
    planned = stages.plan(dockerfile, target=request.target, variables=outer.variables({}))
    for warning in dockerfile.warnings:
        await emit(progress.Warned(warning))
    with contextlib.ExitStack() as held:
        run = _Build(request=request, tools=tools, emit=emit, dockerfile=dockerfile, planned=planned, outer=outer, held=held)
        return await run.run()


@dataclass(slots=True)
class _Build:
    request: Request
    tools: Tools
    emit: progress.Emit
    dockerfile: kinds.Dockerfile
    planned: Sequence[stages.Planned]
    outer: scope.Scope
    held: contextlib.ExitStack
    done: dict[int, shape.Shape] = field(default_factory=dict)
    begun: int = 0
    used: set[str] = field(default_factory=set)

    async def run(self) -> Image:
        for planned in self.planned:
            self.done[planned.stage.number] = await self._build_stage(planned)
        unused = sorted(set(self.request.arguments) - self.used - self.outer.used)
        if unused:
            await self.emit(progress.Warned(f"build arguments that no ARG asked for: {', '.join(unused)}"))
        last = self.done[self.planned[-1].stage.number]
        raw = shape.render(last, architecture=self.tools.architecture, now_ns=self._now_ns())
        image = await threads.run(sealing.make_image, self.tools.store, raw, last.layers, references=self.request.references)
        await threads.run(self.tools.cache.trim)
        return image

    async def _build_stage(self, planned: stages.Planned) -> shape.Shape:
        origin = planned.stage.origin
        await self._begin(planned, origin)
        with _at(origin.line):
            self._check_platform(planned)
            current = await self._base(planned)
        here = steps.Stage(
            current=current, dockerfile=self.dockerfile, number=planned.stage.number, done=self.done, tools=self.tools, request=self.request,
            held=self.held, now_ns=self._now_ns(), keep=self._keep,
            scope=scope.Scope(
                given=self.request.arguments, platform=self.outer.platform, escape=self.dockerfile.escape, outer=self.outer.arguments,
            ),
        )  # fmt: skip
        try:
            for step in planned.stage.steps:
                await self._begin(planned, step)
                with _at(step.line):
                    await here.perform(step, self.emit)
        finally:
            self.used |= here.scope.used
            await threads.run(self._keep, here.current)
        return here.current

    async def _base(self, planned: stages.Planned) -> shape.Shape:
        if isinstance(planned.base, int):
            return self.done[planned.base]
        if planned.base == stages.SCRATCH:
            return shape.Shape(config=configs.Config(env=(configs.DEFAULT_PATH,)))
        cache.check_name(planned.base)
        image = await self.tools.find_image(planned.base)
        self.held.enter_context(self.tools.store.hold([layer.diff_id for layer in image.layers], blobs=[blob.digest for blob in image.blobs]))
        raw = await threads.run(self.tools.store.blobs.read, image.config_blob.digest)
        found = shape.from_image(image, raw)
        if found.has_triggers:
            await self.emit(progress.Warned(f"line {planned.stage.origin.line}: ONBUILD instructions of {planned.base[:80]} are ignored"))
        return found

    def _keep(self, current: shape.Shape) -> None:
        """Keep the layers of a stage for the next build, as far as it came; what was kept of it before is among them."""
        if not current.layers or not current.is_changed:
            return
        reference = cache.stage_reference(current.layers)
        self.tools.cache.use_stage(reference)
        if self.tools.store.find(reference) is None:
            raw = shape.render(current, architecture=self.tools.architecture, now_ns=0)
            sealing.make_image(self.tools.store, raw, current.layers, references=(reference,))
        self.tools.cache.forget_beginnings(current.layers)

    async def _begin(self, planned: stages.Planned, step: kinds.Instruction) -> None:
        self.begun += 1
        count = sum(1 + len(each.stage.steps) for each in self.planned)
        name = planned.stage.origin.name or str(planned.stage.number)
        await self.emit(progress.Started(step=self.begun, steps=count, line=step.line, text=step.text, stage=name))

    def _check_platform(self, planned: stages.Planned) -> None:
        ours = f"linux/{self.tools.architecture}"
        if planned.platform is not None and planned.platform.split("/v")[0] not in {ours, self.tools.architecture}:
            raise InvalidDockerfile(f"this node builds for {ours} only, not for {planned.platform[:40]}", line=planned.stage.origin.line)

    def _now_ns(self) -> int:
        epoch = self.request.source_date_epoch
        return time.time_ns() if epoch is None else epoch * 1_000_000_000


@contextlib.contextmanager
def _at(line: int) -> Iterator[None]:
    """Give what goes wrong the line at which it did."""
    try:
        yield
    except InvalidDockerfile:
        raise
    except BuildError as error:
        if error.line:
            raise
        raise StepFailed(error.problem, line=line, hint=error.hint) from error
    except (ImageError, OSError) as error:
        raise StepFailed(str(error), line=line) from error
