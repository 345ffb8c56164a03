"""docker's forms of `-p`, and what `skerry port` says of them."""

from __future__ import annotations

import pytest

from skerry.cli import publishing
from skerry_api import sandbox as api
from tests.unit.api import manifests


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}),
        ("127.0.0.1:8080:80", {"containerPort": 80, "hostPort": 8080, "protocol": "TCP", "hostIP": "127.0.0.1"}),
        ("8080:80/udp", {"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}),
        ("[::1]:8080:80/tcp", {"containerPort": 80, "hostPort": 8080, "protocol": "TCP", "hostIP": "::1"}),
    ],
)
def test_dockers_forms_become_entries(text, expected):
    """What each stands for; all of them are taken by the schema's twin."""
    assert publishing.parse(text) == expected
    api.parse_sandbox(manifests.good(network={"ports": [publishing.parse(text)]}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("80", "name the node's port, too"),
        ("80/tcp", "name the node's port, too"),
        ("8000-8010:80", "no ranges"),
        ("8080:80/sctp", "write it as 8080:80"),
        ("0:80", "from 1 to 65535"),
        ("8080:65536", "from 1 to 65535"),
        (":8080:80", "write it as 8080:80"),
        ("host:8080:80", "write it as 8080:80"),
        ("8080:", "write it as 8080:80"),
        ("", "write it as 8080:80"),
    ],
)
def test_what_cannot_be_read_is_told(text, says):
    """With what to write."""
    with pytest.raises(publishing.BadPortError, match=says):
        publishing.parse(text)


def test_what_is_published_is_shown():
    """As docker shows it; a port that is only named is no line of `port`, and stands in the column."""
    ports = [publishing.parse("8080:80"), publishing.parse("127.0.0.1:53:53/udp"), {"containerPort": 9}]
    found = api.parse_sandbox(manifests.good(network={"ports": ports}))
    assert publishing.render(found, None) == ["80/tcp -> 0.0.0.0:8080", "53/udp -> 127.0.0.1:53"]
    assert publishing.render(found, "80") == ["0.0.0.0:8080"]
    assert publishing.render(found, "53/udp") == ["127.0.0.1:53"]
    assert publishing.render(found, "53") == []
    assert publishing.render_cell(found) == "8080->80/tcp, 127.0.0.1:53->53/udp, 9/tcp"
