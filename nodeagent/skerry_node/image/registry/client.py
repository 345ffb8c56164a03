"""The door to all registries: connections, hosts files and patience of one agent."""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp

from skerry_node.image.reference import Reference
from skerry_node.image.registry import credentials as vault
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.dialing import Dialer
from skerry_node.image.registry.hosts import Endpoint, Hosts
from skerry_node.image.registry.repository import Repository
from skerry_node.image.registry.transport import Timing, Transport


class Client:
    """Opens repositories. Must be used inside one event loop; `close` when it ends."""

    def __init__(self, hosts: Hosts, *, timing: Timing | None = None, resolver: aiohttp.abc.AbstractResolver | None = None) -> None:
        self._hosts = hosts
        self.timing = timing or Timing()
        self._dialer = Dialer(connect_seconds=self.timing.connect_seconds, resolver=resolver)

    def open(
        self, reference: Reference, *, credentials: Iterable[Credential] = (), is_named: bool = False, actions: str = "pull", needs: str = "pull",
    ) -> Repository:  # fmt: skip
        """The repository of *reference*. Each host is told only the closest of *credentials* that is its own.

        *is_named*: the operator wrote the reference, so that its host may have a private address. *needs* leaves out hosts that cannot `push`.
        Raises InvalidRegistryConfig.
        """
        kept = tuple(credentials)
        endpoints = [each for each in self._hosts.endpoints(reference.domain, is_named=is_named) if needs == "pull" or needs in each.capabilities]
        line = Transport(self._dialer, timing=self.timing, named=self._hosts.named())

        def choose(host: str) -> Credential | None:
            return next(iter(vault.choose(kept, host, reference.path)), None)

        return Repository(line, endpoints, reference.path, choose=choose, actions=actions)

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Who serves *reference*. Raises InvalidRegistryConfig."""
        return self._hosts.endpoints(reference.domain)

    async def close(self) -> None:
        """Close every connection."""
        await self._dialer.close()
