"""Slots and leases: one holder each, across any crash, and names that do not collide."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry_node.network import ipam

NETWORK = ipaddress.IPv4Network("10.99.0.0/24")
TINY = ipaddress.IPv4Network("10.99.0.0/29")
ID_BASE = 1_000_013_824 & ~0xFFFF


def open_leases(path: Path, network: ipaddress.IPv4Network = NETWORK) -> ipam.Ipam:
    return ipam.Ipam(str(path), network=network, id_base=ID_BASE, link_prefix="skt1-")


def test_a_slot_fixes_everything_else(tmp_path: Path):
    """Address, ids, hardware address and link name all come from the number."""
    leases = open_leases(tmp_path)
    assert str(leases.address(2)) == "10.99.0.2"
    assert leases.id_range(2) == (ID_BASE + 2 * 65_536, 65_536)
    assert leases.mac(2) == "02:58:0a:63:00:02"
    assert leases.veth_name(2) == "skt1-2"


def test_ids_of_every_possible_slot_are_apart_and_below_two_to_the_31(tmp_path: Path):
    """Programs that take an id for a signed number meet none that is negative."""
    leases = open_leases(tmp_path)
    first, count = leases.id_range(ipam.MAX_SLOTS - 1)
    assert first + count <= 1 << 31
    assert leases.id_range(3)[0] == sum(leases.id_range(2))


@pytest.mark.parametrize("slot", [2, 35, 36, 1_295, 1_296, ipam.MAX_SLOTS - 1])
def test_link_names_fit_the_kernel_and_differ(tmp_path: Path, slot: int):
    """15 bytes, also with a long prefix."""
    leases = ipam.Ipam(str(tmp_path), network=NETWORK, id_base=ID_BASE, link_prefix="skabcdefghijklmno-")
    assert len(leases.veth_name(slot)) <= 15
    assert leases.veth_name(slot) != leases.veth_name(slot - 1)


def test_an_owner_gets_the_slot_it_has(tmp_path: Path):
    """Asking twice is asking once."""
    leases = open_leases(tmp_path)
    assert leases.acquire("a") == leases.acquire("a") == ipam.Lease(2, "a")
    assert leases.list() == [ipam.Lease(2, "a")]


def test_a_freed_slot_rests_until_the_others_had_their_turn(tmp_path: Path):
    """What the network remembers of an address has time to fade."""
    leases = open_leases(tmp_path, TINY)
    assert [leases.acquire(name).slot for name in "abc"] == [2, 3, 4]
    leases.release(2)
    assert [leases.acquire(name).slot for name in "def"] == [5, 6, 2]


def test_a_full_range_is_told_with_what_to_do(tmp_path: Path):
    """The network's own two addresses and the gateway's are never given."""
    leases = open_leases(tmp_path, TINY)
    given = {leases.acquire(name).slot for name in "abcde"}
    assert given == {2, 3, 4, 5, 6}
    with pytest.raises(ipam.NoSlotLeft, match="--address-range"):
        leases.acquire("f")


def test_releasing_is_repeatable(tmp_path: Path):
    """A free slot, released, is free."""
    leases = open_leases(tmp_path)
    leases.release(leases.acquire("a").slot)
    leases.release(2)
    assert leases.find("a") is None
    assert os.listdir(tmp_path) == []


def test_a_shell_becomes_a_sandbox_with_its_slot(tmp_path: Path):
    """One holder before, one after, none lost when the agent starts anew."""
    leases = open_leases(tmp_path)
    slot = leases.acquire("shell-2").slot
    leases.hand_over(slot, "shell-2", "a")
    assert leases.find("shell-2") is None
    for seen in (leases, open_leases(tmp_path)):
        assert seen.list() == [ipam.Lease(slot, "a")]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        pytest.param("somebody", "c", FileNotFoundError, id="not the holder"),
        pytest.param("a", "b", FileExistsError, id="the new one has a slot"),
    ],
)
def test_a_wrong_hand_over_changes_nothing(tmp_path: Path, old: str, new: str, error: type[OSError]):
    """Refused before anything is written."""
    leases = open_leases(tmp_path)
    leases.acquire("a")
    leases.acquire("b")
    with pytest.raises(error):
        leases.hand_over(2, old, new)
    assert open_leases(tmp_path).list() == [ipam.Lease(2, "a"), ipam.Lease(3, "b")]


def test_another_writer_is_never_overwritten(tmp_path: Path):
    """A lease file that this agent does not know of keeps its holder."""
    leases = open_leases(tmp_path)
    (tmp_path / "2").write_text("stranger", encoding="ascii")
    assert leases.acquire("a").slot == 3
    assert (tmp_path / "2").read_text(encoding="ascii") == "stranger"


class Killed(BaseException):
    """The process ends here."""


CHANGES: dict[str, Callable[[ipam.Ipam], object]] = {
    "acquire": lambda leases: leases.acquire("new"),
    "hand over": lambda leases: leases.hand_over(2, "kept", "new"),
    "release": lambda leases: leases.release(2),
}
CALLS = ("open", "write", "close", "link", "rename", "unlink")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_any_call_leaves_whole_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, call: str, *, after: bool):
    """Killed before or after each system call: the next agent finds every slot with one whole owner, and no temporary file."""
    leases = open_leases(tmp_path)
    leases.acquire("kept")
    is_dead = False

    def mortal(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def run(*arguments: object, **options: object) -> object:
            nonlocal is_dead
            if is_dead:  # the dead clean nothing up
                raise Killed
            is_dead = name == call
            if is_dead and not after:
                raise Killed
            result = real(*arguments, **options)
            if is_dead:
                raise Killed
            return result

        return run

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        for name in CALLS:
            patched.setattr(ipam.os, name, mortal(name))
        CHANGES[change](leases)
    found = open_leases(tmp_path)
    owners = [lease.owner for lease in found.list()]
    assert set(owners) <= {"kept", "new"}
    assert len(owners) == len(set(owners))
    assert sorted(os.listdir(tmp_path)) == sorted(str(lease.slot) for lease in found.list())
    if change != "release":
        assert 2 in [lease.slot for lease in found.list()]


def test_a_second_range_has_the_same_places(tmp_path):
    """One lease covers both addresses; each is found by its slot again, and others are nobody's."""
    six = ipaddress.IPv6Network("fd58:5e::/64")
    leases = ipam.Ipam(str(tmp_path), network=NETWORK, network6=six, id_base=ID_BASE, link_prefix="skt1-")
    slot = leases.acquire("u").slot
    assert leases.addresses(slot) == (NETWORK[slot], six[slot])
    assert [leases.find_slot(address) for address in leases.addresses(slot)] == [slot, slot]
    assert [leases.find_slot(address) for address in (six[0], six[1], six[1 << 40], ipaddress.ip_address("fd58:5f::2"))] == [None] * 4
