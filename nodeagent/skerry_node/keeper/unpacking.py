"""Into a sandbox: a tar from standard input becomes files below a directory. Runs in a child that has joined it, as its user.

Names are found by openat2 beneath the directory, so that no link leads out of it, whatever swaps directories and links meanwhile. What stands in the
way of a file is replaced; a directory is never replaced by anything else.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, field

from skerry_node.keeper import archive
from skerry_node.keeper.packing import ERRORS, FLUSH_BYTES, open_parent, write_all
from skerry_node.kernel import syscalls

INPUT = 0
_READ_BYTES = 1 << 20
_TRIES = 64
MAX_MAP_ENTRIES = 1 << 20
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Source:
    """Standard input, read exactly."""

    def __init__(self) -> None:
        self._buffer = b""
        self._place = 0

    def take(self, size: int) -> bytes:
        """The next *size* bytes; fewer only at the end."""
        pieces = []
        while size:
            piece = self.some(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def some(self, limit: int) -> bytes:
        """At least one byte and at most *limit*; none at the end."""
        if self._place >= len(self._buffer):
            self._buffer, self._place = os.read(INPUT, _READ_BYTES), 0
            if limit >= len(self._buffer):
                whole, self._buffer = self._buffer, b""
                return whole
        piece = self._buffer[self._place : self._place + limit]
        self._place += len(piece)
        return piece

    def skip(self, size: int) -> None:
        """Pass over *size* bytes."""
        while size:
            size -= len(self.some(size)) or size

    def drain(self) -> None:
        """Read to the end, so that the writer is not left with a broken pipe."""
        while self.some(_READ_BYTES):
            pass


@dataclass(slots=True)
class _Unpacker:
    root: int
    keeps_owners: bool
    source: _Source = field(default_factory=_Source)
    parent_name: bytes = b"\0"
    parent: int = -1
    directories: list[tuple[bytes, archive.Member]] = field(default_factory=list)
    is_complete: bool = True

    def open_parent(self, name: bytes) -> tuple[int, bytes]:
        """The directory that *name* goes into, made when it is missing."""
        before, _, last = name.rpartition(b"/")
        if before != self.parent_name:
            fd = _ensure_directory(self.root, before)
            if self.parent >= 0:
                os.close(self.parent)
            self.parent, self.parent_name = fd, before
        return self.parent, last


def unpack(arguments: tuple[str, ...]) -> int:
    """Arguments: the directory, which has to be there, and "owners" or "". The code is 2 when a file could not be written; the rest is."""
    path, owners = (word.encode("utf-8", "surrogateescape") for word in arguments)
    parent, last = open_parent(path, follows=True)
    root = os.open(last, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    unpacker = _Unpacker(root=root, keeps_owners=owners == b"owners")
    try:
        while (member := _next(unpacker.source)) is not None:
            _place(unpacker, member)
        unpacker.source.drain()
    except archive.BadArchive as error:
        write_all(ERRORS, str(error).encode("utf-8", "backslashreplace") + b"\n")
        return 1
    for name, member in reversed(unpacker.directories):
        with contextlib.suppress(OSError):
            fd = _open_directory(root, name)
            _dress(unpacker, fd, member)
            os.close(fd)
    return 0 if unpacker.is_complete else 2


def _next(source: _Source) -> archive.Member | None:
    """The next member with all that headers before it say. Raises BadArchive."""
    records: dict[bytes, bytes] = {}
    while True:
        block = source.take(archive.BLOCK)
        if len(block) < archive.BLOCK:
            raise archive.BadArchive("the archive ends in the middle")
        member = archive.parse(block)
        if member is None:
            return None
        if member.kind not in {archive.PAX, archive.GNU_NAME, archive.GNU_LINK}:
            archive.amend(member, records)
            return member
        if member.size > archive.MAX_EXTRA_BYTES:
            raise archive.BadArchive("a header is too large")
        body = source.take(member.size + -member.size % archive.BLOCK)[: member.size]
        if member.kind == archive.PAX:
            records |= archive.parse_records(body)
        else:
            records[b"path" if member.kind == archive.GNU_NAME else b"linkpath"] = body.rstrip(b"\0")


def _place(unpacker: _Unpacker, member: archive.Member) -> None:
    """Write one member; what the kernel refuses is told and passed over."""
    name = archive.check_name(member.name)
    left = member.size + -member.size % archive.BLOCK
    try:
        if member.kind == archive.DIRECTORY:
            os.close(_ensure_directory(unpacker.root, name))
            unpacker.directories.append((name, member))
        elif not name:
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        elif member.kind == archive.FILE:
            left = _place_file(unpacker, name, member)
        elif member.kind in {archive.SYMLINK, archive.HARD_LINK, archive.FIFO}:
            _place_special(unpacker, name, member)
        else:
            raise PermissionError(errno.EPERM, "a device is not copied")
    except OSError as error:
        unpacker.is_complete = False
        write_all(ERRORS, name + b": " + os.strerror(error.errno or 0).lower().encode() + b"\n")
    unpacker.source.skip(left)


def _place_file(unpacker: _Unpacker, name: bytes, member: archive.Member) -> int:
    """Write a file; returns how many bytes of its share of the stream are left."""
    parent, last = unpacker.open_parent(name)
    fd = _create(parent, last)
    source, left = unpacker.source, member.size
    try:
        segments = [(0, member.size)]
        if member.is_sparse:
            segments, used = _read_map(source, member.real_size)
            left -= used
            os.ftruncate(fd, member.real_size)
            if sum(length for _, length in segments) != left:
                raise archive.BadArchive("a map of a sparse file is damaged")
        for offset, length in segments:
            os.lseek(fd, offset, os.SEEK_SET)
            end = left - length
            while left > end:
                piece = source.some(min(left - end, FLUSH_BYTES))
                if not piece:
                    raise archive.BadArchive("the archive ends in the middle")
                left -= len(piece)
                write_all(fd, piece)
        _dress(unpacker, fd, member)
    except OSError as error:
        unpacker.is_complete = False
        write_all(ERRORS, name + b": " + os.strerror(error.errno or 0).lower().encode() + b"\n")
    finally:
        os.close(fd)
    return left + -member.size % archive.BLOCK


def _read_map(source: _Source, real_size: int) -> tuple[list[tuple[int, int]], int]:
    """The map before a sparse file's data, and how many bytes it took."""
    text = b""
    numbers: list[int] = []
    wanted = 1
    used = 0
    while len(numbers) < wanted:
        block = source.take(archive.BLOCK)
        used += len(block)
        lines = (text + block).split(b"\n")
        text = lines.pop()
        if not all(line.isdigit() and len(line) < 20 for line in lines[: wanted - len(numbers)]) or len(block) < archive.BLOCK:
            raise archive.BadArchive("a map of a sparse file is damaged")
        for line in lines:
            if len(numbers) < wanted:
                numbers.append(int(line))
            if len(numbers) == 1:
                wanted = 1 + 2 * numbers[0]
        if wanted > 2 * MAX_MAP_ENTRIES:
            raise archive.BadArchive("a map of a sparse file is too large")
    return archive.parse_map(numbers[1:], real_size), used


