"""A context that is given as names and contents, as a manifest or a ConfigMap has it: packed, less what its own .dockerignore leaves out."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Mapping
from typing import BinaryIO

from skerry_api import ignoring
from skerry_node.build import archives
from skerry_node.build.errors import InvalidContext
from skerry_node.image import tar, tarwriting
from skerry_node.image.errors import InvalidTree

IGNORE_FILE = ".dockerignore"
MAX_FILES = 1000


def pack(files: Mapping[str, bytes], *, directory: str, mtime_ns: int = 0) -> archives.Archive:
    """The context of *files*, by path, mode 0644 and root's; laid aside in *directory* as an anonymous file. Close it. Raises InvalidContext."""
    if len(files) > MAX_FILES:
        raise InvalidContext(f"the build context has more than {MAX_FILES} files")
    try:
        rules = ignoring.parse(files.get(IGNORE_FILE, b"").decode("utf-8", "surrogateescape"))
    except ignoring.InvalidIgnoreFile as error:
        raise InvalidContext(f"{IGNORE_FILE}: {error}") from error
    named = {_name(path): content for path, content in files.items()}
    file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - the archive's
    try:
        _write(file, {name: content for name, content in named.items() if not rules.is_ignored(name)}, mtime_ns)
        return archives.Archive(file, what="the build context")
    except InvalidTree as error:
        file.close()
        raise InvalidContext(f"the build context: {error}") from error
    except BaseException:
        file.close()
        raise


def _name(path: str) -> str:
    """*path* without what means nothing. Raises InvalidContext."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts or ".." in parts or "\0" in path:
        raise InvalidContext(f"{path[:80]!r} is no path of a file in the context")
    return "/".join(parts)


def _write(file: BinaryIO, files: Mapping[str, bytes], mtime_ns: int) -> None:
    writer = tarwriting.Writer(file)
    for name, content in sorted(files.items()):
        path = name.encode("utf-8", "surrogateescape")
        entry = tar.Entry(path=path, mode=stat.S_IFREG | 0o644, uid=0, gid=0, mtime_ns=mtime_ns, size=len(content))
        writer.add(entry, tarwriting.Content([content]))
    writer.finish()
    file.flush()
