"""Debian's buildah beside ours: the same Dockerfile, and what came of it as plain values."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

from skerry_node.build import trees, union
from skerry_node.image import record

FIELDS = ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "ExposedPorts", "Labels", "Volumes", "StopSignal", "Shell")
HOST_FILES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run", "/run/.containerenv", "/run/secrets", "/dev", "/proc", "/sys"})
"""What a builder puts into a root for RUN, or makes for it; no Dockerfile asked for it."""
SETTLED_NS = 1_700_000_001 * 1_000_000_000
"""Up to here times are those of base and context; what a builder makes is newer."""


class Buildah:
    """A storage of its own below *directory*, with *layout* as docker.io/library/busybox:latest."""

    def __init__(self, directory: str, layout: str) -> None:
        self._flags = ["--root", f"{directory}/root", "--runroot", f"{directory}/runroot", "--storage-driver", "vfs"]
        self._directory = directory
        image = self.run("pull", "-q", f"oci:{layout}").strip()
        self.run("tag", image, "docker.io/library/busybox:latest")

    def run(self, *arguments: str) -> str:
        """One command's output."""
        policy = f"{self._directory}/policy.json"
        os.makedirs(self._directory, exist_ok=True)
        with open(policy, "w", encoding="ascii") as file:
            file.write('{"default":[{"type":"insecureAcceptAnything"}]}')
        command, *rest = arguments
        with_policy = [f"--signature-policy={policy}"] if command in {"pull", "bud", "from"} else []
        done = subprocess.run(["buildah", *self._flags, command, *with_policy, *rest], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"buildah {command}: {done.stderr[-2000:]}")
        return done.stdout

    def build(self, context: str, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tree and config of what `buildah bud` makes of *context*."""
        flags = ["--isolation=chroot", "--format=docker", "--identity-label=false", "--layers=false", "--pull-never", "-q"]
        image = "localhost/theirs:latest"
        self.run("bud", *flags, "-t", image, *options, context)
        container = self.run("from", "--pull-never", image).strip()
        try:
            tree = read_directory(self.run("mount", container).strip())
            config = json.loads(self.run("inspect", "--type=image", image))["Docker"]["config"]
        finally:
            self.run("umount", container)
            self.run("rm", container)
            self.run("rmi", image)
        return tree, pick(config)

    def remove(self) -> None:
        """Delete the storage."""
        shutil.rmtree(self._directory, ignore_errors=True)


def pick(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that are compared, where they say something."""
    return {name: config[name] for name in FIELDS if config.get(name)}


def read_directory(top: str) -> dict[str, Any]:
    """Every path below *top*, as read_node gives it."""
    found: dict[str, Any] = {}
    first: dict[tuple[int, int], str] = {}
    for directory, names, files in os.walk(top):
        for name in sorted([*names, *files]):
            path = os.path.join(directory, name)
            inner = path[len(top) :]
            info = os.lstat(path)
            body: Any = None
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    body = hashlib.sha256(file.read()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                body = os.readlink(path)
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                body = (body, len(first) if first.setdefault((info.st_dev, info.st_ino), inner) == inner else first[info.st_dev, info.st_ino])
            found[inner] = (stat.filemode(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, body)
    return {path: _without_number(value) for path, value in found.items()}


def _without_number(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*value[:4], value[4][0]) if isinstance(value[4], tuple) else value


def read_image(images_dir: str, reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tree and config of an image in a node's store, read beside its agent, which is the only one that writes there."""
    name = hashlib.sha256(reference.encode()).hexdigest()
    with open(f"{images_dir}/images/{name}.json", encoding="utf-8") as file:
        image = record.parse(file.read())
    with open(f"{images_dir}/blobs/sha256/{image.config_blob.digest.removeprefix('sha256:')}", "rb") as file:
        config = json.loads(file.read())["config"]
    with _directory(f"{images_dir}/layers") as fd, union.opened(fd, [layer.path for layer in image.layers]) as root:
        return dict(_read_nodes("", root)), pick(config)


def _read_nodes(above: str, node: trees.Node) -> Iterator[tuple[str, Any]]:
    for name, child in node.children().items():
        path = f"{above}/{name.decode()}"
        body: Any = None
        if stat.S_ISREG(child.mode):
            body = hashlib.sha256(b"".join(child.read())).hexdigest()
        elif stat.S_ISLNK(child.mode):
            body = child.target.decode()
        yield path, (stat.filemode(stat.S_IFLNK | 0o777 if stat.S_ISLNK(child.mode) else child.mode), child.uid, child.gid, child.mtime_ns, body)
        yield from _read_nodes(path, child)


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs, a line for each; times only where neither builder made them."""
    lines = []
    for path in sorted(set(ours) | set(theirs)):
        if path in HOST_FILES:
            continue
        mine, other = ours.get(path), theirs.get(path)
        if mine is None or other is None:
            lines.append(f"{path}: ours {mine}, theirs {other}")
            continue
        is_settled = max(mine[3], other[3]) <= SETTLED_NS and not mine[0].startswith("d")
        if (*mine[:3], mine[4]) != (*other[:3], other[4]) or (is_settled and mine[3] != other[3]):
            lines.append(f"{path}: ours {mine}, theirs {other}")
    return lines