def _place_special(unpacker: _Unpacker, name: bytes, member: archive.Member) -> None:
    parent, last = unpacker.open_parent(name)
    _remove(parent, last)
    if member.kind == archive.SYMLINK:
        os.symlink(member.target, last, dir_fd=parent)
    elif member.kind == archive.FIFO:
        os.mkfifo(last, member.mode, dir_fd=parent)
    else:
        target = archive.check_name(member.target)
        before, _, target_last = target.rpartition(b"/")
        fd = _open_directory(unpacker.root, before)
        try:
            os.link(target_last, last, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)
        return
    if unpacker.keeps_owners:
        with contextlib.suppress(PermissionError):
            os.chown(last, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    os.utime(last, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)


def _dress(unpacker: _Unpacker, fd: int, member: archive.Member) -> None:
    """Owner, then mode, which a change of owner would cut, then time."""
    if unpacker.keeps_owners:
        with contextlib.suppress(PermissionError):  # who is not root keeps its own
            os.fchown(fd, member.uid, member.gid)
    os.fchmod(fd, member.mode)
    os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))


def _create(parent: int, last: bytes) -> int:
    try:
        return os.open(last, _NEW, 0o600, dir_fd=parent)
    except FileExistsError:
        pass
    try:
        _remove(parent, last)
    except OSError as error:
        if error.errno != errno.EBUSY:  # a file that is mounted there, as /etc/hosts is, can be written only
            raise
        return os.open(last, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=parent)
    return os.open(last, _NEW, 0o600, dir_fd=parent)


def _remove(parent: int, last: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(last, dir_fd=parent)


def _ensure_directory(root: int, path: bytes) -> int:
    """The directory at *path* beneath *root*, made with its parents when it is missing."""
    try:
        return _open_directory(root, path)
    except FileNotFoundError:
        before, _, last = path.rpartition(b"/")
        parent = _ensure_directory(root, before)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(last, 0o755, dir_fd=parent)
    finally:
        os.close(parent)
    return _open_directory(root, path)


def _open_directory(root: int, path: bytes) -> int:
    """The kernel asks to try again when something beside is renamed while it makes sure that no `..` leads out (openat2(2), EAGAIN)."""
    for _ in range(_TRIES):
        try:
            return syscalls.openat2(root, path or b".", flags=os.O_RDONLY | os.O_DIRECTORY, resolve=_BENEATH)
        except BlockingIOError:
            continue
    raise OSError(errno.EBUSY, "renamed all the time")
