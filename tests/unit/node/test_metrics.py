"""What Prometheus reads: well-formed, in base units, and gone when the sandbox is."""

import asyncio
import dataclasses

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from skerry_api.sandbox import Limits, Metadata, Resources, Sandbox, SandboxSpec, Termination, TerminationReason
from skerry_node import metrics, model, reconcile, serving_metrics, steps
from skerry_node.cgroup.scanning import Counters
from skerry_node.metering import catalogue, series
from skerry_node.network.traffic import Traffic

COUNTED = Counters(
    cpu_seconds=1.5, periods=10, throttled_periods=4, throttled_seconds=0.25, memory_bytes=12 << 20, working_set_bytes=10 << 20,
    cache_bytes=2 << 20, peak_bytes=20 << 20, limit_hits=7, oom_kills=1, pids=3, pids_refused=5, read_bytes=4096, write_bytes=8192, reads=1,
    writes=2, stalled=(("cpu", "some", 0.5),),
)  # fmt: skip
LIMITS = {
    "cpu_millicores": 500,
    "memory_bytes": 64 << 20,
    "pids": 100,
    "disk_bytes": 1 << 30,
    "read_bytes_per_second": 1 << 20,
    "write_bytes_per_second": 2 << 20,
}
SANDBOX = Sandbox(
    Metadata(name="hello", uid="u1"),
    SandboxSpec(image="busybox", resources=Resources(limits=Limits(**LIMITS))),
)
SAMPLE = series.Sample(
    sandbox=SANDBOX, node="n1", life=model.Life(restarts=2, started_ns=10**18, start_milliseconds=3, is_warm=True), phase="Running",
    counted=COUNTED, traffic=Traffic(100, 2, 0, 50, 1, 3), denied=4, disk_bytes=4096,
)  # fmt: skip
LABELS = {"namespace": "default", "name": "hello", "node": "n1"}


def read(found):
    """Samples by name and labels; the parser of the library refuses what Prometheus would."""
    families = list(text_string_to_metric_families(found.render().decode()))
    assert all(family.documentation for family in families)
    assert len({family.name for family in families}) == len(families)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def names(found):
    return {name for name, _ in read(found)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("restarts_total", 2),
        ("network_denied_total", 4),
        ("start_duration_seconds", 0.003),
        ("started_timestamp_seconds", 1e9),
        ("cpu_seconds_total", 1.5),
        ("cpu_periods_total", 10),
        ("cpu_throttled_periods_total", 4),
        ("cpu_throttled_seconds_total", 0.25),
        ("cpu_limit_cores", 0.5),
        ("memory_usage_bytes", 12 << 20),
        ("memory_working_set_bytes", 10 << 20),
        ("memory_cache_bytes", 2 << 20),
        ("memory_peak_bytes", 20 << 20),
        ("memory_limit_bytes", 64 << 20),
        ("memory_limit_hits_total", 7),
        ("oom_kills_total", 1),
        ("pids", 3),
        ("pids_limit", 100),
        ("pids_refused_total", 5),
        ("io_read_bytes_total", 4096),
        ("io_written_bytes_total", 8192),
        ("io_reads_total", 1),
        ("io_writes_total", 2),
        ("network_received_bytes_total", 100),
        ("network_received_packets_total", 2),
        ("network_received_dropped_total", 0),
        ("network_sent_bytes_total", 50),
        ("network_sent_packets_total", 1),
        ("network_sent_dropped_total", 3),
        ("disk_used_bytes", 4096),
        ("disk_limit_bytes", 1 << 30),
        ("io_read_limit_bytes", 1 << 20),
        ("io_write_limit_bytes", 2 << 20),
    ],
)
def test_a_sandbox_is_read_at_scrape_time_and_its_series_end_with_it(name, expected):
    """One series per sandbox and quantity; none once it is gone."""
    samples = [SAMPLE]
    live = metrics.Meters(lambda: samples)
    assert read(live)[f"skerry_sandbox_{name}", tuple(sorted(LABELS.items()))] == expected
    samples.clear()
    assert not {each for each in names(live) if each.startswith("skerry_sandbox_") and "ends" not in each}


def test_every_metric_of_a_sandbox_has_a_sample():
    """What the catalogue tells of is what is told."""
    told = {name for name, _ in read(metrics.Meters(lambda: [SAMPLE]))}
    assert {metric.name for metric in series.CATALOGUE} <= told


def test_what_is_not_counted_has_no_series():
    """Absent is not zero: no limit, no block devices, no program."""
    bare = dataclasses.replace(
        SAMPLE, sandbox=Sandbox(SANDBOX.metadata, SandboxSpec(image="busybox")), counted=None, traffic=None, denied=None, disk_bytes=None
    )
    told = names(metrics.Meters(lambda: [bare]))
    assert {name for name in told if name.startswith("skerry_sandbox_")} == {
        "skerry_sandbox_info", "skerry_sandbox_phase", "skerry_sandbox_restarts_total", "skerry_sandbox_start_duration_seconds",
        "skerry_sandbox_started_timestamp_seconds",
    }  # fmt: skip


def test_whoever_names_an_image_writes_no_series():
    """A label ends where it ends, whatever is in it."""
    image = 'evil"} 1\nskerry_fake 1\n\\'
    hostile = dataclasses.replace(SAMPLE, sandbox=Sandbox(SANDBOX.metadata, SandboxSpec(image=image)))
    found = read(metrics.Meters(lambda: [hostile]))
    assert "skerry_fake" not in {name for name, _ in found}
    assert any(dict(labels).get("image") == image for name, labels in found if name == "skerry_sandbox_info")


