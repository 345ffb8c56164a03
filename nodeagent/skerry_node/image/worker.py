"""The process that converters are forked from, and the converter itself. Run by `workers.py` as `-m skerry_node.image.worker FD`.

The process stays warm, single-threaded and small; it never sees a byte of an image. For each layer it forks a child into namespaces of its own:
another user, no root in reach, no network, no other process; three descriptors, and a filter that leaves reading, writing, memory and threads.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import platform
import resource
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

import zstandard
from blake3 import blake3
from isal import isal_zlib

from skerry_node.image import layer, worker_filter
from skerry_node.image.errors import DamagedContent, InvalidLayer
from skerry_node.kernel import confining, syscalls

HOST_ID = (1 << 31) - 2
"""The user and group that a converter is outside: above every sandbox's range, and nobody's."""
MEMORY_BYTES = 240 << 20
_MAX_REQUEST_BYTES = 4096
_CPU_SECONDS, _CPU_BYTES_PER_SECOND = 20, 16 << 20
"""Processor time for a layer: a quarter of the pace seen here, and some more. A bomb is cut there if nothing else finds it."""
_STACK_BYTES, _MAX_THREADS, _MAX_FILE_BYTES = 512 << 10, 8, 80 << 30
_SWITCH_SECONDS = 0.0005
"""Threads here hash and inflate most of the time: one that comes back for the interpreter waits no longer than this."""
_INPUT, _OUTPUT, _RESULT = 3, 4, 5
_NAMESPACES = (
    syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
)  # fmt: skip
_FILTER = worker_filter.build_filter(platform.machine())


class OutOfTime(Exception):
    """The processor time of the layer is used up."""


def serve(control: socket.socket) -> None:
    """Fork a converter for each request on *control*, until the other end goes. Answers with its pidfd."""
    _warm()
    children: dict[int, tuple[int, int, int]] = {}  # by pidfd: pid, result, the end of a pipe that tells it that we live
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd in children:
                poller.unregister(fd)
                _reap(fd, *children.pop(fd))
                continue
            message, fds, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, 3)
            if not message:
                return  # the children die with us
            pidfd, pid, go = _start(json.loads(message), fds)
            children[pidfd] = (pid, fds[2], go)
            poller.register(pidfd, select.POLLIN)
            socket.send_fds(control, [b"%d" % pid], [pidfd])
            os.close(fds[0])
            os.close(fds[1])


def _warm() -> None:
    """Have everything loaded that a child needs: it cannot open a file."""
    hashlib.sha256(b"").hexdigest()
    blake3(b"").hexdigest()
    isal_zlib.decompressobj(wbits=31).decompress(isal_zlib.compress(b"warm", 0, 31))
    zstandard.ZstdDecompressor().decompress(zstandard.ZstdCompressor().compress(b"warm"))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")
    threading.stack_size(_STACK_BYTES)
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.disable()  # an index has no cycles
    gc.freeze()


def _start(request: dict[str, Any], fds: list[int]) -> tuple[int, int, int]:
    ready, go = os.pipe()
    pid = syscalls.clone(_NAMESPACES)
    if pid == 0:
        os.close(go)
        _child(request, fds, ready)
    os.close(ready)
    try:
        confining.write_maps(pid, HOST_ID if os.geteuid() == 0 else None)
        os.write(go, b"1")
    except OSError:
        os.kill(pid, signal.SIGKILL)
    return os.pidfd_open(pid), pid, go


def _reap(pidfd: int, pid: int, result: int, go: int) -> None:
    """Say how it ended, behind what it said itself."""
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.write(result, json.dumps({"status": status}).encode() + b"\n")
    for fd in (result, pidfd, go):
        os.close(fd)


def _child(request: dict[str, Any], fds: list[int], ready: int) -> NoReturn:
    try:
        if os.read(ready, 1) != b"1":
            os._exit(1)
        confining.become_mapped()
        confining.die_with_parent()
        poller = select.poll()
        poller.register(ready, select.POLLIN)
        if poller.poll(0):
            os._exit(1)  # the parent had died before
        promise = layer.Promise(**request)
        os.nice(5)  # launches go first
        leave(fds, cpu_seconds=_CPU_SECONDS + promise.size_bytes // _CPU_BYTES_PER_SECOND)
        answer = _convert(promise)
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        os.write(_RESULT, json.dumps(answer).encode() + b"\n")
    except BaseException as error:  # noqa: BLE001 - nobody above could act
        with contextlib.suppress(BaseException):
            os.write(_RESULT, json.dumps({"error": "Failed", "message": f"{type(error).__name__}: {error}"[:500]}).encode() + b"\n")
        os._exit(1)
    os._exit(0)


def leave(fds: list[int], *, cpu_seconds: int) -> None:
    """Give up everything but *fds*, which become 3, 4 and 5: from here on hostile bytes may be read."""
    high = [os.dup2(fd, 100 + place, inheritable=False) for place, fd in enumerate(fds)]
    for place, fd in enumerate(high):
        os.dup2(fd, _INPUT + place)
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(fd)
    syscalls.close_range(_RESULT + 1)
    _empty_root()
    for kind, soft, hard in (
        (resource.RLIMIT_DATA, MEMORY_BYTES, MEMORY_BYTES), (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 5),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES, _MAX_FILE_BYTES), (resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_NOFILE, _RESULT + 1, _RESULT + 1),
        (resource.RLIMIT_NPROC, _MAX_THREADS, _MAX_THREADS), (resource.RLIMIT_MEMLOCK, 0, 0),
    ):  # fmt: skip
        resource.setrlimit(kind, (soft, hard))
    signal.signal(signal.SIGXCPU, _out_of_time)
    confining.drop_capabilities()
    confining.install_filter(_FILTER)


def _empty_root() -> None:
    """Stand in an empty, read-only directory; nothing of the host is in reach of a name."""
    syscalls.mount(b"none", b"/", None, flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount(
        b"tmpfs", b"/proc", b"tmpfs", flags=syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, data=b"nr_inodes=2,size=4k,mode=0555"
    )
    os.chdir("/proc")
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".")
    os.chdir("/")
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount(b"none", b"/", None, flags=32 | syscalls.MS_BIND | flags)  # MS_REMOUNT


def _out_of_time(_number: int, _frame: object) -> NoReturn:
    raise OutOfTime


def _convert(promise: layer.Promise) -> dict[str, Any]:
    try:
        with open(_INPUT, "rb", buffering=0, closefd=False) as blob:
            sealed = layer.convert(blob, promise, _OUTPUT, start_writeback=confining.start_writeback)
    except (DamagedContent, InvalidLayer, MemoryError, OutOfTime, OSError) as error:
        return _describe(promise, error)
    return {"size_bytes": sealed.size_bytes, "seal": sealed.seal}


def _describe(promise: layer.Promise, error: BaseException) -> dict[str, Any]:
    if isinstance(error, MemoryError):
        return {"error": "InvalidLayer", "message": f"layer {promise.digest}: its index takes more than {MEMORY_BYTES >> 20} MiB"}
    if isinstance(error, OutOfTime):
        return {"error": "InvalidLayer", "message": f"layer {promise.digest}: it takes too long to unpack for its size"}
    if isinstance(error, OSError):
        return {"error": "OSError", "errno": error.errno, "message": f"layer {promise.digest}: {error.strerror}"}
    return {"error": type(error).__name__, "message": str(error)[:1000]}


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
