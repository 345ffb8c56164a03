"""The SDK: one class, synchronous, over an agent's socket.

from skerry import Client

client = Client()
client.create({"metadata": {"name": "hello"}, "spec": {"image": "busybox:latest", "command": ["echo", "hi"]}})
print(client.wait("hello").status.termination.exit_code)
for piece in client.logs("hello"):
    print(piece.stream, piece.data)
client.delete("hello")
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skerry import transport
from skerry.clustercalls import ClusterCalls
from skerry.errors import SkerryError
from skerry.imagecalls import ImageCalls

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport
    from skerry.handles import SandboxHandle
    from skerry.streaming import Stream
    from skerry_api.sandbox import Sandbox

_FRAME = struct.Struct(">B3xI")
"""Before each piece of output: 1 stdout or 2 stderr, three zeros, length (the agent's serving/logs.py)."""
_STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Output of a sandbox: a line, or a part of one."""

    stream: str
    """stdout or stderr."""
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a program ended, and what it wrote. *exit_code* is 128 + n for signal n, None when nobody could read it."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    message: str = ""
    signal: str | None = None


def connect(*, kubeconfig_path: str | None = None, context: str | None = None, namespace: str | None = None) -> Client:
    """Sandboxes of a cluster: of *kubeconfig_path*, else of KUBECONFIG, ~/.kube/config or the pod's own account. Raises BadKubeconfig.

    *namespace* is by default the context's.
    """
    from skerry import cluster, kubeconfig  # noqa: PLC0415 - for a socket they are not needed

    access = kubeconfig.load(kubeconfig_path, context=context)
    return Client(namespace=namespace or access.namespace, over=cluster.ClusterTransport(access))


class Client(ImageCalls, ClusterCalls):
    """Sandboxes of one agent, or of a cluster. Safe to share between threads; every method raises SkerryError's subclasses.

    *socket_path* is the agent's, by default SKERRY_SOCKET or /run/skerry/agent.sock; for a cluster see `connect`.
    """

    def __init__(self, socket_path: str | None = None, *, namespace: str = "default", over: ClusterTransport | None = None) -> None:
        path = socket_path or os.environ.get("SKERRY_SOCKET") or transport.DEFAULT_SOCKET
        self.transport: transport.Transport | ClusterTransport = over or transport.Transport(path)
        self.namespace = namespace

    def version(self) -> str:
        """The agent's version."""
        return str(self.transport.request("GET", "/v1/version")["version"])

    def info(self) -> dict[str, Any]:
        """The agent about itself: version, nodeName, mode, details."""
        return dict(self.transport.request("GET", "/v1/info"))

    def create(self, manifest: Mapping[str, Any]) -> Sandbox:
        """A new sandbox; apiVersion, kind and namespace are filled in. Returns before it runs: see `wait`."""
        metadata = {"namespace": self.namespace, **manifest.get("metadata", {})}
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", **manifest, "metadata": metadata}
        return _parse(self.transport.request("POST", "/v1/sandboxes", body=body))

    def get(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """One sandbox with its status. Raises Refused with status 404."""
        return _parse(self.transport.request("GET", self._target(name, namespace)))

    def list(self, *, namespace: str | None = None) -> tuple[Sandbox, ...]:
        """Every sandbox, of one namespace when given."""
        items = self.transport.request("GET", "/v1/sandboxes", query={"namespace": namespace})["items"]
        return tuple(_parse(item) for item in items)

    def inspect(self, name: str, *, namespace: str | None = None) -> dict[str, Any]:
        """The object and, under `node`, what its node knows of it."""
        return dict(self.transport.request("GET", self._target(name, namespace) + "/inspect"))

    def wait(
        self,
        name: str,
        *,
        condition: str = "Finished",
        timeout_seconds: float | None = None,
        namespace: str | None = None,
    ) -> Sandbox | None:
        """The sandbox when it is Ready, Finished (a wait for Ready ends with this too) or Deleted, which gives None.

        A sandbox that cannot be started counts as Finished, without a termination. Raises Refused with status 408
        after *timeout_seconds*.
        """
        raw = self.transport.request(
            "GET",
            self._target(name, namespace) + "/wait",
            query={"for": condition, "timeout": timeout_seconds},
            timeout_seconds=None,
        )
        return _parse(raw) if raw else None

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: str | None = None,
        timestamps: bool = False,
        stream: str = "both",
        cursor: Mapping[str, int] | None = None,
        namespace: str | None = None,
    ) -> Iterator[LogPiece]:
        """Output, merged by time; with *follow* until the sandbox has ended. *since* is RFC 3339 or unix seconds.

        *cursor* maps a stream to the number of its bytes to leave out, to go on after a break.
        """
        chunks = self.transport.read_chunks(
            self._target(name, namespace) + "/logs",
            query={
                "follow": int(follow),
                "tail": tail,
                "since": since,
                "timestamps": int(timestamps),
                "stream": stream,
                "frames": 1,
                "cursor": _render_cursor(cursor),
            },
        )
        buffer = bytearray()
        for chunk in chunks:
            buffer += chunk
            start = 0
            while len(buffer) - start >= _FRAME.size:
                number, size = _FRAME.unpack_from(buffer, start)
                if len(buffer) - start - _FRAME.size < size:
                    break
                start += _FRAME.size + size
                yield LogPiece(_STREAMS[number], bytes(buffer[start - size : start]))
            del buffer[:start]

    def stop(self, name: str, *, grace_seconds: int | None = None, namespace: str | None = None) -> Sandbox:
        """Ask it to stop; its files stay. *grace_seconds* becomes its grace period. Returns at once: see `wait`."""
        body = {"desiredState": "Stopped", "terminationGracePeriodSeconds": grace_seconds}
        return _parse(self.transport.request("PATCH", self._target(name, namespace), body=body))

    def start(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """Ask it to run again, with its files. Returns at once: see `wait`."""
        body = {"desiredState": "Running"}
        return _parse(self.transport.request("PATCH", self._target(name, namespace), body=body))

    def pause(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """Ask it to be held still, memory and all; `start` lets it go on. Returns at once."""
        return _parse(self.transport.request("PATCH", self._target(name, namespace), body={"desiredState": "Paused"}))

    def delete(self, name: str, *, namespace: str | None = None) -> None:
        """Ask for its deletion. Returns at once: see `wait` with condition Deleted."""
        self.transport.request("DELETE", self._target(name, namespace))

    def open_exec(  # noqa: PLR0913 - one for each thing that can be asked
        self,
        name: str,
        command: Sequence[str] = (),
        *,
        stdin: bool = False,
        tty: bool = False,
        env: Sequence[str] = (),
        user: str | None = None,
        workdir: str | None = None,
        exec_id: str | None = None,
        timeout_seconds: float | None = None,
        size: tuple[int, int] | None = None,
        namespace: str | None = None,
    ) -> Stream:
        """A program in a running sandbox, and its streams; without *command*, those of the exec that has *exec_id*.

        *env* are NAME=VALUE, *size* is columns and rows of a terminal. With an *exec_id* it goes on when we break off.
        """
        columns, rows = size or (None, None)
        query = [
            *(("command", word) for word in command), *(("env", variable) for variable in env), ("stdin", stdin), ("tty", tty), ("user", user),
            ("workingDir", workdir), ("id", exec_id), ("timeout", timeout_seconds), ("columns", columns), ("rows", rows),
        ]  # fmt: skip
        return self.transport.open_stream(self._target(name, namespace) + "/exec", query=query)

    def exec(self, name: str, command: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> ExecResult:
        """Run a program in a running sandbox to its end; *options* are those of `open_exec`. Output is held in memory."""
        stream = self.open_exec(name, command, stdin=stdin is not None, **options)
        pieces: dict[int, list[bytes]] = {1: [], 2: []}
        feeding = threading.Thread(target=_feed, args=(stream, stdin), daemon=True) if stdin is not None else None
        if feeding is not None:
            feeding.start()
        try:
            while (piece := stream.receive()) is not None:
                pieces.setdefault(piece[0], []).append(piece[1])
        finally:
            stream.close()
        end = stream.end
        return ExecResult(
            exit_code=end.exit_code if end is not None else None, stdout=b"".join(pieces[1]), stderr=b"".join(pieces[2]),
            message=end.message if end is not None else "", signal=end.signal if end is not None else None,
        )  # fmt: skip

    def start_exec(self, name: str, command: Sequence[str], *, exec_id: str | None = None, namespace: str | None = None, **query: Any) -> str:
        """Start a program in a running sandbox and leave it to itself; its id comes back. *query* are tty, env, user, workingDir, timeout."""
        pairs = {"command": list(command), "id": exec_id, **query}
        raw = self.transport.request("POST", self._target(name, namespace) + "/exec", query=pairs)
        return str(raw["id"])

    def execs(self, name: str, *, namespace: str | None = None) -> tuple[dict[str, Any], ...]:
        """Programs that were started in it: id, command, tty, pid, running, attached, exitCode."""
        return tuple(self.transport.request("GET", self._target(name, namespace) + "/execs")["items"])

    def kill(self, name: str, *, signal: str = "KILL", exec_id: str | None = None, namespace: str | None = None) -> None:
        """Send a signal to its first process, or to the exec that has *exec_id*."""
        self.transport.request("POST", self._target(name, namespace) + "/signal", query={"signal": signal, "exec": exec_id})

    def open_attach(
        self, name: str, *, stdin: bool = False, stdin_once: bool = False, cursor: Mapping[str, int] | None = None, namespace: str | None = None
    ) -> Stream:
        """The first process's output, from now on or from *cursor* as in `logs`; its exit code is the stream's end.

        With *stdin* what is sent is typed to it, where spec.stdin is set; with *stdin_once* its input ends when we break off.
        """
        query = [("stdin", stdin or None), ("stdinOnce", stdin_once or None), ("cursor", _render_cursor(cursor))]
        return self.transport.open_stream(self._target(name, namespace) + "/attach", query=query)

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

    def sandbox(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        name: str | None = None,
        wait: bool = True,
        timeout_seconds: float = 120.0,
        **options: Any,
    ) -> SandboxHandle:
        """A new sandbox, running when *wait*; leave its `with` to remove it. Without *command* it waits for what `exec` brings.

        *options* are env, labels, cpu, memory, pids, and spec for any other field. Raises NotStarted, and nothing is left then.
        """
        from skerry import handles  # noqa: PLC0415 - `skerry --help` needs none

        made = name or f"sandbox-{secrets.token_hex(4)}"
        manifest = handles.render_manifest(image, command or handles.FOREVER, name=made, **options)
        metadata = self.create(manifest).metadata
        handle = handles.SandboxHandle(self, name=metadata.name, namespace=metadata.namespace)
        if wait:
            try:
                handle.wait_ready(timeout_seconds=timeout_seconds)
            except BaseException:
                handle.remove()
                raise
        return handle

    def handle(self, name: str, *, namespace: str | None = None) -> SandboxHandle:
        """The sandbox that has this name, whether it is there or not."""
        from skerry import handles  # noqa: PLC0415 - as above

        return handles.SandboxHandle(self, name=name, namespace=namespace or self.namespace)

    def _target(self, name: str, namespace: str | None) -> str:
        return f"/v1/sandboxes/{namespace or self.namespace}/{name}"


def _render_cursor(cursor: Mapping[str, int] | None) -> str | None:
    return ",".join(f"{name}:{offset}" for name, offset in cursor.items()) if cursor else None


def _feed(stream: Stream, data: bytes) -> None:
    with contextlib.suppress(SkerryError):  # it ended without reading all of it
        for start in range(0, len(data), 1 << 16):
            stream.send(0, data[start : start + (1 << 16)])
        stream.close_stdin()


def _parse(raw: Mapping[str, Any]) -> Sandbox:
    # Imported here: `skerry --help` needs no resources.
    from skerry_api import sandbox  # noqa: PLC0415

    return sandbox.parse_sandbox(raw)
