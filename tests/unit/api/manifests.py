"""One table of wrong manifests for both doors, the API server (CRD) and parse_sandbox: a change of a good spec, the field, what each says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def good(**spec: Any) -> dict[str, Any]:
    """A manifest that both take, with *spec* over it."""
    return {
        "apiVersion": "skerry.dev/v1alpha1",
        "kind": "Sandbox",
        "metadata": {"name": "good", "namespace": "default"},
        "spec": {"image": "docker.io/library/busybox:latest", **spec},
    }


@dataclass(frozen=True, slots=True)
class Bad:
    """A spec that is refused. *server* is the CRD's sentence where it differs from ours."""

    id: str
    spec: dict[str, Any]
    field: str
    says: str
    server: str | None = None


_IMAGE = "write an image reference, for example docker.io/library/busybox:latest"
_QUANTITY = "for example 100m, 1, 64Mi or 1Gi"
_USER = 'write "user", "uid" or "uid:gid" with numbers from 0 to 4294967294'
_ENV = "write a name of letters, digits, '_', '-' and '.', not starting with a digit"
_CAPABILITY = "write a capability in capitals, for example NET_BIND_SERVICE"
_UNKNOWN = "unknown field"
_SECRET = "write the name of a Secret: lower-case letters, digits, dashes and dots"
_SOURCE = "write one of configMap, emptyDir, hostPath, secret"
_PORT = "write a whole number from 1 to 65535"
_PORT_NAME = "write at most 15 lower-case letters, digits and dashes"
_PORT_ADDRESS = "write an address of the node, for example 127.0.0.1"
_FROM = "write one of configMapKeyRef, fieldRef, secretKeyRef"
_OBJECT = "write the name of an object in this namespace"
_KEY = {"name": "a", "key": "k"}
_DATA = {"name": "data", "emptyDir": {}}


def _limits(**values: Any) -> dict[str, Any]:
    return {"resources": {"limits": values}}


def _both(name: str, request: str, limit: str) -> dict[str, Any]:
    return {"resources": {"requests": {name: request}, "limits": {name: limit}}}


def _from(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"env": [{"name": "A", "valueFrom": source, **more}]}


def _bandwidth(**bandwidth: Any) -> dict[str, Any]:
    return {"network": {"bandwidth": bandwidth}}


def _egress(**egress: Any) -> dict[str, Any]:
    return {"network": {"egress": egress}}


def _volumes(*volumes: Any) -> dict[str, Any]:
    return {"volumes": list(volumes)}


def _sized(size: str) -> dict[str, Any]:
    return {"name": "a", "emptyDir": {"sizeLimit": size}}


def _ports(*ports: Any) -> dict[str, Any]:
    return {"network": {"ports": list(ports)}}


def _mounts(**mount: Any) -> dict[str, Any]:
    return {"volumes": [_DATA], "volumeMounts": [{"name": "data", **mount}]}


