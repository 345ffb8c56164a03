"""Certificates of our own authority: the authority, leaves, and answers to signing requests. Keys are P-256; nothing here touches a disk."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
_BACKDATE = datetime.timedelta(minutes=5)
"""For clocks that are behind ours."""


class BadRequest(ValueError):
    """A signing request that is not signed as it stands."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What a signing request asks for, its own signature verified."""

    common_name: str
    dns_names: tuple[str, ...]
    public_key: ec.EllipticCurvePublicKey


def make_authority(name: str, *, now: datetime.datetime, lifetime: datetime.timedelta) -> Pair:
    """A self-signed authority that signs leaves and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    usage = _usage(signs=True)
    builder = _builder(subject, subject, key.public_key(), now=now, lifetime=lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Pair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def make_leaf(
    authority: Pair, name: str, *, dns_names: Sequence[str] = (), usages: Sequence[x509.ObjectIdentifier], now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> Pair:  # fmt: skip
    """A certificate of *authority* with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = Request(common_name=name, dns_names=tuple(dns_names), public_key=key.public_key())
    return Pair(sign(authority, request, usages=usages, now=now, lifetime=lifetime), _key_pem(key))


def sign(
    authority: Pair, request: Request, *, usages: Sequence[x509.ObjectIdentifier], now: datetime.datetime, lifetime: datetime.timedelta
) -> bytes:
    """A certificate, PEM, for what *request* says; it never outlives its authority."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    lifetime = min(lifetime, issuer.not_valid_after_utc - now)
    builder = _builder(_name(request.common_name), issuer.subject, request.public_key, now=now, lifetime=lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    if request.dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(each) for each in request.dns_names])
        builder = builder.add_extension(names, critical=False)
    return _pem(builder.sign(key, hashes.SHA256()))


def parse_request(pem: bytes) -> Request:
    """A PKCS 10 request. Raises BadRequest unless it is signed by a P-256 key and names no more than a common name and DNS names."""
    try:
        found = x509.load_pem_x509_csr(pem)
        key = found.public_key()
        if not found.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadRequest("not signed by a P-256 key of its own")
        names = [str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if len(names) != 1 or len(list(found.subject)) != 1:
            raise BadRequest("its subject is not one common name")
        alternatives = [each.value for each in found.extensions]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise error if isinstance(error, BadRequest) else BadRequest(f"not a signing request: {error}") from error
    if len(alternatives) != 1 or not isinstance(alternatives[0], x509.SubjectAlternativeName):
        raise BadRequest("its extensions are not one list of DNS names")
    if any(not isinstance(each, x509.DNSName) for each in alternatives[0]):
        raise BadRequest("it asks for names that are not DNS names")
    return Request(common_name=names[0], dns_names=tuple(each.value for each in alternatives[0]), public_key=key)


def load(context: ssl.SSLContext, pair: Pair) -> None:
    """Give *pair* to *context*. OpenSSL takes paths only: the key passes through memory that has no name."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.certificate + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime.datetime, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - _BACKDATE).not_valid_after(now + lifetime)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # RFC 5280: at most 64


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
