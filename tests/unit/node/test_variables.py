"""The values of variables: where they are found, what is missing, what stays as it was."""

from __future__ import annotations

import asyncio

import pytest

from skerry_api import sandbox as api
from skerry_node import variables
from tests.unit.api import manifests

FACTS = variables.Facts(node_name="n1", address="10.0.0.2")


class _Objects:
    """A source that knows entries only, and counts who asks."""

    def __init__(self, **entries: dict[str, bytes]) -> None:
        self.entries = entries
        self.asked = []

    async def read_entries(self, kind, *, namespace, name):
        self.asked.append((kind.value, namespace, name))
        return self.entries.get(name)


def _sandbox(*env: dict[str, object]):
    raw = manifests.good(env=list(env))
    raw["metadata"] |= {"uid": "u1", "labels": {"app/x": "web"}, "annotations": {"note": "hi"}}
    return api.parse_sandbox(raw)


def _renew(source, sandbox, environments=None):
    return asyncio.run((environments or variables.Environments()).renew(source, sandbox, FACTS))


def _secret(key):
    return {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": key}}}


def test_each_is_found_where_it_is():
    """In the manifest's order; an object is asked for once, bytes pass as they are, what is optional and missing is left out."""
    source = _Objects(s={"k": b"v\xff", "l": b""}, c={"k": b"w"})
    key = {"name": "s", "key": "k"}
    fields = {
        "B": "metadata.labels['app/x']",
        "C": "metadata.annotations['note']",
        "D": "metadata.labels['none']",
        "E": "status.podIP",
        "F": "spec.nodeName",
    }
    found = _renew(source, _sandbox(
        {"name": "A", "value": "plain"}, *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        {"name": "S", "valueFrom": {"secretKeyRef": key}}, {"name": "T", "valueFrom": {"secretKeyRef": key | {"key": "l"}}},
        {"name": "U", "valueFrom": {"secretKeyRef": key | {"key": "none", "optional": True}}},
        {"name": "V", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": True}}},
        {"name": "W", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ))  # fmt: skip
    assert found == ("A=plain", "B=web", "C=hi", "D=", "E=10.0.0.2", "F=n1", "S=v\udcff", "T=", "W=w")
    assert source.asked == [("Secret", "default", "s"), ("ConfigMap", "default", "gone"), ("ConfigMap", "default", "c")]


@pytest.mark.parametrize(
    ("entries", "key", "reason", "words"),
    [
        pytest.param(None, "k", "VariableNotReady", "no Secret s", id="no object"),
        pytest.param({"other": b""}, "k", "VariableNotReady", "no key k", id="no key"),
        pytest.param({"k": b"a\0b"}, "k", "InvalidVariable", "zero byte", id="zero byte"),
        pytest.param({"k": b"x" * variables.MAX_VALUE}, "k", "InvalidVariable", "mount it", id="too long for a variable"),
    ],
)
def test_what_cannot_be_had_names_the_field_and_no_value(entries, key, reason, words):
    """What is missing may come; what no variable can hold is the end."""
    with pytest.raises(variables.VariableFailed, match=words) as caught:
        _renew(_Objects(**({} if entries is None else {"s": entries})), _sandbox(_secret(key)))
    assert (caught.value.field, caught.value.reason) == ("spec.env[A].valueFrom", reason)
    assert caught.value.is_lasting == (reason == "InvalidVariable")


def test_all_together_are_bounded():
    """One entry under many names."""
    env = [_secret("k") | {"name": f"A{number}"} for number in range(20)]
    with pytest.raises(variables.VariableFailed, match="take more than"):
        _renew(_Objects(s={"k": b"x" * 100_000}), _sandbox(*env))


def test_execs_see_what_the_start_saw():
    """Until the next start; whoever knows nothing, as a new agent, looks."""

    async def run():
        source, sandbox, environments = _Objects(s={"k": b"1"}), _sandbox(_secret("k")), variables.Environments()
        assert await environments.find(source, sandbox, FACTS) == ("A=1",)
        source.entries["s"] = {"k": b"2"}
        assert await environments.find(source, sandbox, FACTS) == ("A=1",)
        assert await environments.renew(source, sandbox, FACTS) == ("A=2",)
        source.entries.clear()
        assert await environments.find(source, sandbox, FACTS) == ("A=2",)
        environments.forget("u1")
        with pytest.raises(variables.VariableFailed):
            await environments.find(source, sandbox, FACTS)

    asyncio.run(run())
