"""The dashboards: overview of the cluster, node, sandbox, images, control plane."""

from __future__ import annotations

from dashboards.panels import NODE_LINK, SANDBOX_LINK, Dashboard, Row, lines, quantiles, rate, stat

_NS = '{namespace=~"$namespace"}'
_NODE = '{node=~"$node"}'
_BOX = '{namespace=~"$namespace",node=~"$node",name=~"$sandbox"}'
_NAME = "{{namespace}}/{{name}}"

OVERVIEW = Dashboard(
    "overview", "Skerry / Overview", "What runs in the cluster, what it takes, and whether it is well.", ("namespace",),
    (
        Row("Now", (
            stat("Running", "short", 'sum(skerry_sandbox_phase{namespace=~"$namespace",phase="Running"})', about="Sandboxes in phase Running."),
            stat("Nodes", "short", "max(skerry_operator_nodes)"),
            stat("Lost nodes", "short", "max(skerry_operator_lost_nodes)", warn=1, alarm=1),
            stat("Longest wait for a node", "s", "max(skerry_operator_oldest_pending_seconds)", warn=60, alarm=300),
            stat("Start, p95", "s", quantiles("skerry_start_seconds")[1][0], warn=0.1, alarm=0.25),
            stat("Alerts", "short", 'count(ALERTS{alertname=~"Skerry.*",alertstate="firing"}) or vector(0)', warn=1, alarm=1),
        )),
        Row("Sandboxes", (
            lines("By phase", "short", (f"sum by (phase) (skerry_sandbox_phase{_NS})", "{{phase}}"), is_stacked=True),
            lines("Starts and ends per second", "ops", (rate("skerry_start_seconds_count"), "starts"),
                  (rate("skerry_sandbox_ends_total", by="reason"), "end: {{reason}}")),
            lines("Time of a start", "s", *quantiles("skerry_start_seconds"), warn=0.1, alarm=0.25),
        )),
        Row("Use by namespace", (
            lines("CPU", "cores", (f"namespace:skerry_sandbox_cpu_seconds:rate5m{_NS}", "{{namespace}}"), is_stacked=True),
            lines("Memory, working set", "bytes", (f"namespace:skerry_sandbox_memory_working_set_bytes:sum{_NS}", "{{namespace}}"), is_stacked=True),
            lines("Network", "Bps", (f"namespace:skerry_sandbox_network_received_bytes:rate5m{_NS}", "{{namespace}} received"),
                  (f"namespace:skerry_sandbox_network_sent_bytes:rate5m{_NS}", "{{namespace}} sent")),
        )),
        Row("The largest", (
            lines("CPU", "cores", (f"topk(10, rate(skerry_sandbox_cpu_seconds_total{_NS}[$__rate_interval]))", _NAME), link=SANDBOX_LINK),
            lines("Memory", "bytes", (f"topk(10, skerry_sandbox_memory_working_set_bytes{_NS})", _NAME), link=SANDBOX_LINK),
            lines("Disk", "bytes", (f"topk(10, skerry_sandbox_disk_used_bytes{_NS})", _NAME), link=SANDBOX_LINK),
        )),
        Row("Room", (
            lines("CPU asked for", "percentunit",
                  ('sum by (node) (skerry_node_allocated{resource="cpu"}) / sum by (node) (skerry_node_allocatable{resource="cpu"})', "{{node}}"),
                  most=1, warn=0.8, alarm=0.95, link=NODE_LINK),
            lines("Memory asked for", "percentunit",
                  ('sum by (node) (skerry_node_allocated{resource="memory"}) / sum by (node) (skerry_node_allocatable{resource="memory"})', "{{node}}"),
                  most=1, warn=0.8, alarm=0.95, link=NODE_LINK),
            lines("Waiting for a node", "short", ("max by (reason) (skerry_operator_pending_sandboxes)", "{{reason}}"), is_stacked=True),
        )),
    ),
)  # fmt: skip

