"""From an agent's container to the host: run as a script in a process of its own, it leaves the container and becomes something else.

`python -I -S detaching.py ORDER`, ORDER being JSON: `groups`, files cgroup.procs to be joined; `log`, a path of the host; `argv`, a program of the
host. It joins the host's mount, UTS, IPC, network and control group namespaces; the pid namespace must be the host's already (hostPID), for a
process cannot change its own. Needs CAP_SYS_ADMIN and CAP_SYS_CHROOT. It ends with 0 once a child of nobody executes the program.
"""

from __future__ import annotations

import json
import os
import sys


def find_host(parent: int) -> str:
    """The `ns` directory of a process that is in the host's namespaces: init, or *parent* where init may not be touched.

    *parent* is the agent's own: the container runtime's shim, which lives in the host's namespaces. Raises PermissionError.
    """
    for pid in (1, parent):
        path = f"/proc/{pid}/ns"
        try:
            os.stat(f"{path}/mnt")
        except OSError:
            continue
        return path
    raise PermissionError(f"neither /proc/1/ns nor /proc/{parent}/ns can be used: the agent's pod needs hostPID and privileged")


def main() -> None:
    """Leave, and become `argv`."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from skerry_node.kernel import syscalls  # noqa: PLC0415 - a script finds its package only now

    order = json.loads(sys.argv[1])
    for path in order["groups"]:
        with open(path, "w", encoding="ascii") as file:
            file.write("0")  # whoever writes
    for name in ("cgroup", "uts", "ipc", "net", "mnt"):  # the mount namespace last: /proc is another's behind it
        fd = os.open(f"{order['host']}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(fd, 0)
        os.close(fd)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 1 << 16)
    os.execv(order["argv"][0], order["argv"])  # noqa: S606 - our own runtime


if __name__ == "__main__":
    main()
