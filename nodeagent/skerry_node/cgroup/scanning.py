"""The counters of many sandboxes at once, for a scrape: files that stay open from one scrape to the next, read once, no text made of them.

A thousand sandboxes are nine thousand files on version 1. Opened and closed each time they cost 11 microseconds each, kept open 2, and the one with
statistics of memory 11 (measured). An open one costs 5 KB of the kernel's memory and one descriptor: beyond a number of them they are opened
each time.

A sandbox that has used no CPU since it was read, and holds as much memory, has run nothing: what only its own processes change is not read again.
What the kernel changes behind its back (which of its cache is inactive) follows with the next of its full readings.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass

from skerry_node.cgroup import group, hierarchy
from skerry_node.kernel import rereading

_READ_BYTES = 8192
"""memory.stat of version 2 has 1.5 KB."""
_FULL = 8
"""Every such reading of a sandbox that does nothing is a full one."""
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH})
_BLKIO = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive")
_PRESSURES = ("cpu", "memory", "io")
_ABSENT = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
"""What a file answers that this kernel, or its command line, does without."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Of one sandbox since its group was made: seconds, bytes, counts. None where the kernel does not count, or where there is no limit to meet."""

    cpu_seconds: float
    periods: int | None
    throttled_periods: int | None
    throttled_seconds: float | None
    memory_bytes: int
    working_set_bytes: int
    cache_bytes: int
    peak_bytes: int | None
    limit_hits: int
    oom_kills: int
    pids: int
    pids_refused: int
    read_bytes: int | None = None
    write_bytes: int | None = None
    reads: int | None = None
    writes: int | None = None
    stalled: tuple[tuple[str, str, float], ...] = ()
    """Pressure: resource, `some` or `full`, seconds."""


_Mark = tuple[bytes | None, ...]


@dataclass(slots=True)
class _Last:
    """A sandbox as it was read: what was true of it then, and how often that may be told again."""

    mark: _Mark
    counters: Counters
    left: int


