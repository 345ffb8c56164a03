"""Waiting until an event loop holds no socket any more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

_SECONDS = 60.0


async def settle() -> None:
    """Wait until this loop watches nothing but its own pipe and has run what closes the rest. Raises TimeoutError."""
    loop: Any = asyncio.get_running_loop()
    deadline = time.monotonic() + _SECONDS
    while len(loop._selector.get_map()) > 1:  # the pipe by which threads wake it
        if time.monotonic() > deadline:
            raise TimeoutError(f"the loop still watches {[key.fileobj for key in loop._selector.get_map().values()]}")
        await asyncio.sleep(0.01)
    for _ in range(3):  # a transport closes its socket in a callback after it has stopped watching it
        await asyncio.sleep(0)
