"""Out of a sandbox: a file or tree as a tar on standard output; one look at a file, or at a directory. Runs in a child that has joined it.

Everything is walked by directory fd and no link in the tree is followed. What changes meanwhile is somebody's own doing: a file that shrinks is
filled up with zeros, so that the archive stays whole.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field

from skerry_node.keeper import archive
from skerry_node.kernel import syscalls

OUTPUT, ERRORS = 1, 2
FLUSH_BYTES = 1 << 18
MAX_DEPTH = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_KINDS = {stat.S_IFREG: archive.FILE, stat.S_IFDIR: archive.DIRECTORY, stat.S_IFLNK: archive.SYMLINK, stat.S_IFIFO: archive.FIFO}


@dataclass(slots=True)
class _Packer:
    buffer: bytearray = field(default_factory=bytearray)
    links: dict[tuple[int, int], bytes] = field(default_factory=dict)
    is_complete: bool = True

    def put(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        write_all(OUTPUT, self.buffer)
        self.buffer.clear()

    def skip(self, name: bytes, problem: str) -> None:
        """Leave *name* out, and say so."""
        self.is_complete = False
        write_all(ERRORS, name + b": " + problem.encode() + b"\n")


def pack(arguments: tuple[str, ...]) -> int:
    """Arguments: path, name in the archive, "follow" or "". What cannot be read is told on standard error, and the code is 2."""
    path, name, following = (word.encode("utf-8", "surrogateescape") for word in arguments)
    parent, last = open_parent(path, follows=following == b"follow")
    packer = _Packer()
    _pack(packer, parent, last, name, depth=0)
    packer.put(archive.END)
    packer.flush()
    return 0 if packer.is_complete else 2


def look(arguments: tuple[str, ...]) -> int:
    """Arguments: path, "follow" or "". One JSON object: what is there."""
    path, following = (word.encode("utf-8", "surrogateescape") for word in arguments)
    parent, last = open_parent(path, follows=following == b"follow")
    write_all(OUTPUT, json.dumps(describe(parent, last)).encode() + b"\n")
    return 0


def list_directory(arguments: tuple[str, ...]) -> int:
    """Arguments: path. A JSON object on a line for each entry; for a file, that one."""
    (path,) = (word.encode("utf-8", "surrogateescape") for word in arguments)
    parent, last = open_parent(path, follows=True)
    if not stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
        write_all(OUTPUT, json.dumps(describe(parent, last)).encode() + b"\n")
        return 0
    fd = os.open(last, _DIRECTORY, dir_fd=parent)
    for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):
        try:
            line = json.dumps(describe(fd, name)).encode() + b"\n"
        except FileNotFoundError:
            continue
        write_all(OUTPUT, line)
    return 0


def open_parent(path: bytes, *, follows: bool) -> tuple[int, bytes]:
    """The directory that holds *path* inside our root, by fd, and the last part of its name. With *follows*, a last link is gone through."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if follows or not parts or parts[-1] == b"..":
        fd = _open_inside(root, path)
        real = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
        parts = [part for part in real.split(b"/") if part]
        if not parts:
            return root, b"."
    try:
        return _open_inside(root, b"/".join(parts[:-1])), parts[-1]
    except OSError as error:
        error.filename = path
        raise


def describe(parent: int, name: bytes) -> dict[str, object]:
    """Name, type, size, mode, owner, times (nanoseconds) and link target of a file."""
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    is_link = stat.S_ISLNK(found.st_mode)
    return {
        "name": name.decode("utf-8", "surrogateescape"), "type": stat.filemode(found.st_mode)[0], "mode": stat.S_IMODE(found.st_mode),
        "size": found.st_size, "uid": found.st_uid, "gid": found.st_gid, "mtimeNs": found.st_mtime_ns, "links": found.st_nlink,
        "target": os.fsdecode(os.readlink(name, dir_fd=parent)) if is_link else None,
    }  # fmt: skip


def write_all(fd: int, data: bytes | bytearray) -> None:
    """All of *data*, at the reader's pace."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(fd, view[done:])


def _open_inside(root: int, path: bytes) -> int:
    return syscalls.openat2(root, path.lstrip(b"/") or b".", flags=os.O_PATH, resolve=_INSIDE)


def _pack(packer: _Packer, parent: int, last: bytes, name: bytes, *, depth: int) -> None:
    try:
        found = os.stat(last, dir_fd=parent, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            packer.skip(name, "a device or socket is not copied")
            return
        member = archive.Member(
            name=name, kind=kind, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid, mtime_ns=found.st_mtime_ns,
        )  # fmt: skip
        if kind != archive.DIRECTORY and found.st_nlink > 1:
            first = packer.links.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                member.kind, member.target = archive.HARD_LINK, first
                packer.put(archive.render(member))
                return
        if kind == archive.FILE:
            _pack_file(packer, parent, last, member)
            return
        if kind == archive.SYMLINK:
            member.target = os.fsencode(os.readlink(last, dir_fd=parent))
        if kind != archive.DIRECTORY:
            packer.put(archive.render(member))
            return
        fd = os.open(last, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        if depth == 0:
            raise
        packer.skip(name, os.strerror(error.errno or 0).lower())
        return
    try:
        member.name += b"/"
        packer.put(archive.render(member))
        if depth >= MAX_DEPTH:
            packer.skip(name, f"deeper than {MAX_DEPTH} directories")
            return
        for entry in sorted(map(os.fsencode, os.listdir(fd))):
            _pack(packer, fd, entry, name + b"/" + entry, depth=depth + 1)
    finally:
        os.close(fd)


def _pack_file(packer: _Packer, parent: int, last: bytes, member: archive.Member) -> None:
    fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=parent)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(2, "changed while it was copied")
        segments = [(0, found.st_size)] if found.st_size else []
        prefix = b""
        member.size = member.real_size = found.st_size
        if found.st_blocks * 512 < found.st_size:
            segments = find_segments(fd, found.st_size)
            prefix = archive.render_map(segments)
            member.is_sparse, member.size = True, len(prefix) + sum(length for _, length in segments)
        packer.put(archive.render(member) + prefix)
        for offset, length in segments:
            _send(packer, fd, offset, length)
        packer.put(bytes(-member.size % archive.BLOCK))
    finally:
        os.close(fd)


def find_segments(fd: int, size: int) -> list[tuple[int, int]]:
    """Where *fd* has data, by lseek(2)'s SEEK_DATA and SEEK_HOLE; the last is empty and at the end, as GNU tar has it for a hole there."""
    segments: list[tuple[int, int]] = []
    place = 0
    while place < size:
        try:
            start = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:  # no data any more
            break
        place = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        segments.append((start, place - start))
    if not segments or sum(segments[-1]) < size:
        segments.append((size, 0))
    return segments


def _send(packer: _Packer, fd: int, offset: int, length: int) -> None:
    if length <= FLUSH_BYTES:
        data = os.pread(fd, length, offset)
        packer.put(data + bytes(length - len(data)))
        return
    packer.flush()
    while length:
        sent = os.sendfile(OUTPUT, fd, offset, length)
        if sent == 0:
            break
        offset, length = offset + sent, length - sent
    while length:  # it has become shorter
        part = min(length, FLUSH_BYTES)
        write_all(OUTPUT, bytes(part))
        length -= part
