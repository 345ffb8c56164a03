"""The local door's routes for hands on a sandbox: exec, attach to an exec, list, signal, copy, port-forward."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from skerry_api import sandbox as api
from skerry_api import waiting
from skerry_node.keeper import client
from skerry_node.serving import attaching, channels, exec_options, ports, streams
from skerry_node.serving.backend import Backend, Refused
from skerry_node.sessions.session import Session, decode

_STATUSES = {"NotRunning": 409, "AlreadyExists": 409, "TooMany": 429, "NotFound": 404}
_T = TypeVar("_T")
_Find = Callable[[web.Request], api.Sandbox]


class StreamRoutes:
    """One method per route; *find* gives the sandbox that a request names."""

    def __init__(self, backend: Backend, find: _Find) -> None:
        self._backend = backend
        self._find = find

    def routes(self, one: str) -> list[web.RouteDef]:
        """Below *one*, the path of a sandbox."""
        return [
            web.get(f"{one}/exec", self.exec),
            web.post(f"{one}/exec", self.exec_detached),
            web.get(f"{one}/execs", self.list_execs),
            web.post(f"{one}/signal", self.signal),
            web.get(f"{one}/cp", self.copy),
            web.get(f"{one}/attach", self.attach),
            web.get(f"{one}/top", self.top),
            web.get(f"{one}/portforward", self.forward_port),
        ]

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket. With a command a new exec; with an id and no command the one that has it, from what it wrote last."""
        sandbox = self._find(request)
        options = exec_options.parse(request.query)
        _require_upgrade(request)
        if options.command:
            session = await self.start(sandbox, options)
        else:
            found = self._backend.sessions.find(sandbox.metadata.uid, options.name)
            if found is None or not options.name:
                raise Refused("name the command to run, or the id of an exec that runs", field="command")
            session = found
        answer = streams.make_socket()
        await answer.prepare(request)
        await streams.serve_session(answer, self._backend.sessions, session, is_kept=bool(options.name))
        return answer

    async def exec_detached(self, request: web.Request) -> web.Response:
        """A new exec that nobody is attached to; its newest output is kept for who attaches by its id."""
        options = exec_options.parse(request.query)
        session = await self.start(self._find(request), options)
        session.release()
        return web.json_response(_describe(session), status=201)

    async def list_execs(self, request: web.Request) -> web.Response:
        """Execs that run, and those whose end nobody has fetched."""
        sandbox = self._find(request)
        return web.json_response({"items": [_describe(session) for session in self._backend.sessions.list(sandbox.metadata.uid)]})

    async def signal(self, request: web.Request) -> web.Response:
        """Query: signal; to the first process, or to the exec that `exec` names."""
        sandbox = self._find(request)
        try:
            number = channels.parse_signal(request.query.get("signal", "KILL"))
        except channels.BadMessage as error:
            raise Refused(str(error), field="signal") from error
        name = request.query.get("exec")
        if name is None:
            await self._backend.signal(sandbox, number)
        elif (session := self._backend.sessions.find(sandbox.metadata.uid, name)) is not None:
            await session.signal(number)
        else:
            raise Refused(f"no exec {name!r} in this sandbox", status=404, reason="NotFound", field="exec")
        return web.json_response({})

    async def copy(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket: a tar out of or into the sandbox, or one look at a file or directory as lines of JSON."""
        sandbox = self._find(request)
        options = exec_options.parse_copy(request.query)
        _require_upgrade(request)
        session = await self.start_copy(sandbox, options)
        answer = streams.make_socket()
        await answer.prepare(request)
        await streams.serve_session(answer, self._backend.sessions, session, is_kept=False)
        return answer

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket: the first process's output and its exit code; with stdin also what is typed to it."""
        sandbox = self._find(request)
        options = attaching.parse(request.query)
        if options.has_input and not sandbox.spec.stdin:
            name = sandbox.metadata.name
            raise Refused(f"{name} has no input; create it with spec.stdin, or run a program beside it: skerry exec", field="spec.stdin")
        _require_upgrade(request)
        answer = streams.make_socket()
        await answer.prepare(request)
        with self._backend.visit(sandbox), contextlib.closing(self._backend.consoles.attach(sandbox.metadata.uid)) as console:
            program = attaching.Program(
                directory=self._backend.log_directory(sandbox),
                has_ended=lambda: self._has_ended(sandbox),
                exit_code=lambda: self._exit_code(sandbox),
                signal=lambda number: self._backend.signal(sandbox, number),
                console=console,
            )
            await attaching.serve(answer, options, program)
        return answer

    async def top(self, request: web.Request) -> web.Response:
        """The processes in the sandbox."""
        return web.json_response({"items": self._backend.processes(self._find(request))})

    def _has_ended(self, sandbox: api.Sandbox) -> bool:
        found = self._backend.find(sandbox.metadata.namespace, sandbox.metadata.name)
        return found is None or found.metadata.uid != sandbox.metadata.uid or waiting.is_finished(found)

    def _exit_code(self, sandbox: api.Sandbox) -> int | None:
        found = self._backend.find(sandbox.metadata.namespace, sandbox.metadata.name)
        end = found.status.termination if found is not None and found.metadata.uid == sandbox.metadata.uid else None
        return end.exit_code if end is not None else None

    async def forward_port(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket to one TCP connection with a port of the sandbox's loopback."""
        sandbox = self._find(request)
        port = exec_options.number(request.query, "port", default=0, high=65_535)
        _require_upgrade(request)
        connection = await self.connect(sandbox, port)
        answer = streams.make_socket()
        try:
            await answer.prepare(request)
        except BaseException:
            connection.close()
            raise
        with self._backend.visit(sandbox):
            await ports.serve_connection(answer, connection, port=port)
        return answer

    async def start(self, sandbox: api.Sandbox, options: exec_options.ExecOptions) -> Session:
        """A new exec. Raises Refused."""
        if not options.command:
            raise Refused("name the command to run", field="command")
        session = await _granted(self._backend.sessions.start(await self._backend.order_exec(sandbox, options)))
        if options.timeout_seconds is not None:
            session.limit(options.timeout_seconds)
        return session

    async def start_copy(self, sandbox: api.Sandbox, options: exec_options.CopyOptions) -> Session:
        """A copy, or a look, that has begun. Raises Refused."""
        entry = self._backend.order_task(sandbox, options.task, options.arguments, user=options.user)
        return await _granted(self._backend.sessions.start(entry))

    async def connect(self, sandbox: api.Sandbox, port: int) -> socket.socket:
        """A connection to *port* on the sandbox's loopback, made inside. Raises Refused."""
        if not port:
            raise Refused("name a port from 1 to 65535", field="port")
        entry = self._backend.order_task(sandbox, "connect", (str(port),))
        return await _granted(self._backend.sessions.connect(entry))


async def _granted(asked: Awaitable[_T]) -> _T:
    """What the keeper grants; its refusals as ours. Raises Refused."""
    try:
        return await asked
    except client.Refused as error:
        status = _STATUSES.get(error.reason, 422)
        raise Refused(error.problem, status=status, reason=error.reason, field=error.field) from error
    except client.KeeperLost as error:
        raise Refused(f"{error}; try again in a moment", status=503, reason="KeeperLost") from error


def _require_upgrade(request: web.Request) -> None:
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise Refused(f"open this as a WebSocket with the protocol {channels.PROTOCOL}", status=426, reason="UpgradeRequired")


def _describe(session: Session) -> dict[str, object]:
    exit_code = decode(session.exit.result().status)[0] if session.exit.done() else None
    return {
        "id": session.id, "command": session.argv, "tty": session.has_terminal, "stdin": session.has_input, "pid": session.pid,
        "running": not session.exit.done(), "attached": session.is_attached, "exitCode": exit_code,
    }  # fmt: skip
