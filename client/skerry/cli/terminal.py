"""A terminal of ours joined to a stream: raw mode, size, input, the keys that detach. Or plain streams, joined the same way."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator

from skerry import streaming
from skerry.errors import SkerryError

DETACH_KEYS = b"\x10\x11"
"""Ctrl-P, Ctrl-Q, as docker has them."""
_CHUNK = 1 << 16
_NAMES = {1: "stdout", 2: "stderr"}


def is_terminal() -> bool:
    """Whether both our input and our output are one."""
    return os.isatty(0) and os.isatty(1)


def size() -> tuple[int, int]:
    """Columns and rows of our terminal."""
    found = os.get_terminal_size(1 if os.isatty(1) else 0)
    return found.columns, found.lines


def join(
    stream: streaming.Stream, *, has_input: bool, has_terminal: bool, passes_signals: bool = True, seen: dict[str, int] | None = None
) -> streaming.End | None:
    """Carry bytes both ways until the stream ends, and tell how; None when the user has detached. Signals go to the program without a terminal.

    Bytes that came are counted in *seen*, by stream.
    """
    with contextlib.ExitStack() as stack:
        waking, wake = os.pipe()
        stack.callback(os.close, waking)
        if has_terminal:
            stack.enter_context(_raw())
            stack.enter_context(_handling((signal.SIGWINCH,), wake))
        elif passes_signals:
            stack.enter_context(_handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT), wake))
        sender = threading.Thread(
            target=_send, args=(stream, waking), kwargs={"has_input": has_input, "has_terminal": has_terminal}, daemon=True
        )  # fmt: skip
        sender.start()
        try:
            while (piece := stream.receive()) is not None:
                number = 1 if piece[0] == streaming.STDOUT else 2
                if not _write(number, piece[1]):
                    break  # who read our output has gone
                if seen is not None:
                    seen[_NAMES[number]] += len(piece[1])
        finally:
            os.close(wake)
            sender.join(1.0)
    return stream.end


def _send(stream: streaming.Stream, waking: int, *, has_input: bool, has_terminal: bool) -> None:
    """Our input, and what signals tell, until there is no more of either."""
    watched = [waking, 0] if has_input else [waking]
    keys = _Keys()
    with contextlib.suppress(SkerryError, OSError):
        while True:
            ready, _, _ = select.select(watched, [], [])
            if waking in ready:
                numbers = os.read(waking, 16)
                if not numbers:
                    return
                _tell(stream, numbers)
            if 0 in ready:
                data = os.read(0, _CHUNK)
                if not data:
                    stream.close_stdin()
                    watched.remove(0)
                elif has_terminal and keys.detach(data):
                    stream.detach()
                    return
                else:
                    stream.send(streaming.STDIN, data)


def _tell(stream: streaming.Stream, numbers: bytes) -> None:
    for number in numbers:
        if number == signal.SIGWINCH:
            stream.resize(*size())
        else:
            stream.signal(signal.Signals(number).name)


class _Keys:
    """Knows the detach keys, also when they come one by one."""

    def __init__(self) -> None:
        self._last = b""

    def detach(self, data: bytes) -> bool:
        """Whether *data*, with what came before it, ends the session."""
        seen = self._last + data
        self._last = seen[-1:]
        return DETACH_KEYS in seen


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Our terminal without echo, lines and signals; as it was, afterwards."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead stays
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _handling(numbers: tuple[signal.Signals, ...], wake: int) -> Iterator[None]:
    """Signals as bytes of their numbers in a pipe: a handler may send nothing itself, the thread that it interrupts may hold the lock."""

    def note(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            os.write(wake, bytes((number,)))

    old = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _write(fd: int, data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        return False
    return True
