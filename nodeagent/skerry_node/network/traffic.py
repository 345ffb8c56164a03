"""What went over a sandbox's link, by the counters of the end on the host (Documentation/networking/statistics.rst)."""

from __future__ import annotations

import os
from dataclasses import dataclass

_LINKS = "/sys/class/net"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Since the link was made, as the sandbox sees it: received is what came into it."""

    received_bytes: int
    received_packets: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_dropped: int


def read_traffic(link: str, *, root: str = _LINKS) -> Traffic | None:
    """Of the sandbox whose end on the host is *link*, in our network namespace; None when there is none. Other errors are OSError."""
    try:
        # What the host's end sends is what the sandbox receives.
        received = [_read(root, link, name) for name in ("tx_bytes", "tx_packets", "tx_dropped")]
        sent = [_read(root, link, name) for name in ("rx_bytes", "rx_packets", "rx_dropped")]
    except FileNotFoundError:
        return None
    return Traffic(*received, *sent)


def read_all(*, path: str = "/proc/net/dev") -> dict[str, Traffic]:
    """Of every link of our network namespace, by its name, as whoever is at its other end sees it. Raises OSError.

    One file for all (proc_net_dev(5), net/core/net-procfs.c): it waits for no lock of the network, as netlink's dumps do while links come and go.
    Received and dropped has those in it that the link missed, which a veth does not do.
    """
    found = {}
    with open(path, encoding="ascii") as file:
        for line in file.readlines()[2:]:
            name, _, counts = line.partition(":")
            fields = counts.split()
            found[name.strip()] = Traffic(
                received_bytes=int(fields[8]), received_packets=int(fields[9]), received_dropped=int(fields[11]),
                sent_bytes=int(fields[0]), sent_packets=int(fields[1]), sent_dropped=int(fields[3]),
            )  # fmt: skip
    return found


def read_moved(*, path: str = "/proc/net/dev") -> dict[str, int]:
    """Of every link of our network namespace: bytes both ways. Raises OSError."""
    return {name: each.received_bytes + each.sent_bytes for name, each in read_all(path=path).items()}


def _read(root: str, link: str, name: str) -> int:
    with open(os.path.join(root, link, "statistics", name), encoding="ascii") as file:
        return int(file.read())
