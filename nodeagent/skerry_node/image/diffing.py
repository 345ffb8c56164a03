"""The writable layer of a sandbox as an OCI layer: a tar of what it changed. One tree, one sequence of bytes.

overlayfs marks a removed name with a 0:0 character device and a replaced directory with `trusted.overlay.opaque`
(Documentation/filesystems/overlayfs.rst); OCI with names that begin with `.wh.` (image-spec, layer.md).
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field

from skerry_node.image import holes, tar, tarwriting, tree, walking
from skerry_node.image.errors import InvalidTree

IDS = 65_536
NOBODY = 65_534
"""The kernel's overflow id (Documentation/admin-guide/sysctl/fs.rst): what the sandbox itself saw as the owner."""
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
    CAP_DAC_READ_SEARCH. A tree that changes meanwhile gives a layer of a moment that never was, but a sound one.

    Raises InvalidTree for what is beyond the bounds of a layer or was renamed by redirect; OSError.
    """
    members = Members(out, Rules(id_base=id_base, clamp_seconds=clamp_seconds, is_layer=True))
    with contextlib.closing(walking.walk(upper_fd)) as walk:
        for found in walk:
            members.add(found)
    return members.finish()


@dataclass(frozen=True, slots=True)
class Rules:
    """How what is found becomes a member: of a layer, with marks for what is hidden, or of a plain tree."""

    id_base: int
    clamp_seconds: int | None
    is_layer: bool

    def owner(self, host_id: int) -> int:
        """Give the id inside."""
        return host_id - self.id_base if 0 <= host_id - self.id_base < IDS else NOBODY

    def time(self, time_ns: int) -> int:
        """Give the time that is written."""
        return time_ns if self.clamp_seconds is None else min(time_ns, self.clamp_seconds * 1_000_000_000)


class Members:
    """The members of one archive, as entries are found."""

    def __init__(self, out: tarwriting.Output, rules: Rules) -> None:
        self._writer = tarwriting.Writer(out)
        self._rules = rules
        self._first_names: dict[object, bytes] = {}
        self._done = Written()

    def add(self, found: walking.Found) -> None:
        """Write what was found on the disk. Raises InvalidTree, OSError."""
        rules, info, name = self._rules, found.info, os.path.basename(found.path)
        if rules.is_layer and is_whiteout(info):
            hiding = os.path.join(os.path.dirname(found.path), tree.WHITEOUT + name)
            self.put(tar.Entry(path=hiding, mode=stat.S_IFREG, uid=0, gid=0, mtime_ns=rules.time(info.st_mtime_ns)))
            return
        why = _reason_to_drop(info.st_mode, name if rules.is_layer else b"")
        if why is not None:
            self._done.drop(found.path, why)
            return
        attributes = self._read_attributes(found)
        entry = _entry(found, rules, _user_only(attributes))
        if stat.S_ISDIR(info.st_mode):
            self._add_directory(found, entry, attributes)
            return
        content = holes.find_content(found.fd, entry.size) if entry.size and found.fd is not None else None
        self.put(entry, content, identity=(info.st_dev, info.st_ino) if info.st_nlink > 1 else None)

    def put(self, entry: tar.Entry, content: tarwriting.Content | None = None, *, identity: object | None = None) -> None:
        """Write a member; a second one of the same *identity* as a hard link to the first. Devices are left out. Raises InvalidTree, OSError."""
        why = _reason_to_drop(entry.mode, b"")
        if why is not None:
            self._done.drop(entry.path, why)
            return
        first_name = entry.path if identity is None else self._first_names.setdefault(identity, entry.path)
        if first_name != entry.path:
            entry, content = entry._replace(size=0, target=first_name, xattrs=(), is_hardlink=True), None
        self._writer.add(entry, content)
        self._done.entries += 1

    def finish(self) -> Written:
        """Write the end."""
        self._writer.finish()
        self._done.size_bytes = self._writer.size_bytes
        return self._done

    def _add_directory(self, found: walking.Found, entry: tar.Entry, attributes: dict[bytes, bytes]) -> None:
        if _REDIRECT in attributes or _METACOPY in attributes:
            raise InvalidTree(f"{found.path[:80]!r} was renamed by overlayfs' redirect_dir, which a layer cannot say; turn that off")
        is_plain = (entry.mode, entry.uid, entry.gid, entry.xattrs) == (stat.S_IFDIR | 0o755, 0, 0, ())
        if found.path or not self._rules.is_layer or not is_plain:
            self.put(entry)
        if self._rules.is_layer and attributes.get(_OPAQUE) == b"y":
            self.put(tar.Entry(path=os.path.join(found.path, tree.OPAQUE), mode=stat.S_IFREG, uid=0, gid=0, mtime_ns=entry.mtime_ns))

    def _read_attributes(self, found: walking.Found) -> dict[bytes, bytes]:
        if found.fd is None:
            return {}
        attributes = {}
        for text in os.listxattr(found.fd):
            name = os.fsencode(text)
            if not name.startswith((b"user.", b"trusted.overlay.")) or name.startswith(b"user.overlay."):
                continue  # security ones and ACLs are dropped at conversion too
            if b"=" in name:
                self._done.drop(found.path, "its attribute has '=' in the name")
                continue
            with contextlib.suppress(OSError):  # removed meanwhile
                attributes[name] = os.getxattr(found.fd, name)
        return attributes


def is_whiteout(info: os.stat_result) -> bool:
    """Whether overlayfs hides a name by it."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Whether the directory at *fd* hides what lies below it."""
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError:  # ENODATA
        return False


def _reason_to_drop(mode: int, name: bytes) -> str | None:
    if name.startswith(tree.WHITEOUT):
        return "its name would hide another in a layer"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a socket" if stat.S_ISSOCK(mode) else None


def _entry(found: walking.Found, rules: Rules, xattrs: tuple[tuple[bytes, bytes], ...]) -> tar.Entry:
    info = found.info
    path = found.path + b"/" if stat.S_ISDIR(info.st_mode) else found.path
    return tar.Entry(
        path=path if found.path else b"./", mode=info.st_mode, uid=rules.owner(info.st_uid), gid=rules.owner(info.st_gid),
        mtime_ns=rules.time(info.st_mtime_ns), size=info.st_size if stat.S_ISREG(info.st_mode) else 0, target=found.target, xattrs=xattrs,
    )  # fmt: skip


def _user_only(attributes: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(sorted((name, value) for name, value in attributes.items() if name.startswith(b"user.")))
