"""The values that the agent decides on: what is wanted of a sandbox, what is seen of it, and what is remembered of its life. Pure."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from skerry_api import ports
from skerry_api.bandwidth import UNLIMITED, Bandwidth
from skerry_api.egress import OPEN, Egress
from skerry_api.sandbox import DesiredState, NetworkMode, OnIdle, RestartPolicy, Sandbox, Termination

PAGE_BYTES = mmap.PAGESIZE
"""The kernel keeps limits of memory in whole pages, and reads them back so."""
DISK_BLOCK_BYTES = 4096
"""Disks are held in blocks of that size, on every machine."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a cgroup: thousandths of a CPU, bytes without swap, processes and threads, bytes a second of one device. None is no limit."""

    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    read_bytes_per_second: int | None = None
    write_bytes_per_second: int | None = None

    @property
    def holds_io(self) -> bool:
        """Whether either of the last two is a limit."""
        return self.read_bytes_per_second is not None or self.write_bytes_per_second is not None


@dataclass(frozen=True, slots=True)
class Desired:
    """What a manifest asks of this node, as far as planning goes."""

    uid: str
    is_deleted: bool = False
    """A deletion timestamp is set: the object waits for its finalizer."""
    wants_process: bool = True
    is_paused: bool = False
    """What runs is held still."""
    limits: Limits = Limits()
    disk_bytes: int | None = None
    """Of the writable layer and the volumes beside it; None is no limit."""
    network: NetworkMode = NetworkMode.BRIDGE
    egress: Egress = OPEN
    bandwidth: Bandwidth = UNLIMITED
    ports: frozenset[ports.Published] = frozenset()
    restart_policy: RestartPolicy = RestartPolicy.NEVER
    active_seconds: int | None = None
    idle_seconds: int | None = None
    on_idle: OnIdle = OnIdle.PAUSE
    seconds_after_finished: int | None = None
    """Only where the agent itself expires objects; None leaves that to the operator."""
    expires_objects: bool = False
    """Whether the agent deletes objects whose time is over; in a cluster the operator does."""
    grace_seconds: int = 10
    has_past: bool = False
    """Status tells of a start or an end before: where the record of it is gone, it is rebuilt before anything is decided."""
    has_volumes: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """The first process of the sandbox lives. Times are seconds since boot (CLOCK_BOOTTIME)."""

    pid: int
    attempt: int
    since_seconds: float
    handles_stop_signal: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The first process is gone. *status* is a wait status, None when nobody could read it; *is_known* False while the keeper may still tell."""

    attempt: int
    is_known: bool
    status: int | None = None
    finished_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stopping:
    """A stop under way: why (a termination reason), and since when (seconds since boot)."""

    reason: str
    since_seconds: float


@dataclass(frozen=True, slots=True)
class Life:
    """What neither the kernel nor the manifest can tell: kept in the runtime directory, and rebuilt from status when that is gone.

    `attempt` numbers the start that is under way or comes next. `not_before_seconds` (since boot) holds a restart back.
    `is_at_rest` says that the sandbox was seen stopped on demand, so that wanting it to run is a new start. `start_problem` is the reason of a
    start that failed, as `InvalidUser`, and counts only while the termination says StartFailed. `crashes` are the ends in a row that no long
    run has forgiven: restarts are held back by them.
    """

    attempt: int = 0
    restarts: int = 0
    started_ns: int = 0
    start_milliseconds: int = 0
    is_warm: bool = False
    termination: Termination | None = None
    stopping: Stopping | None = None
    is_at_rest: bool = False
    not_before_seconds: float = 0.0
    finished_seconds: float = 0.0
    start_problem: str = ""
    crashes: int = 0
    is_asleep: bool = False
    """Paused by us because it was idle; what its user pauses is no business of this."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second on the wire, into a sandbox and out of it, as the kernel is told them (network/rates.py); None is unlimited."""

    ingress: int | None = None
    egress: int | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at everything that this node holds of one uid. `now_seconds` is since boot."""

    uid: str
    now_seconds: float = 0.0
    has_runtime: bool = False
    is_stale: bool = False
    """What the runtime directory tells is of another boot: it is rebuilt from status as if it were not there."""
    life: Life = Life()
    process: Running | Ended | None = None
    has_cgroup: bool = False
    limits: Limits | None = None
    is_frozen: bool = False
    slot: int | None = None
    policy: str | None = "open"
    """The digest of the egress policy in force (network/policy.py); None when the slot is closed."""
    rates: Rates = Rates()
    ports: frozenset[ports.Published] = frozenset()
    """Those that the node publishes whole; see `has_ports`."""
    has_ports: bool = False
    """Whether anything, if only a half, leads to the slot."""
    has_writable: bool = False
    disk_bytes: int | None = None
    """What the writable layer is held to; None where nothing holds it."""
    has_volumes: bool = False
    """Those with a size of their own; all others lie in what is looked at anyway."""
    has_logs: bool = False
    has_image: bool = True
    active_at_seconds: float | None = None
    """When it was last seen active; None while nobody looks."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of the sandbox."""
        kept = self.has_runtime or self.has_cgroup or self.has_writable or self.has_volumes or self.has_logs
        return not kept and self.slot is None and not isinstance(self.process, Running)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a sandbox does not run. *field* names the manifest's field at fault, or is empty. A lasting problem is not tried again."""

    reason: str
    message: str
    field: str = ""
    is_lasting: bool = False
    retry_at_seconds: float = 0.0
    condition: str = "Ready"


def desire(sandbox: Sandbox, *, expires_objects: bool) -> Desired:
    """What *sandbox* asks of the node."""
    spec = sandbox.spec
    limits = spec.resources.limits
    return Desired(
        uid=sandbox.metadata.uid,
        is_deleted=sandbox.metadata.deletion_timestamp is not None,
        wants_process=spec.desired_state is not DesiredState.STOPPED,
        is_paused=spec.desired_state is DesiredState.PAUSED,
        limits=Limits(
            cpu_millicores=limits.cpu_millicores,
            memory_bytes=None if limits.memory_bytes is None else limits.memory_bytes // PAGE_BYTES * PAGE_BYTES,
            pids=limits.pids,
            read_bytes_per_second=limits.read_bytes_per_second,
            write_bytes_per_second=limits.write_bytes_per_second,
        ),
        disk_bytes=None if limits.disk_bytes is None else limits.disk_bytes // DISK_BLOCK_BYTES * DISK_BLOCK_BYTES,
        network=spec.network.mode,
        egress=spec.network.egress,
        bandwidth=spec.network.bandwidth,
        ports=ports.published(spec.network.ports),
        restart_policy=spec.restart_policy,
        active_seconds=spec.ttl.active_seconds,
        idle_seconds=spec.ttl.idle_seconds,
        on_idle=spec.ttl.on_idle,
        seconds_after_finished=spec.ttl.seconds_after_finished if expires_objects else None,
        expires_objects=expires_objects,
        grace_seconds=spec.termination_grace_period_seconds,
        has_past=sandbox.status.started_at is not None or sandbox.status.termination is not None,
        has_volumes=bool(spec.volumes),
    )