class Scanner:
    """Reads below *parent*, whose directories it holds open until `close`, and at most *keep* files. For one thread at a time."""

    def __init__(self, parent: group.Parent, *, keep: int) -> None:
        self._version = parent.hierarchies.version
        self._fds: dict[str, int] = {}
        self._keep = keep
        self._kept: dict[str, dict[str, int]] = {}
        """Open files by uid and name."""
        self._held = 0
        self._last: dict[str, _Last] = {}
        self._buffer = rereading.Buffer(_READ_BYTES)
        opened: dict[str, int] = {}
        for controller, path in parent.by_controller.items():
            if path not in opened:
                opened[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fds[controller] = opened[path]
        self._absent: set[str] = set()
        self._without_io: set[str] = set()
        """Who had no group in the hierarchy of block devices at the last of their _FULL readings: most, and to look costs as much as all else."""

    def close(self) -> None:
        """Let go of everything."""
        self.forget_others(())
        for fd in set(self._fds.values()):
            os.close(fd)
        self._fds.clear()

    def forget_others(self, uids: Container[str]) -> None:
        """Close the files of every sandbox that is not among *uids*."""
        for uid in [uid for uid in (*self._kept, *self._last) if uid not in uids]:
            self._forget(uid)

    def read(self, uid: str) -> Counters | None:
        """The counters of *uid*; None when its group has vanished, whole or in part. Other errors are OSError."""
        if uid in self._kept:
            try:
                return self._read(uid)
            except OSError as error:
                self._forget(uid)  # a group of the same name may stand in the place of the one whose files these were
                if error.errno not in _GONE:
                    raise
        try:
            return self._read(uid)
        except OSError as error:
            self._forget(uid)
            if error.errno in _GONE:
                return None
            raise

    def _read(self, uid: str) -> Counters:
        last = self._last.get(uid)
        if last is None or last.left <= 0:
            self._without_io.discard(uid)
        mark = self._read_mark(uid)
        if last is not None and last.mark == mark and last.left > 0:
            last.left -= 1
            return last.counters
        counters = self._read_v2(uid, mark) if self._version == 2 else self._read_v1(uid, mark)
        if last is None:
            left = len(self._last) % _FULL  # those that were found together take turns
        else:
            left = last.left - 1 if last.left > 0 else _FULL - 1
        self._last[uid] = _Last(mark, counters, left)
        return counters

    def _read_mark(self, uid: str) -> _Mark:
        """What changes whenever a process of the sandbox runs, or the kernel works on its behalf."""
        if self._version == 2:
            waits = (self._optional("cpu", uid, f"{resource}.pressure") for resource in _PRESSURES)
            return self._get("cpu", uid, "cpu.stat"), self._get("memory", uid, "memory.current"), self._optional("cpu", uid, "io.stat"), *waits
        used = self._get("cpuacct" if "cpuacct" in self._fds else "cpu", uid, "cpuacct.usage")
        moved, done = (None, None) if uid in self._without_io else (self._optional(hierarchy.BLKIO, uid, name) for name in _BLKIO)
        if moved is None:
            self._without_io.add(uid)
        return used, self._get("memory", uid, "memory.usage_in_bytes"), moved, done

    def _forget(self, uid: str) -> None:
        self._last.pop(uid, None)
        self._without_io.discard(uid)
        files = self._kept.pop(uid, {})
        self._held -= len(files)
        for fd in files.values():
            rereading.close(fd)

    def _read_v1(self, uid: str, mark: _Mark) -> Counters:
        nanoseconds, usage, moved, done = mark
        assert nanoseconds is not None
        assert usage is not None
        cpu, used = self._get("cpu", uid, "cpu.stat"), int(usage)
        memory = self._get("memory", uid, "memory.stat")
        return Counters(
            cpu_seconds=int(nanoseconds) / 1e9,
            periods=find_count(cpu, b"nr_periods "),
            throttled_periods=find_count(cpu, b"nr_throttled "),
            throttled_seconds=(find_count(cpu, b"throttled_time ") or 0) / 1e9,
            memory_bytes=used,
            working_set_bytes=max(used - (find_count(memory, b"total_inactive_file ") or 0), 0),
            cache_bytes=find_count(memory, b"total_cache ") or 0,
            peak_bytes=int(self._get("memory", uid, "memory.max_usage_in_bytes")),
            limit_hits=int(self._get("memory", uid, "memory.failcnt")),
            oom_kills=find_count(self._get("memory", uid, "memory.oom_control"), b"oom_kill ") or 0,
            pids=int(self._get("pids", uid, "pids.current")),
            pids_refused=find_count(self._get("pids", uid, "pids.events"), b"max ") or 0,
            read_bytes=None if moved is None else sum_words(moved, b" Read "),
            write_bytes=None if moved is None else sum_words(moved, b" Write "),
            reads=None if done is None else sum_words(done, b" Read "),
            writes=None if done is None else sum_words(done, b" Write "),
        )

    def _read_v2(self, uid: str, mark: _Mark) -> Counters:
        cpu, usage, io, *waits = mark
        assert cpu is not None
        assert usage is not None
        used = int(usage)
        memory, events = self._get("memory", uid, "memory.stat"), self._get("memory", uid, "memory.events")
        peak = self._optional("memory", uid, "memory.peak")  # since 5.19
        return Counters(
            cpu_seconds=(find_count(cpu, b"usage_usec ") or 0) / 1e6,
            periods=find_count(cpu, b"nr_periods "),
            throttled_periods=find_count(cpu, b"nr_throttled "),
            throttled_seconds=(find_count(cpu, b"throttled_usec ") or 0) / 1e6,
            memory_bytes=used,
            working_set_bytes=max(used - (find_count(memory, b"inactive_file ") or 0), 0),
            cache_bytes=find_count(memory, b"file ") or 0,
            peak_bytes=None if peak is None else int(peak),
            limit_hits=find_count(events, b"max ") or 0,
            oom_kills=find_count(events, b"oom_kill ") or 0,
            pids=int(self._get("pids", uid, "pids.current")),
            pids_refused=find_count(self._get("pids", uid, "pids.events"), b"max ") or 0,
            read_bytes=None if io is None else sum_words(io, b" rbytes="),
            write_bytes=None if io is None else sum_words(io, b" wbytes="),
            reads=None if io is None else sum_words(io, b" rios="),
            writes=None if io is None else sum_words(io, b" wios="),
            stalled=_parse_pressure(waits),
        )

    def _get(self, controller: str, uid: str, name: str) -> bytes:
        files = self._kept.get(uid)
        fd = files.get(name) if files is not None else None
        if fd is not None:
            return self._buffer.read(fd)
        fd = rereading.open_at(self._fds[controller], f"{uid}/{name}".encode("ascii"))
        if self._held < self._keep:
            self._kept.setdefault(uid, {})[name] = fd
            self._held += 1
            return self._buffer.read(fd)
        try:
            return self._buffer.read(fd)
        finally:
            rereading.close(fd)

    def _optional(self, controller: str, uid: str, name: str) -> bytes | None:
        """A file that not every kernel has, or not every sandbox; what a group that is there goes without is not looked for again in any."""
        if name in self._absent or controller not in self._fds:
            return None
        try:
            return self._get(controller, uid, name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        os.stat(uid, dir_fd=self._fds["cpu"])  # the sandbox itself may be what is gone
        if controller != hierarchy.BLKIO:  # there only those that are limited have a group
            self._absent.add(name)
        return None


def _parse_pressure(texts: Sequence[bytes | None]) -> tuple[tuple[str, str, float], ...]:
    """The totals of the pressure files (Documentation/accounting/psi.rst), which are in microseconds, in the order of _PRESSURES."""
    found = []
    for resource, text in zip(_PRESSURES, texts, strict=True):
        for line in (text or b"").splitlines():
            kind, _, rest = line.partition(b" ")
            found.append((resource, kind.decode("ascii"), int(rest.rpartition(b"total=")[2]) / 1e6))
    return tuple(found)


def find_count(text: bytes, name: bytes) -> int | None:
    """The number behind *name*, which ends in a space, at the beginning of a line of *text*; None without one."""
    at = 0 if text.startswith(name) else text.find(b"\n" + name) + 1
    if at == 0 and not text.startswith(name):
        return None
    end = text.find(b"\n", at)
    return int(text[at + len(name) : end if end >= 0 else None])


def sum_words(text: bytes, name: bytes) -> int:
    """The sum of the numbers behind each *name* in *text*: one for each block device."""
    total, at = 0, text.find(name)
    while at >= 0:
        start = at + len(name)
        end = start
        while end < len(text) and 48 <= text[end] <= 57:  # a digit
            end += 1
        total += int(text[start:end] or 0)
        at = text.find(name, end)
    return total
