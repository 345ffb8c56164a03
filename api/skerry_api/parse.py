"""From JSON to values, with the defaults and rules of the CRD: a manifest means the same with and without an API server. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from skerry_api import bandwidth, conditions, egress, fields, names, ports, quantities, sandbox, variables, volumes
from skerry_api.errors import InvalidManifest
from skerry_api.fields import Raw

MIN_MEMORY_BYTES = 1 << 20
MIN_DISK_BYTES, MAX_DISK_BYTES, MIN_RATE = 1 << 20, 1 << 40, 1 << 16
MAX_PIDS = 4_194_304
"""The kernel's PID_MAX_LIMIT."""
_USER = re.compile(r"[^:\s]{1,256}(:[^:\s]{1,256})?")
_IMAGE = re.compile(r"[a-zA-Z0-9][-._/:@a-zA-Z0-9\[\]]{0,511}")
_CAPABILITY = re.compile(r"[A-Z][A-Z_]*")
_MAX_ID = 4_294_967_294
_SPEC = frozenset(
    [
        "image",
        "imagePullPolicy",
        "imagePullSecrets",
        "command",
        "args",
        "env",
        "workingDir",
        "user",
        "hostname",
        "init",
        "stdin",
        "tty",
        "resources",
        "network",
        "volumes",
        "volumeMounts",
        "security",
        "restartPolicy",
        "desiredState",
        "ttl",
        "terminationGracePeriodSeconds",
        "nodeSelector",
        "tolerations",
        "nodeName",
    ]
)


def parse_sandbox(raw: Raw) -> sandbox.Sandbox:
    """The Sandbox that *raw* describes. Raises InvalidManifest for the first field that is wrong."""
    if raw.get("apiVersion") != names.API_VERSION or raw.get("kind") != names.SANDBOX_KIND:
        raise InvalidManifest("apiVersion", f"write apiVersion: {names.API_VERSION} and kind: {names.SANDBOX_KIND}")
    return sandbox.Sandbox(
        metadata=parse_metadata(fields.section(raw, "metadata", "")),
        spec=_parse_spec(fields.section(raw, "spec", "")),
        status=parse_status(fields.section(raw, "status", "")),
    )


def parse_metadata(raw: Raw) -> sandbox.Metadata:
    """Metadata as the API server writes it, or as people do."""
    name = fields.text(raw, "name", "metadata", limit=253)
    if name is None or not names.is_dns_subdomain(name):
        raise InvalidManifest("metadata.name", "write a name of lower-case letters, digits and dashes")
    namespace = fields.text(raw, "namespace", "metadata", limit=63) or "default"
    if not names.is_dns_label(namespace):
        raise InvalidManifest("metadata.namespace", "write a namespace of lower-case letters, digits and dashes")
    uid = str(raw.get("uid") or "")
    if uid and not names.is_uid(uid):
        raise InvalidManifest("metadata.uid", "leave it out: it is given")
    return sandbox.Metadata(
        name=name,
        namespace=namespace,
        uid=uid,
        generation=int(raw.get("generation") or 1),
        resource_version=str(raw.get("resourceVersion") or ""),
        labels=fields.pairs(raw, "labels", "metadata"),
        annotations=fields.pairs(raw, "annotations", "metadata"),
        finalizers=fields.texts(raw, "finalizers", "metadata", count=64, limit=253) or (),
        creation_timestamp=_time(raw.get("creationTimestamp")),
        deletion_timestamp=_time(raw.get("deletionTimestamp")),
    )


def parse_status(raw: Raw) -> sandbox.SandboxStatus:
    """Status as we wrote it; what an older version left out is empty."""
    image, termination = raw.get("image") or {}, raw.get("termination")
    return sandbox.SandboxStatus(
        observed_generation=int(raw.get("observedGeneration") or 0),
        phase=sandbox.Phase(raw.get("phase") or "Pending"),
        conditions=tuple(conditions.parse_condition(each) for each in raw.get("conditions") or ()),
        image_reference=image.get("reference"),
        image_digest=image.get("digest"),
        address=raw.get("address"),
        addresses=tuple(raw.get("addresses") or ()),
        started_at=_time(raw.get("startedAt")),
        start_duration_milliseconds=raw.get("startDurationMilliseconds"),
        launch_type=raw.get("launchType"),
        restarts=int(raw.get("restarts") or 0),
        termination=_parse_termination(termination) if termination else None,
    )


