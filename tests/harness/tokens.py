"""A token server for Debian's docker-registry, with a signing certificate of its own. Source: distribution, spec/auth/jwt.md."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import os
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

SERVICE, ISSUER = "skerry-test-registry", "skerry-test-tokens"


class TokenServer:
    """Gives *users* tokens for what they ask for, and anonymous ones to nobody. `seen` holds each request's query and user."""

    def __init__(self, directory: str, users: Mapping[str, str]) -> None:
        self.certificate_path = os.path.join(directory, "tokens.pem")
        self.seen: list[tuple[str, str | None]] = []
        self._users = users
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _make_certificate(self._key)
        with open(self.certificate_path, "wb") as file:
            file.write(self._certificate.public_bytes(serialization.Encoding.PEM))
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._httpd.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The realm."""
        return f"http://127.0.0.1:{self._httpd.server_address[1]}/token"

    def stop(self) -> None:
        """End it."""
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        query = urllib.parse.urlsplit(request.path).query
        user = self._user(request.headers.get("Authorization", ""))
        self.seen.append((query, user))
        if user is None:
            self._send(request, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "no such user, or another password"}]})
            return
        scopes = urllib.parse.parse_qs(query).get("scope", [])
        self._send(request, 200, {"token": self._sign(user, scopes), "expires_in": 300})

    def _send(self, request: http.server.BaseHTTPRequestHandler, status: int, body: Mapping[str, Any]) -> None:
        content = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _user(self, header: str) -> str | None:
        try:
            name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        except ValueError:
            return None
        return name if name and self._users.get(name) == password else None

    def _sign(self, user: str, scopes: list[str]) -> str:
        access = [dict(zip(("type", "name", "actions"), _split(scope), strict=True)) for scope in scopes]
        now = int(time.time())
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def make_tls(directory: str) -> tuple[str, str, str]:
    """A private authority, and a certificate and key for 127.0.0.1 and localhost that it signed; paths of the three."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _make_certificate(authority_key, is_authority=True)
    certificate = _make_certificate(key, issuer=authority, issuer_key=authority_key)
    paths = tuple(os.path.join(directory, name) for name in ("ca.pem", "server.pem", "server.key"))
    contents = (
        authority.public_bytes(serialization.Encoding.PEM),
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
    return paths[0], paths[1], paths[2]


def _make_certificate(
    key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False, issuer: x509.Certificate | None = None,
    issuer_key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:  # fmt: skip
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "skerry test authority" if is_authority else "skerry test")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer is not None else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer_key or key).public_key()), critical=False)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    else:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key or key, hashes.SHA256())


def _split(scope: str) -> tuple[str, str, list[str]]:
    kind, name, actions = scope.split(":", 2)
    return kind, name, actions.split(",")


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
