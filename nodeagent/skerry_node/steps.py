"""The steps of a plan: what can be done for one sandbox. Plain data, which can be printed, compared and done twice."""

from __future__ import annotations

from dataclasses import dataclass

from skerry_api.sandbox import TerminationReason
from skerry_node.model import Limits


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do for one sandbox. Every step can be repeated."""

    uid: str


class EnsureRuntime(Step):
    """Make the runtime directory, with the life that status tells of."""


class AcquireLease(Step):
    """Take a slot: a prepared shell's when one fits, else a free one."""


@dataclass(frozen=True, slots=True)
class EnsureCgroup(Step):
    """Make the cgroups, with limits."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class WriteLimits(Step):
    """Change the limits of living cgroups."""

    limits: Limits


class EnsurePolicy(Step):
    """Have the rules of the network hold the sandbox to its egress policy."""


class EnsureBandwidth(Step):
    """Have the kernel hold a running sandbox to its bandwidth; a start brings its own."""


@dataclass(frozen=True, slots=True)
class EnsureWritable(Step):
    """Make the writable layer, on a disk of its own that holds *disk_bytes* unless that is None; one that is there keeps its files."""

    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WriteDisk(Step):
    """Change what a living writable layer is held to."""

    disk_bytes: int | None


class EnsureVolumes(Step):
    """Have every volume there; those that are keep their files, and objects of the cluster are read anew."""


class PublishPorts(Step):
    """Have the node's ports lead to the sandbox as its manifest says, and no others."""


class WithdrawPorts(Step):
    """Have no port of the node lead to it."""


class StartProcess(Step):
    """Have the keeper start the program."""


@dataclass(frozen=True, slots=True)
class BeginStop(Step):
    """Ask the program to stop, and note when and why."""

    reason: TerminationReason


class Freeze(Step):
    """Hold every process of the sandbox still."""


class FallAsleep(Step):
    """Note that the sandbox sleeps, and hold its processes still, unless something happened meanwhile."""


class Rouse(Step):
    """Note that it sleeps no more."""


class Thaw(Step):
    """Let them go on."""


class KillProcess(Step):
    """Kill every process of the sandbox."""


class ResolveEnd(Step):
    """Find out how a process ended that the keeper did not see end."""


class RecordEnd(Step):
    """Note how the program ended, with what its cgroup counted, and whether it shall run again."""


class MarkAtRest(Step):
    """Note that the sandbox was seen stopped on demand."""


class RemoveCgroup(Step):
    """Remove the empty cgroups."""


class RemoveWritable(Step):
    """Remove the writable layer."""


class RemoveVolumes(Step):
    """Remove the volumes that have a size of their own."""


class RemoveLogs(Step):
    """Remove the output."""


class ReleaseLease(Step):
    """Give the slot back."""


class RemoveRuntime(Step):
    """Forget the sandbox on this node."""


class ReleaseObject(Step):
    """Remove the finalizer: nothing is left here."""


class ExpireObject(Step):
    """Delete the object of a finished sandbox whose time is over."""
