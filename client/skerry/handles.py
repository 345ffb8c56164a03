"""The SDK's sandbox in hand: one running sandbox as a value with verbs, removed when its `with` ends.

client = connect()
with client.sandbox("busybox:latest") as box:
    print(box.exec(["uname"]).stdout)
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self, cast

from skerry.errors import Refused, SkerryError

if TYPE_CHECKING:
    from types import TracebackType

    from skerry.client import Client
    from skerry.execcalls import ExecResult
    from skerry.outputcalls import LogPiece
    from skerry.streaming import Stream
    from skerry_api.sandbox import Sandbox, Termination

FOREVER = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")
"""The command of a sandbox that waits to be told: it needs a shell in the image."""
START_SECONDS = 120.0
_REMOVE_SECONDS = 60.0
MAX_FILE_BYTES = 256 << 20


class NotStarted(SkerryError):
    """The sandbox could not be started, or not in time; the message says why."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the kernel counted for a sandbox up to `time` (RFC 3339); None where it does not count."""

    time: str
    cpu_seconds: float
    throttled_seconds: float
    memory_bytes: int
    working_set_bytes: int
    peak_bytes: int | None
    oom_kills: int
    pids: int
    raw: Mapping[str, Any]
    """All of the answer, with what newer agents count too."""


def render_manifest(  # noqa: PLR0913 - one for each thing that can be asked
    image: str,
    command: Sequence[str] = FOREVER,
    *,
    name: str,
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    cpu: str | None = None,
    memory: str | None = None,
    pids: int | None = None,
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a sandbox; *spec* adds fields of docs/sandbox.md, and wins."""
    limits = {key: value for key, value in (("cpu", cpu), ("memory", memory), ("pids", pids)) if value is not None}
    made: dict[str, Any] = {"image": image, "command": list(command)}
    if env:
        made["env"] = [{"name": key, "value": value} for key, value in env.items()]
    if limits:
        made["resources"] = {"limits": limits}
    return {"metadata": {"name": name, "labels": dict(labels or {})}, "spec": {**made, **(spec or {})}}


class SandboxHandle:
    """One sandbox of *client*. Leaving its `with` removes it. Every method raises SkerryError's subclasses."""

    def __init__(self, client: Client, *, name: str, namespace: str) -> None:
        self.client = client
        self.name = name
        self.namespace = namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def read(self) -> Sandbox:
        """The object as it is now, with its status."""
        return self.client.get(self.name, namespace=self.namespace)

    def wait_ready(self, *, timeout_seconds: float = START_SECONDS) -> Sandbox:
        """When its program runs, or has run to its end. Raises NotStarted."""
        try:
            found = self.client.wait(self.name, namespace=self.namespace, condition="Ready", timeout_seconds=timeout_seconds)
        except Refused as error:
            if error.status != 408:
                raise
            raise NotStarted(f"{self.name} has not started after {timeout_seconds:g} s: {_reason(self.read())}") from error
        ended = found.status.termination if found is not None else None
        if found is None or not (_is_running(found) or (ended is not None and ended.reason != "StartFailed")):
            raise NotStarted(f"{self.name} could not be started: {_reason(found)}")
        return found

    def wait(self, *, timeout_seconds: float | None = None) -> Termination | None:
        """How its program ended; None when it was stopped before it had started. Raises Refused with status 408 at the time-out."""
        found = self.client.wait(self.name, namespace=self.namespace, timeout_seconds=timeout_seconds)
        return found.status.termination if found is not None else None

    def exec(self, command: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> ExecResult:
        """Run a program in it to its end and collect what it writes; *options* are those of Client.open_exec."""
        return self.client.exec(self.name, command, stdin=stdin, namespace=self.namespace, **options)

    def open_exec(self, command: Sequence[str], **options: Any) -> Stream:
        """A program in it, and its streams as they come: send, receive, resize, signal, close."""
        return self.client.open_exec(self.name, command, namespace=self.namespace, **options)

    def logs(self, **options: Any) -> Iterator[LogPiece]:
        """Its output; *options* are those of Client.logs."""
        return self.client.logs(self.name, namespace=self.namespace, **options)

    def stats(self) -> Stats:
        """What it uses now. Raises Refused with status 409 when it does not run."""
        return parse_stats(self.client.usage(self.name, namespace=self.namespace))

    def read_file(self, path: str, *, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The content of a file, links followed. Raises CopyFailed; SkerryError when it is no file or larger than the limit."""
        from skerry import copying  # noqa: PLC0415 - few need it

        stream = self._open_copy(path, do="out", name="file", follow=True)
        try:
            reader = copying.Reader(stream, _ignore)
            with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is None or member.size > limit_bytes:
                        raise SkerryError(f"{path} is no file of at most {limit_bytes} bytes; copy it: skerry.copying")
                    return content.read()
            reader.finish()
        finally:
            stream.close()
        raise SkerryError(f"{path} is not there")

    def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Make or replace a file in a directory that is there. Raises CopyFailed."""
        from skerry import copying  # noqa: PLC0415 - as above

        directory, name = posixpath.split(path)
        if not name:
            raise SkerryError(f"{path!r} names no file")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            archive.addfile(info, io.BytesIO(data))
        view = buffer.getvalue()
        pieces = (view[start : start + (1 << 18)] for start in range(0, len(view), 1 << 18))
        copying.send(self._open_copy, directory or ".", pieces, keeps_owners=False, warn=_ignore)

    def copy_in(self, source: str, target: str) -> None:
        """A local file or tree to *target* in it, by docker cp's rules. Raises CopyFailed, OSError."""
        from skerry import copying  # noqa: PLC0415 - as above

        copying.copy_in(self._open_copy, source, target, warn=_ignore)

    def copy_out(self, source: str, target: str) -> None:
        """A file or tree of it to the local *target*, by docker cp's rules. Raises CopyFailed, OSError."""
        from skerry import copying  # noqa: PLC0415 - as above

        copying.copy_out(self._open_copy, source, target, warn=_ignore)

    def stop(self, *, grace_seconds: int | None = None) -> Termination | None:
        """Stop its program and wait; its files stay for `start`."""
        self.client.stop(self.name, namespace=self.namespace, grace_seconds=grace_seconds)
        return self.wait()

    def start(self) -> Sandbox:
        """Run its program again, with its files, and wait until it runs. Raises NotStarted."""
        self.client.start(self.name, namespace=self.namespace)
        return self.wait_ready()

    def remove(self) -> None:
        """Remove it and wait until it is gone; gone already is success."""
        try:
            self.client.delete(self.name, namespace=self.namespace)
            self.client.wait(self.name, namespace=self.namespace, condition="Deleted", timeout_seconds=_REMOVE_SECONDS)
        except Refused as error:
            if error.status not in {404, 410}:
                raise

    def _open_copy(self, path: str, /, **options: Any) -> Stream:
        return self.client.open_copy(self.name, path, namespace=self.namespace, **options)


def parse_stats(raw: Mapping[str, Any]) -> Stats:
    """From the agent's JSON."""
    cpu, memory = raw["cpu"], raw["memory"]
    return Stats(
        time=raw["time"], cpu_seconds=cpu["usageSeconds"], throttled_seconds=cpu["throttledSeconds"], memory_bytes=memory["usageBytes"],
        working_set_bytes=memory["workingSetBytes"], peak_bytes=memory.get("peakBytes"), oom_kills=memory["oomKills"], pids=raw["pids"]["current"],
        raw=raw,
    )  # fmt: skip


def _is_running(sandbox: Sandbox) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in sandbox.status.conditions)


def _reason(sandbox: Sandbox | None) -> str:
    """Why it does not run, in the words of its conditions."""
    conditions = sandbox.status.conditions if sandbox is not None else ()
    ready = next((each for each in conditions if each.type == "Ready"), None)
    if ready is None:
        return "nothing is known of it yet"
    return f"{ready.reason}: {ready.message}" if ready.message else ready.reason


def _ignore(_: str) -> None:
    """A warning of a copy: the SDK raises what matters."""