def _time(value: object) -> str | None:
    """YAML reads a time stamp as a date; both forms become text."""
    if value is None or isinstance(value, str):
        return value or None
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat()).replace("+00:00", "Z") if isoformat is not None else str(value)


def _parse_termination(raw: Mapping[str, Any]) -> sandbox.Termination:
    return sandbox.Termination(
        reason=sandbox.TerminationReason(raw["reason"]),
        exit_code=raw.get("exitCode"),
        signal=raw.get("signal"),
        message=raw.get("message") or "",
        peak_memory_bytes=raw.get("peakMemoryBytes"),
        finished_at=_time(raw.get("finishedAt")),
    )


def _parse_spec(raw: Raw) -> sandbox.SandboxSpec:
    fields.refuse_unknown(raw, "spec", _SPEC)
    ttl = fields.section(raw, "ttl", "spec")
    found_volumes = volumes.parse_volumes(raw)
    fields.refuse_unknown(ttl, "spec.ttl", frozenset({"activeSeconds", "idleSeconds", "onIdle", "secondsAfterFinished"}))
    grace = fields.number(raw, "terminationGracePeriodSeconds", "spec", low=0, high=86_400)
    return sandbox.SandboxSpec(
        image=_parse_image(raw),
        image_pull_policy=fields.choice(raw, "imagePullPolicy", "spec", sandbox.ImagePullPolicy, sandbox.ImagePullPolicy.IF_NOT_PRESENT),
        image_pull_secrets=_parse_pull_secrets(raw),
        command=fields.texts(raw, "command", "spec", count=256, limit=65_536),
        args=fields.texts(raw, "args", "spec", count=1024, limit=65_536),
        env=variables.parse_env(raw),
        working_dir=_parse_working_dir(raw),
        user=_parse_user(raw),
        hostname=_parse_hostname(raw),
        init=fields.flag(raw, "init", "spec"),
        stdin=fields.flag(raw, "stdin", "spec"),
        tty=fields.flag(raw, "tty", "spec"),
        resources=_parse_resources(fields.section(raw, "resources", "spec")),
        network=_parse_network(fields.section(raw, "network", "spec")),
        volumes=found_volumes,
        volume_mounts=volumes.parse_mounts(raw, found_volumes),
        security=_parse_security(fields.section(raw, "security", "spec")),
        restart_policy=fields.choice(raw, "restartPolicy", "spec", sandbox.RestartPolicy, sandbox.RestartPolicy.NEVER),
        desired_state=fields.choice(raw, "desiredState", "spec", sandbox.DesiredState, sandbox.DesiredState.RUNNING),
        ttl=sandbox.Ttl(
            active_seconds=fields.number(ttl, "activeSeconds", "spec.ttl", low=1, high=31_536_000),
            idle_seconds=fields.number(ttl, "idleSeconds", "spec.ttl", low=1, high=31_536_000),
            on_idle=fields.choice(ttl, "onIdle", "spec.ttl", sandbox.OnIdle, sandbox.OnIdle.PAUSE),
            seconds_after_finished=fields.number(ttl, "secondsAfterFinished", "spec.ttl", low=0, high=31_536_000),
        ),
        termination_grace_period_seconds=10 if grace is None else grace,
        node_selector=fields.pairs(raw, "nodeSelector", "spec"),
        tolerations=_parse_tolerations(raw),
        node_name=_parse_node_name(raw),
    )


def _parse_image(raw: Raw) -> str:
    image = fields.text(raw, "image", "spec", limit=512)
    if image is None or _IMAGE.fullmatch(image) is None:
        raise InvalidManifest("spec.image", "write an image reference, for example docker.io/library/busybox:latest")
    return image


