"""Which control groups this machine has, and where (cgroups(7)). Version 2 counts only when it has the controllers."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

CONTROLLERS = ("cpu", "memory", "pids")
BLKIO = "blkio"
_EXTRA = ("cpuacct", "freezer", BLKIO)
"""Of use on version 1: where CPU time is counted, where processes are held still, and where block devices are limited."""
_IO = "io"
"""Of use on version 2: counts and limits bytes of block devices. Handed down where it can be; only limits of them depend on it."""


class CgroupsMissing(Exception):
    """The machine has no usable control groups; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Mount points by controller. On version 2 all are the same."""

    version: int
    mounts: tuple[tuple[str, str], ...]

    @property
    def roots(self) -> tuple[str, ...]:
        """The distinct mount points."""
        return tuple(dict.fromkeys(path for _, path in self.mounts))

    def root(self, controller: str) -> str:
        """Where *controller* is mounted. Raises KeyError."""
        return dict(self.mounts)[controller]


def detect(mountinfo: str = "/proc/self/mountinfo") -> Hierarchies:
    """The hierarchies of this machine. Raises CgroupsMissing."""
    found: dict[str, str] = {}
    unified = None
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
            if kind == "cgroup2":
                unified = unified or fields[4]
            elif kind == "cgroup":
                for name in (*CONTROLLERS, *_EXTRA):
                    if name in options:
                        found.setdefault(name, fields[4])
    if unified is not None and set(CONTROLLERS) <= set(_read(os.path.join(unified, "cgroup.controllers")).split()):
        return Hierarchies(version=2, mounts=tuple((name, unified) for name in CONTROLLERS))
    missing = [name for name in CONTROLLERS if name not in found]
    if missing:
        raise CgroupsMissing(f"no cgroup controller {', '.join(missing)}; mount cgroup2 with them, or the v1 hierarchies")
    return Hierarchies(version=1, mounts=tuple(found.items()))


def ensure_parent(hierarchies: Hierarchies, parent: str) -> None:
    """Make `<parent>/sandboxes` in every hierarchy, with the controllers handed down on version 2. Needs root."""
    for root in hierarchies.roots:
        path = root
        for part in (*parent.strip("/").split("/"), "sandboxes"):
            if hierarchies.version == 2:
                _hand_down(path)
            path = os.path.join(path, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o755)
        if hierarchies.version == 2:
            _hand_down(path)


def join_system(hierarchies: Hierarchies, parent: str, pid: int) -> None:
    """Move *pid* into `<parent>/system`, made when missing: a keeper there outlives the group in which its agent was started.

    Version 2 allows no process in a group that hands controllers down, hence one beside `sandboxes`. Needs root. Raises OSError.
    """
    for root in hierarchies.roots:
        path = os.path.join(root, parent.strip("/"), "system")
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
        _write(os.path.join(path, "cgroup.procs"), str(pid))


def outside_groups(hierarchies: Hierarchies, parent: str, own: str = "/proc/self/cgroup") -> tuple[str, ...]:
    """The files cgroup.procs that take a process out of every group that it is in: `<parent>/system`, made when missing, in each of ours.

    On version 1 a container has groups in others too, by which its runtime ends what is in it: their roots. Needs root. Raises OSError.
    """
    found = []
    for root in hierarchies.roots:
        path = os.path.join(root, parent.strip("/"), "system")
        os.makedirs(path, mode=0o755, exist_ok=True)
        found.append(os.path.join(path, "cgroup.procs"))
    if hierarchies.version == 1:
        known = {os.path.realpath(root) for root in hierarchies.roots}
        for line in _read(own).splitlines():
            _, names, path = line.split(":", 2)
            other = os.path.realpath(os.path.join("/sys/fs/cgroup", names.removeprefix("name=").split(",", 1)[0] or "unified"))
            if path != "/" and other not in known and os.path.exists(os.path.join(other, "cgroup.procs")):
                found.append(os.path.join(other, "cgroup.procs"))
    return tuple(found)


def remove_parent(hierarchies: Hierarchies, parent: str) -> bool:
    """Remove `<parent>/sandboxes`, `<parent>/system` and those above that are empty; whether nobody lives in `system` any more."""
    is_left = True
    for root in hierarchies.roots:
        try:
            os.rmdir(os.path.join(root, parent.strip("/"), "system"))
        except FileNotFoundError:
            pass
        except OSError:  # somebody lives in it
            is_left = False
        parts = [*parent.strip("/").split("/"), "sandboxes"]
        while parts:
            try:
                os.rmdir(os.path.join(root, *parts))
            except FileNotFoundError:
                pass
            except OSError:
                break  # somebody else's is in it
            parts.pop()
    return is_left


def _hand_down(path: str) -> None:
    """Give the children of *path* our controllers. One that has them already is not written: that may be EBUSY where processes live in it."""
    control = os.path.join(path, "cgroup.subtree_control")
    missing = [f"+{name}" for name in CONTROLLERS if name not in _read(control).split()]
    if missing:
        _write(control, " ".join(missing))
    if _IO in _read(os.path.join(path, "cgroup.controllers")).split() and _IO not in _read(control).split():
        with contextlib.suppress(OSError):
            _write(control, f"+{_IO}")


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        return file.read()
    return ""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
