"""The rules of talking to registries, as tables: hosts files, credentials, challenges, platforms."""

from __future__ import annotations

import base64
import json

import pytest
from yarl import URL

from skerry_node.image.registry import challenge, credentials, hosts, manifests, repository, transport
from skerry_node.image.registry.errors import InvalidRegistryConfig, PlatformMissing

DOMAIN = "images.example.com"


def read(tmp_path, text, *, name=DOMAIN, domain=DOMAIN, is_named=False):
    directory = tmp_path / "certs.d" / name
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)
    return hosts.Hosts(str(tmp_path / "certs.d")).endpoints(domain, is_named=is_named)


def test_a_host_without_a_file_is_asked_itself(tmp_path):
    """By TLS; Docker Hub by its own name; plain http only on this machine, and only where the operator said the name."""
    empty = hosts.Hosts(str(tmp_path))
    urls = {name: str(empty.endpoints(name)[0].url) for name in (DOMAIN, "docker.io", "localhost:5000", f"{DOMAIN}:5000")}
    assert urls == {
        DOMAIN: f"https://{DOMAIN}",
        "docker.io": "https://registry-1.docker.io",
        "localhost:5000": "https://localhost:5000",
        f"{DOMAIN}:5000": f"https://{DOMAIN}:5000",
    }
    assert [each.is_named for each in empty.endpoints(DOMAIN)] == [False]
    assert str(empty.endpoints("localhost:5000", is_named=True)[0].url) == "http://localhost:5000"
    assert empty.named() == {}


def test_mirrors_in_order_then_the_server(tmp_path):
    """With what each can do, and how each is known."""
    text = """
server = "https://origin.example.com"
ca = "origin.pem"
[host."http://one.example.com:5000"]
capabilities = ["pull"]
[host."https://two.example.com/prefix"]
override_path = true
skip_verify = true
client = [["a.pem", "b.pem"]]
[host."https://two.example.com/prefix".header]
X-Team = ["a", "b"]
"""
    one, two, server = read(tmp_path, text)
    base = str(tmp_path / "certs.d" / DOMAIN)
    assert (str(one.url), one.capabilities, one.is_mirror) == ("http://one.example.com:5000", {"pull"}, True)
    assert (two.overrides_path, two.tls) == (True, hosts.Tls(client=((f"{base}/a.pem", f"{base}/b.pem"),), skip_verify=True))
    assert two.headers == (("X-Team", "a, b"),)
    assert (str(server.url), server.tls.ca_files, server.is_named) == ("https://origin.example.com", (f"{base}/origin.pem",), True)
    named = hosts.Hosts(str(tmp_path / "certs.d")).named()
    assert set(named) == {"one.example.com:5000", "two.example.com:443", "origin.example.com:443"}


@pytest.mark.parametrize(("name", "domain"), [("h:5000", "h:5000"), ("h_5000_", "h:5000"), ("_default", "h:5000")])
def test_directories_are_found_by_either_name(tmp_path, name, domain):
    """A port may stand as HOST:PORT or HOST_PORT_, and one directory is for all others; that one names nobody's server."""
    mirror, server = read(tmp_path, '[host."https://mirror.example.com"]', name=name, domain=domain)
    assert (str(mirror.url), mirror.is_named) == ("https://mirror.example.com", True)
    assert (str(server.url), server.is_named) == ("https://h:5000", name != "_default")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("server = 1", id="server is a number"),
        pytest.param('server = "ftp://x"', id="server is no http"),
        pytest.param('server = "https://user@x"', id="server has a user"),
        pytest.param('[host."https://x"]\ncapabilities = ["eat"]', id="unknown capability"),
        pytest.param("host = 1", id="host is no table"),
        pytest.param('[host."https://x"]\nca = 1', id="ca is a number"),
        pytest.param('[host."https://x"]\nclient = [["a", "b", "c"]]', id="client is a triple"),
        pytest.param('[host."https://x"]\nheader = 1', id="header is a number"),
        pytest.param("server =", id="no toml"),
    ],
)
def test_wrong_hosts_files_are_named(tmp_path, text):
    """The error says which file."""
    with pytest.raises(InvalidRegistryConfig, match=r"hosts\.toml"):
        read(tmp_path, text)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("key", "host", "path", "fits"),
    [
        ("r.example.com", "r.example.com", "team/app", True),
        ("https://r.example.com/v2/", "r.example.com", "team/app", True),
        ("r.example.com:443", "r.example.com", "team/app", True),
        ("https://index.docker.io/v1/", "registry-1.docker.io", "library/x", True),
        ("docker.io", "docker.io", "library/x", True),
        ("r.example.com/team", "r.example.com", "team/app", True),
        ("r.example.com/team", "r.example.com", "teammate/app", False),
        ("r.example.com", "r.example.com:5000", "team/app", False),
        ("r.example.com", "evil.r.example.com", "team/app", False),
        ("r.example.com", "r.example.com.evil", "team/app", False),
        ("example.com", "r.example.com", "team/app", False),
        ("*.example.com", "r.example.com", "team/app", False),
    ],
)
def test_a_credential_is_for_one_host(key, host, path, fits):
    """Exactly it, and below its path."""
    (found,) = credentials.parse(json.dumps({"auths": {key: {"auth": encoded("a:b:c")}}}).encode(), source="s")
    assert (found.username, found.password, found.fits(host, path)) == ("a", "b:c", fits)


