"""What the keeper waits for: file descriptors, each with the function that is called when it is ready."""

from __future__ import annotations

import select
from collections.abc import Callable, Collection

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
HANG_UP = select.EPOLLHUP | select.EPOLLERR


class Events:
    """One epoll, level-triggered. Handlers get the mask of what is ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, handler: Callable[[int], None], *, mask: int = READABLE) -> None:
        """Call *handler* whenever *fd* is ready for *mask*."""
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Wait for *mask* of a watched *fd* from now on."""
        self._epoll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Stop watching *fd*, before it is closed; one that is not watched is fine."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout_seconds: float, *, first: Collection[int]) -> None:
        """Wait for events and handle them, those of the fds in *first* before all others; -1 waits without end."""
        events = self._epoll.poll(timeout_seconds)
        events.sort(key=lambda event: event[0] not in first)
        for fd, mask in events:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(mask)
