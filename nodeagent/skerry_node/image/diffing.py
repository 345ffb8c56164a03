"""The writable layer of a sandbox as an OCI layer: a tar of what it changed. One tree, one sequence of bytes.

overlayfs marks a removed name with a 0:0 character device and a replaced directory with `trusted.overlay.opaque`
(Documentation/filesystems/overlayfs.rst); OCI with names that begin with `.wh.` (image-spec, layer.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from skerry_node.image import tar, tarwriting, tree, walking
from skerry_node.image.errors import InvalidTree

IDS = 65_536
NOBODY = 65_534
"""The kernel's overflow id (Documentation/admin-guide/sysctl/fs.rst): what the sandbox itself saw as the owner."""
_HOLE_BYTES = 1 << 20
"""A hole is a whole aligned MiB of zeros: told by the content alone, since how a file lies on its disk is no part of the image."""
_MAX_DROPPED = 20
_OPAQUE, _REDIRECT, _METACOPY = b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"trusted.overlay.metacopy"


@dataclass(slots=True)
class Written:
    """What came of it. *dropped* are the first paths that have no place in a layer, with the reason; *dropped_count* all of them."""

    entries: int = 0
    size_bytes: int = 0
    dropped_count: int = 0
    dropped: list[tuple[bytes, str]] = field(default_factory=list)

    def drop(self, path: bytes, why: str) -> None:
        """Note one that is left out."""
        self.dropped_count += 1
        if len(self.dropped) < _MAX_DROPPED:
            self.dropped.append((path, why))


def write_layer(upper_fd: int, out: tarwriting.Output, *, id_base: int, clamp_seconds: int | None = None) -> Written:
    """Write the upper directory at *upper_fd* to *out* as an uncompressed layer.

    Owners are host ids from *id_base* on and become ids from 0; others become nobody. Times after *clamp_seconds* (SOURCE_DATE_EPOCH) become it.
    Kept: modes, hard links, symlinks, fifos, `user.*` attributes of files and directories, holes. Left out, and told: devices, sockets, names that
    begin with `.wh.`. The root itself is written only where it is not 0755 and root's. Blocks; needs CAP_SYS_ADMIN (trusted attributes) and
    CAP_DAC_READ_SEARCH. A tree that changes meanwhile gives a layer of a moment that never was, but a sound one: freeze it before.

    Raises InvalidTree for what is beyond the bounds of a layer or was renamed by redirect; OSError.
    """
    return _write(upper_fd, out, Rules(id_base=id_base, clamp_seconds=clamp_seconds, is_layer=True))


def write_tree(root_fd: int, out: tarwriting.Output, *, id_base: int = 0) -> Written:
    """Write the merged root at *root_fd* to *out*: as `write_layer` does, but nothing there hides anything, and the root is always written."""
    return _write(root_fd, out, Rules(id_base=id_base, clamp_seconds=None, is_layer=False))


@dataclass(frozen=True, slots=True)
class Rules:
    """How what is found becomes a member."""

    id_base: int
    clamp_seconds: int | None
    is_layer: bool

    def owner(self, host_id: int) -> int:
        """Give the id inside."""
        return host_id - self.id_base if 0 <= host_id - self.id_base < IDS else NOBODY

    def time(self, time_ns: int) -> int:
        """Give the time that is written."""
        return time_ns if self.clamp_seconds is None else min(time_ns, self.clamp_seconds * 1_000_000_000)


def _write(root_fd: int, out: tarwriting.Output, rules: Rules) -> Written:
    done, writer = Written(), tarwriting.Writer(out)
    first_names: dict[tuple[int, int], bytes] = {}
    with contextlib.closing(walking.walk(root_fd)) as walk:
        for found in walk:
            _add(writer, found, rules, first_names, done)
    writer.finish()
    done.size_bytes = writer.size_bytes
    return done


def _add(writer: tarwriting.Writer, found: walking.Found, rules: Rules, first_names: dict[tuple[int, int], bytes], done: Written) -> None:
    info, name = found.info, os.path.basename(found.path)
    if rules.is_layer and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        hiding = os.path.join(os.path.dirname(found.path), tree.WHITEOUT + name)
        _put(writer, tar.Entry(path=hiding, mode=stat.S_IFREG, uid=0, gid=0, mtime_ns=rules.time(info.st_mtime_ns)), done)
        return
    why = _reason_to_drop(info, name if rules.is_layer else b"")
    if why is not None:
        done.drop(found.path, why)
        return
    inode = (info.st_dev, info.st_ino)
    is_linked = info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)
    first_name = first_names.setdefault(inode, found.path) if is_linked else found.path
    if first_name != found.path:
        link = _entry(found, rules, target=first_name, is_hardlink=True)
        _put(writer, link, done)
        return
    attributes = _read_attributes(found, done)
    if stat.S_ISDIR(info.st_mode):
        _add_directory(writer, found, rules, attributes, done)
    else:
        content = _content(found) if stat.S_ISREG(info.st_mode) and info.st_size else None
        _put(writer, _entry(found, rules, xattrs=_user_only(attributes)), done, content)