def test_the_closest_credential_comes_first():
    """The longest path; each once."""
    raw = {"auths": {"r": {"username": "all", "password": "x"}, "r/team/app": {"username": "app", "password": "x"}, "r/team": {"username": "team"}}}
    found = credentials.parse(json.dumps(raw).encode(), source="s")
    assert [each.username for each in credentials.choose([*found, *found], "r", "team/app")] == ["app", "team", "all"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"auths": 1}', b'{"auths": {"h": 1}}', b'{"auths": {"h": {"auth": "!"}}}', b'{"auths": {"h": {"password": 1}}}']
)
def test_wrong_configs_are_named_without_their_content(content):
    """Where it came from, never what it says."""
    with pytest.raises(InvalidRegistryConfig, match="secret default/regcred"):
        credentials.parse(content, source="secret default/regcred")
    if content:
        with pytest.raises(InvalidRegistryConfig) as caught:
            credentials.parse(b'{"auths": {"h": {"auth": "c2VjcmV0"}}}', source="s")
        assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s, x",scope="repository:a:pull,push"', [("bearer", "https://a/t", "s, x")]),
        ("Basic realm=x", [("basic", "x", None)]),
        ('Basic realm="x", Bearer realm="https://a",service=s', [("basic", "x", None), ("bearer", "https://a", "s")]),
        (r'Bearer realm="a\"b"', [("bearer", 'a"b', None)]),
        ("", []),
        ('"', []),
    ],
)
def test_challenges(header, expected):
    """Several in one header, quoted commas, escapes, nonsense."""
    assert [(each.scheme, each.find("realm"), each.find("service")) for each in challenge.parse([header])] == expected


@pytest.mark.parametrize(
    ("registry", "realm", "told"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token", True),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("https://ghcr.io", "https://ghcr.io/token", True),
        ("http://10.0.0.1:5000", "http://10.0.0.1:5000/token", True),
        ("https://r.example.com", "https://named.example.org/token", True),
        ("https://r.example.com", "https://evil.org/token", False),
        ("https://r.example.co.uk", "https://evil.co.uk/token", False),
        ("https://10.0.0.1", "https://10.0.0.2/token", False),
        ("http://10.0.0.1:5000", "http://10.0.0.1:6000/token", False),
        ("http://r.example.com", "http://auth.example.com/token", False),
        ("https://localhost", "https://localhost:1/token", False),
    ],
)
def test_who_is_told_a_credential(registry, realm, told):
    """The host itself, one that the operator named, a sibling by TLS; no address beside it, no stranger."""
    endpoint = hosts.Endpoint(domain="x", url=URL(registry))
    assert challenge.may_be_told(URL(realm), endpoint, named={"named.example.org:443"}) is told


@pytest.mark.parametrize(
    ("registry", "realm"), [("https://r", "http://r/t"), ("https://r", "file:///etc/passwd"), ("http://r", ""), ("https://r", "https://u@r/t")]
)
def test_realms_that_are_none(registry, realm):
    """No plain http where the registry has TLS; no other scheme; no user."""
    asked = challenge.Challenge("bearer", (("realm", realm),))
    assert challenge.parse_realm(asked, hosts.Endpoint(domain="x", url=URL(registry))) is None


def entry(os, architecture, variant="", digest="1"):
    return manifests.Entry(manifests.Descriptor(f"sha256:{digest * 64}", 1, manifests.MANIFEST), manifests.Platform(os, architecture, variant))


@pytest.mark.parametrize(
    ("wanted", "entries", "expected"),
    [
        ("arm64", [entry("linux", "amd64"), entry("linux", "arm64", digest="2")], "2"),
        ("arm64", [entry("linux", "arm64", "", "1"), entry("linux", "arm64", "v8", "2")], "2"),
        ("arm", [entry("linux", "arm", "v5", "1"), entry("linux", "arm", "v7", "2"), entry("linux", "arm", "v8", "3")], "2"),
        ("amd64", [entry("linux", "amd64", "v3", "1"), entry("linux", "amd64", "", "2")], "2"),
        ("amd64", [entry("windows", "amd64", "", "1"), entry("linux", "amd64", "", "2")], "2"),
        ("amd64", [entry("linux", "amd64", "", "1"), entry("linux", "amd64", "", "2")], "1"),
    ],
)
def test_platforms(wanted, entries, expected):
    """By os and architecture; the best variant; the first of equals."""
    assert manifests.choose(entries, manifests.Platform("linux", wanted)).digest == f"sha256:{expected * 64}"


def test_a_variant_that_this_machine_lacks_is_none():
    """x86-64-v3 is not promised."""
    with pytest.raises(PlatformMissing, match="only for linux/amd64/v3"):
        manifests.choose([entry("linux", "amd64", "v3")], manifests.Platform("linux", "amd64"))


@pytest.mark.parametrize(
    ("attempt", "asked", "expected"), [(0, None, 0.5), (3, None, 4.0), (9, None, 15.0), (0, 20.0, 20.0), (5, 1.0, 15.0), (0, 61.0, None)]
)
def test_patience(attempt, asked, expected):
    """Doubled up to a bound; as long as a registry asks for, up to a minute."""
    assert repository.delay(transport.Timing(), attempt, asked) == expected
