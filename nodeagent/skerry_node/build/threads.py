"""Blocking work beside the loop. Who is cancelled meanwhile waits for its end: what the work reads stays open until then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def run(work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do *work* in a thread; returns or raises what it does. A cancellation takes effect after it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            await _settle(task)
        if not task.cancelled():
            task.exception()  # seen, and of no interest any more
        raise


async def _settle(task: asyncio.Future[_T]) -> None:
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:  # said again; the work does not end sooner for it
        return
