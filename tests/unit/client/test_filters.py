"""`ps --filter` in docker's words."""

from __future__ import annotations

import dataclasses

import pytest

from skerry.cli import filters
from skerry_api import sandbox as api

SANDBOX = api.parse_sandbox({
    "apiVersion": "skerry.dev/v1alpha1",
    "kind": "Sandbox",
    "metadata": {"name": "web-1", "namespace": "default", "uid": "u", "labels": {"app": "web", "tier": ""}},
    "spec": {"image": "busybox", "nodeName": "n1"},
    "status": {"phase": "Running"},
})  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param([], True, id="none: all"),
        pytest.param(["name=web-1"], True, id="name"),
        pytest.param(["name=web*"], True, id="name by pattern"),
        pytest.param(["name=db", "name=web-1"], True, id="one of two names"),
        pytest.param(["name=db"], False, id="another name"),
        pytest.param(["status=Running"], True, id="status in any case"),
        pytest.param(["status=failed"], False, id="another status"),
        pytest.param(["label=app"], True, id="a label's name"),
        pytest.param(["label=app=web", "label=tier="], True, id="two labels"),
        pytest.param(["label=app=web", "label=app=db"], False, id="labels are all asked for"),
        pytest.param(["node=n1", "image=alpine"], False, id="keys are all asked for"),
    ],
)
def test_matches(texts, expected):
    """For each key one of its values, for labels all of them."""
    assert filters.matches(SANDBOX, filters.parse(texts)) is expected


def test_pending_is_what_has_no_phase_yet():
    """As the table prints it."""
    fresh = dataclasses.replace(SANDBOX, status=api.SandboxStatus())
    assert filters.matches(fresh, filters.parse(["status=pending"]))


@pytest.mark.parametrize("text", ["", "name", "name=", "colour=red"])
def test_filters_that_cannot_be_meant(text):
    """Each is refused with the keys that there are."""
    with pytest.raises(filters.BadFilterError, match="label"):
        filters.parse([text])