NODE = Dashboard(
    "node", "Skerry / Node", "One node: its sandboxes together, and the agent and keeper that look after them.", ("node",),
    (
        Row("Now", (
            stat("Sandboxes", "short", 'sum(skerry_node_allocated{resource="sandboxes",node=~"$node"})'),
            stat("Keeper", "short", f"min(skerry_keeper_connected{_NODE})", warn=1, alarm=0.5, is_low_bad=True, about="1: a keeper is on the line."),
            stat("API server last heard", "s", f"max(skerry_watch_age_seconds{_NODE})", warn=90, alarm=180),
            stat("Shells ready", "short", f"sum(skerry_shells_ready{_NODE})"),
            stat("Disk free, least", "percentunit", f"min(node:skerry_filesystem_available:ratio{_NODE})", warn=0.2, alarm=0.1, is_low_bad=True),
        )),
        Row("Sandboxes of the node", (
            lines("CPU", "cores", (f"node:skerry_sandbox_cpu_seconds:rate5m{_NODE}", "{{node}}"),
                  ('skerry_node_allocatable{resource="cpu",node=~"$node"}', "{{node}} allocatable")),
            lines("Memory, working set", "bytes", (f"node:skerry_sandbox_memory_working_set_bytes:sum{_NODE}", "{{node}}"),
                  ('skerry_node_allocatable{resource="memory",node=~"$node"}', "{{node}} allocatable")),
            lines("Network", "Bps", (rate("skerry_sandbox_network_received_bytes_total", _NODE, by="node"), "{{node}} received"),
                  (rate("skerry_sandbox_network_sent_bytes_total", _NODE, by="node"), "{{node}} sent")),
            lines("Pressure", "percentunit", (rate("skerry_sandbox_pressure_seconds_total", _NODE, by="resource, kind"), "{{resource}} {{kind}}"),
                  needs="skerry_sandbox_pressure_seconds_total"),
        )),
        Row("Starts", (
            lines("Time of a start", "s", *quantiles("skerry_start_seconds", _NODE), warn=0.1, alarm=0.25),
            lines("Stages, p95", "s", (quantiles("skerry_start_stage_seconds", _NODE, by="stage")[1][0], "{{stage}}")),
            lines("Failures per second", "ops", (f"{rate('skerry_start_failures_total', _NODE, by='reason')} or vector(0)", "{{reason}}")),
            lines("Shells", "short", (f"sum by (node) (skerry_shells_ready{_NODE})", "{{node}} ready"),
                  (f"sum by (node) (skerry_shells_wanted{_NODE})", "{{node}} wanted")),
        )),
        Row("The agent's work", (
            lines("Reconcile", "s", *quantiles("skerry_reconcile_seconds", _NODE)),
            lines("Waiting for a reconcile", "s", *quantiles("skerry_reconcile_queue_seconds", _NODE)),
            lines("Steps per second", "ops", (rate("skerry_plan_steps_total", _NODE, by="step, result"), "{{step}} {{result}}")),
            lines("Time of a step, p95", "s", (quantiles("skerry_plan_step_seconds", _NODE, by="step")[1][0], "{{step}}")),
        )),
        Row("Keeper, memory, disk", (
            lines("Requests to the keeper, p95", "s", (quantiles("skerry_keeper_request_seconds", _NODE, by="request")[1][0], "{{request}}")),
            lines("Resident memory", "bytes", ('process_resident_memory_bytes{job="skerry-agent",node=~"$node"}', "{{node}} agent"),
                  (f"skerry_keeper_resident_memory_bytes{_NODE}", "{{node}} keeper"), warn=150e6, alarm=200e6),
            lines("CPU of the agent", "percentunit", ('rate(process_cpu_seconds_total{job="skerry-agent",node=~"$node"}[$__rate_interval])', "{{node}}")),
            lines("Disk free", "bytes", (f"skerry_filesystem_available_bytes{_NODE}", "{{node}} {{filesystem}}")),
        )),
        Row("Health", (
            lines("API server last heard", "s", (f"skerry_watch_age_seconds{_NODE}", "{{node}}"), warn=90, alarm=180),
            lines("Orphans found, keepers started, in an hour", "short", (f"increase(skerry_orphans_found_total{_NODE}[1h])", "{{node}} orphans"),
                  (f"increase(skerry_keeper_starts_total{_NODE}[1h])", "{{node}} keepers")),
            lines("Time of a scrape", "s", (f"skerry_scrape_seconds{_NODE}", "{{node}}"), warn=0.15, alarm=1),
        )),
    ),
)  # fmt: skip

