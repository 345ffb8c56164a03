"""COPY, ADD and WORKDIR of a stage: where sources come from, and which copying they make."""

from __future__ import annotations

import contextlib
import dataclasses
import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from skerry_node.build import archives, cache, copying, owners, packed, patterns, stages, trees, union, words
from skerry_node.build import instructions as kinds
from skerry_node.build.errors import BuildError
from skerry_node.build.source import Heredoc, find_heredocs
from skerry_node.image.record import Layer

if TYPE_CHECKING:
    from skerry_node.build.steps import Stage


async def find_source(stage: Stage, step: kinds.Copy) -> tuple[Layer, ...] | None:
    """The layers that --from names, kept from now on; None where the context is meant. Raises ImageError."""
    name = step.flags.get("from")
    if name is None:
        return None
    name = stage.expander(step.line)(name)
    number = stages.find(stage.dockerfile, name, before=stage.number)
    if number is not None:
        layers: tuple[Layer, ...] = stage.done[number].layers
        return layers
    cache.check_name(name)
    image = await stage.tools.find_image(name)
    stage.held.enter_context(stage.tools.store.hold([layer.diff_id for layer in image.layers], blobs=[blob.digest for blob in image.blobs]))
    return image.layers


def prepare(stage: Stage, step: kinds.Copy, source: tuple[Layer, ...] | None, opened: contextlib.ExitStack) -> copying.Copying:
    """The copying that *step* asks for; what it reads stays open as long as *opened*. Blocks. Raises BuildError."""
    expand = stage.expander(step.line)
    root = opened.enter_context(_root(stage, stage.current.layers))
    tree = stage.request.context.root if source is None else opened.enter_context(_root(stage, source))
    chown = expand(step.flags.get("chown", ""))
    owner = owners.resolve(chown, root) if chown else None
    mode = owners.parse_mode(expand(step.flags["chmod"])) if "chmod" in step.flags else None
    # Docker: what comes from the context is root's, what comes from a stage or an image keeps its owner
    rules = _rules(stage, owner=owner or (None if source is not None else (0, 0)), mode=mode)
    rules = dataclasses.replace(rules, strips_ids=source is None)
    work = copying.Copying(root=root, rules=rules)
    target, sources = expand(step.target), [expand(each) for each in step.sources]
    found = list(_find(step, sources, tree, expand_document=_document_expander(stage, step)))
    is_directory = target.endswith(("/", "/.")) or target in {".", ".."}
    if len(found) > 1 and not is_directory:
        raise BuildError(f"{step.text[:80]} copies several files, so its target must be a directory and end with a slash")
    path = posixpath.join(stage.current.config.directory, target).encode()
    for name, node in found:
        archive = _find_archive(stage, step, name, node)
        if archive is None:
            work.rules = rules
            work.add(name, node, path, is_directory=is_directory)
        else:
            opened.callback(archive.close)
            work.rules = dataclasses.replace(rules, owner=owner, strips_ids=False)
            work.add(name, archive.root, path, is_directory=True)
    return work


def make_directory(stage: Stage, path: str) -> Layer | None:
    """The layer of a WORKDIR that is missing; None where it is there. Blocks. Raises BuildError."""
    with _root(stage, stage.current.layers) as root:
        work = copying.Copying(root=root, rules=_rules(stage, owner=None, mode=None))
        return stage.seal(work.write) if work.add_directory(path.encode()) else None


def _find(step: kinds.Copy, sources: list[str], tree: trees.Node, *, expand_document: Callable[[Heredoc], str]) -> Iterator[tuple[bytes, trees.Node]]:
    """Names and nodes of every source, in order."""
    documents = iter(step.heredocs)
    for written, source in zip(step.sources, sources, strict=True):
        if find_heredocs(written):
            document = next(documents)
            yield document.name.encode(), _Document(expand_document(document).encode())
            continue
        matches = patterns.find(tree, source.encode())
        if not matches:
            where = f"in {step.flags['from']}" if "from" in step.flags else "in the build context"
            hint = "" if "from" in step.flags else "; .dockerignore may leave it out"
            raise BuildError(f"{step.text.split()[0]}: there is no {source[:80]!r} {where}{hint}")
        for path, node in matches:
            yield posixpath.basename(posixpath.normpath(path)), node


def _document_expander(stage: Stage, step: kinds.Copy) -> Callable[[Heredoc], str]:
    variables = stage.scope.variables(stage.current.config.variables)

    def expand(document: Heredoc) -> str:
        if document.is_quoted:
            return document.content
        return words.expand_keeping_quotes(document.content, variables, escape=stage.dockerfile.escape, line=step.line)

    return expand


def _find_archive(stage: Stage, step: kinds.Copy, name: bytes, node: trees.Node) -> archives.Archive | None:
    if not step.is_add or not stat.S_ISREG(node.mode) or isinstance(node, _Document):
        return None
    return packed.find_archive(node, directory=stage.tools.directory, what=name.decode("utf-8", "backslashreplace")[:80])


def _rules(stage: Stage, *, owner: tuple[int, int] | None, mode: int | None) -> copying.Rules:
    epoch = stage.request.source_date_epoch
    return copying.Rules(owner=owner, mode=mode, now_ns=stage.now_ns, clamp_ns=None if epoch is None else epoch * 1_000_000_000)


def _root(stage: Stage, layers: tuple[Layer, ...]) -> contextlib.AbstractContextManager[trees.Node]:
    return union.opened(stage.tools.store.layers_fd, [layer.path for layer in layers])


class _Document:
    """A here-document as a file."""

    mode, uid, gid, mtime_ns, target, device, identity = stat.S_IFREG | 0o644, 0, 0, 0, b"", (0, 0), None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    def children(self) -> Mapping[bytes, trees.Node]:
        return {}

    def read(self) -> Iterator[bytes]:
        yield self._content
