"""Perform steps. Every one can be repeated, and undoes nothing: what a crash leaves is seen by the next look."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from skerry_node import ending, removing, starting, steps
from skerry_node.means import Case, Hands


async def perform(hands: Hands, case: Case, step: steps.Step) -> None:
    """Do *step*. Raises OSError, keeper.client.Refused, keeper.client.KeeperLost, errors of the source."""
    began = time.perf_counter()
    try:
        await _ACTIONS[type(step)](hands, case, step)
    finally:
        if hands.meters is not None:
            hands.meters.step_done(type(step).__name__, time.perf_counter() - began)


async def forget_layer(hands: Hands, layer: str) -> None:
    """Have *layer* unmounted, and whatever shell has it on removed. Raises client.KeeperLost.

    The slot of a shell that a sandbox has taken meanwhile, for the sake of another image, is that sandbox's: it starts cold there.
    """
    for slot in await hands.keeper.forget_layer(layer):
        if slot in hands.shells:
            del hands.shells[slot]
            hands.view.leases.release(slot)
            hands.spent.append(slot)
    if hands.favourite is not None and layer in hands.favourite:
        hands.favourite = None


_Action = Callable[[Hands, Case, steps.Step], Awaitable[None]]
_ACTIONS: dict[type[steps.Step], _Action] = {
    steps.EnsureRuntime: starting.ensure_runtime,
    steps.AcquireLease: starting.acquire_lease,
    steps.EnsurePolicy: starting.ensure_policy,
    steps.EnsureBandwidth: starting.ensure_bandwidth,
    steps.EnsureCgroup: starting.ensure_cgroup,
    steps.WriteLimits: starting.write_limits,
    steps.EnsureWritable: starting.ensure_writable,
    steps.WriteDisk: starting.write_disk,
    steps.EnsureVolumes: starting.ensure_volumes,
    steps.PublishPorts: starting.publish_ports,
    steps.WithdrawPorts: removing.withdraw_ports,
    steps.StartProcess: starting.start_process,
    steps.BeginStop: ending.begin_stop,
    steps.Freeze: ending.freeze,
    steps.Thaw: ending.thaw,
    steps.FallAsleep: ending.fall_asleep,
    steps.Rouse: ending.rouse,
    steps.KillProcess: ending.kill_process,
    steps.ResolveEnd: ending.resolve_end,
    steps.RecordEnd: ending.record_end,
    steps.MarkAtRest: ending.mark_at_rest,
    steps.RemoveCgroup: removing.remove_cgroup,
    steps.RemoveWritable: removing.remove_writable,
    steps.RemoveVolumes: removing.remove_volumes,
    steps.RemoveLogs: removing.remove_logs,
    steps.ReleaseLease: removing.release_lease,
    steps.RemoveRuntime: removing.remove_runtime,
    steps.ReleaseObject: removing.release_object,
    steps.ExpireObject: removing.expire_object,
}
