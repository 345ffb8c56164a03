"""What a real cluster on this machine needs, each with the next step. Whoever lacks one of them hears it before anything is begun."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator

PROGRAMS = {
    "runc": "runc", "buildah": "buildah", "debootstrap": "debootstrap", "nft": "nftables", "ip": "iproute2", "mkfs.ext4": "e2fsprogs",
    "busybox": "busybox-static", "/usr/lib/cni/bridge": "containernetworking-plugins", "/usr/lib/cni/host-local": "containernetworking-plugins",
}  # fmt: skip
"""The Debian package of each; `make e2e` installs them."""
DEVICES = ("/dev/kmsg", "/dev/loop-control")
"""For the kubelet, and for the filesystem of writable layers."""
_SYS_ADMIN, _NET_ADMIN = 21, 12
"""CAP_*, linux/capability.h."""
_LOCK = "/run/lock/skerry-e2e.lock"


def find_missing() -> Iterator[str]:
    """A sentence for each thing that is not here."""
    if os.geteuid() != 0 or not _has_capabilities():
        yield "it makes mounts, links and control groups: run it as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            yield f"{program} is not here: apt-get install {package}"
    for path in DEVICES:
        if not os.path.exists(path):
            yield f"{path} is not here: give it to this container"


def claim(*, seconds: float = 1500.0) -> int:
    """The right to be the only one on this machine, as a descriptor to keep open: links, addresses and directories have fixed names.

    Whoever comes second waits for it; raises TimeoutError after *seconds*.
    """
    os.makedirs(os.path.dirname(_LOCK), exist_ok=True)
    fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise TimeoutError(f"another cluster has run on this machine for {seconds:.0f} s") from None
            time.sleep(0.5)
        else:
            return fd


def _has_capabilities() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return all(held >> number & 1 for number in (_SYS_ADMIN, _NET_ADMIN))
