"""What Prometheus reads: well-formed, in base units, and gone when the sandbox is."""

import dataclasses

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from skerry_node import metrics, model, plan, reconcile, serving_metrics

USAGE = metrics.Usage(
    namespace="default", name="hello", cpu_seconds=1.5, throttled_seconds=0.25, working_set_bytes=10 << 20, peak_bytes=20 << 20,
    oom_kills=1, pids=3, restarts=2,
)  # fmt: skip
LABELS = {"namespace": "default", "name": "hello"}


def meters(usages=(), **options: object):
    return metrics.Meters(lambda: list(usages), count_shells=lambda: 4, **options)


def read(found):
    """Samples by name and labels; the parser of the library refuses what Prometheus would."""
    families = list(text_string_to_metric_families(found.render().decode()))
    assert all(family.documentation for family in families)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("skerry_sandbox_cpu_seconds_total", 1.5),
        ("skerry_sandbox_cpu_throttled_seconds_total", 0.25),
        ("skerry_sandbox_memory_working_set_bytes", 10485760),
        ("skerry_sandbox_memory_peak_bytes", 20971520),
        ("skerry_sandbox_oom_kills_total", 1),
        ("skerry_sandbox_pids", 3),
        ("skerry_sandbox_restarts_total", 2),
    ],
)
def test_usage_is_read_at_scrape_time_and_ends_with_the_sandbox(name, expected):
    """One series per sandbox and quantity; none once it is gone."""
    usages = [USAGE]
    live = metrics.Meters(lambda: usages, count_shells=lambda: 0)
    assert read(live)[name, tuple(sorted(LABELS.items()))] == expected
    usages.clear()
    assert name not in {sample for sample, _ in read(live)}


def test_a_kernel_that_counts_no_peak_has_no_such_series():
    """Absent is not zero."""
    samples = read(meters([dataclasses.replace(USAGE, peak_bytes=None)]))
    assert "skerry_sandbox_memory_peak_bytes" not in {name for name, _ in samples}
    assert "skerry_sandbox_pids" in {name for name, _ in samples}


def outcome(*steps: plan.Step, problem=None, life=None):
    observed = dataclasses.replace(model.Observed(uid="u1", now_seconds=0.0), life=life or model.Life())
    return reconcile.Outcome(observed=observed, steps=steps, status=None, problem=problem, deadline_seconds=None)


def test_a_start_is_measured_by_its_kind():
    """Warm and cold starts are apart; a failed start is no start."""
    found = meters()
    start = plan.StartProcess("u1")
    found.reconciled(outcome(start, life=model.Life(is_warm=True, start_milliseconds=2)), seconds=0.002)
    found.reconciled(outcome(start, life=model.Life(start_milliseconds=7)), seconds=0.007)
    found.reconciled(outcome(start, problem=model.Problem(reason="StartFailed", message="no")), seconds=0.001)
    samples = read(found)
    assert samples["skerry_start_seconds_count", (("launch_type", "Warm"),)] == 1
    assert samples["skerry_start_seconds_sum", (("launch_type", "Cold"),)] == pytest.approx(0.007)
    assert samples["skerry_start_seconds_bucket", (("launch_type", "Warm"), ("le", "0.002"))] == 1
    assert samples["skerry_plan_steps_total", (("result", "done"), ("step", "StartProcess"))] == 2
    assert samples["skerry_plan_steps_total", (("result", "failed"), ("step", "StartProcess"))] == 1
    assert samples["skerry_reconcile_seconds_count", ()] == 3


def test_the_agents_own_state_is_told():
    """Shells, orphans, keepers, the age of the watch, and the process itself."""
    found = meters(watch_age=lambda: 12.5)
    found.orphan_found()
    found.keeper_started()
    samples = read(found)
    assert samples["skerry_shells_ready", ()] == 4
    assert samples["skerry_orphans_found_total", ()] == 1
    assert samples["skerry_keeper_starts_total", ()] == 1
    assert samples["skerry_watch_age_seconds", ()] == 12.5
    assert samples["process_resident_memory_bytes", ()] > 0
    assert "skerry_watch_age_seconds" not in {name for name, _ in read(meters())}


async def test_the_door_serves_metrics_and_health():
    """On a free port, until closed."""
    door = await serving_metrics.start("127.0.0.1:0", meters([USAGE]).render, stale_seconds=lambda: 0.0, is_ready=lambda: True, max_stale_seconds=1.0)
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(door.url) as answer:
                assert answer.content_type == "text/plain"
                assert "skerry_sandbox_pids" in await answer.text()
            async with session.get(door.url.replace("/metrics", "/healthz")) as answer:
                assert answer.status == 200
    finally:
        await door.close()