SANDBOX = Dashboard(
    "sandbox", "Skerry / Sandbox", "One sandbox, or a few side by side: what it uses, against what it may.", ("namespace", "node", "sandbox"),
    (
        Row("Now", (
            stat("Phase", "short", f"sum by (phase) (skerry_sandbox_phase{_BOX})", "{{phase}}"),
            stat("Restarts", "short", f"sum(skerry_sandbox_restarts_total{_BOX})", warn=1, alarm=5),
            stat("Last start took", "s", f"max(skerry_sandbox_start_duration_seconds{_BOX})", warn=0.1, alarm=0.25),
            stat("Running for", "s", f"time() - min(skerry_sandbox_started_timestamp_seconds{_BOX})"),
            stat("Killed for memory", "short", f"sum(skerry_sandbox_oom_kills_total{_BOX})", warn=1, alarm=1),
        )),
        Row("CPU", (
            lines("CPU", "cores", (f"rate(skerry_sandbox_cpu_seconds_total{_BOX}[$__rate_interval])", _NAME),
                  (f"skerry_sandbox_cpu_limit_cores{_BOX}", f"{_NAME} limit")),
            lines("Periods held back by the limit", "percentunit",
                  (f"rate(skerry_sandbox_cpu_throttled_periods_total{_BOX}[$__rate_interval]) / (rate(skerry_sandbox_cpu_periods_total{_BOX}[$__rate_interval]) > 0)", _NAME), most=1, warn=0.25, alarm=0.5),
            lines("Time held back", "s", (f"rate(skerry_sandbox_cpu_throttled_seconds_total{_BOX}[$__rate_interval])", _NAME)),
        )),
        Row("Memory", (
            lines("Memory", "bytes", (f"skerry_sandbox_memory_working_set_bytes{_BOX}", f"{_NAME} working set"),
                  (f"skerry_sandbox_memory_usage_bytes{_BOX}", f"{_NAME} in use"), (f"skerry_sandbox_memory_cache_bytes{_BOX}", f"{_NAME} cache"),
                  (f"skerry_sandbox_memory_peak_bytes{_BOX}", f"{_NAME} peak"), (f"skerry_sandbox_memory_limit_bytes{_BOX}", f"{_NAME} limit")),
            lines("Working set of the limit", "percentunit",
                  (f"skerry_sandbox_memory_working_set_bytes{_BOX} / skerry_sandbox_memory_limit_bytes{_BOX}", _NAME), most=1, warn=0.8, alarm=0.95),
            lines("At the limit, per second", "ops", (f"rate(skerry_sandbox_memory_limit_hits_total{_BOX}[$__rate_interval])", f"{_NAME} reclaims"),
                  (f"rate(skerry_sandbox_oom_kills_total{_BOX}[$__rate_interval])", f"{_NAME} kills")),
        )),
        Row("Network", (
            lines("Bytes", "Bps", (f"rate(skerry_sandbox_network_received_bytes_total{_BOX}[$__rate_interval])", f"{_NAME} received"),
                  (f"rate(skerry_sandbox_network_sent_bytes_total{_BOX}[$__rate_interval])", f"{_NAME} sent")),
            lines("Packets", "pps", (f"rate(skerry_sandbox_network_received_packets_total{_BOX}[$__rate_interval])", f"{_NAME} received"),
                  (f"rate(skerry_sandbox_network_sent_packets_total{_BOX}[$__rate_interval])", f"{_NAME} sent")),
            lines("Dropped packets", "pps", (f"rate(skerry_sandbox_network_received_dropped_total{_BOX}[$__rate_interval])", f"{_NAME} received"),
                  (f"rate(skerry_sandbox_network_sent_dropped_total{_BOX}[$__rate_interval])", f"{_NAME} sent"), warn=1, alarm=100),
        )),
        Row("Processes and disk", (
            lines("Processes and threads", "short", (f"skerry_sandbox_pids{_BOX}", _NAME), (f"skerry_sandbox_pids_limit{_BOX}", f"{_NAME} limit")),
            lines("Refused processes per second", "ops", (f"rate(skerry_sandbox_pids_refused_total{_BOX}[$__rate_interval])", _NAME), warn=0.1, alarm=10),
            lines("Writable layer", "bytes", (f"skerry_sandbox_disk_used_bytes{_BOX}", _NAME)),
        )),
        Row("Block devices and pressure", (
            lines("Block devices, bytes", "Bps", (f"rate(skerry_sandbox_io_read_bytes_total{_BOX}[$__rate_interval])", f"{_NAME} read"),
                  (f"rate(skerry_sandbox_io_written_bytes_total{_BOX}[$__rate_interval])", f"{_NAME} written"), needs="skerry_sandbox_io_read_bytes_total"),
            lines("Block devices, operations", "iops", (f"rate(skerry_sandbox_io_reads_total{_BOX}[$__rate_interval])", f"{_NAME} reads"),
                  (f"rate(skerry_sandbox_io_writes_total{_BOX}[$__rate_interval])", f"{_NAME} writes"), needs="skerry_sandbox_io_reads_total"),
            lines("Pressure", "percentunit", (f"rate(skerry_sandbox_pressure_seconds_total{_BOX}[$__rate_interval])", f"{_NAME} {{{{resource}}}} {{{{kind}}}}"),
                  needs="skerry_sandbox_pressure_seconds_total"),
        )),
    ),
)  # fmt: skip

