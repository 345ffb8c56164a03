"""Slots and leases: a slot is a number that fixes an address, a range of ids, a link's name; a lease is one file that says whose it is.

A file per slot is made whole under a temporary name and linked into place, so that two takers cannot both have it and a crash leaves no half.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass

from skerry_node.settings import MAX_SLOTS

GATEWAY_SLOT = 1
FIRST_SLOT = 2
IDS_PER_SLOT = 65_536
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_INTERFACE_NAME_BYTES = 15
"""IFNAMSIZ less the NUL (linux/if.h)."""


class NoSlotLeft(OSError):
    """Every slot of the node is taken."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One slot held by one owner: a sandbox's uid, or `shell-<slot>`."""

    slot: int
    owner: str


class Ipam:
    """The leases of one node. The files are the truth; this holds a copy for speed, and is the only writer."""

    def __init__(
        self, leases_dir: str, *, network: ipaddress.IPv4Network, id_base: int, link_prefix: str, network6: ipaddress.IPv6Network | None = None
    ) -> None:
        self.before_release: Callable[[int], None] = lambda _: None
        """Called with a slot before it is free: what the kernel holds of it must go first. May raise OSError; the slot stays taken then."""
        os.makedirs(leases_dir, mode=0o700, exist_ok=True)
        self._directory_fd = os.open(leases_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._network, self._network6 = network, network6
        self._id_base = id_base
        self._link_prefix = link_prefix
        self._slots = min(network.num_addresses - 1, MAX_SLOTS)
        self._owners: dict[int, str] = {}
        self._by_owner: dict[str, int] = {}
        self._last = FIRST_SLOT - 1
        self._load()

    def acquire(self, owner: str) -> Lease:
        """A lease for *owner*: the one it has, or the next free slot after the last one given. Raises NoSlotLeft."""
        held = self._by_owner.get(owner)
        if held is not None:
            return Lease(held, owner)
        usable = self._slots - FIRST_SLOT
        for step in range(1, usable + 1):
            slot = FIRST_SLOT + (self._last - FIRST_SLOT + step) % usable
            if slot not in self._owners and self._claim(slot, owner):
                self._last = slot
                return Lease(slot, owner)
        raise NoSlotLeft(errno.ENOSPC, f"all {usable} slots of {self._network} are taken; widen --address-range")

    def hand_over(self, slot: int, old: str, new: str) -> None:
        """Give *slot* of *old* to *new* in one step. Raises FileNotFoundError when *old* does not hold it, FileExistsError when *new* has one."""
        if self._owners.get(slot) != old:
            raise FileNotFoundError(errno.ENOENT, f"slot {slot} is not held by {old}")
        if self._by_owner.get(new, slot) != slot:
            raise FileExistsError(errno.EEXIST, f"{new} holds slot {self._by_owner[new]} already")
        temporary = self._write_temporary(slot, new)
        os.rename(temporary, str(slot), src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        self._by_owner.pop(old, None)
        self._remember(slot, new)

    def release(self, slot: int) -> None:
        """Free *slot*; a free one is fine."""
        self.before_release(slot)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(str(slot), dir_fd=self._directory_fd)
        owner = self._owners.pop(slot, None)
        if owner is not None and self._by_owner.get(owner) == slot:
            del self._by_owner[owner]

    def find(self, owner: str) -> Lease | None:
        """The lease of *owner*, or None."""
        slot = self._by_owner.get(owner)
        return None if slot is None else Lease(slot, owner)

    def owner(self, slot: int) -> str | None:
        """Who holds *slot*, or None."""
        return self._owners.get(slot)

    def list(self) -> list[Lease]:
        """Every lease."""
        return [Lease(slot, owner) for slot, owner in sorted(self._owners.items())]

    def address(self, slot: int) -> ipaddress.IPv4Address:
        """The address of *slot*."""
        return self._network[slot]

    def addresses(self, slot: int) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
        """All of *slot*: the same place in each range, so that one lease covers them."""
        return (self._network[slot],) if self._network6 is None else (self._network[slot], self._network6[slot])

    def find_slot(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | None:
        """The slot whose address that is, taken or not; None when it is none of ours."""
        network = self._network if address.version == self._network.version else self._network6
        if network is None or address not in network:
            return None
        slot = int(address) - int(network.network_address)
        return slot if FIRST_SLOT <= slot < self._slots else None

    def id_range(self, slot: int) -> tuple[int, int]:
        """First host id and number of ids of *slot*."""
        return self._id_base + slot * IDS_PER_SLOT, IDS_PER_SLOT

    @property
    def link_prefix(self) -> str:
        """What the names of all links of this node begin with."""
        return self._link_prefix

    def mac(self, slot: int) -> str:
        """A locally administered address made from the IP address: 02:58 and its four bytes."""
        return ":".join(f"{byte:02x}" for byte in (0x02, 0x58, *self.address(slot).packed))

    def veth_name(self, slot: int) -> str:
        """The name of the link's end on the host."""
        digits, rest = "", slot
        while rest:
            rest, digit = divmod(rest, 36)
            digits = _DIGITS[digit] + digits
        return self._link_prefix[: _INTERFACE_NAME_BYTES - len(digits)] + digits

    def _load(self) -> None:
        for name in os.listdir(self._directory_fd):
            if not (name.isascii() and name.isdigit()):  # what a crash left half written
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory_fd)
                continue
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory_fd)
            try:
                self._remember(int(name), os.read(fd, 256).decode("ascii", "replace"))
            finally:
                os.close(fd)
            self._last = max(self._last, int(name))

    def _claim(self, slot: int, owner: str) -> bool:
        temporary = self._write_temporary(slot, owner)
        try:
            os.link(temporary, str(slot), src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary, dir_fd=self._directory_fd)
        self._remember(slot, owner)
        return True

    def _write_temporary(self, slot: int, owner: str) -> str:
        name = f".{slot}"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._directory_fd)
        try:
            os.write(fd, owner.encode())
        finally:
            os.close(fd)
        return name

    def _remember(self, slot: int, owner: str) -> None:
        self._owners[slot] = owner
        self._by_owner[owner] = slot