def outcome(*done: steps.Step, problem=None, life=None):
    observed = dataclasses.replace(model.Observed(uid="u1", now_seconds=0.0), life=life or model.Life())
    return reconcile.Outcome(observed=observed, steps=done, status=None, problem=problem, deadline_seconds=None)


def test_a_reconcile_counts_its_steps_failures_and_ends():
    """By kind, result and reason."""
    found = metrics.Meters(list)
    start, end = steps.StartProcess("u1"), steps.RecordEnd("u1")
    found.reconciled(outcome(start), seconds=0.002, queued_seconds=0.0005)
    found.reconciled(outcome(start, problem=model.Problem(reason="StartFailed", message="no")), seconds=0.001)
    found.reconciled(outcome(end, life=model.Life(termination=Termination(TerminationReason.OOM_KILLED))), seconds=0.001)
    found.step_done("StartProcess", 0.002)
    samples = read(found)
    assert samples["skerry_plan_steps_total", (("result", "done"), ("step", "StartProcess"))] == 1
    assert samples["skerry_plan_steps_total", (("result", "failed"), ("step", "StartProcess"))] == 1
    assert samples["skerry_start_failures_total", (("reason", "StartFailed"),)] == 1
    assert samples["skerry_sandbox_ends_total", (("reason", "OOMKilled"),)] == 1
    assert samples["skerry_reconcile_seconds_count", (("result", "done"),)] == 2
    assert samples["skerry_reconcile_seconds_count", (("result", "failed"),)] == 1
    assert samples["skerry_reconcile_queue_seconds_count", ()] == 1
    assert samples["skerry_plan_step_seconds_count", (("step", "StartProcess"),)] == 1


def test_a_start_is_measured_by_kind_and_stage():
    """Warm and cold are apart; stages add up."""
    found = metrics.Meters(list)
    found.started("Warm", prepare=0.0005, request=0.001, keeper=0.0008)
    found.started("Cold", prepare=0.002, request=0.005, keeper=0.004)
    samples = read(found)
    assert samples["skerry_start_seconds_bucket", (("launch_type", "Warm"), ("le", "0.002"))] == 1
    assert samples["skerry_start_seconds_sum", (("launch_type", "Cold"),)] == pytest.approx(0.007)
    assert samples["skerry_start_stage_seconds_sum", (("stage", "keeper"),)] == pytest.approx(0.0048)
    assert samples["skerry_start_stage_seconds_bucket", (("le", "0.001"), ("stage", "prepare"))] == 1


def test_the_agents_own_work_and_state_are_told():
    """What is counted as it happens, and what is read when somebody asks."""
    found = metrics.Meters(list, lambda: {catalogue.SHELLS: {(): 4}, catalogue.DISK_SIZE: {("images",): 1e9}, catalogue.WATCH_AGE: {}})
    found.orphan_found()
    found.keeper_started()
    found.keeper_answered("launch", 0.002, is_done=True)
    found.api_answered("PATCH", 200, 0.004)
    found.pulled("done", 3.0, 1000)
    found.pulled("AccessDenied", 0.2, 0)
    found.collected(2)
    samples = read(found)
    assert samples["skerry_shells_ready", ()] == 4
    assert samples["skerry_filesystem_size_bytes", (("filesystem", "images"),)] == 1e9
    assert samples["skerry_orphans_found_total", ()] == 1
    assert samples["skerry_keeper_starts_total", ()] == 1
    assert samples["skerry_keeper_request_seconds_count", (("request", "launch"), ("result", "done"))] == 1
    assert samples["skerry_api_request_seconds_count", (("code", "200"), ("method", "PATCH"))] == 1
    assert samples["skerry_image_pull_seconds_count", (("result", "AccessDenied"),)] == 1
    assert samples["skerry_image_pulled_bytes_total", ()] == 1000
    assert samples["skerry_images_collected_total", ()] == 2
    assert samples["process_resident_memory_bytes", ()] > 0
    assert "skerry_watch_age_seconds" not in {name for name, _ in samples}


async def test_the_door_serves_metrics_and_health_and_many_readers_cost_as_one():
    """On a free port, until closed."""
    began, go_on, renders = asyncio.Event(), asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def render():
        renders.append(1)
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return b"skerry_test 1\n"

    door = await serving_metrics.start("127.0.0.1:0", render, stale_seconds=lambda: 0.0, is_ready=lambda: True, max_stale_seconds=1.0)
    try:
        async with aiohttp.ClientSession() as session:
            asked = [asyncio.create_task(session.get(door.url)) for _ in range(3)]
            await began.wait()
            async with session.get(door.url.replace("/metrics", "/healthz")) as answer:
                assert answer.status == 200
            go_on.set()
            for answer in await asyncio.gather(*asked):
                assert answer.content_type == "text/plain"
                assert await answer.text() == "skerry_test 1\n"
    finally:
        await door.close()
    assert len(renders) <= 3


def test_lines_follow_what_changes_and_no_other():
    """Of three sandboxes one changes, one goes: the text is as if nothing had been remembered."""
    first = [dataclasses.replace(SAMPLE, sandbox=dataclasses.replace(SANDBOX, metadata=Metadata(name=name, uid=name))) for name in ("a", "b", "c")]
    kept = series.Text()
    assert kept.render(first) == series.Text().render(first)
    second = [dataclasses.replace(first[0], counted=dataclasses.replace(COUNTED, pids=77)), first[2]]
    assert kept.render(second) == series.Text().render(second)
    assert "77" in kept.render(second)
    assert kept.render([]) == series.Text().render([])
