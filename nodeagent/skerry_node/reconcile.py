"""One pass over one sandbox: observe, plan, act, until nothing is left to do; then say what there is."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass

from skerry_api.sandbox import RestartPolicy, Sandbox, SandboxStatus, Termination, TerminationReason
from skerry_node import act, errors, imaging, lives, means, model, observe, plan, report, starting, steps, variables
from skerry_node.image.store import Image, Store
from skerry_node.keeper import client
from skerry_node.model import Ended, Life, Observed, Problem, Running
from skerry_node.rootfs import disks, filesystems
from skerry_node.volumes import errors as volume_errors

MAX_ROUNDS = 8
"""More looks than any way from state to state needs; a plan that does not end is a bug, and is reported as one."""
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
_LOG = logging.getLogger("skerry.reconcile")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass came to. `deadline_seconds` (since boot) is when to look again, None when nothing but an event matters."""

    observed: Observed
    steps: tuple[steps.Step, ...]
    status: SandboxStatus | None
    problem: Problem | None
    deadline_seconds: float | None
    failures: int = 0


async def reconcile(hands: means.Hands, store: Store, uid: str, *, sandbox: Sandbox | None, failures: int) -> Outcome:
    """Bring *uid* to what *sandbox* says (None: to nothing). *failures* counts the passes in a row that failed before."""
    began = time.monotonic()
    desired = model.desire(sandbox, expires_objects=hands.source.expires_objects) if sandbox is not None else None
    failure: Problem | None = None
    done: list[steps.Step] = []
    observed, image, waiting = _look(hands, store, uid, sandbox, desired)
    for _ in range(MAX_ROUNDS):
        todo = plan.plan(desired, observed)
        if not todo:
            break
        case = means.Case(uid=uid, sandbox=sandbox, observed=observed, image=image, began=began)
        failed = await _perform(hands, case, todo, done, failures)
        observed, image, waiting = _look(hands, store, uid, sandbox, desired)
        if failed is not None:
            failure, failures = failed, failures + 1
            if not _is_start(done):
                break
        elif isinstance(observed.process, Ended) and not observed.process.is_known:
            break  # the keeper is about to tell; time alone helps, and nothing is reported of the moment between
        elif isinstance(todo[-1], steps.ReleaseObject | steps.ExpireObject):
            break  # the object is on its way out; its going is an event
    else:
        failure = Problem(reason="PlanDoesNotEnd", message="this agent keeps finding work to do; please report it")
    problem = failure or waiting
    if failure is None:
        failures = 0
    _log(uid, done, problem, began)
    status = None
    is_between = isinstance(observed.process, Ended)
    if sandbox is not None and desired is not None and not desired.is_deleted and not is_between:
        status = _report(hands, sandbox, desired, observed, image=image, problem=problem)
    return Outcome(
        observed=observed,
        steps=tuple(done),
        status=status,
        problem=problem,
        deadline_seconds=_deadline(desired, observed, problem),
        failures=failures,
    )


def _look(
    hands: means.Hands, store: Store, uid: str, sandbox: Sandbox | None, desired: model.Desired | None
) -> tuple[Observed, Image | None, Problem | None]:
    """What there is, with the image to start with; a problem when a start has to wait for one."""
    image = store.find(sandbox.spec.image) if sandbox is not None else None
    number = image.config.stop_signal if image is not None else 15
    observed = observe.observe(hands.view, uid, has_image=image is not None, stop_signal=number)
    if desired is not None and desired.idle_seconds is not None and isinstance(observed.process, Running):
        observed = dataclasses.replace(observed, active_at_seconds=hands.idle.active_at(uid, observed.process.attempt))
    if sandbox is None or desired is None or desired.is_deleted or not desired.wants_process:
        hands.images.forget(uid)
        return observed, image, None
    if observed.process is not None or not plan.wants_start(desired, observed):
        return observed, image, None
    admission = hands.images.admit(sandbox, attempt=observed.life.attempt)
    if admission.problem is not None and admission.problem.is_lasting:
        observed = _give_up(hands, sandbox, observed, admission.problem)
    return dataclasses.replace(observed, has_image=admission.image is not None), admission.image, admission.problem


async def _perform(hands: means.Hands, case: means.Case, todo: tuple[steps.Step, ...], done: list[steps.Step], failures: int) -> Problem | None:
    for step in todo:
        done.append(step)
        try:
            await act.perform(hands, case, step)
        except errors.SourceUnavailable as error:
            return Problem(reason="SourceUnavailable", message=str(error), retry_at_seconds=_retry(failures))
        except client.KeeperLost as error:
            return Problem(reason="KeeperLost", message=str(error), retry_at_seconds=_now() + 0.1)
        except (volume_errors.VolumeFailed, variables.VariableFailed) as error:
            field = error.field if error.is_lasting else ""
            return _fail_start(hands, case, reason=error.reason, message=f"{error.field}: {error.problem}", field=field, failures=failures)
        except client.Refused as error:
            message = f"{error.field}: {error.problem}" if error.field else error.problem
            return _fail_start(hands, case, reason=error.reason, message=message, field=error.field, failures=failures)
        except disks.DiskRefused as error:
            message = f"spec.resources.limits.disk: {error}"
            if isinstance(step, steps.WriteDisk):
                return Problem(reason="LimitRefused", message=message, retry_at_seconds=_retry(failures))
            return _fail_start(hands, case, reason="LimitRefused", message=message, field="spec.resources.limits.disk", failures=failures)
        except filesystems.FilesystemFailed as error:
            return _fail_start(hands, case, reason="StartFailed", message=f"spec.resources.limits.disk: {error}", field="", failures=failures)
        except OSError as error:
            if isinstance(step, steps.WriteLimits | steps.WriteDisk):
                message = f"spec.resources.limits: {error.strerror or error}"
                return Problem(reason="LimitRefused", message=message, retry_at_seconds=_retry(failures))
            if isinstance(step, steps.AcquireLease | steps.EnsureCgroup | steps.EnsureWritable | steps.EnsureVolumes):
                return _fail_start(hands, case, reason="StartFailed", message=str(error), field="", failures=failures)
            return Problem(reason="StepFailed", message=f"{type(step).__name__}: {error}", retry_at_seconds=_retry(failures))
    return None


