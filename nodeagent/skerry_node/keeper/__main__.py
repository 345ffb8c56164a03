"""The keeper's start: open what it needs, leave the host's tree, adopt what lives, serve.

Started by the agent as `python -I -S -c BOOT SETTINGS`, detached; SETTINGS is one JSON object (see `settings.py`). Needs root.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1
import encodings.utf_8
import gc
import linecache
import os
import signal
import socket
import sys
import tokenize
import traceback

from skerry_node.keeper import holding, inside, link, logs, migration, rootfs, seccomp, spawn, supervise, tree
from skerry_node.keeper.settings import Settings, parse
from skerry_node.kernel import syscalls

PRELOADED = (encodings.ascii, encodings.latin_1, encodings.utf_8, linecache, tokenize, traceback, inside)
"""What Python would otherwise import later, when there is no file left to import it from."""


def main() -> None:
    """Run the keeper until it is told to stop."""
    settings = parse(sys.argv[1])
    kept_above, kept = holding.open_attic(os.path.join(os.path.dirname(settings.socket_path), holding.NAME))
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    os.umask(0o022)
    room = _open_room(settings)
    listener = _listen(settings.socket_path) if settings.listener_fd < 0 else _take_over(settings.listener_fd)
    tree.enter(settings.build_dir.encode(), settings.scratch_dir.encode())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    held = migration.hold()
    keeper = supervise.Keeper(room, listener, kept_above, runtime=settings.runtime)
    keeper.adopt(kept)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in a forked child would dirty every page; the loop makes no cycles
    keeper.run()
    if held is not None:
        os.close(held)


def _open_room(settings: Settings) -> spawn.Room:
    return spawn.Room(
        runtime_fd=_open(settings.runtime_dir),
        logs_fd=_open(settings.logs_dir),
        layers=rootfs.Layers(_open(settings.layers_dir)),
        cgroup_fds=tuple(_open(path) for path in settings.cgroup_dirs),
        io_fds=tuple(_open(path) for path in settings.io_dirs),
        rtnl=link.Rtnl(),
        seccomp_program=seccomp.build_filter(os.uname().machine),
        bounds=logs.Bounds(segment_bytes=settings.log_segment_bytes, segments=settings.log_segments),
    )


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _listen(path: str) -> socket.socket:
    """Bind beside the name and rename, so that whoever finds the socket finds a listening one."""
    temporary = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    listener.bind(temporary)
    os.umask(mask)
    listener.listen(16)
    os.rename(temporary, path)
    return listener


def _take_over(fd: int) -> socket.socket:
    """The socket of the one that executed us: whoever connected meanwhile waits in its queue."""
    os.set_inheritable(fd, False)  # noqa: FBT003 - the os module's own signature
    return socket.socket(fileno=fd)


if __name__ == "__main__":
    main()
