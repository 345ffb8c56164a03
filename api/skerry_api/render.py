"""From values to JSON, as the API server stores it; what is None or empty is left out. Pure."""

from __future__ import annotations

from typing import Any

from skerry_api import bandwidth, conditions, egress, names, ports, quantities, sandbox, variables, volumes


def render_sandbox(value: sandbox.Sandbox) -> dict[str, Any]:
    """The whole object."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.SANDBOX_KIND,
        "metadata": render_metadata(value.metadata),
        "spec": _render_spec(value.spec),
        "status": render_status(value.status),
    }


def render_metadata(value: sandbox.Metadata) -> dict[str, Any]:
    """Metadata."""
    return _filled(
        name=value.name,
        namespace=value.namespace,
        uid=value.uid,
        generation=value.generation,
        resourceVersion=value.resource_version,
        labels=dict(value.labels),
        annotations=dict(value.annotations),
        finalizers=list(value.finalizers),
        creationTimestamp=value.creation_timestamp,
        deletionTimestamp=value.deletion_timestamp,
    )


def render_status(value: sandbox.SandboxStatus) -> dict[str, Any]:
    """Status; keys that have no value are null, so that a merge patch takes them away."""
    end = value.termination
    return {
        "observedGeneration": value.observed_generation,
        "phase": value.phase.value,
        "conditions": [conditions.render_condition(each) for each in value.conditions],
        "image": {"reference": value.image_reference, "digest": value.image_digest},
        "address": value.address,
        "addresses": list(value.addresses) or None,
        "startedAt": value.started_at,
        "startDurationMilliseconds": value.start_duration_milliseconds,
        "launchType": value.launch_type,
        "restarts": value.restarts,
        "termination": None
        if end is None
        else {
            "reason": end.reason.value,
            "exitCode": end.exit_code,
            "signal": end.signal,
            "message": end.message,
            "peakMemoryBytes": end.peak_memory_bytes,
            "finishedAt": end.finished_at,
        },
    }


def _render_spec(value: sandbox.SandboxSpec) -> dict[str, Any]:
    limits, requests = value.resources.limits, value.resources.requests
    return _filled(
        image=value.image,
        imagePullPolicy=value.image_pull_policy.value,
        imagePullSecrets=[{"name": each} for each in value.image_pull_secrets],
        command=None if value.command is None else list(value.command),
        args=None if value.args is None else list(value.args),
        env=[variables.render_variable(each) for each in value.env],
        workingDir=value.working_dir,
        user=value.user,
        hostname=value.hostname,
        init=value.init or None,
        stdin=value.stdin or None,
        tty=value.tty or None,
        resources=_filled(
            requests=_filled(
                cpu=quantities.render_cpu(requests.cpu_millicores) if requests.cpu_millicores else None,
                memory=quantities.render_memory(requests.memory_bytes) if requests.memory_bytes else None,
            ),
            limits=_filled(
                cpu=None if limits.cpu_millicores is None else quantities.render_cpu(limits.cpu_millicores),
                memory=_bytes(limits.memory_bytes),
                pids=limits.pids,
                disk=_bytes(limits.disk_bytes),
                io=_filled(readBytesPerSecond=_bytes(limits.read_bytes_per_second), writeBytesPerSecond=_bytes(limits.write_bytes_per_second)),
            ),
        ),
        network=_filled(
            mode=value.network.mode.value,
            ports=[ports.render_port(each) for each in value.network.ports],
            egress=egress.render_egress(value.network.egress),
            bandwidth=bandwidth.render_bandwidth(value.network.bandwidth),
        ),
        volumes=[volumes.render_volume(each) for each in value.volumes],
        volumeMounts=[volumes.render_mount(each) for each in value.volume_mounts],
        security=_filled(
            readOnlyRootFilesystem=value.security.read_only_root_filesystem or None,
            capabilities=_filled(add=list(value.security.capabilities_add), drop=list(value.security.capabilities_drop)),
        ),
        restartPolicy=value.restart_policy.value,
        desiredState=value.desired_state.value,
        ttl=_filled(
            activeSeconds=value.ttl.active_seconds,
            idleSeconds=value.ttl.idle_seconds,
            onIdle=None if value.ttl.idle_seconds is None and value.ttl.on_idle is sandbox.OnIdle.PAUSE else value.ttl.on_idle.value,
            secondsAfterFinished=value.ttl.seconds_after_finished,
        ),
        terminationGracePeriodSeconds=value.termination_grace_period_seconds,
        nodeSelector=dict(value.node_selector),
        tolerations=[_filled(key=each.key, operator=each.operator, value=each.value, effect=each.effect) for each in value.tolerations],
        nodeName=value.node_name,
    )


def _bytes(value: int | None) -> str | None:
    return None if value is None else quantities.render_memory(value)


def _filled(**values: Any) -> dict[str, Any]:
    """Only what says something; zero does."""
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {})}
