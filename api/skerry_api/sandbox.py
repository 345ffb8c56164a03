"""The Sandbox resource as values. Parsing is in `parse`, rendering in `render`; both are offered here too."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from skerry_api.bandwidth import UNLIMITED, Bandwidth
from skerry_api.conditions import Condition
from skerry_api.egress import OPEN, Egress
from skerry_api.ports import Port
from skerry_api.variables import EnvVar
from skerry_api.volumes import Volume, VolumeMount


class RestartPolicy(enum.StrEnum):
    """When a program that ended is started again."""

    NEVER = "Never"
    ON_FAILURE = "OnFailure"
    ALWAYS = "Always"


class ImagePullPolicy(enum.StrEnum):
    """When the registry is asked for the image before a start."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class DesiredState(enum.StrEnum):
    """What the user wants the program to do now."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"


class OnIdle(enum.StrEnum):
    """What happens to a program that was idle for long enough."""

    PAUSE = "Pause"
    STOP = "Stop"
    DELETE = "Delete"


class NetworkMode(enum.StrEnum):
    """Which network a sandbox has."""

    BRIDGE = "Bridge"
    NONE = "None"
    HOST = "Host"


class Phase(enum.StrEnum):
    """A summary for people; no code reads it."""

    PENDING = "Pending"
    CREATING = "Creating"
    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    LOST = "Lost"


class TerminationReason(enum.StrEnum):
    """The truth about why a program ended."""

    COMPLETED = "Completed"
    ERROR = "Error"
    OOM_KILLED = "OOMKilled"
    PIDS_LIMIT = "PidsLimit"
    DISK_FULL = "DiskFull"
    EXPIRED = "Expired"
    IDLE_TIMEOUT = "IdleTimeout"
    STOPPED = "Stopped"
    NODE_LOST = "NodeLost"
    NODE_REBOOTED = "NodeRebooted"
    KEEPER_LOST = "KeeperLost"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    START_FAILED = "StartFailed"


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who an object is: the name is for people, the uid is identity."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    finalizers: tuple[str, ...] = ()
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class Amounts:
    """What scheduling counts: thousandths of a CPU, bytes."""

    cpu_millicores: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel holds the sandbox to; None is no limit."""

    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    disk_bytes: int | None = None
    read_bytes_per_second: int | None = None
    write_bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits. A request that is not given is the limit's."""

    requests: Amounts = Amounts()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The network that is wanted."""

    mode: NetworkMode = NetworkMode.BRIDGE
    egress: Egress = OPEN
    bandwidth: Bandwidth = UNLIMITED
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True)
class SecuritySpec:
    """What may be tightened, and the few things that may be added."""

    read_only_root_filesystem: bool = False
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ttl:
    """How long it may run, how long it may be idle, and how long it stays after it finished; seconds."""

    active_seconds: int | None = None
    idle_seconds: int | None = None
    on_idle: OnIdle = OnIdle.PAUSE
    seconds_after_finished: int | None = None


@dataclass(frozen=True, slots=True)
class Toleration:
    """A taint that a sandbox puts up with, as pods have them."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What is wanted."""

    image: str
    image_pull_policy: ImagePullPolicy = ImagePullPolicy.IF_NOT_PRESENT
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the sandbox's namespace."""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] = ()
    working_dir: str | None = None
    user: str | None = None
    hostname: str | None = None
    init: bool = False
    """The first process is a tiny one of ours, which reaps and forwards signals."""
    stdin: bool = False
    """Whether the first process has an input that is held open; else it reads nothing."""
    tty: bool = False
    """Whether its input and outputs are a terminal."""
    resources: Resources = Resources()
    network: NetworkSpec = NetworkSpec()
    volumes: tuple[Volume, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    security: SecuritySpec = SecuritySpec()
    restart_policy: RestartPolicy = RestartPolicy.NEVER
    desired_state: DesiredState = DesiredState.RUNNING
    ttl: Ttl = Ttl()
    termination_grace_period_seconds: int = 10
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_name: str | None = None


@dataclass(frozen=True, slots=True)
class Termination:
    """A death certificate."""

    reason: TerminationReason
    exit_code: int | None = None
    signal: str | None = None
    message: str = ""
    peak_memory_bytes: int | None = None
    finished_at: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What is seen."""

    observed_generation: int = 0
    phase: Phase = Phase.PENDING
    conditions: tuple[Condition, ...] = ()
    image_reference: str | None = None
    image_digest: str | None = None
    address: str | None = None
    addresses: tuple[str, ...] = ()
    """That one, and where the node has a second range the one of IPv6."""
    started_at: str | None = None
    start_duration_milliseconds: int | None = None
    launch_type: str | None = None
    restarts: int = 0
    termination: Termination | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The whole object."""

    metadata: Metadata
    spec: SandboxSpec
    status: SandboxStatus = SandboxStatus()


from skerry_api.parse import parse_sandbox, parse_status  # noqa: E402 - the values come first, what reads them after
from skerry_api.render import render_sandbox, render_status  # noqa: E402

__all__ = ["parse_sandbox", "parse_status", "render_sandbox", "render_status"]
