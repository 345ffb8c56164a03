"""The agent's end of the warm process that converters are forked from: started when it is first needed, ended with the store."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

import skerry_node
from skerry_node.image import layer
from skerry_node.image.errors import ConversionFailed, DamagedContent, InvalidLayer
from skerry_node.image.sealing import Sealed

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); import runpy; runpy.run_module('skerry_node.image.worker', run_name='__main__', alter_sys=False)"
)
MAX_RESULT_BYTES = 16 << 10
_PIPE_BYTES = 1 << 20
"""Linux lets anybody have so much in a pipe (fs.pipe-max-size)."""
_F_SETPIPE_SZ = 1031
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""Pieces come and go by the thousand: their memory is used again, in place of being given back and faulted in anew (mallopt(3))."""


@dataclass(slots=True)
class Worker:
    """One converter. Whoever has it closes *input_fd* at the end of the blob, reads *result_fd* to its end, and then calls `close`."""

    promise: layer.Promise
    pidfd: int
    input_fd: int
    result_fd: int

    def close_input(self) -> None:
        """Say that the blob is at its end; repeatable."""
        fd, self.input_fd = self.input_fd, -1
        if fd >= 0:
            os.close(fd)

    def kill(self) -> None:
        """End it now; one that has ended is fine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it lives, and give up every descriptor."""
        self.kill()
        self.close_input()
        os.close(self.pidfd)
        os.close(self.result_fd)


class Nursery:
    """The warm process. Any thread may ask; it is started again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_closed = False

    def spawn(self, promise: layer.Promise, output_fd: int) -> Worker:
        """A converter that writes into the empty file at *output_fd*. Blocks for some milliseconds. Raises ConversionFailed, OSError."""
        input_read, input_write = os.pipe()
        result_read, result_write = os.pipe()
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(input_write, _F_SETPIPE_SZ, _PIPE_BYTES)
            pidfd = self._ask(promise, [input_read, output_fd, result_write])
        except BaseException:
            os.close(input_write)
            os.close(result_read)
            raise
        finally:
            os.close(input_read)
            os.close(result_write)
        return Worker(promise=promise, pidfd=pidfd, input_fd=input_write, result_fd=result_read)

    def close(self) -> None:
        """End the process; converters end with it."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _ask(self, promise: layer.Promise, fds: list[int]) -> int:
        request = json.dumps(dataclasses.asdict(promise)).encode()
        with self._lock:
            if self._is_closed:
                raise ConversionFailed("the store is closed")
            for attempt in range(2):
                control = self._control or self._start()
                try:
                    socket.send_fds(control, [request], fds)
                    answer, received, _, _ = socket.recv_fds(control, 64, 1)
                except OSError:
                    answer, received = b"", []
                if answer and received:
                    os.set_inheritable(received[0], False)  # noqa: FBT003 - the standard library's way
                    return received[0]
                self._stop()
                if attempt:
                    break
        raise ConversionFailed("the process that starts converters does not live; its words are in the agent's log")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = os.path.dirname(os.path.dirname(skerry_node.__file__))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), root],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
                env={"LC_ALL": "C.UTF-8", **_ALLOCATOR, "PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        self._control = ours
        return ours

    def _stop(self) -> None:
        control, process = self._control, self._process
        self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None:
            process.wait()


def read_result(worker: Worker, content: bytes) -> Sealed:
    """What the converter said, and how it ended. Raises DamagedContent, InvalidLayer, OSError, ConversionFailed."""
    said: dict[str, Any] = {}
    for line in content[:MAX_RESULT_BYTES].splitlines():
        with contextlib.suppress(ValueError):
            raw = json.loads(line)
            said = {**raw, **said} if isinstance(raw, dict) else said
    message = "".join(letter for letter in str(said.get("message", ""))[:1000] if letter.isprintable())
    if said.get("error") == "DamagedContent":
        raise DamagedContent(message)
    if said.get("error") == "InvalidLayer":
        raise InvalidLayer(message)
    if said.get("error") == "OSError" and isinstance(said.get("errno"), int):
        raise OSError(said["errno"], message)
    size, seal = said.get("size_bytes"), said.get("seal")
    if isinstance(size, int) and isinstance(seal, str) and said.get("status") == 0:
        return Sealed(size_bytes=size, seal=seal)
    status = said.get("status")
    raise ConversionFailed(f"layer {worker.promise.digest}: its converter ended without a result (status {status!r}) {message}".rstrip())
