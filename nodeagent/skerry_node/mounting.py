"""The volumes of one sandbox: have them there with their content, and open a mount of each for a start. Above `volumes`, which knows no source."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

from skerry_api.sandbox import Sandbox
from skerry_api.volumes import EmptyDir, HostPath, Projection, Volume, VolumeMount
from skerry_node.keeper import wire
from skerry_node.rootfs import fullness
from skerry_node.settings import Settings
from skerry_node.sources import Source
from skerry_node.volumes import opening, places, projecting


def make_places(settings: Settings) -> places.Places:
    """Where volumes live on this node."""
    return places.Places(
        scratch_dir=settings.scratch_dir,
        sandboxes_dir=settings.sandboxes_dir,
        volumes_dir=settings.volumes_dir,
        host_prefixes=settings.host_path_prefixes,
    )


async def ensure(where: places.Places, source: Source, sandbox: Sandbox, *, owner: int) -> None:
    """Have every volume of *sandbox* there, owned by host id *owner*. Raises volumes.errors.VolumeFailed, SourceUnavailable, OSError."""
    for volume in sandbox.spec.volumes:
        files = await _read_files(source, sandbox, volume)
        if isinstance(volume.source, EmptyDir) and volume.source.size_limit_bytes is not None:
            await asyncio.to_thread(places.ensure, where, sandbox.metadata.uid, volume, owner=owner)  # makes a filesystem
        else:
            places.ensure(where, sandbox.metadata.uid, volume, owner=owner)
        if files is not None:
            _write(where, sandbox, volume, files, owner=owner)


async def refresh(where: places.Places, source: Source, sandbox: Sandbox, *, owner: int) -> None:
    """Bring what objects of the cluster say into the volumes of a living sandbox. What has vanished meanwhile stays as it was, as in pods."""
    for volume in sandbox.spec.volumes:
        files = await _read_files(source, sandbox, volume)
        if files is not None:
            _write(where, sandbox, volume, files, owner=owner)


def has_projections(sandbox: Sandbox) -> bool:
    """Whether any of its volumes follows an object of the cluster."""
    return any(isinstance(volume.source, Projection) for volume in sandbox.spec.volumes)


def find_full(where: places.Places, sandbox: Sandbox) -> str:
    """What of the sandbox's own space is full, for people: its root, where that has a size, or a sized volume; empty when nothing is."""
    uid = sandbox.metadata.uid
    writable = os.path.join(where.scratch_dir, uid, "upper")
    if fullness.is_bounded(writable, within=where.scratch_dir) and fullness.is_full(writable):
        return "its root filesystem"
    for volume in sandbox.spec.volumes:
        is_sized = isinstance(volume.source, EmptyDir) and volume.source.size_limit_bytes is not None
        if is_sized and fullness.is_full(places.find_path(where, uid, volume)):
            return f"the volume {volume.name}"
    return ""


@contextlib.contextmanager
def opened(where: places.Places, sandbox: Sandbox, *, owner: int) -> Iterator[list[int]]:
    """Mounts as fds, in the order of `orders`, for the time of a block. Raises volumes.errors.VolumeFailed."""
    volumes = {volume.name: volume for volume in sandbox.spec.volumes}
    fds: list[int] = []
    try:
        for mount in _ordered(sandbox):
            fds.append(opening.open_mount(where, sandbox.metadata.uid, volumes[mount.volume], mount, owner=owner))
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def orders(sandbox: Sandbox) -> tuple[wire.Volume, ...]:
    """What the keeper is told of each mount, parents before what lies below them."""
    mapped = {volume.name for volume in sandbox.spec.volumes if isinstance(volume.source, HostPath)}
    return tuple(wire.Volume(target=mount.path, is_mapped=mount.volume in mapped) for mount in _ordered(sandbox))


def _ordered(sandbox: Sandbox) -> list[VolumeMount]:
    return sorted(sandbox.spec.volume_mounts, key=lambda mount: mount.path)


async def _read_files(source: Source, sandbox: Sandbox, volume: Volume) -> dict[str, bytes] | None:
    """The files of a projected volume; None for any other."""
    projection = volume.source
    if not isinstance(projection, Projection):
        return None
    entries = await source.read_entries(projection.kind, namespace=sandbox.metadata.namespace, name=projection.name)
    kind = projection.kind[0].lower() + projection.kind[1:]
    return projecting.choose(projection, entries, f"spec.volumes[{volume.name}].{kind}")


def _write(where: places.Places, sandbox: Sandbox, volume: Volume, files: dict[str, bytes], *, owner: int) -> None:
    assert isinstance(volume.source, Projection)
    projecting.write(places.find_path(where, sandbox.metadata.uid, volume), files, mode=volume.source.mode, owner=owner)
