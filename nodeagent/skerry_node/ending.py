"""Steps of a program's pause and end: what it died of is written down before anything is taken away. Each can be repeated."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import signal
import time

from skerry_api.sandbox import TerminationReason
from skerry_node import lives, means, mounting, observe, plan, report, steps
from skerry_node.cgroup import stats
from skerry_node.keeper import client, records
from skerry_node.means import Case, Hands
from skerry_node.model import Life, Limits, Stopping


async def begin_stop(hands: Hands, case: Case, step: steps.Step) -> None:
    assert isinstance(step, steps.BeginStop)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    life = dataclasses.replace(case.observed.life, is_asleep=False, stopping=Stopping(reason=step.reason.value, since_seconds=now))
    means.write_life(hands, case, life)
    number = case.image.config.stop_signal if case.image is not None else signal.SIGTERM
    await hands.keeper.signal(case.uid, number)


async def freeze(hands: Hands, case: Case, _: steps.Step) -> None:
    try:
        hands.view.groups.open(case.uid).freeze()
    except KeyError as error:
        raise OSError(errno.ENOTSUP, "this node cannot pause: it has no freezer; mount the version 1 hierarchy, or cgroup2") from error


async def thaw(hands: Hands, case: Case, _: steps.Step) -> None:
    hands.view.groups.open(case.uid).thaw()


async def fall_asleep(hands: Hands, case: Case, _: steps.Step) -> None:
    """The note comes first: what is frozen without one is thawed by the next look, what is noted and not frozen is frozen by it."""
    if hands.before_sleep is not None:
        await hands.before_sleep(case.uid)
    life = lives.read(hands.view.runtime_fd, case.uid) or Life()
    if hands.idle.active_at(case.uid, life.attempt) != case.observed.active_at_seconds:
        return  # somebody came in between
    means.write_life(hands, case, dataclasses.replace(life, is_asleep=True))
    await freeze(hands, case, _)


async def rouse(hands: Hands, case: Case, _: steps.Step) -> None:
    hands.idle.note(case.uid, now=time.clock_gettime(time.CLOCK_BOOTTIME))
    means.write_life(hands, case, dataclasses.replace(case.observed.life, is_asleep=False))


async def kill_process(hands: Hands, case: Case, _: steps.Step) -> None:
    with contextlib.suppress(client.KeeperLost):
        await hands.keeper.signal(case.uid, signal.SIGKILL)
    hands.view.groups.open(case.uid).kill()


async def resolve_end(hands: Hands, case: Case, _: steps.Step) -> None:
    """The keeper tells of every end that it sees. What it does not know of ended between two keepers."""
    state = await hands.keeper.state()
    if case.uid in state.children:
        return
    record = records.read_process(hands.view.runtime_fd, case.uid)
    if record is None or records.has_exit(hands.view.runtime_fd, case.uid, attempt=record.attempt):
        return
    status = hands.handles.read_end(case.uid, record)
    records.write_exit(hands.view.runtime_fd, case.uid, attempt=record.attempt, status=status)


async def record_end(hands: Hands, case: Case, _: steps.Step) -> None:
    life = lives.read(hands.view.runtime_fd, case.uid) or Life()
    end = records.read_exit(hands.view.runtime_fd, case.uid)
    if end is None or end.attempt != life.attempt:
        return
    record = records.read_process(hands.view.runtime_fd, case.uid)
    began = record.start_ticks / observe.TICKS_PER_SECOND if record is not None else 0.0
    finished = _finished_seconds(end, not_before=began)
    limits = case.observed.limits
    termination = report.classify(
        end.status,
        life=life,
        counted=_count(hands, case, end.status),
        finished_ns=end.finished_ns,
        limits=limits or Limits(),
    )
    stopped = life.stopping is not None and life.stopping.reason == TerminationReason.STOPPED
    ended = dataclasses.replace(
        life, attempt=life.attempt + 1, termination=termination, stopping=None, is_asleep=False, is_at_rest=stopped, finished_seconds=finished,
    )  # fmt: skip
    restarts = case.sandbox is not None and not stopped and plan.should_restart(case.sandbox.spec.restart_policy, ended)
    if restarts:
        rule = hands.settings.restarts
        crashes = rule.count(life.crashes, ran_seconds=finished - began)
        not_before = finished + rule.held_seconds(crashes)
        ended = dataclasses.replace(ended, restarts=life.restarts + 1, crashes=crashes + 1, not_before_seconds=not_before)
    means.write_life(hands, case, ended)
    hands.handles.release(case.uid)


def _finished_seconds(end: records.Exit, *, not_before: float) -> float:
    """When it ended, in seconds since boot. The record has the wall clock, which people move: it counts only within what can be."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return min(max(now - (time.time_ns() - end.finished_ns) / 1e9, not_before), now)


def _count(hands: Hands, case: Case, status: int | None) -> report.Counted:
    """What the kernel counted; what is full is looked up only where the program failed."""
    full = mounting.find_full(mounting.make_places(hands.settings), case.sandbox) if status and case.sandbox is not None else ""
    try:
        counted = stats.read_stats(hands.view.groups.open(case.uid))
    except OSError:  # the cgroup vanished: what it counted is lost, the end is not
        return report.Counted(full=full)
    return report.Counted(oom_kills=counted.oom_kills, peak_memory_bytes=counted.memory_peak_bytes, forks_refused=counted.pids_refused, full=full)


async def mark_at_rest(hands: Hands, case: Case, _: steps.Step) -> None:
    means.write_life(hands, case, dataclasses.replace(case.observed.life, is_at_rest=True, not_before_seconds=0.0))
