"""A sandbox's writable layer as a new layer on its image: what changed becomes an image of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skerry_node.build import configs, parser, sealing, shape, words
from skerry_node.build import instructions as kinds
from skerry_node.build.errors import InvalidDockerfile
from skerry_node.image import descriptors, diffing, tarwriting
from skerry_node.image import reference as references
from skerry_node.image.record import Image, Layer
from skerry_node.image.store import Store
from skerry_node.serving.images import CommitRequest

_CHANGES = (kinds.Env, kinds.Label, kinds.Program, kinds.Text, kinds.Texts, kinds.Shell)
_MAX_CHANGES = 100


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of it; *written* is None where the sandbox had changed nothing."""

    image: Image
    layer: Layer | None
    written: diffing.Written


def parse_changes(changes: Sequence[str]) -> tuple[kinds.Instruction, ...]:
    """The instructions in *changes*, those that change a config only. Raises InvalidDockerfile, whose line counts from 2."""
    if not changes:
        return ()
    if len(changes) > _MAX_CHANGES or any("\n" in change or "\r" in change for change in changes):
        raise InvalidDockerfile(f"a change is one line, and there are at most {_MAX_CHANGES}", line=0)
    first, *others = parser.parse("\n".join(["FROM scratch", *changes]).encode()).stages
    for step in (*first.steps, *(stage.origin for stage in others)):
        if not isinstance(step, _CHANGES):
            known = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR"
            raise InvalidDockerfile(f"{step.text[:80]!r} changes no config; give {known}", line=step.line)
    return first.steps


def commit(
    store: Store, base: Image, upper_fd: int | None, request: CommitRequest, *, id_base: int, directory: str, now_ns: int, confirm: Callable[[], None]
) -> Committed:
    """Make the image of *base*, which the caller holds, and the writable layer at *upper_fd* (None: it never ran). Blocks.

    *confirm* is called once the layer was read, and raises if that was worth nothing.

    Raises InvalidDockerfile, InvalidReference, InvalidTree, other errors of the image room, OSError; nothing is visible then.
    """
    reference, steps = str(references.parse(request.reference)), parse_changes(request.changes)
    raw_config = store.blobs.read(base.config_blob.digest)
    before = shape.from_image(base, raw_config)
    config = functools.reduce(_apply, steps, before.config)
    written = diffing.Written()

    def write(out: tarwriting.Output) -> int:
        nonlocal written
        if upper_fd is not None:
            written = diffing.write_layer(upper_fd, out, id_base=id_base)
        return written.entries

    with contextlib.ExitStack() as held:
        layer = sealing.make_layer(store, write, directory=directory, held=held)
        confirm()
        text = "skerry commit" + "".join(f" --change {json.dumps(change)}" for change in request.changes)
        after = _annotate(shape.add_step(before, config, layer, text=text, now_ns=now_ns), request)
        architecture = descriptors.parse_json(raw_config, "the image config").get("architecture")
        image = sealing.make_image(store, shape.render(after, architecture=str(architecture), now_ns=now_ns), after.layers, references=[reference])
    return Committed(image=image, layer=layer, written=written)


def _apply(config: configs.Config, step: kinds.Instruction) -> configs.Config:
    variables = config.variables
    return configs.apply(config, step, lambda text: words.expand(text, variables, escape="\\", line=step.line))


def _annotate(after: shape.Shape, request: CommitRequest) -> shape.Shape:
    """Put the request's words into the last step."""
    *earlier, step = after.history
    said = {**step, "comment": request.message, **({"author": request.author} if request.author else {})}
    config = dataclasses.replace(after.config, author=request.author or after.config.author)
    return dataclasses.replace(after, config=config, history=(*earlier, said))