IMAGES = Dashboard(
    "images", "Skerry / Images", "What is on the nodes' disks, and what comes from registries.", ("node",),
    (
        Row("On disk", (
            lines("Images", "short", (f"skerry_images{_NODE}", "{{node}}"), (f"skerry_images_broken{_NODE}", "{{node}} broken")),
            lines("Layers", "bytes", (f"skerry_image_layers_bytes{_NODE}", "{{node}}")),
            lines("Disk free", "percentunit", (f"node:skerry_filesystem_available:ratio{_NODE}", "{{node}} {{filesystem}}"), most=1, warn=0.2, alarm=0.1,
                  is_low_bad=True),
        )),
        Row("Pulls", (
            lines("Pulls per second", "ops", (rate("skerry_image_pull_seconds_count", _NODE, by="result"), "{{result}}")),
            lines("Time of a pull", "s", *quantiles("skerry_image_pull_seconds", _NODE)),
            lines("Bytes moved", "Bps", (rate("skerry_image_pulled_bytes_total", _NODE, by="node"), "{{node}}")),
            lines("Removed for room, in an hour", "short", (f"increase(skerry_images_collected_total{_NODE}[1h])", "{{node}}")),
        )),
    ),
)  # fmt: skip

CONTROL_PLANE = Dashboard(
    "control-plane", "Skerry / Control plane", "Operator, gateway, and what they and the agents ask of the API server.", (),
    (
        Row("Now", (
            stat("Leaders", "short", "sum(skerry_operator_leader)", warn=1, alarm=0.5, is_low_bad=True),
            stat("Sandboxes known", "short", "max(skerry_operator_sandboxes)"),
            stat("Waiting for a node", "short", "sum(max by (reason) (skerry_operator_pending_sandboxes)) or vector(0)", warn=10, alarm=100),
            stat("Open streams", "short", "sum(skerry_gateway_streams) or vector(0)"),
            stat("First certificate ends in", "s", "min(skerry_certificate_expiry_timestamp_seconds) - time()", warn=4 * 3600, alarm=3600, is_low_bad=True),
        )),
        Row("Operator", (
            lines("Binds and expiries per second", "ops", (rate("skerry_operator_binds_total"), "binds"), (rate("skerry_operator_expired_total"), "expiries")),
            lines("From event to bind", "s", *quantiles("skerry_operator_bind_seconds")),
            lines("Choice of a node", "s", *quantiles("skerry_operator_schedule_seconds")),
            lines("Failed writes per second", "ops", (f"{rate('skerry_operator_failed_writes_total', by='kind')} or vector(0)", "{{kind}}"),
                  warn=0.1, alarm=1),
        )),
        Row("API server", (
            lines("Requests of the operator", "reqps", (rate("skerry_operator_api_request_seconds_count", by="method, code"), "{{method}} {{code}}")),
            lines("Answers to the operator, p95", "s", (quantiles("skerry_operator_api_request_seconds", by="method")[1][0], "{{method}}")),
            lines("Requests of agents", "reqps", (rate("skerry_api_request_seconds_count", by="method, code"), "{{method}} {{code}}")),
            lines("Answers to agents, p95", "s", (quantiles("skerry_api_request_seconds", by="method")[1][0], "{{method}}")),
        )),
        Row("Gateway", (
            lines("Open streams", "short", ("sum by (subresource) (skerry_gateway_streams)", "{{subresource}}"), is_stacked=True),
            lines("Requests per second", "reqps", (rate("skerry_gateway_requests_total", by="subresource, outcome"), "{{subresource}} {{outcome}}")),
            lines("How long streams last, p95", "s", (quantiles("skerry_gateway_stream_seconds", by="subresource")[1][0], "{{subresource}}")),
        )),
        Row("Processes", (
            lines("Resident memory", "bytes", ('process_resident_memory_bytes{job=~"skerry-(operator|gateway)"}', "{{job}} {{instance}}")),
            lines("CPU", "percentunit", ('rate(process_cpu_seconds_total{job=~"skerry-(operator|gateway)"}[$__rate_interval])', "{{job}} {{instance}}")),
            lines("Certificates end in", "s", ("skerry_certificate_expiry_timestamp_seconds - time()", "{{certificate}} {{instance}}"), warn=4 * 3600,
                  alarm=3600, is_low_bad=True),
        )),
    ),
)  # fmt: skip

ALL = (OVERVIEW, NODE, SANDBOX, IMAGES, CONTROL_PLANE)
