"""Hearing of new output at once: whoever types wants to see it. Where the kernel gives no more watches, by looking again and again."""

from __future__ import annotations

import asyncio
import contextlib
import os

from skerry_node.kernel import inotify

_POLL_SECONDS = 0.05


class Watch:
    """Of the files in *directory*, which need not exist yet. Close it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = -1
        self._news = asyncio.Event()
        self._is_refused = False

    async def wait(self) -> None:
        """Until something was written since the last call, or a little time has passed: what ends is not written."""
        if self._fd < 0 and not self._is_refused and os.path.isdir(self._directory):
            self._open()
            return  # what came before the watch is there to be read
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._news.wait()
        self._news.clear()

    def close(self) -> None:
        """Watch no more."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        try:
            self._fd = inotify.watch(self._directory)
        except FileNotFoundError:
            return
        except OSError:
            self._is_refused = True
            return
        asyncio.get_running_loop().add_reader(self._fd, self._hear)

    def _hear(self) -> None:
        inotify.drain(self._fd)
        self._news.set()
