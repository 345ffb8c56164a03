"""Whose certificate is signed for which node."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from skerry_operator.gateway import certificates, signing

ACCOUNT = "system:serviceaccount:skerry-system:skerry-agent"
SPEC = {"username": ACCOUNT, "usages": ["server auth"], "extra": {"authentication.kubernetes.io/node-name": ["n1"]}}
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime.now(datetime.UTC)


def _request(*names: x509.GeneralName, key=KEY, common="skerry-agent", extra=()):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for each in extra:
        builder = builder.add_extension(each, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _problem(spec, *dns: str):
    return signing.find_problem(spec, certificates.Request("skerry-agent", dns, KEY.public_key()), agent_account=ACCOUNT)


@pytest.mark.parametrize(
    ("spec", "dns", "words"),
    [
        pytest.param(SPEC, ("n1.agent.skerry",), None, id="the agent of its node"),
        pytest.param({**SPEC, "username": "root", "groups": ["system:masters"]}, ("n9.agent.skerry",), None, id="an admin"),
        pytest.param(SPEC, ("n2.agent.skerry",), "not of a pod on node n2", id="another node's"),
        pytest.param({**SPEC, "extra": {}}, ("n1.agent.skerry",), "not of a pod on node n1", id="a token bound to no node"),
        pytest.param({**SPEC, "username": "eve"}, ("n1.agent.skerry",), "not the agents' account", id="another account"),
        pytest.param(SPEC, ("skerry-gateway.skerry-system.svc",), "must ask for one name", id="the gateway's name"),
        pytest.param(SPEC, ("n1.agent.skerry", "x.svc"), "must ask for one name", id="two names"),
        pytest.param(SPEC, (".agent.skerry",), "must ask for one name", id="no node"),
        pytest.param({**SPEC, "usages": ["server auth", "client auth"]}, ("n1.agent.skerry",), "usages", id="a client's certificate"),
    ],
)
def test_who_gets_what(spec, dns, words):
    """A node's agent its own name, and nothing else."""
    found = _problem(spec, *dns)
    assert (found is None) if words is None else (found is not None and words in found)


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", id="noise"),
        pytest.param(_request(), id="no names"),
        pytest.param(_request(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))), id="an address"),
        pytest.param(_request(x509.DNSName("a"), key=ec.generate_private_key(ec.SECP384R1())), id="another curve"),
        pytest.param(_request(x509.DNSName("a"), key=rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(_request(x509.DNSName("a"), extra=[x509.BasicConstraints(ca=True, path_length=None)]), id="an authority"),
    ],
)
def test_requests_that_are_not_read(pem):
    """What is not exactly an agent's request is refused before anything is signed."""
    with pytest.raises(certificates.BadRequest):
        certificates.parse_request(pem)


def test_a_leaf_says_what_was_asked_and_ends_before_its_authority():
    """No authority by itself, no use but the one granted."""
    authority = certificates.make_authority("test", now=NOW, lifetime=datetime.timedelta(hours=1))
    request = certificates.parse_request(_request(x509.DNSName("n1.agent.skerry")))
    pem = certificates.sign(authority, request, usages=[certificates.SERVER], now=NOW, lifetime=datetime.timedelta(days=9))
    leaf, issuer = x509.load_pem_x509_certificate(pem), x509.load_pem_x509_certificate(authority.certificate)
    leaf.verify_directly_issued_by(issuer)
    assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [certificates.SERVER]
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == ["n1.agent.skerry"]