def _parse_pull_secrets(raw: Raw) -> tuple[str, ...]:
    entries = raw.get("imagePullSecrets") or []
    if not isinstance(entries, list) or len(entries) > 16:
        raise InvalidManifest("spec.imagePullSecrets", "write a list of at most 16 {name: SECRET}")
    found = []
    for place, entry in enumerate(entries):
        path = f"spec.imagePullSecrets[{place}]"
        if not isinstance(entry, Mapping):
            raise InvalidManifest(path, "write {name: SECRET}")
        fields.refuse_unknown(entry, path, frozenset({"name"}))
        name = fields.text(entry, "name", path, limit=253)
        if name is None or not names.is_dns_subdomain(name):
            raise InvalidManifest(f"{path}.name", "write the name of a Secret: lower-case letters, digits, dashes and dots")
        found.append(name)
    return tuple(found)


def _parse_working_dir(raw: Raw) -> str | None:
    path = fields.text(raw, "workingDir", "spec")
    if path is not None and not path.startswith("/"):
        raise InvalidManifest("spec.workingDir", "write an absolute path, for example /srv")
    return path


def _parse_user(raw: Raw) -> str | None:
    user = fields.text(raw, "user", "spec", limit=513)
    if user is None:
        return None
    if _USER.fullmatch(user) is None or any(part.isdigit() and int(part[:11]) > _MAX_ID for part in user.split(":")):
        raise InvalidManifest("spec.user", f'write "user", "uid" or "uid:gid" with numbers from 0 to {_MAX_ID}')
    return user


def _parse_hostname(raw: Raw) -> str | None:
    hostname = fields.text(raw, "hostname", "spec", limit=63)
    if hostname is not None and not names.is_dns_label(hostname):
        raise InvalidManifest("spec.hostname", "write lower-case letters, digits and dashes, at most 63")
    return hostname


def _parse_resources(raw: Raw) -> sandbox.Resources:
    fields.refuse_unknown(raw, "spec.resources", frozenset({"requests", "limits"}))
    asked, held = fields.section(raw, "requests", "spec.resources"), fields.section(raw, "limits", "spec.resources")
    fields.refuse_unknown(asked, "spec.resources.requests", frozenset({"cpu", "memory"}))
    fields.refuse_unknown(held, "spec.resources.limits", frozenset({"cpu", "memory", "pids", "disk", "io"}))
    path = "spec.resources.limits"
    rates = fields.section(held, "io", path)
    fields.refuse_unknown(rates, f"{path}.io", frozenset({"readBytesPerSecond", "writeBytesPerSecond"}))
    limits = sandbox.Limits(
        cpu_millicores=fields.quantity(held, "cpu", path, quantities.parse_cpu_millicores),
        memory_bytes=fields.quantity(held, "memory", path, quantities.parse_memory_bytes),
        pids=fields.number(held, "pids", path, low=1, high=MAX_PIDS),
        disk_bytes=fields.quantity(held, "disk", path, quantities.parse_memory_bytes),
        read_bytes_per_second=fields.quantity(rates, "readBytesPerSecond", f"{path}.io", quantities.parse_memory_bytes),
        write_bytes_per_second=fields.quantity(rates, "writeBytesPerSecond", f"{path}.io", quantities.parse_memory_bytes),
    )
    if limits.cpu_millicores is not None and limits.cpu_millicores < 10:
        raise InvalidManifest(f"{path}.cpu", "write at least 10m")
    if limits.memory_bytes is not None and limits.memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidManifest(f"{path}.memory", "write at least 1Mi")
    if limits.disk_bytes is not None and not MIN_DISK_BYTES <= limits.disk_bytes <= MAX_DISK_BYTES:
        raise InvalidManifest(f"{path}.disk", "write at least 1Mi and at most 1Ti")
    for name, rate in (("readBytesPerSecond", limits.read_bytes_per_second), ("writeBytesPerSecond", limits.write_bytes_per_second)):
        if rate is not None and not MIN_RATE <= rate <= MAX_DISK_BYTES:
            raise InvalidManifest(f"{path}.io.{name}", "write at least 64Ki and at most 1Ti")
    path = "spec.resources.requests"
    cpu = fields.quantity(asked, "cpu", path, quantities.parse_cpu_millicores)
    memory = fields.quantity(asked, "memory", path, quantities.parse_memory_bytes)
    if cpu is not None and limits.cpu_millicores is not None and cpu > limits.cpu_millicores:
        raise InvalidManifest(f"{path}.cpu", "write no more than resources.limits.cpu")
    if memory is not None and limits.memory_bytes is not None and memory > limits.memory_bytes:
        raise InvalidManifest(f"{path}.memory", "write no more than resources.limits.memory")
    return sandbox.Resources(
        requests=sandbox.Amounts(
            cpu_millicores=cpu if cpu is not None else limits.cpu_millicores or 0,
            memory_bytes=memory if memory is not None else limits.memory_bytes or 0,
        ),
        limits=limits,
    )


