"""Perform steps. Every one can be repeated, and undoes nothing: what a crash leaves is seen by the next look."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from skerry_node import ending, plan, removing, starting
from skerry_node.means import Case, Hands


async def perform(hands: Hands, case: Case, step: plan.Step) -> None:
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


_Action = Callable[[Hands, Case, plan.Step], Awaitable[None]]
_ACTIONS: dict[type[plan.Step], _Action] = {
    plan.EnsureRuntime: starting.ensure_runtime,
    plan.AcquireLease: starting.acquire_lease,
    plan.EnsurePolicy: starting.ensure_policy,
    plan.EnsureCgroup: starting.ensure_cgroup,
    plan.WriteLimits: starting.write_limits,
    plan.EnsureWritable: starting.ensure_writable,
    plan.EnsureVolumes: starting.ensure_volumes,
    plan.PublishPorts: starting.publish_ports,
    plan.WithdrawPorts: removing.withdraw_ports,
    plan.StartProcess: starting.start_process,
    plan.BeginStop: ending.begin_stop,
    plan.Freeze: ending.freeze,
    plan.Thaw: ending.thaw,
    plan.FallAsleep: ending.fall_asleep,
    plan.Rouse: ending.rouse,
    plan.KillProcess: ending.kill_process,
    plan.ResolveEnd: ending.resolve_end,
    plan.RecordEnd: ending.record_end,
    plan.MarkAtRest: ending.mark_at_rest,
    plan.RemoveCgroup: removing.remove_cgroup,
    plan.RemoveWritable: removing.remove_writable,
    plan.RemoveVolumes: removing.remove_volumes,
    plan.RemoveLogs: removing.remove_logs,
    plan.ReleaseLease: removing.release_lease,
    plan.RemoveRuntime: removing.remove_runtime,
    plan.ReleaseObject: removing.release_object,
    plan.ExpireObject: removing.expire_object,
}
