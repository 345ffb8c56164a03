"""The control groups of one sandbox, in every hierarchy at once. On the launch path: plain system calls, no search."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from skerry_node.cgroup import hierarchy, throttle
from skerry_node.model import Limits

PERIOD_MICROSECONDS = 100_000
"""The kernel's default CFS period."""
_MIN_QUOTA = 1_000
"""The least quota that the kernel takes: 1 ms (kernel/sched/core.c, min_cfs_quota_period)."""
_KILL_PASSES = 100
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH})
"""What a control file of a vanished cgroup answers, before and after it was opened."""


class GroupBusy(OSError):
    """A process is still in the cgroup. Transient: what was killed leaves within milliseconds."""


class Parent:
    """Where the sandboxes' groups lie: `<root>/<parent>/sandboxes/<uid>` in each hierarchy."""

    def __init__(self, hierarchies: hierarchy.Hierarchies, parent: str) -> None:
        self.hierarchies = hierarchies
        self._directories = {name: os.path.join(root, parent.strip("/"), "sandboxes") for name, root in hierarchies.mounts}

    @property
    def directories(self) -> tuple[str, ...]:
        """The distinct directories below which a sandbox joins `<uid>/cgroup.procs`."""
        return tuple(dict.fromkeys(path for name, path in self._directories.items() if name != hierarchy.BLKIO))

    @property
    def io_directories(self) -> tuple[str, ...]:
        """Likewise, but only for a sandbox that has a group there: a hierarchy more would lengthen every launch."""
        return tuple(path for name, path in self._directories.items() if name == hierarchy.BLKIO)

    @property
    def by_controller(self) -> dict[str, str]:
        """The directory of the sandboxes' groups for each controller."""
        return dict(self._directories)

    @property
    def has_freezer(self) -> bool:
        """Whether sandboxes can be held still; version 2 always can."""
        return self.hierarchies.version == 2 or "freezer" in self._directories

    def open(self, uid: str) -> Group:
        """The group of *uid*, whether it exists or not."""
        return Group({name: os.path.join(path, uid) for name, path in self._directories.items()}, self.hierarchies.version)

    def list(self) -> list[str]:
        """Every uid that has a group in any hierarchy."""
        found: set[str] = set()
        for path in (*self.directories, *self.io_directories):
            with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
                found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return sorted(found)


