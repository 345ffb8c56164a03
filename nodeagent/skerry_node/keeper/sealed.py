"""The keeper's own runtime on the host: a directory that holds all it needs to start, named by the digest of what is in it (ADR 17).

A keeper that outlives its agent's container must run from files that outlive the container's image, on hosts that may have no Python and another
C library. So the files that a starting keeper loads are copied: the interpreter, the loader and shared libraries, the modules with their bytecode.
Standard library only; nothing here is specific to one version of Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import skerry_node

_LIST = """
import sys
sys.path.insert(0, sys.argv[1])
import json, os, resource
import skerry_node.keeper.__main__, skerry_node.keeper.attic, skerry_node.keeper.detaching
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
cached = {getattr(module, "__cached__", None) for module in list(sys.modules.values())}
with open("/proc/self/maps", encoding="utf-8") as maps:
    objects = {line.split(maxsplit=5)[5].strip() for line in maps if " r-xp " in line and "/" in line}
print(json.dumps([os.__file__, sorted(filter(None, files)), sorted(filter(None, cached)), sorted(objects)]))
"""
_SEARCH = "lib"


@dataclass(frozen=True, slots=True)
class Runtime:
    """One sealed directory. `command` starts its Python; `packages` is where ours are."""

    path: str
    digest: str

    @property
    def command(self) -> list[str]:
        """The loader is named, so that the host's is never asked for; its own name comes last."""
        return [f"{self.path}/loader", "--library-path", f"{self.path}/{_SEARCH}", f"{self.path}/bin/python3"]

    @property
    def packages(self) -> str:
        """What goes to sys.path."""
        return f"{self.path}/lib/skerry"


def ensure(directory: str) -> Runtime:
    """The runtime of this very installation below *directory*, copied when it is not there or not what its name says; older ones are removed.

    Blocks for a quarter of a second, or a second when it copies. Raises OSError, subprocess.SubprocessError.
    """
    contents = dict(_find_contents())
    digest = _digest(contents)
    final = os.path.join(directory, digest)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if not _is_sound(final, contents):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(final)
        temporary = f"{final}.{os.getpid()}.part"
        try:
            _copy(contents, temporary)
            os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _remove_others(directory, digest)
    return Runtime(final, digest)


def _find_contents() -> Iterator[tuple[str, str]]:
    """Name in the runtime -> file of this installation."""
    root = os.path.dirname(os.path.dirname(skerry_node.__file__))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _LIST, root], check=True, capture_output=True, text=True)
    landmark, files, cached, objects = json.loads(done.stdout)
    standard = os.path.dirname(landmark)
    version = os.path.basename(standard)
    for path in (*files, *cached):
        for base, name in ((root, "lib/skerry"), (standard, f"lib/{version}")):
            if path.startswith(base + "/") and os.path.exists(path):
                yield f"{name}/{path[len(base) + 1 :]}", path
                break
    for path in objects:
        if os.path.basename(path).startswith("ld-linux") or os.path.basename(path).startswith("ld-musl"):
            yield "loader", path
        if not path.startswith(standard + "/") and ".so" in os.path.basename(path):
            for name in _find_names(path):
                yield f"{_SEARCH}/{name}", path
    yield "bin/python3", os.path.realpath(sys.executable)


def _find_names(path: str) -> list[str]:
    """Names by which others ask for a library: its own, and those of links to it beside it (libffi.so.8 for libffi.so.8.1.2)."""
    directory = os.path.dirname(path)
    return [name for name in os.listdir(directory) if ".so." in name and os.path.realpath(f"{directory}/{name}") == os.path.realpath(path)] or [
        os.path.basename(path)
    ]


def _digest(contents: dict[str, str]) -> str:
    total = hashlib.sha256()
    for name, path in sorted(contents.items()):
        with open(path, "rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]


def _is_sound(final: str, contents: dict[str, str]) -> bool:
    """Whether every file there is what its source is: a crash of the machine may have left any of them short."""
    try:
        return _digest({name: os.path.join(final, name) for name in contents}) == os.path.basename(final)
    except OSError:
        return False


def _copy(contents: dict[str, str], target: str) -> None:
    for name, path in contents.items():
        made = os.path.join(target, name)
        os.makedirs(os.path.dirname(made), mode=0o755, exist_ok=True)
        shutil.copyfile(path, made)
        os.chmod(made, 0o555 if name in {"loader", "bin/python3"} or ".so" in name else 0o444)
        times = os.stat(path)
        os.utime(made, ns=(times.st_atime_ns, times.st_mtime_ns))  # bytecode names its source's time


def _remove_others(directory: str, digest: str) -> None:
    """What an older version left. A keeper that still runs from one has all of it in memory or open: it opens no file by path after its start."""
    for name in os.listdir(directory):
        if name != digest and not name.endswith(".part"):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