def _fail_start(hands: means.Hands, case: means.Case, *, reason: str, message: str, field: str, failures: int) -> Problem:
    """A start came to nothing: what the manifest is at fault for is an end; our own trouble is tried again later."""
    life = lives.read(hands.view.runtime_fd, case.uid) or Life()
    now, policy = _now(), case.sandbox.spec.restart_policy if case.sandbox is not None else RestartPolicy.NEVER
    if life.started_ns == 0:
        starting.remove_start(hands, case.uid)
    if not field:
        held = _retry(failures)
        lives.write(hands.view.runtime_fd, case.uid, dataclasses.replace(life, not_before_seconds=held), name=case.name)
        return Problem(reason=reason, message=message, retry_at_seconds=held)
    termination = Termination(
        reason=TerminationReason.START_FAILED, exit_code=None, signal=None, message=message,
        peak_memory_bytes=None, finished_at=report.render_time(time.time_ns()),
    )  # fmt: skip
    ended = dataclasses.replace(life, termination=termination, start_problem=reason, is_at_rest=False, finished_seconds=now)
    if policy is not RestartPolicy.NEVER:
        crashes = max(life.crashes, 1)  # what failed without running is never tried again at once
        held = now + hands.settings.restarts.held_seconds(crashes)
        ended = dataclasses.replace(ended, restarts=life.restarts + 1, crashes=crashes + 1, not_before_seconds=held)
    lives.write(hands.view.runtime_fd, case.uid, ended, name=case.name)
    return Problem(reason=reason, message=message, field=field, is_lasting=policy is RestartPolicy.NEVER)


def _give_up(hands: means.Hands, sandbox: Sandbox, observed: Observed, problem: Problem) -> Observed:
    """There will be no image: that is the end, and it stays, as every end does. What is seen with that noted."""
    life = dataclasses.replace(
        observed.life, is_at_rest=False, finished_seconds=_now(),
        termination=Termination(
            reason=TerminationReason.IMAGE_PULL_FAILED, exit_code=None, signal=None, message=problem.message,
            peak_memory_bytes=None, finished_at=report.render_time(time.time_ns()),
        ),
    )  # fmt: skip
    starting.ensure_directory(hands, observed)
    name = f"{sandbox.metadata.namespace}/{sandbox.metadata.name}"
    lives.write(hands.view.runtime_fd, observed.uid, life, name=name)
    return dataclasses.replace(observed, has_runtime=True, is_stale=False, life=life)


def _is_start(done: list[steps.Step]) -> bool:
    """Whether the last step was on the way to a start: then one more look frees what the start had taken."""
    return isinstance(done[-1], steps.StartProcess | steps.AcquireLease | steps.EnsureCgroup | steps.EnsureWritable | steps.EnsureVolumes)


def _report(
    hands: means.Hands,
    sandbox: Sandbox,
    desired: model.Desired,
    observed: Observed,
    *,
    image: Image | None,
    problem: Problem | None,
) -> SandboxStatus:
    addresses: tuple[str, ...] = ()
    if observed.slot is not None and sandbox.spec.network.mode == "Bridge":
        addresses = tuple(str(address) for address in hands.view.leases.addresses(observed.slot))
    facts = report.Facts(image_digest=image.digest if image is not None else None, addresses=addresses)
    now = report.render_time(time.time_ns())[:19] + "Z"
    return report.status(sandbox, desired, observed, problem=problem, facts=facts, now=now)


def _deadline(desired: model.Desired | None, observed: Observed, problem: Problem | None) -> float | None:
    due = plan.deadline(desired, observed)
    if due is not None and not observed.has_image and due <= observed.now_seconds:
        due = None  # the image is what it waits for
    if problem is not None and problem.retry_at_seconds:
        due = min(due, problem.retry_at_seconds) if due is not None else problem.retry_at_seconds
    return due


def _retry(failures: int) -> float:
    return _now() + _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _log(uid: str, done: list[steps.Step], problem: Problem | None, began: float) -> None:
    if not done and (problem is None or problem.reason == imaging.PULLING):
        return
    names = ",".join(type(step).__name__ for step in done)
    result = problem.reason if problem is not None else "ok"
    _LOG.info("reconciled uid=%s steps=%s result=%s seconds=%.4f", uid, names, result, time.monotonic() - began)
