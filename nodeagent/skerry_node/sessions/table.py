"""All execs of this node, by sandbox and name. One that has ended waits a while for somebody to fetch its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Coroutine

from skerry_node.keeper import client, wire
from skerry_node.sessions import line
from skerry_node.sessions.session import Session

MAX_OF_ONE = 64
"""Execs of one sandbox that run or wait to be fetched: one tenant does not use up the node's."""
KEPT_SECONDS = 60.0


class Sessions:
    """Starts, finds and forgets them; *socket_path* is the keeper's."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._all: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, entry: wire.Entry) -> Session:
        """A process in the sandbox, once it runs; its output is held until somebody attaches. Raises client.Refused, client.KeeperLost."""
        if entry.name in self._all:
            raise client.Refused(
                problem=f"an exec {entry.name.rpartition('/')[2]!r} exists already; take another id", field="id", reason="AlreadyExists"
            )
        if sum(each.uid == entry.uid for each in self._all.values()) >= MAX_OF_ONE:
            raise client.Refused(problem=f"{MAX_OF_ONE} execs run in this sandbox; wait until some have ended", reason="TooMany")
        talk = await line.connect(self._socket_path)
        return await self._open(talk, "exec", entry=wire.render_entry(entry))

    async def connect(self, entry: wire.Entry) -> socket.socket:
        """The connected socket of a `connect` task. Raises client.Refused when nobody listens there, client.KeeperLost."""
        talk = await line.connect(self._socket_path)
        try:
            _, fds = await talk.ask("exec", entry=wire.render_entry(entry))
            os.close(fds[0])
            made = socket.socket(fileno=fds[1])
            await asyncio.shield(talk.ended)
            await talk.ask("exec_forget", name=entry.name)
        finally:
            talk.close()
        return made

    def find(self, uid: str, name: str) -> Session | None:
        """The exec *name* of sandbox *uid*."""
        return self._all.get(f"{uid}/{name}")

    def list(self, uid: str) -> tuple[Session, ...]:
        """The execs of sandbox *uid*; tasks of ours are none."""
        return tuple(each for each in self._all.values() if each.uid == uid and not each.task)

    def busy_uids(self) -> frozenset[str]:
        """The sandboxes in which an exec or a task of ours lives."""
        return frozenset(each.uid for each in self._all.values() if not each.exit.done())

    async def adopt(self) -> None:
        """Take up what an earlier agent started and the keeper still has; tasks of ours are ended: nobody waits for them."""
        try:
            asking = await line.connect(self._socket_path, patience_seconds=0)
            answer, _ = await asking.ask("exec_list")
            asking.close()
            for description in answer["execs"]:
                if description["name"] not in self._all:
                    talk = await line.connect(self._socket_path)
                    with contextlib.suppress(client.Refused):
                        session = await self._open(talk, "exec_attach", name=description["name"])
                        session.release()
                        if session.task:
                            session.limit(0)
        except client.KeeperLost:
            return  # the next one has none of them

    async def forget(self, session: Session) -> None:
        """Its end has been fetched, or nobody wants it."""
        if self._all.pop(session.name, None) is not None:
            await session.forget()

    def discard(self, session: Session) -> None:
        """The same, without waiting for it: who asks may be cancelled at any moment."""
        self._spawn(self.forget(session))

    def hang_up(self, session: Session) -> None:
        """Its client has gone for good: what a closed terminal window or a broken pipe tells a program. It may go on; its end is nobody's."""
        session.release()
        session.exit.add_done_callback(lambda _: self.discard(session))
        self._spawn(self._hang_up(session))

    async def _hang_up(self, session: Session) -> None:
        await session.close_input()
        if session.has_terminal or session.task:
            with contextlib.suppress(client.KeeperLost, client.Refused):
                await session.signal(signal.SIGKILL if session.task else signal.SIGHUP, group=True)

    async def _open(self, talk: line.Line, do: str, **fields: object) -> Session:
        try:
            description, fds = await talk.ask(do, **fields)
        except BaseException:
            talk.close()
            raise
        session = Session(talk, description, fds)
        self._all[session.name] = session
        session.exit.add_done_callback(lambda _: self._spawn(self._expire(session)))
        return session

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self, session: Session) -> None:
        await asyncio.sleep(KEPT_SECONDS)
        if not session.is_attached:
            await self.forget(session)