def _add_directory(writer: tarwriting.Writer, found: walking.Found, rules: Rules, attributes: dict[bytes, bytes], done: Written) -> None:
    if _REDIRECT in attributes or _METACOPY in attributes:
        raise InvalidTree(f"{found.path[:80]!r} was renamed by overlayfs' redirect_dir, which a layer cannot say; turn that off")
    entry = _entry(found, rules, xattrs=_user_only(attributes))
    if found.path or not rules.is_layer or (entry.mode, entry.uid, entry.gid, entry.xattrs) != (stat.S_IFDIR | 0o755, 0, 0, ()):
        _put(writer, entry, done)
    if rules.is_layer and attributes.get(_OPAQUE) == b"y":
        marker = os.path.join(found.path, tree.OPAQUE)
        _put(writer, tar.Entry(path=marker, mode=stat.S_IFREG, uid=0, gid=0, mtime_ns=entry.mtime_ns), done)


def _put(writer: tarwriting.Writer, entry: tar.Entry, done: Written, content: tarwriting.Content | None = None) -> None:
    writer.add(entry, content)
    done.entries += 1


def _reason_to_drop(info: os.stat_result, name: bytes) -> str | None:
    if name.startswith(tree.WHITEOUT):
        return "its name would hide another in a layer"
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        return "a device"
    return "a socket" if stat.S_ISSOCK(info.st_mode) else None


def _entry(
    found: walking.Found, rules: Rules, *, target: bytes = b"", is_hardlink: bool = False, xattrs: tuple[tuple[bytes, bytes], ...] = ()
) -> tar.Entry:
    info = found.info
    path = found.path + b"/" if stat.S_ISDIR(info.st_mode) else found.path
    return tar.Entry(
        path=path if found.path else b"./", mode=info.st_mode, uid=rules.owner(info.st_uid), gid=rules.owner(info.st_gid),
        mtime_ns=rules.time(info.st_mtime_ns), size=info.st_size if stat.S_ISREG(info.st_mode) and not is_hardlink else 0,
        target=target or found.target, xattrs=xattrs, is_hardlink=is_hardlink,
    )  # fmt: skip


def _read_attributes(found: walking.Found, done: Written) -> dict[bytes, bytes]:
    if found.fd is None:
        return {}
    attributes = {}
    for text in os.listxattr(found.fd):
        name = os.fsencode(text)
        if not name.startswith((b"user.", b"trusted.overlay.")) or name.startswith(b"user.overlay."):
            continue  # security ones and ACLs are dropped at conversion too
        if b"=" in name:
            done.drop(found.path, "its attribute has '=' in the name")
            continue
        try:
            attributes[name] = os.getxattr(found.fd, name)
        except OSError:  # removed meanwhile
            continue
    return attributes


def _user_only(attributes: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(sorted((name, value) for name, value in attributes.items() if name.startswith(b"user.")))


def _content(found: walking.Found) -> tarwriting.Content:
    assert found.fd is not None
    size = found.info.st_size
    if size < _HOLE_BYTES or size > tar.MAX_TOTAL_BYTES:
        return tarwriting.Content(_read(found.fd, [(0, size)]))
    extents = list(_find_extents(found.fd, size))
    is_whole = extents == [(0, size)]
    return tarwriting.Content(_read(found.fd, extents), extents=None if is_whole else extents)


def _find_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Give what is not a hole, in pieces that meet nowhere. Reads the file, but for what the filesystem knows to be empty."""
    start, position = None, 0
    while position < size:
        data = _next_data(fd, position, size) // _HOLE_BYTES * _HOLE_BYTES
        if data <= position:
            piece = os.pread(fd, _HOLE_BYTES, position)
            is_hole = len(piece) == _HOLE_BYTES and piece.count(0) == _HOLE_BYTES
            data = position + _HOLE_BYTES
        else:
            is_hole = True
        if is_hole and start is not None:
            yield start, position - start
            start = None
        elif not is_hole and start is None:
            start = position
        position = data
    if start is not None:
        yield start, size - start


def _next_data(fd: int, position: int, size: int) -> int:
    """Where data comes next; *size* when there is none any more (ENXIO, lseek(2)), *position* when the filesystem does not say."""
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else position


def _read(fd: int, extents: list[tuple[int, int]]) -> Iterator[bytes]:
    for offset, length in extents:
        done = 0
        while done < length:
            count = min(_HOLE_BYTES, length - done)
            piece = os.pread(fd, count, offset + done) or bytes(count)  # cut meanwhile: later pieces must stay in their places
            yield piece
            done += len(piece)
