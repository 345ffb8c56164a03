"""References: Docker's grammar and defaults."""

from __future__ import annotations

import time

import pytest

from skerry_node.image import reference
from skerry_node.image.errors import InvalidReference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        pytest.param("docker.io/library/busybox:latest", "docker.io/library/busybox:latest", id="whole already"),
        pytest.param("busybox", "docker.io/library/busybox:latest", id="all defaults"),
        pytest.param("busybox:1.36", "docker.io/library/busybox:1.36", id="tag"),
        pytest.param("alice/tool", "docker.io/alice/tool:latest", id="namespace"),
        pytest.param("index.docker.io/busybox", "docker.io/library/busybox:latest", id="old name of the hub"),
        pytest.param("localhost/a", "localhost/a:latest", id="localhost is a host"),
        pytest.param("localhost:5000/a/b", "localhost:5000/a/b:latest", id="port"),
        pytest.param("quay.io/a/b:v1", "quay.io/a/b:v1", id="host by its dot"),
        pytest.param("[::1]:5000/a", "[::1]:5000/a:latest", id="IPv6"),
        pytest.param(f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", id="digest has no tag"),
        pytest.param(f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", id="tag and digest"),
        pytest.param("a/b__c/d-e.f", "docker.io/a/b__c/d-e.f:latest", id="separators"),
    ],
)
def test_a_name_becomes_whole(text, whole):
    """What is left out is Docker's default; a whole reference stays as it is."""
    assert str(reference.parse(text)) == whole
    assert str(reference.parse(whole)) == whole


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Busybox", "a/B", "a b", "a:", "a@", "a:b:c", "/a", "a/", "a//b", "-a", "a..b", "a___b", "../a", "a/../b", "a:té",
        "a:" + "t" * 129, "a@sha256:abc", f"a@md5:{'a' * 32}", "a\n", "a\0", "a" * 600, "http://a/b", "a:-x", "é",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text):
    """The message says what to write instead."""
    with pytest.raises(InvalidReference, match=r"write"):
        reference.parse(text)


def test_hostile_names_take_no_time():
    """The grammar does not backtrack itself to death within its length."""
    begin = time.perf_counter()
    for text in ("a" * 511 + "!", "a-" * 255 + "!", "a." * 255 + "!", "a_" * 255 + "!", "a/" * 255 + "!", "-" * 512, "a--" * 170 + "!"):
        with pytest.raises(InvalidReference):
            reference.parse(text)
    assert time.perf_counter() - begin < 5
