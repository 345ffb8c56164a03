"""What passes between a caller and a page inside a sandbox."""

from __future__ import annotations

import pytest

from skerry_operator.gateway import webproxy
from skerry_operator.gateway.errors import Unserved

PREFIX = "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes/web/proxy/8000"


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("Accept", True), ("X-Mine", True), ("Content-Length", True), ("Range", True),
        ("Authorization", False), ("Cookie", False), ("X-Remote-User", False), ("x-remote-extra-scopes", False), ("Impersonate-User", False),
        ("X-Skerry-Ticket", False), ("Connection", False), ("Transfer-Encoding", False), ("Sec-WebSocket-Key", False), ("Origin", False),
    ],
)  # fmt: skip
def test_the_program_hears_nothing_of_the_caller(name, passes):
    """Neither credentials nor names, nor what belongs to one hop."""
    assert (name in webproxy.request_headers([(name, "v")], port=8000, prefix=PREFIX)) is passes


@pytest.mark.parametrize("name", ["Set-Cookie", "Strict-Transport-Security", "Service-Worker-Allowed", "Clear-Site-Data"])
def test_a_page_does_not_speak_for_the_host(name):
    """What would hold for all that the API server's name serves is left out, and its own policy replaced."""
    found = webproxy.answer_headers({name: "v", "Content-Security-Policy": "none", "X-Own": "1"})
    assert name not in found
    assert found.getall("Content-Security-Policy") == [webproxy.POLICY]
    assert found["X-Own"] == "1"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/there?x=1", f"{PREFIX}/there?x=1"),
        ("there", "there"),
        ("http://localhost:8000/there", f"{PREFIX}/there"),
        ("http://127.0.0.1:8000", f"{PREFIX}/"),
        ("http://localhost:80000/", "http://localhost:80000/"),
        ("//elsewhere/", "//elsewhere/"),
        ("https://example.com/", "https://example.com/"),
    ],
)
def test_redirects_to_itself_lead_back(location, expected):
    """And others are left as they are."""
    assert webproxy.rewrite_location(location, port=8000, prefix=PREFIX) == expected


@pytest.mark.parametrize("text", ["0", "65536", "9" * 40])
def test_ports_are_ports(text):
    """Others are refused with the range."""
    with pytest.raises(Unserved, match="from 1 to 65535"):
        webproxy.parse_port(text)