class Group:
    """One sandbox's groups. Every method can be repeated; a vanished group is FileNotFoundError where it matters."""

    def __init__(self, paths: dict[str, str], version: int) -> None:
        self.paths = paths
        self.version = version

    def exists(self) -> bool:
        """Whether any part of it is there."""
        return any(os.path.isdir(path) for path in dict.fromkeys(self.paths.values()))

    def ensure(self, limits: Limits, *, device: str | None = None) -> None:
        """Make it, with *limits*; see `write_limits`."""
        for path in dict.fromkeys(path for name, path in self.paths.items() if name != hierarchy.BLKIO):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o755)
        if self.version == 2:
            self._put("memory", "memory.oom.group", "1")
        self.write_limits(limits, device=device)

    def write_limits(self, limits: Limits, *, device: str | None = None) -> None:
        """Change the limits, live; *device*, as `MAJOR:MINOR`, is the one of which bytes a second are limited.

        Raises OSError when the kernel cannot, for example memory below what is in use.
        """
        throttle.write(self, limits, device)
        if self.version == 2:
            self._write_limits_v2(limits)
        else:
            self._write_limits_v1(limits)

    def read_limits(self) -> Limits | None:
        """The limits in force, or None when a part is missing."""
        try:
            return self._read_limits_v2() if self.version == 2 else self._read_limits_v1()
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def kill(self) -> None:
        """Kill every process in it, frozen ones too; none is fine. They leave it a little later. On version 1 nothing in it can fork meanwhile."""
        try:
            if self.version == 2:
                self._put("pids", "cgroup.kill", "1")
            else:
                self._kill_v1()
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def freeze(self) -> None:
        """Hold every process still. Version 1 may take a moment after this returns. Raises OSError, KeyError without a freezer."""
        if self.version == 2:
            self._put("pids", "cgroup.freeze", "1")
        else:
            self._put("freezer", "freezer.state", "FROZEN")

    def thaw(self) -> None:
        """Let every process go on. Raises OSError, KeyError without a freezer."""
        if self.version == 2:
            self._put("pids", "cgroup.freeze", "0")
        else:
            self._put("freezer", "freezer.state", "THAWED")

    def is_frozen(self) -> bool:
        """Whether its processes are held still, or about to be; False without a freezer."""
        try:
            if self.version == 2:
                return self._get("pids", "cgroup.freeze").strip() == "1"
            return "freezer" in self.paths and self._get("freezer", "freezer.self_freezing").strip() == "1"
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise

    def remove(self) -> None:
        """Remove it; a part that is gone is fine. Raises GroupBusy while a process is still in it."""
        for path in dict.fromkeys(self.paths.values()):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in {errno.EBUSY, errno.ENOTEMPTY}:
                    raise GroupBusy(errno.EBUSY, f"cgroup {path} still has processes") from error
                raise

    def read(self, controller: str, name: str) -> str:
        """The text of a control file."""
        return self._get(controller, name)

    def write(self, controller: str, name: str, text: str) -> None:
        """Write a control file."""
        self._put(controller, name, text)

    def _kill_v1(self) -> None:
        """No cgroup.kill there: forks are forbidden, then passes are made until one finds nobody new."""
        limit = self._get("pids", "pids.max").strip()
        self._put("pids", "pids.max", "0")
        killed: set[int] = set()
        for _ in range(_KILL_PASSES):
            found = {int(pid) for pid in self._get("pids", "cgroup.procs").split()} - killed
            for pid in found - {0}:  # 0 stands for a process of a pid namespace out of our sight, and means our own group to kill(2)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not found:
                break
            killed |= found
        if "freezer" in self.paths:
            self.thaw()
        self._put("pids", "pids.max", limit)

    def _write_limits_v2(self, limits: Limits) -> None:
        self._put("cpu", "cpu.max", f"{_quota(limits) or 'max'} {PERIOD_MICROSECONDS}")
        self._put("memory", "memory.max", "max" if limits.memory_bytes is None else str(limits.memory_bytes))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting has none to hold
            self._put("memory", "memory.swap.max", "0")
        self._put("pids", "pids.max", "max" if limits.pids is None else str(limits.pids))

    def _read_limits_v2(self) -> Limits:
        quota = self._get("cpu", "cpu.max").split()[0]
        return Limits(
            cpu_millicores=None if quota == "max" else int(quota) * 1000 // PERIOD_MICROSECONDS,
            memory_bytes=_number_or_none(self._get("memory", "memory.max")),
            pids=_number_or_none(self._get("pids", "pids.max")),
            **throttle.read(self),
        )

    def _write_limits_v1(self, limits: Limits) -> None:
        self._put("cpu", "cpu.cfs_quota_us", str(_quota(limits) or -1))
        wanted = -1 if limits.memory_bytes is None else limits.memory_bytes
        try:
            self._put_memory_v1(wanted)
        except FileNotFoundError:  # no swap accounting
            self._put("memory", "memory.limit_in_bytes", str(wanted))
            self._put("memory", "memory.swappiness", "0")
        self._put("pids", "pids.max", "max" if limits.pids is None else str(limits.pids))

    def _put_memory_v1(self, wanted: int) -> None:
        """memory+swap may never be below memory: which of the two can be written first depends on the direction, and lower is the usual one."""
        both = "memory.memsw.limit_in_bytes"
        try:
            self._put("memory", "memory.limit_in_bytes", str(wanted))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._put("memory", both, str(wanted))
            self._put("memory", "memory.limit_in_bytes", str(wanted))
        else:
            self._put("memory", both, str(wanted))

    def _read_limits_v1(self) -> Limits:
        quota = int(self._get("cpu", "cpu.cfs_quota_us"))
        memory = int(self._get("memory", "memory.limit_in_bytes"))
        return Limits(
            cpu_millicores=None if quota < 0 else quota * 1000 // PERIOD_MICROSECONDS,
            memory_bytes=None if memory >= 1 << 62 else memory,
            pids=_number_or_none(self._get("pids", "pids.max")),
            **throttle.read(self),
        )

    def _put(self, controller: str, name: str, text: str) -> None:
        fd = os.open(f"{self.paths[controller]}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _get(self, controller: str, name: str) -> str:
        fd = os.open(f"{self.paths[controller]}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65_536).decode("ascii")
        finally:
            os.close(fd)


def _quota(limits: Limits) -> int | None:
    if limits.cpu_millicores is None:
        return None
    return max(limits.cpu_millicores * PERIOD_MICROSECONDS // 1000, _MIN_QUOTA)


def _number_or_none(text: str) -> int | None:
    return None if text.strip() == "max" else int(text)
