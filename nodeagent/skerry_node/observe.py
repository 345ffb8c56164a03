"""One look at everything that this node holds of a sandbox. Reads only: the kernel, the runtime records, the leases."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from skerry_node import lives
from skerry_node.cgroup import group
from skerry_node.keeper import records
from skerry_node.model import Ended, Life, Observed, Running
from skerry_node.network import firewall, ipam, policy, ports, rates, refusals, shaper
from skerry_node.rootfs import disks

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SIGTIMEDWAIT = {"aarch64": b"137"}.get(os.uname().machine, b"128")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class View:
    """Where to look: directories by fd, the cgroups, the leases."""

    runtime_fd: int
    scratch_fd: int
    volumes_fd: int
    logs_fd: int
    groups: group.Parent
    leases: ipam.Ipam
    firewall: firewall.Firewall
    refusals: refusals.Refusals
    ports: ports.Ports
    shaper: shaper.Shaper


def observe(view: View, uid: str, *, has_image: bool = True, stop_signal: int = 15) -> Observed:
    """What there is of *uid* now. *stop_signal* is the one whose handler is looked for."""
    known = lives.read(view.runtime_fd, uid)
    life = known or Life()
    has_runtime = _exists(view.runtime_fd, uid)
    found = view.groups.open(uid)
    has_cgroup = found.exists()
    lease = view.leases.find(uid)
    has_writable, disk_bytes = _look_at_writable(view, uid)
    process = _process(view.runtime_fd, uid, life, stop_signal) if has_runtime else None
    return Observed(
        uid=uid,
        now_seconds=time.clock_gettime(time.CLOCK_BOOTTIME),
        has_runtime=has_runtime,
        is_stale=has_runtime and known is None and lives.is_stale(view.runtime_fd, uid),
        life=life,
        process=process,
        has_cgroup=has_cgroup,
        limits=found.read_limits() if has_cgroup else None,
        is_frozen=has_cgroup and isinstance(process, Running) and found.is_frozen(),
        slot=lease.slot if lease is not None else None,
        policy=view.firewall.policy(lease.slot) if lease is not None else policy.OPEN,
        rates=view.shaper.find(lease.slot) if lease is not None else rates.UNLIMITED,
        ports=view.ports.find(lease.slot) if lease is not None else frozenset(),
        has_ports=lease is not None and not view.ports.is_empty(lease.slot),
        has_writable=has_writable,
        disk_bytes=disk_bytes,
        has_volumes=_exists(view.volumes_fd, uid),
        has_logs=_exists(view.logs_fd, uid),
        has_image=has_image,
    )


def _look_at_writable(view: View, uid: str) -> tuple[bool, int | None]:
    """Whether it is there, and what its own disk holds, if that is where it is."""
    try:
        found = os.stat(uid, dir_fd=view.scratch_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False, None
    if found.st_dev == os.fstat(view.scratch_fd).st_dev:
        return True, None
    return True, disks.read_limit(f"/proc/self/fd/{view.scratch_fd}/{uid}")


def find_uids(view: View) -> frozenset[str]:
    """Every uid of which this node holds anything: what may be an orphan."""
    found = {name for fd in (view.runtime_fd, view.scratch_fd, view.volumes_fd, view.logs_fd) for name in os.listdir(fd)}
    found |= set(view.groups.list())
    found |= {lease.owner for lease in view.leases.list()}
    return frozenset(name for name in found if not name.startswith(("shell-", ".", "lost+found")))


def _process(runtime_fd: int, uid: str, life: Life, stop_signal: int) -> Running | Ended | None:
    record = records.read_process(runtime_fd, uid)
    if record is None or record.attempt != life.attempt or record.boot_id != records.BOOT_ID:
        return None
    end = records.read_exit(runtime_fd, uid)
    if end is not None and end.attempt == record.attempt:
        return Ended(attempt=record.attempt, is_known=True, status=end.status, finished_ns=end.finished_ns)
    state = read_process_state(record.pid, stop_signal)
    if state is not None and records.read_start_ticks(record.pid) == record.start_ticks and state.is_alive:
        return Running(
            pid=record.pid,
            attempt=record.attempt,
            since_seconds=record.start_ticks / TICKS_PER_SECOND,
            handles_stop_signal=state.handles_signal,
        )
    return Ended(attempt=record.attempt, is_known=False) if record.started else None


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What /proc/PID/status tells: whether it lives (is no zombie), and whether it catches or awaits a signal."""

    is_alive: bool
    handles_signal: bool


def read_process_state(pid: int, signal_number: int) -> ProcessState | None:
    """The state of *pid*, None when it is gone (proc_pid_status(5)). A blocked signal counts: it may be awaited by sigwait or signalfd."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None
    mask = int(lines[b"SigCgt"], 16) | int(lines[b"SigBlk"], 16)
    is_alive = lines[b"State"].split()[0] not in {b"Z", b"X"}
    return ProcessState(is_alive=is_alive, handles_signal=bool(mask >> (signal_number - 1) & 1) or _awaits_signals(pid))


def _awaits_signals(pid: int) -> bool:
    """Whether it waits in rt_sigtimedwait, as tini and dumb-init do: the kernel shows what it waits for as not blocked (kernel/signal.c)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/syscall", "rb") as file:
        return file.read().split()[:1] == [_SIGTIMEDWAIT]
    return False


def _exists(directory_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
