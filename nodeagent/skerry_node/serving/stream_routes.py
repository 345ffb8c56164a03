"""The local door's routes for hands on a sandbox: exec, attach to an exec, list, signal."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from skerry_api import sandbox as api
from skerry_node.keeper import client
from skerry_node.serving import channels, exec_options, streams
from skerry_node.serving.backend import Backend, Refused
from skerry_node.sessions.session import Session, decode

_STATUSES = {"NotRunning": 409, "AlreadyExists": 409, "TooMany": 429, "NotFound": 404}
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
        socket = streams.make_socket()
        await socket.prepare(request)
        await streams.serve_session(socket, self._backend.sessions, session, is_kept=bool(options.name))
        return socket

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

    async def start(self, sandbox: api.Sandbox, options: exec_options.ExecOptions) -> Session:
        """A new exec. Raises Refused."""
        if not options.command:
            raise Refused("name the command to run", field="command")
        entry = self._backend.order_exec(sandbox, options)
        try:
            session = await self._backend.sessions.start(entry)
        except client.Refused as error:
            status = _STATUSES.get(error.reason, 422)
            raise Refused(error.problem, status=status, reason=error.reason, field=error.field) from error
        except client.KeeperLost as error:
            raise Refused(f"{error}; try again in a moment", status=503, reason="KeeperLost") from error
        if options.timeout_seconds is not None:
            session.limit(options.timeout_seconds)
        return session


def _require_upgrade(request: web.Request) -> None:
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise Refused(f"open this as a WebSocket with the protocol {channels.PROTOCOL}", status=426, reason="UpgradeRequired")


def _describe(session: Session) -> dict[str, object]:
    exit_code = decode(session.exit.result().status)[0] if session.exit.done() else None
    return {
        "id": session.id, "command": session.argv, "tty": session.has_terminal, "stdin": session.has_input, "pid": session.pid,
        "running": not session.exit.done(), "attached": session.is_attached, "exitCode": exit_code,
    }  # fmt: skip
