"""The aggregation layer of a control plane without kubelet and kube-proxy: its certificates and flags, and an APIService that leads to loopback."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PROXY_NAME = "front-proxy-client"
APISERVICE = "v1alpha1.stream.skerry.dev"


def apiserver_flags(directory: str) -> list[str]:
    """As kubeadm gives them; the files are those of `write_files`."""
    place = f"{directory}/front-proxy"
    return [
        f"--requestheader-client-ca-file={place}-ca.crt", f"--requestheader-allowed-names={PROXY_NAME}",
        "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={place}-client.crt", f"--proxy-client-key-file={place}-client.key",
    ]  # fmt: skip


def write_files(directory: str) -> None:
    """The front proxy's authority and client certificate, once per directory."""
    if os.path.exists(f"{directory}/front-proxy-client.key"):
        return
    authority_key, client_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("front-proxy-ca", authority_key, issuer="front-proxy-ca", signer=authority_key)
    client = _certificate(PROXY_NAME, client_key, issuer="front-proxy-ca", signer=authority_key)
    pem = client_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, data in (("ca.crt", authority), ("client.crt", client), ("client.key", pem)):
        with open(os.open(f"{directory}/front-proxy-{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)


def render_objects(namespace: str, port: int, *, service: str = "skerry-gateway") -> str:
    """Service and APIService for a gateway on *port* of loopback. Where no kube-proxy runs, a name of DNS leads there."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [_service(namespace, service, port), _apiservice(namespace, service, port)]})


def _service(namespace: str, name: str, port: int) -> dict[str, Any]:
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _apiservice(namespace: str, service: str, port: int) -> dict[str, Any]:
    spec = {
        "group": "stream.skerry.dev", "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 10,
        "service": {"name": service, "namespace": namespace, "port": port},
    }  # fmt: skip
    return {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": APISERVICE}, "spec": spec}


def _certificate(name: str, key: ec.EllipticCurvePrivateKey, *, issuer: str, signer: ec.EllipticCurvePrivateKey) -> bytes:
    now, is_authority = datetime.datetime.now(datetime.UTC), key is signer
    builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(issuer)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
    builder = builder.not_valid_after(now + datetime.timedelta(days=2))
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    if not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
