"""One piece of work for many who wait for it. It ends early only when the last of them has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Flights(Generic[_Result]):
    """Work under way, by key. Must be used inside one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[_Result]] = {}
        self._waiters: dict[asyncio.Task[_Result], int] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    async def join(self, key: Hashable, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """The result of *work*, begun now or earlier by somebody else. Raises what it raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(_run(work))
            self._waiters[task] = 0
            task.add_done_callback(lambda done: self._forget(key, done))
        self._waiters[task] += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._waiters.get(task) == 1 and not task.done():
                self._tasks.pop(key, None)
                task.cancel()
                await asyncio.wait({task})  # what it had open is closed before we are gone
            raise
        finally:
            if task in self._waiters:
                self._waiters[task] -= 1

    def _forget(self, key: Hashable, task: asyncio.Task[_Result]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        self._waiters.pop(task, None)
        if not task.cancelled():
            task.exception()  # seen: all who waited may be gone


async def _run(work: Callable[[], Awaitable[_Result]]) -> _Result:
    return await work()