def _parse_network(raw: Raw) -> sandbox.NetworkSpec:
    fields.refuse_unknown(raw, "spec.network", frozenset({"mode", "egress", "ports", "bandwidth"}))
    mode = fields.choice(raw, "mode", "spec.network", sandbox.NetworkMode, sandbox.NetworkMode.BRIDGE)
    if raw.get("egress") is not None and mode is not sandbox.NetworkMode.BRIDGE:
        raise InvalidManifest("spec.network.egress", "write it only with mode: Bridge")
    found = ports.parse_ports(raw, "spec.network", is_bridged=mode is sandbox.NetworkMode.BRIDGE)
    limit = bandwidth.parse_bandwidth(raw, is_bridged=mode is sandbox.NetworkMode.BRIDGE)
    return sandbox.NetworkSpec(mode=mode, egress=egress.parse_egress(raw), bandwidth=limit, ports=found)


def _parse_security(raw: Raw) -> sandbox.SecuritySpec:
    fields.refuse_unknown(raw, "spec.security", frozenset({"readOnlyRootFilesystem", "capabilities"}))
    capabilities, path = fields.section(raw, "capabilities", "spec.security"), "spec.security.capabilities"
    fields.refuse_unknown(capabilities, path, frozenset({"add", "drop"}))
    return sandbox.SecuritySpec(
        read_only_root_filesystem=fields.flag(raw, "readOnlyRootFilesystem", "spec.security"),
        capabilities_add=_parse_capabilities(capabilities, "add", path),
        capabilities_drop=_parse_capabilities(capabilities, "drop", path),
    )


def _parse_capabilities(raw: Raw, key: str, path: str) -> tuple[str, ...]:
    found = fields.texts(raw, key, path, count=64, limit=64) or ()
    for place, name in enumerate(found):
        if _CAPABILITY.fullmatch(name) is None:
            raise InvalidManifest(f"{path}.{key}[{place}]", "write a capability in capitals, for example NET_BIND_SERVICE")
    return found


def _parse_node_name(raw: Raw) -> str | None:
    name = fields.text(raw, "nodeName", "spec", limit=253) or None
    if name is not None and not names.is_dns_subdomain(name):
        raise InvalidManifest("spec.nodeName", "leave it out; the operator writes the name of a SandboxNode here")
    return name


def _parse_tolerations(raw: Raw) -> tuple[sandbox.Toleration, ...]:
    entries = raw.get("tolerations") or []
    if not isinstance(entries, list) or len(entries) > 64:
        raise InvalidManifest("spec.tolerations", "write a list of at most 64 tolerations")
    found = []
    for place, entry in enumerate(entries):
        path = f"spec.tolerations[{place}]"
        if not isinstance(entry, Mapping):
            raise InvalidManifest(path, "write {key: K, operator: Exists}")
        fields.refuse_unknown(entry, path, frozenset({"key", "operator", "value", "effect"}))
        operator = fields.text(entry, "operator", path) or "Equal"
        if operator not in {"Equal", "Exists"}:
            raise InvalidManifest(f"{path}.operator", "write Equal or Exists")
        toleration = sandbox.Toleration(
            key=fields.text(entry, "key", path, limit=316) or "",
            operator=operator,
            value=fields.text(entry, "value", path, limit=63) or "",
            effect=fields.text(entry, "effect", path) or "",
        )
        if not toleration.key and operator != "Exists":
            raise InvalidManifest(f"{path}.operator", "write operator: Exists when there is no key")
        if toleration.value and operator == "Exists":
            raise InvalidManifest(f"{path}.value", "write no value when the operator is Exists")
        if toleration.effect not in {"", "NoSchedule"}:
            raise InvalidManifest(f"{path}.effect", "write NoSchedule, or leave it out")
        found.append(toleration)
    return tuple(found)
