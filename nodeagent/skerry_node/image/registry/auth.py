"""How one repository at one endpoint lets us in: nothing, a password, or a token from the server that it names.

Source: distribution's spec/auth (token, oauth). A credential is told to its own host only (`challenge.may_be_told`); the scope of a token is
written here, never taken from the registry, which could ask for one that opens another repository.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterable, Mapping

from yarl import URL

from skerry_node.image.registry import addresses, challenge, manifests, transport
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, RegistryLied, RegistryUnavailable
from skerry_node.image.registry.hosts import Endpoint

_MAX_TOKEN_BYTES, _MAX_HEADER_BYTES = 1 << 20, 64 << 10
_CLIENT_ID = "skerry"
_MIN_SECONDS = 60.0
"""distribution's token spec: a token lives 60 s where nothing is said."""


class Gate:
    """The way into one repository. Must be used inside one event loop."""

    def __init__(
        self, line: transport.Transport, endpoint: Endpoint, repository: str, *, credential: Credential | None, actions: str = "pull"
    ) -> None:
        self._line = line
        self._endpoint = endpoint
        self._scope = f"repository:{repository}:{actions}"
        self._credential = credential
        self._header: str | None = f"Bearer {credential.registry_token}" if credential is not None and credential.registry_token else None
        self.told = credential if self._header is not None else None
        """The credential, once it was told to anybody."""
        self._expires = float("inf")
        self._lock = asyncio.Lock()

    def header(self) -> str | None:
        """What to send as Authorization now; None while nothing was asked for."""
        return self._header if time.monotonic() < self._expires else None

    async def answer(self, headers: Iterable[str], *, sent: str | None, refusal: AccessDenied) -> None:
        """Get in after a 401 that came for *sent*. Raises *refusal* when nothing more can be offered, RegistryUnavailable, AccessDenied."""
        async with self._lock:
            if self._header is not None and self._header != sent and self.header() is not None:
                return  # another request has fetched a new token meanwhile
            found = {each.scheme: each for each in reversed(challenge.parse(headers))}
            if "bearer" in found:
                token, seconds = await self._fetch_token(found["bearer"], refusal)
                header = f"Bearer {token}"
                self._expires = time.monotonic() + seconds
            elif "basic" in found and self._credential is not None and self._credential.username:
                header, self.told = _basic(self._credential), self._credential
            else:
                raise refusal
            if header == sent:
                raise refusal
            self._header = header

    async def _fetch_token(self, asked: challenge.Challenge, refusal: AccessDenied) -> tuple[str, float]:
        realm = challenge.parse_realm(asked, self._endpoint)
        if realm is None:
            raise AccessDenied(f"{self._endpoint.host} sends for tokens to {asked.find('realm')!r}, which is no place for them") from refusal
        credential = self._credential
        if credential is not None and not challenge.may_be_told(realm, self._endpoint, named=self._line.named):
            raise AccessDenied(
                f"{self._endpoint.host} sends for tokens to {realm.authority}, which is not told its credential;"
                f" name {realm.authority} in --registry-config to allow it"
            ) from refusal
        service = asked.find("service") or ""
        if credential is not None and credential.identity_token:
            self.told = credential
            form = {"grant_type": "refresh_token", "service": service, "client_id": _CLIENT_ID, "scope": self._scope}
            return await self._ask(realm, "POST", body={**form, "refresh_token": credential.identity_token})
        query = {"scope": self._scope, **({"service": service} if service else {})}
        if credential is not None and credential.username:
            self.told = credential
            return await self._ask(realm.update_query({**query, "account": credential.username}), "GET", authorization=_basic(credential))
        return await self._ask(realm.update_query(query), "GET")

    async def _ask(self, url: URL, method: str, *, authorization: str | None = None, body: Mapping[str, str] | None = None) -> tuple[str, float]:
        is_home = url.origin() == self._endpoint.url.origin()
        known = self._endpoint if is_home else self._line.named.get(addresses.origin(url))
        place = known or Endpoint(domain=url.authority, url=url.origin())
        seconds = self._line.timing.stall_seconds
        async with self._line.open(method, url, place, headers={}, authorization=authorization, body=body) as response:
            if response.status >= 300:
                raise await transport.refusal(response, "a token is refused", seconds=seconds)
            content = await transport.read_all(response, _MAX_TOKEN_BYTES, seconds=seconds)
        try:
            answer = manifests.parse_object(content, f"the token of {url.authority}")
        except RegistryLied as error:
            raise RegistryUnavailable(str(error)) from error
        token, expires = answer.get("token") or answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or len(token) > _MAX_HEADER_BYTES:
            raise RegistryUnavailable(f"{url.authority} answers without a token")
        lives = float(expires) if isinstance(expires, int | float) and 0 < expires < 1e9 else _MIN_SECONDS
        return token, max(lives, _MIN_SECONDS)


def _basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
