"""Unpacking in a thread of its own, a bounded number of pieces ahead of the reader. Hashing and inflating leave the interpreter to others."""

from __future__ import annotations

import queue
import threading

from skerry_node.image.unpacking import Unpacked

_QUEUE_LENGTH = 16


class Ahead:
    """The pieces of *unpacked*, made ahead. `close` in any case; afterwards the digests of *unpacked* may be read."""

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked = unpacked
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUE_LENGTH)
        self._is_closed = self._is_ended = False
        self._thread = threading.Thread(target=self._work, name="unpack", daemon=True)
        self._thread.start()

    def next_piece(self) -> bytes:
        """The next bytes, none at the end, however often it is asked. Raises what unpacking met."""
        if self._is_ended:
            return b""
        piece = self._queue.get()
        if isinstance(piece, BaseException):
            self._is_ended = True
            raise piece
        self._is_ended = not piece
        return piece

    def drain(self) -> None:
        """Unpack the rest, so that the digests cover the whole blob. Raises what unpacking met."""
        while self.next_piece():
            pass

    def close(self) -> None:
        """End the thread, wherever it is."""
        self._is_closed = True
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get()
            self._thread.join(0.01)

    def _work(self) -> None:
        try:
            while not self._is_closed:
                piece = self._unpacked.next_piece()
                self._queue.put(piece)
                if not piece:
                    break
        except BaseException as error:  # noqa: BLE001 - whatever it is, the one who reads is told
            self._queue.put(error)
