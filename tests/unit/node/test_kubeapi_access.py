"""The way to an API server: each form of a kubeconfig, the pod's account, and a sentence when there is none."""

import base64
import datetime
import ssl

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from skerry_node import errors
from skerry_node.cluster import access


@pytest.fixture(scope="module")
def pem():
    """A self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9999)).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), private


def write(path, *, cluster=None, user=None, context="c"):
    value = {
        "current-context": context,
        "contexts": [{"name": "other", "context": {"cluster": "x", "user": "x"}}, {"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(value))
    return str(path)


@pytest.mark.parametrize(
    ("user", "header"),
    [
        pytest.param({"token": "abc"}, "Bearer abc", id="token"),
        pytest.param({"tokenFile": "token"}, "Bearer from-file", id="token file beside the kubeconfig"),
        pytest.param({"username": "a", "password": "b"}, f"Basic {base64.b64encode(b'a:b').decode()}", id="password"),
        pytest.param({}, "", id="nobody"),
    ],
)
async def test_the_user_of_the_current_context_is_who_we_are(tmp_path, user, header):
    """And the server's address loses its last slash."""
    (tmp_path / "token").write_text("from-file\n")
    found = await access.load(write(tmp_path / "config", user=user), environ={})
    assert found.credential.header() == header
    assert found.server == "https://192.0.2.1:6443"


@pytest.mark.parametrize("form", ["data", "file"])
async def test_certificates_come_inline_or_as_files(tmp_path, pem, form):
    """The authority is trusted, the client's certificate is loaded, and no copy of the key stays on disk."""
    certificate, key = pem
    (tmp_path / "crt").write_bytes(certificate)
    (tmp_path / "key").write_bytes(key)
    if form == "data":
        cluster = {"certificate-authority-data": base64.b64encode(certificate).decode()}
        user = {"client-certificate-data": base64.b64encode(certificate).decode(), "client-key-data": base64.b64encode(key).decode()}
    else:
        cluster, user = {"certificate-authority": "crt"}, {"client-certificate": "crt", "client-key": "key"}
    found = await access.load(write(tmp_path / "config", cluster=cluster, user=user), environ={})
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(found.tls.get_ca_certs()) <= 1


async def test_verification_is_off_only_on_demand(tmp_path):
    """insecure-skip-tls-verify is honoured, and nothing else turns it off."""
    loose = await access.load(write(tmp_path / "a", cluster={"insecure-skip-tls-verify": True}), environ={})
    strict = await access.load(write(tmp_path / "b", cluster={"tls-server-name": "k"}), environ={})
    assert loose.tls is not None
    assert strict.tls is not None
    assert (loose.tls.verify_mode, strict.tls.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    assert strict.server_name == "k"


async def test_a_program_may_give_the_credential(tmp_path, pem):
    """The one case for which the Kubernetes client is asked."""
    answer = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"made"}}'
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [answer], "interactiveMode": "Never"}
    cluster = {"certificate-authority-data": base64.b64encode(pem[0]).decode()}
    found = await access.load(write(tmp_path / "config", cluster=cluster, user={"exec": program}), environ={})
    assert found.credential.header() == "Bearer made"
    assert found.server == "https://192.0.2.1:6443"


async def test_plain_http_has_no_tls(tmp_path):
    """As kubectl proxy serves it."""
    assert (await access.load(write(tmp_path / "config", cluster={"server": "http://127.0.0.1:8001"}), environ={})).tls is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(None, "does not exist", id="no file"),
        pytest.param("", "cannot be used", id="empty"),
        pytest.param("{", "cannot be used", id="not YAML"),
        pytest.param("current-context: nope\ncontexts: []\nclusters: []\nusers: []\n", "cannot be used", id="no such context"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path, text, problem):
    """The message has the path."""
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(errors.Unsupported, match=problem) as caught:
        await access.load(str(path), environ={})
    assert str(path) in str(caught.value)


async def test_the_first_of_several_files_that_exists_is_taken(tmp_path):
    """$KUBECONFIG may list some."""
    path = write(tmp_path / "config", user={"token": "abc"})
    found = await access.load(None, environ={"KUBECONFIG": f"{tmp_path}/absent:{path}"})
    assert found.credential.header() == "Bearer abc"


async def test_without_any_way_the_flags_are_named(tmp_path):
    """Neither kubeconfig nor pod."""
    with pytest.raises(errors.Unsupported, match="--kubeconfig"):
        await access.load(None, environ={"HOME": str(tmp_path)})


def test_a_token_that_is_replaced_is_read_again(tmp_path):
    """Each minute, at once after a refusal; and a file that is away for a moment costs nothing."""
    seconds = [0.0]
    path = tmp_path / "token"
    path.write_text("one")
    credential = access.Credential(path=str(path), clock=lambda: seconds[0])
    assert credential.header() == "Bearer one"
    path.write_text("two")
    assert credential.header() == "Bearer one"
    credential.forget()
    assert credential.header() == "Bearer two"
    path.unlink()
    seconds[0] = 61.0
    assert credential.header() == "Bearer two"
    path.write_text("three")
    seconds[0] = 130.0
    assert credential.header() == "Bearer three"
