"""Local files to and from the tar that a copy travels as. What comes from a sandbox is hostile: it is written by directory fd, through no link.

Python's tarfile reads and renders headers here and does nothing else; sparse files are GNU's, pax format 1.0.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from skerry.errors import SkerryError

CHUNK_BYTES = 1 << 18
_READ_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
MAX_DEPTH = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
Warn = Callable[[str], None]


def pack(path: str, name: str, *, follows: bool, warn: Warn) -> Iterator[bytes]:
    """The file or tree at *path* as a tar in which it is called *name*; with an empty name, what is in the directory. Raises OSError."""
    real = os.path.realpath(path) if follows else os.path.abspath(path)
    parent = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pending = bytearray()
    try:
        for piece in _pack(parent, os.path.basename(real) or ".", name, {}, warn, 0):
            pending += piece
            if len(pending) >= CHUNK_BYTES:
                yield bytes(pending)
                pending.clear()
    finally:
        os.close(parent)
    yield bytes(pending) + bytes(2 * _BLOCK)


def unpack(stream: IO[bytes], directory: str, name: str, *, keeps_owners: bool, warn: Warn) -> None:
    """Write the members of a tar below *directory*, which is there; they are *name* and what is below it. Raises OSError, SkerryError.

    Set-id bits are dropped unless owners are kept: a file that is ours must not run as us for others.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    later: list[tuple[list[str], tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_READ_BYTES, encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                parts = _check_name(member.name, name)
                try:
                    if member.isdir():
                        os.close(_walk(root, parts))
                        later.append((parts, member))
                    else:
                        _place(archive, root, parts, member, name, keeps_owners=keeps_owners)
                except OSError as error:
                    warn(f"{member.name}: {(error.strerror or str(error)).lower()}")
                archive.members = []  # type: ignore[attr-defined]  # it would keep every one of them
        for parts, member in reversed(later):
            with contextlib.suppress(OSError):
                fd = _walk(root, parts)
                _dress(fd, member, keeps_owners=keeps_owners)
                os.close(fd)
    except tarfile.TarError as error:
        raise SkerryError(f"what came is no archive: {error}") from error
    finally:
        os.close(root)


def _pack(parent: int, last: str, name: str, links: dict[tuple[int, int], str], warn: Warn, depth: int) -> Iterator[bytes]:
    found = os.stat(last, dir_fd=parent, follow_symlinks=False)
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    seconds, nanoseconds = divmod(abs(found.st_mtime_ns), 1_000_000_000)
    info.mtime = seconds if found.st_mtime_ns >= 0 else 0
    if nanoseconds or found.st_mtime_ns < 0:
        sign = "-" if found.st_mtime_ns < 0 else ""
        info.pax_headers = {"mtime": f"{sign}{seconds}.{nanoseconds:09d}"}
    first = links.setdefault((found.st_dev, found.st_ino), name) if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode) else name
    if first != name:
        info.type, info.linkname = tarfile.LNKTYPE, first
        yield _render(info)
    elif stat.S_ISREG(found.st_mode):
        yield from _pack_file(parent, last, info)
    elif stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
        yield from _pack_directory(parent, last, info, links, warn, depth)
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(last, dir_fd=parent)
        yield _render(info)
    elif stat.S_ISFIFO(found.st_mode):
        info.type = tarfile.FIFOTYPE
        yield _render(info)
    else:
        warn(f"{name}: a device or socket is not copied")


def _pack_directory(parent: int, last: str, info: tarfile.TarInfo, links: dict[tuple[int, int], str], warn: Warn, depth: int) -> Iterator[bytes]:
    if depth >= MAX_DEPTH:
        raise SkerryError(f"{info.name}: deeper than {MAX_DEPTH} directories")
    fd = os.open(last, _DIRECTORY, dir_fd=parent)
    try:
        if info.name:
            yield _render(info)
        for entry in sorted(os.listdir(fd)):
            try:
                yield from _pack(fd, entry, f"{info.name}/{entry}" if info.name else entry, links, warn, depth + 1)
            except FileNotFoundError:
                continue  # it went away meanwhile
            except PermissionError as error:
                warn(f"{info.name}/{entry}: {(error.strerror or '').lower()}")
    finally:
        os.close(fd)


def _pack_file(parent: int, last: str, info: tarfile.TarInfo) -> Iterator[bytes]:
    fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        found = os.fstat(fd)
        info.size = found.st_size
        segments = [(0, found.st_size)]
        prefix = b""
        if found.st_blocks * 512 < found.st_size:
            segments = _find_segments(fd, found.st_size)
            text = f"{len(segments)}\n" + "".join(f"{offset}\n{length}\n" for offset, length in segments)
            prefix = text.encode() + bytes(-len(text) % _BLOCK)
            info.size = len(prefix) + sum(length for _, length in segments)
            sparse = {"major": "1", "minor": "0", "name": info.name, "realsize": str(found.st_size)}
            info.pax_headers = {**info.pax_headers, **{f"GNU.sparse.{key}": value for key, value in sparse.items()}}
        yield _render(info) + prefix
        for start, length in segments:
            offset, end = start, start + length
            while offset < end:
                data = os.pread(fd, min(end - offset, CHUNK_BYTES), offset)
                yield data or bytes(min(end - offset, CHUNK_BYTES))  # it has become shorter
                offset += len(data) or CHUNK_BYTES
        yield bytes(-info.size % _BLOCK)
    finally:
        os.close(fd)


def _render(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _find_segments(fd: int, size: int) -> list[tuple[int, int]]:
    """Where there is data (lseek(2), SEEK_DATA); the last is empty and at the end, as GNU tar has it for a hole there."""
    segments: list[tuple[int, int]] = []
    place = 0
    while place < size:
        try:
            start = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:
            break
        place = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        segments.append((start, place - start))
    if not segments or sum(segments[-1]) < size:
        segments.append((size, 0))
    return segments


def _check_name(text: str, name: str) -> list[str]:
    """The parts of a member's name, which is *name* or below it. Raises SkerryError."""
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith("/") or ".." in parts or "\0" in text or parts[:1] != [name]:
        raise SkerryError(f"the sandbox sent a file that was not asked for: {text[:200]!r}; nothing of it was written")
    return parts


def _walk(root: int, parts: list[str]) -> int:
    """The directory *parts* below *root*, made when it is missing; no link is followed on the way."""
    fd = os.dup(root)
    for part in parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            inner = os.open(part, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _place(archive: tarfile.TarFile, root: int, parts: list[str], member: tarfile.TarInfo, name: str, *, keeps_owners: bool) -> None:
    parent = _walk(root, parts[:-1])
    last = parts[-1]
    try:
        if member.isreg():
            _place_file(archive, parent, last, member, keeps_owners=keeps_owners)
            return
        if member.isdev() and not member.isfifo():
            raise PermissionError(errno.EPERM, "a device is not copied")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(last, dir_fd=parent)
        if member.islnk():
            target = _check_name(member.linkname, name)
            fd = _walk(root, target[:-1])
            try:
                os.link(target[-1], last, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(fd)
            return
        if member.issym():
            os.symlink(member.linkname, last, dir_fd=parent)
        else:
            os.mkfifo(last, member.mode & 0o777, dir_fd=parent)
        if keeps_owners:
            os.chown(last, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(last, ns=(_mtime_ns(member),) * 2, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _place_file(archive: Any, parent: int, last: str, member: Any, *, keeps_owners: bool) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(last, dir_fd=parent)
    fd = os.open(last, _NEW, 0o600, dir_fd=parent)
    try:
        source = archive.fileobj
        source.seek(member.offset_data)
        if member.sparse is not None:
            os.ftruncate(fd, member.size)
        for offset, length in member.sparse if member.sparse is not None else [(0, member.size)]:
            place, end = offset, offset + length
            while place < end:
                data = source.read(min(end - place, _READ_BYTES))
                if not data:
                    raise SkerryError(f"{member.name}: the stream ended in the middle of it")
                written = 0
                while written < len(data):
                    written += os.pwrite(fd, memoryview(data)[written:], place + written)
                place += len(data)
        _dress(fd, member, keeps_owners=keeps_owners)
    finally:
        os.close(fd)


def _dress(fd: int, member: tarfile.TarInfo, *, keeps_owners: bool) -> None:
    """Owner, then mode, which a change of owner would cut, then time."""
    if keeps_owners:
        os.fchown(fd, member.uid, member.gid)
    os.fchmod(fd, member.mode & (0o7777 if keeps_owners else 0o1777))
    os.utime(fd, ns=(_mtime_ns(member),) * 2)


def _mtime_ns(member: tarfile.TarInfo) -> int:
    """To the nanosecond; tarfile reads it as a float, which has too few digits for that."""
    text = member.pax_headers.get("mtime")
    if text is None:
        return int(member.mtime) * 1_000_000_000
    whole, _, part = text.partition(".")
    nanoseconds = int(part[:9].ljust(9, "0")) if part else 0
    return int(whole) * 1_000_000_000 + (-nanoseconds if whole.startswith("-") else nanoseconds)
