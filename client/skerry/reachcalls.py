"""The SDK's calls that look into what runs, and carry files and connections; a part of Client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport
    from skerry.streaming import Stream
    from skerry.transport import Transport


class ReachCalls:
    """Figures, processes, files and ports of running sandboxes. Every method raises SkerryError's subclasses."""

    transport: Transport | ClusterTransport

    def usage(self, name: str, *, namespace: str | None = None) -> dict[str, Any]:
        """What the kernel counted for it up to now: time, cpu, memory, pids. Refused while it does not run."""
        return dict(self.transport.request("GET", self._target(name, namespace) + "/stats"))

    def top(self, name: str, *, namespace: str | None = None) -> tuple[dict[str, Any], ...]:
        """The processes in it: pid here and pidInside, parentPid, user, state, cpuSeconds, residentBytes, command."""
        return tuple(self.transport.request("GET", self._target(name, namespace) + "/top")["items"])

    def open_copy(self, name: str, path: str, /, *, do: str, namespace: str | None = None, **options: Any) -> Stream:
        """A stream of the sandbox's `cp`: a tar `out` of it or `in`, or lines of JSON for `stat` and `list` (skerry.copying reads them)."""
        return self.transport.open_stream(self._target(name, namespace) + "/cp", query=[("path", path), ("do", do), *options.items()])

    def open_port(self, name: str, port: int, *, namespace: str | None = None) -> Stream:
        """One TCP connection with *port* of the sandbox's loopback: channel 0 is data, 1 an error; each begins with the port's two bytes."""
        return self.transport.open_stream(self._target(name, namespace) + "/portforward", query=[("port", port)])

    def _target(self, name: str, namespace: str | None) -> str:
        raise NotImplementedError