BAD = (
    Bad("image missing", {"image": None}, "spec.image", _IMAGE, "Required value"),
    Bad("image empty", {"image": ""}, "spec.image", _IMAGE),
    Bad("image with a space", {"image": "busy box"}, "spec.image", _IMAGE),
    Bad("image starts with a dash", {"image": "-rf"}, "spec.image", _IMAGE),
    Bad("image with a newline", {"image": "busybox\n"}, "spec.image", _IMAGE),
    Bad("image too long", {"image": "a" * 513}, "spec.image", "write at most 512 characters", "Too long"),
    Bad("image a number", {"image": 7}, "spec.image", "write a string", "must be of type string"),
    Bad("command a string", {"command": "sh"}, "spec.command", "write a list of at most 256 strings", "must be of type array"),
    Bad("command too long", {"command": ["a"] * 257}, "spec.command", "write a list of at most 256 strings", "must have at most 256 items"),
    Bad("args of numbers", {"args": [1]}, "spec.args[0]", "write a string", "must be of type string"),
    Bad("env name missing", {"env": [{"value": "b"}]}, "spec.env[0].name", _ENV, "Required value"),
    Bad("env name with =", {"env": [{"name": "A=B", "value": "c"}]}, "spec.env[0].name", _ENV),
    Bad("env name starts with a digit", {"env": [{"name": "1A"}]}, "spec.env[0].name", _ENV),
    Bad("env name empty", {"env": [{"name": ""}]}, "spec.env[0].name", _ENV),
    Bad("env too many", {"env": [{"name": "A"}] * 257}, "spec.env", "write a list of at most 256 variables", "must have at most 256 items"),
    Bad("env from nothing", _from({}), "spec.env[0].valueFrom", _FROM),
    Bad("env from two", _from({"fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": _KEY}), "spec.env[0].valueFrom", _FROM),
    Bad(
        "env from resources",
        _from({"resourceFieldRef": {"resource": "limits.cpu"}}),
        "spec.env[0].valueFrom.resourceFieldRef",
        "no such field",
        _UNKNOWN,
    ),
    Bad("env value and source", _from({"secretKeyRef": _KEY}, value="x"), "spec.env[0]", "write value or valueFrom, not both"),
    Bad("env from a bad name", _from({"configMapKeyRef": _KEY | {"name": "A_B"}}), "spec.env[0].valueFrom.configMapKeyRef.name", _OBJECT),
    Bad("env from a bad key", _from({"secretKeyRef": _KEY | {"key": "a/b"}}), "spec.env[0].valueFrom.secretKeyRef.key", "write a key of the object"),
    Bad(
        "env from no key",
        _from({"secretKeyRef": {"name": "a"}}),
        "spec.env[0].valueFrom.secretKeyRef.key",
        "write a key of the object",
        "Required value",
    ),
    Bad(
        "env from status",
        _from({"fieldRef": {"fieldPath": "status.phase"}}),
        "spec.env[0].valueFrom.fieldRef.fieldPath",
        "write one of metadata.name",
    ),
    Bad(
        "env from all labels",
        _from({"fieldRef": {"fieldPath": "metadata.labels"}}),
        "spec.env[0].valueFrom.fieldRef.fieldPath",
        "metadata.labels['KEY']",
    ),
    Bad("workingDir relative", {"workingDir": "srv"}, "spec.workingDir", "write an absolute path, for example /srv"),
    Bad("user too large", {"user": "4294967295"}, "spec.user", _USER),
    Bad("user far too large", {"user": "99999999999999999999"}, "spec.user", _USER),
    Bad("group too large", {"user": "0:4294967295"}, "spec.user", _USER),
    Bad("user of three parts", {"user": "1:2:3"}, "spec.user", _USER),
    Bad("user with a space", {"user": "a b"}, "spec.user", _USER),
    Bad("user empty", {"user": ""}, "spec.user", _USER),
    Bad("hostname in capitals", {"hostname": "Hello"}, "spec.hostname", "write lower-case letters, digits and dashes, at most 63"),
    Bad("hostname with a dot", {"hostname": "a.b"}, "spec.hostname", "write lower-case letters, digits and dashes, at most 63"),
    Bad("cpu a word", _limits(cpu="much"), "spec.resources.limits.cpu", _QUANTITY),
    Bad("memory negative", _limits(memory="-1Mi"), "spec.resources.limits.memory", _QUANTITY),
    Bad("memory in MB", _limits(memory="64MB"), "spec.resources.limits.memory", _QUANTITY),
    Bad("cpu too small", _limits(cpu="9m"), "spec.resources.limits.cpu", "write at least 10m"),
    Bad("memory too small", _limits(memory="1Ki"), "spec.resources.limits.memory", "write at least 1Mi"),
    Bad("memory zero", _limits(memory=0), "spec.resources.limits.memory", "write at least 1Mi"),
    Bad("pids zero", _limits(pids=0), "spec.resources.limits.pids", "write a whole number from 1 to 4194304"),
    Bad("pids too many", _limits(pids=4194305), "spec.resources.limits.pids", "write a whole number from 1 to 4194304"),
    Bad("disk limit below the least", _limits(disk="1000"), "spec.resources.limits.disk", "write at least 1Mi and at most 1Ti"),
    Bad("disk limit above the most", _limits(disk="2Ti"), "spec.resources.limits.disk", "write at least 1Mi and at most 1Ti"),
    Bad("a rate that is none", _limits(io={"readBytesPerSecond": "1Ki"}), "spec.resources.limits.io.readBytesPerSecond", "write at least 64Ki"),
    Bad("a rate beyond all disks", _limits(io={"writeBytesPerSecond": "2Ti"}), "spec.resources.limits.io.writeBytesPerSecond", "at most 1Ti"),
    Bad("unknown rate", _limits(io={"readIops": 5}), "spec.resources.limits.io.readIops", "no such field", _UNKNOWN),
    Bad("cpu request over limit", _both("cpu", "2", "1"), "spec.resources.requests.cpu", "write no more than resources.limits.cpu"),
    Bad(
        "memory request over limit", _both("memory", "1Gi", "1023Mi"), "spec.resources.requests.memory", "write no more than resources.limits.memory"
    ),
    Bad("request a word", {"resources": {"requests": {"cpu": "x"}}}, "spec.resources.requests.cpu", _QUANTITY),
    Bad("network mode", {"network": {"mode": "bridge"}}, "spec.network.mode", "write one of Bridge, None, Host", "supported values"),
    Bad("egress without a network", {"network": {"mode": "None", "egress": {}}}, "spec.network.egress", "write it only with mode: Bridge"),
    Bad("bandwidth without a network", {"network": {"mode": "None", "bandwidth": {}}}, "spec.network.bandwidth", "write it only with mode: Bridge"),
    Bad("bandwidth of nothing", _bandwidth(ingress="0"), "spec.network.bandwidth.ingress", "write bits per second from 64k to 32G"),
    Bad("bandwidth beyond", _bandwidth(egress="33G"), "spec.network.bandwidth.egress", "write bits per second from 64k to 32G"),
    Bad("egress default", _egress(default="Drop"), "spec.network.egress.default", "write one of Allow, Deny", "supported values"),
    Bad("egress rule of nothing", _egress(allow=[{}]), "spec.network.egress.allow[0]", "write one of cidr, host"),
    Bad("egress rule of both", _egress(deny=[{"cidr": "192.0.2.0/24", "host": "a.b"}]), "spec.network.egress.deny[0]", "write one of cidr, host"),
    Bad("egress address alone", _egress(allow=[{"cidr": "192.0.2.1"}]), "spec.network.egress.allow[0].cidr", "write a network"),
    Bad("egress bits beyond the prefix", _egress(allow=[{"cidr": "192.0.2.1/24"}]), "spec.network.egress.allow[0].cidr", "write a network"),
    Bad("egress name in capitals", _egress(allow=[{"host": "Example.com"}]), "spec.network.egress.allow[0].host", "write a name in lower case"),
    Bad("egress star inside", _egress(allow=[{"host": "a.*.b"}]), "spec.network.egress.allow[0].host", "write a name in lower case"),
    Bad("egress name with a dot at its end", _egress(allow=[{"host": "a.b."}]), "spec.network.egress.allow[0].host", "write a name in lower case"),
    Bad(
        "egress port 0",
        _egress(allow=[{"host": "a.b", "ports": [{"port": 0}]}]),
        "spec.network.egress.allow[0].ports[0].port",
        "write a whole number from 1 to 65535",
    ),
    Bad(
        "egress protocol",
        _egress(allow=[{"host": "a.b", "ports": [{"port": 1, "protocol": "tcp"}]}]),
        "spec.network.egress.allow[0].ports[0].protocol",
        "write one of TCP, UDP",
        "supported values",
    ),
    Bad(
        "egress rules", _egress(allow=[{"host": "a.b"}] * 33), "spec.network.egress.allow", "write a list of at most 32", "must have at most 32 items"
    ),
    Bad("ports a map", {"network": {"ports": {}, "mode": "Bridge"}}, "spec.network.ports", "write a list of at most 64", "must be of type array"),
    Bad("ports too many", _ports(*[{"containerPort": 80}] * 65), "spec.network.ports", "write a list of at most 64", "must have at most 64 items"),
    Bad("port without a number", _ports({"name": "a"}), "spec.network.ports[0].containerPort", _PORT, "Required value"),
    Bad("port 0", _ports({"containerPort": 0}), "spec.network.ports[0].containerPort", _PORT),
    Bad("port a word", _ports({"containerPort": "80"}), "spec.network.ports[0].containerPort", _PORT, "must be of type integer"),
    Bad("hostPort 0", _ports({"containerPort": 80, "hostPort": 0}), "spec.network.ports[0].hostPort", _PORT),
    Bad("hostPort 65536", _ports({"containerPort": 80, "hostPort": 65536}), "spec.network.ports[0].hostPort", _PORT),
    Bad(
        "port protocol",
        _ports({"containerPort": 80, "protocol": "tcp"}),
        "spec.network.ports[0].protocol",
        "write one of TCP, UDP",
        "supported values",
    ),
    Bad("port name", _ports({"containerPort": 80, "name": "Http"}), "spec.network.ports[0].name", _PORT_NAME),
    Bad("port name a number", _ports({"containerPort": 80, "name": "80"}), "spec.network.ports[0].name", _PORT_NAME),
    Bad("port name too long", _ports({"containerPort": 80, "name": "a" * 16}), "spec.network.ports[0].name", "write at most 15", "Too long"),
    Bad("two ports of a name", _ports(*[{"containerPort": 80, "name": "a"}] * 2), "spec.network.ports[1].name", "name of its own"),
    Bad("hostPort twice", _ports(*[{"containerPort": 80, "hostPort": 1}] * 2), "spec.network.ports[1].hostPort", "hostPort of its own"),
    Bad(
        "hostPort twice, once at an address",
        _ports({"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostPort": 1, "hostIP": "127.0.0.1"}),
        "spec.network.ports[1].hostPort",
        "hostPort of its own",
    ),
    Bad("hostIP a name", _ports({"containerPort": 80, "hostPort": 1, "hostIP": "localhost"}), "spec.network.ports[0].hostIP", _PORT_ADDRESS),
    Bad("hostIP alone", _ports({"containerPort": 80, "hostIP": "127.0.0.1"}), "spec.network.ports[0].hostIP", "write a hostPort beside it"),
    Bad(
        "hostPort without a bridge",
        {"network": {"mode": "None", "ports": [{"containerPort": 80, "hostPort": 1}]}},
        "spec.network.ports[0].hostPort",
        "write no hostPort unless network.mode is Bridge",
    ),
    Bad("restartPolicy", {"restartPolicy": "Sometimes"}, "spec.restartPolicy", "write one of Never, OnFailure, Always", "supported values"),
    Bad("desiredState", {"desiredState": "Frozen"}, "spec.desiredState", "write one of Running, Stopped, Paused", "supported values"),
    Bad("active seconds", {"ttl": {"activeSeconds": 0}}, "spec.ttl.activeSeconds", "write a whole number from 1 to 31536000"),
    Bad("idle seconds", {"ttl": {"idleSeconds": 0}}, "spec.ttl.idleSeconds", "write a whole number from 1 to 31536000"),
    Bad("on idle", {"ttl": {"idleSeconds": 5, "onIdle": "Freeze"}}, "spec.ttl.onIdle", "write one of", "Unsupported value"),
    Bad("after finished", {"ttl": {"secondsAfterFinished": -1}}, "spec.ttl.secondsAfterFinished", "write a whole number from 0 to 31536000"),
    Bad("grace", {"terminationGracePeriodSeconds": 86401}, "spec.terminationGracePeriodSeconds", "write a whole number from 0 to 86400"),
    Bad(
        "grace a float",
        {"terminationGracePeriodSeconds": 0.5},
        "spec.terminationGracePeriodSeconds",
        "write a whole number",
        "must be of type integer",
    ),
    Bad("selector a number", {"nodeSelector": {"zone": 1}}, "spec.nodeSelector.zone", "write a string; put it in quotes", "must be of type string"),
    Bad(
        "toleration operator",
        {"tolerations": [{"key": "a", "operator": "In"}]},
        "spec.tolerations[0].operator",
        "write Equal or Exists",
        "supported values",
    ),
    Bad("toleration without key", {"tolerations": [{"value": "a"}]}, "spec.tolerations[0].operator", "write operator: Exists when there is no key"),
    Bad(
        "toleration Exists with value",
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.tolerations[0].value",
        "write no value when the operator is Exists",
    ),
    Bad("volume without a source", _volumes({"name": "a"}), "spec.volumes[0]", _SOURCE),
    Bad("volume of two sources", _volumes({"name": "a", "emptyDir": {}, "hostPath": {"path": "/srv"}}), "spec.volumes[0]", _SOURCE),
    Bad("volume name", _volumes({"name": "A", "emptyDir": {}}), "spec.volumes[0].name", "write a name of lower-case letters, digits and dashes"),
    Bad("volume size", _volumes(_sized("1Ki")), "spec.volumes[0].emptyDir.sizeLimit", "write at least 1Mi"),
    Bad("volume size a word", _volumes(_sized("big")), "spec.volumes[0].emptyDir.sizeLimit", _QUANTITY),
    Bad(
        "hostPath relative",
        _volumes({"name": "a", "hostPath": {"path": "srv"}}),
        "spec.volumes[0].hostPath.path",
        "write an absolute path without '..'",
    ),
    Bad(
        "hostPath upwards",
        _volumes({"name": "a", "hostPath": {"path": "/srv/../etc"}}),
        "spec.volumes[0].hostPath.path",
        "write an absolute path without '..'",
    ),
    Bad("configMap name", _volumes({"name": "a", "configMap": {"name": "A b"}}), "spec.volumes[0].configMap.name", "write the name of an object"),
    Bad(
        "secret mode",
        _volumes({"name": "a", "secret": {"secretName": "s", "defaultMode": 512}}),
        "spec.volumes[0].secret.defaultMode",
        "write a whole number from 0 to 511",
    ),
    Bad(
        "item upwards",
        _volumes({"name": "a", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../x"}]}}),
        "spec.volumes[0].secret.items[0].path",
        "write a relative path without '..'",
        "should match",
    ),
    Bad("two volumes of a name", _volumes(_DATA, _DATA), "spec.volumes[1].name", "name of its own"),
    Bad("mount of no volume", _mounts(name="b", mountPath="/data"), "spec.volumeMounts[0].name", "write the name of one of spec.volumes"),
    Bad("mount at /", _mounts(mountPath="/"), "spec.volumeMounts[0].mountPath", "write an absolute path without '..', other than /"),
    Bad("mount in proc", _mounts(mountPath="/proc/x"), "spec.volumeMounts[0].mountPath", "write a path outside /proc, /sys and /dev"),
    Bad("mount in dev by a detour", _mounts(mountPath="/.//dev"), "spec.volumeMounts[0].mountPath", "write a path outside /proc, /sys and /dev"),
    Bad("mount upwards", _mounts(mountPath="/a/../b"), "spec.volumeMounts[0].mountPath", "write an absolute path without '..'"),
    Bad("subPath upwards", _mounts(mountPath="/a", subPath="x/.."), "spec.volumeMounts[0].subPath", "write a relative path without '..'"),
    Bad("subPath absolute", _mounts(mountPath="/a", subPath="/x"), "spec.volumeMounts[0].subPath", "write a relative path without '..'"),
    Bad("capability in lower case", {"security": {"capabilities": {"add": ["net_raw"]}}}, "spec.security.capabilities.add[0]", _CAPABILITY),
    Bad(
        "readOnly a word",
        {"security": {"readOnlyRootFilesystem": "yes"}},
        "spec.security.readOnlyRootFilesystem",
        "write true or false",
        "type boolean",
    ),
    Bad("nodeName no name", {"nodeName": "A/../b"}, "spec.nodeName", "leave it out; the operator writes the name of a SandboxNode here"),
    Bad("imagePullPolicy", {"imagePullPolicy": "always"}, "spec.imagePullPolicy", "write one of Always, IfNotPresent, Never", "supported values"),
    Bad("pull secret without a name", {"imagePullSecrets": [{}]}, "spec.imagePullSecrets[0].name", _SECRET, "Required value"),
    Bad("pull secret elsewhere", {"imagePullSecrets": [{"name": "a/b"}]}, "spec.imagePullSecrets[0].name", _SECRET),
    Bad("pull secret a string", {"imagePullSecrets": ["a"]}, "spec.imagePullSecrets[0]", "write {name: SECRET}", "must be of type object"),
    Bad("a field that does not exist", {"imagePullPolice": "Always"}, "spec.imagePullPolice", "no such field", _UNKNOWN),
)
