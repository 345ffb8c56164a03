"""Local ports that lead to ports of a sandbox: a thread for each direction of each connection."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from skerry.errors import SkerryError

if TYPE_CHECKING:
    from skerry.streaming import Stream

_CHUNK = 1 << 17
_DATA, _ERROR, _CLOSE = 0, 1, 255
Open = Callable[[int], "Stream"]
"""Opens a stream to one connection with a port of the sandbox."""
Tell = Callable[[str], None]


def forward(opened: Open, pairs: Sequence[tuple[int, int]], *, address: str, tell: Tell, complain: Tell) -> None:
    """Listen at *address* for each (local, remote) of *pairs*, and carry what comes, without end. *tell* hears of each that listens."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for local, remote in pairs:
            try:
                listener = stack.enter_context(socket.create_server((address, local)))
            except OSError as error:
                raise SkerryError(f"cannot listen on {address}:{local}: {error.strerror}", hint="take another local port: LOCAL:PORT") from error
            selector.register(listener, selectors.EVENT_READ, (listener, remote))
            tell(f"{address}:{listener.getsockname()[1]} -> {remote}")
        while True:
            for key, _ in selector.select():
                listener, remote = key.data
                connection, _peer = listener.accept()
                threading.Thread(target=_carry, args=(opened, connection, remote, complain), daemon=True).start()


def _carry(opened: Open, connection: socket.socket, port: int, complain: Tell) -> None:
    """One connection, to its end."""
    with connection:
        try:
            stream = opened(port)
        except SkerryError as error:
            complain(str(error))
            return
        sending = threading.Thread(target=_send, args=(connection, stream), daemon=True)
        sending.start()
        is_first = {_DATA: True, _ERROR: True}
        try:
            with contextlib.suppress(SkerryError, OSError):
                while (piece := stream.receive()) is not None:
                    channel, data = piece
                    if is_first.pop(channel, False):
                        continue  # the port's number
                    if channel == _DATA:
                        connection.sendall(data)
                    elif channel == _CLOSE:
                        connection.shutdown(socket.SHUT_WR)
                        sending.join()
                        break
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the other thread
            sending.join()
            stream.close()


def _send(connection: socket.socket, stream: Stream) -> None:
    with contextlib.suppress(SkerryError, OSError):
        while data := connection.recv(_CHUNK):
            stream.send(_DATA, data)
        stream.send(_CLOSE, bytes((_DATA,)))
