"""The agent's own metrics; those of each sandbox are in `series`."""

from __future__ import annotations

from skerry_api.metric import COUNTER, GAUGE, HISTOGRAM, LAUNCH_BUCKETS, REQUEST_BUCKETS, TRANSFER_BUCKETS, Metric

_RESULT = (("result", "`done`, `failed`"),)

INFO = Metric("skerry_agent_info", GAUGE, "This agent; always 1.", ("version", "kernel", "cgroup"))
STARTS = Metric(
    "skerry_start_seconds", HISTOGRAM, "Time from the reconcile that starts a sandbox to its program running.", ("launch_type",),
    values=(("launch_type", "`Warm`: a prepared shell was there, `Cold`"),), buckets=LAUNCH_BUCKETS,
)  # fmt: skip
STAGES = Metric(
    "skerry_start_stage_seconds", HISTOGRAM, "Time of one stage of a start.", ("stage",),
    values=(("stage", "`prepare`: slot, control groups, directories; `request`: from order to answer of the keeper; `keeper`: its part of that"),),
    buckets=LAUNCH_BUCKETS,
)  # fmt: skip
START_FAILURES = Metric("skerry_start_failures_total", COUNTER, "Starts that came to nothing, by the reason in the condition Ready.", ("reason",))
ENDS = Metric(
    "skerry_sandbox_ends_total", COUNTER, "Programs that ended on this node.", ("reason",), values=(("reason", "as `status.termination.reason`"),)
)
QUEUE = Metric(
    "skerry_reconcile_queue_seconds", HISTOGRAM, "Time from an event of a sandbox to the reconcile that looks at it.", buckets=LAUNCH_BUCKETS
)
RECONCILES = Metric("skerry_reconcile_seconds", HISTOGRAM, "Time of one reconcile.", ("result",), values=_RESULT, buckets=LAUNCH_BUCKETS)
STEPS = Metric(
    "skerry_plan_steps_total", COUNTER, "Steps of plans that were performed.", ("step", "result"),
    values=(("step", "as in `plan.py`"), *_RESULT),
)  # fmt: skip
STEP_SECONDS = Metric("skerry_plan_step_seconds", HISTOGRAM, "Time of one step of a plan.", ("step",), buckets=LAUNCH_BUCKETS)
ORPHANS = Metric("skerry_orphans_found_total", COUNTER, "Sandboxes found on this node that nobody wants.")
SHELLS = Metric("skerry_shells_ready", GAUGE, "Prepared shells that wait for a sandbox.")
SHELLS_WANTED = Metric("skerry_shells_wanted", GAUGE, "Prepared shells that there are to be (--shells).")
KEEPER_STARTS = Metric("skerry_keeper_starts_total", COUNTER, "Keepers started by this agent.")
KEEPER_CONNECTED = Metric("skerry_keeper_connected", GAUGE, "1 while a keeper is on the line, else 0.")
KEEPER_MEMORY = Metric("skerry_keeper_resident_memory_bytes", GAUGE, "Resident memory of the keeper.", condition="while a keeper is on the line")
KEEPER_REQUESTS = Metric(
    "skerry_keeper_request_seconds", HISTOGRAM, "Time of one request to the keeper.", ("request", "result"), values=_RESULT, buckets=REQUEST_BUCKETS
)  # fmt: skip
API_REQUESTS = Metric(
    "skerry_api_request_seconds", HISTOGRAM, "Time of one request to the API server.", ("method", "code"),
    values=(("code", "the HTTP status; 0: none was answered"),), buckets=REQUEST_BUCKETS, condition="in a cluster",
)  # fmt: skip
WATCH_AGE = Metric(
    "skerry_watch_age_seconds",
    GAUGE,
    "Time since the API server last spoke on the watch; a healthy one speaks each minute.",
    condition="in a cluster",
)
CERTIFICATES = Metric(
    "skerry_certificate_expiry_timestamp_seconds", GAUGE, "When a certificate ends, since 1970.", ("certificate",),
    values=(("certificate", "`agent`: of the door for streams"),), condition="in a cluster",
)  # fmt: skip
IMAGES = Metric("skerry_images", GAUGE, "Images on this node, by reference.")
IMAGES_BROKEN = Metric("skerry_images_broken", GAUGE, "Images that lack a layer which was lost or found damaged.")
IMAGE_BYTES = Metric("skerry_image_layers_bytes", GAUGE, "What the layers of all images take, shared ones counted once.")
COLLECTED = Metric("skerry_images_collected_total", COUNTER, "Images removed because the disk was nearly full.")
PULLS = Metric(
    "skerry_image_pull_seconds", HISTOGRAM, "Time of one pull.", ("result",), values=(("result", "`done`, or the reason of the failure"),),
    buckets=TRANSFER_BUCKETS,
)  # fmt: skip
PULLED = Metric("skerry_image_pulled_bytes_total", COUNTER, "Bytes of layers that pulls have moved, as the registry holds them.")
DISK_SIZE = Metric(
    "skerry_filesystem_size_bytes", GAUGE, "Size of a filesystem of ours.", ("filesystem",),
    values=(("filesystem", "`images`: the store's; `scratch`: the writable layers'"),),
)  # fmt: skip
DISK_AVAILABLE = Metric(
    "skerry_filesystem_available_bytes", GAUGE, "What is left on it.", ("filesystem",), values=(("filesystem", "as for the size"),)
)
ALLOCATABLE = Metric(
    "skerry_node_allocatable", GAUGE, "What sandboxes of this node may ask for in all.", ("resource",),
    values=(("resource", "`cpu` in cores, `memory` in bytes, `sandboxes`"),),
)  # fmt: skip
ALLOCATED = Metric("skerry_node_allocated", GAUGE, "What those bound to it ask for.", ("resource",), values=(("resource", "as for the allocatable"),))
SCRAPE = Metric("skerry_scrape_seconds", GAUGE, "How long it took to read and render the last answer before this one.")

CATALOGUE = (
    INFO, STARTS, STAGES, START_FAILURES, ENDS, QUEUE, RECONCILES, STEPS, STEP_SECONDS, ORPHANS, SHELLS, SHELLS_WANTED, KEEPER_STARTS,
    KEEPER_CONNECTED, KEEPER_MEMORY, KEEPER_REQUESTS, API_REQUESTS, WATCH_AGE, CERTIFICATES, IMAGES, IMAGES_BROKEN, IMAGE_BYTES, COLLECTED, PULLS,
    PULLED, DISK_SIZE, DISK_AVAILABLE, ALLOCATABLE, ALLOCATED, SCRAPE,
)  # fmt: skip
