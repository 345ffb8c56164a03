"""What agent and keeper say to each other: length-prefixed JSON over a unix stream socket, and the values in it.

A message is four bytes of length (network order), then one JSON object. A request carries `id` and `do`; its reply carries the
same `id` and either `ok` or `error`. A message without `id` is an event. Both ends treat a message over MAX_BYTES as a broken peer.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

MAX_BYTES = 8 << 20
_LENGTH = struct.Struct("!I")
Message = dict[str, Any]


class BrokenPeer(Exception):
    """The other end does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair: its end on the host, and what its end inside is given."""

    host_name: str
    bridge_index: int
    mac: str
    address: str
    prefix: int
    gateway: str
    address6: str = ""
    prefix6: int = 0
    gateway6: str = ""
    """Of IPv6; empty without."""


@dataclass(frozen=True, slots=True)
class Shell:
    """A prepared set of namespaces: slot number, first host id of its 65,536, and its link (None: loopback only)."""

    slot: int
    id_base: int
    link: Link | None


@dataclass(frozen=True, slots=True)
class Dress:
    """A root filesystem that a shell is given before anybody wants it: layers, lowest first, and the name of its writable layer."""

    layers: tuple[str, ...]
    writable: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A mount that comes as an fd with the launch: where it goes, and whether its ids are to be mapped to the sandbox's."""

    target: str
    is_mapped: bool


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of one sandbox. Everything is decided: the keeper looks nothing up.

    `layers` are file names below the layer directory, lowest first. `user` is the text of the image or manifest, resolved by the
    child inside the root. `capabilities` is a bit mask. `attempt` counts the starts of this uid from 0. `dressed` tells that the shell's
    own root is to be used: its writable layer has become this sandbox's. Each of `volumes` is an fd that comes with the request.
    With `has_terminal` input and both outputs are a terminal of the sandbox's own; with `has_input` alone, input is a pipe that is held open.
    With `has_disk` one more fd comes before those of `volumes`: the mount that holds the writable layer.
    """

    uid: str
    attempt: int
    shell: Shell
    host_network: bool
    layers: tuple[str, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    hostname: str
    hosts: str
    resolv_conf: str
    read_only: bool
    capabilities: int
    dressed: bool
    volumes: tuple[Volume, ...] = ()
    init: bool = False
    """The first process is ours, and starts the program."""
    has_terminal: bool = False
    has_input: bool = False
    has_disk: bool = False

    @property
    def has_console(self) -> bool:
        """Whether somebody can type to the first process."""
        return self.has_terminal or self.has_input


@dataclass(frozen=True, slots=True)
class Entry:
    """One process that joins a living sandbox: a program of its image, or a task of ours (`keeper.tasks`) when *task* is not empty.

    `name`, UID/ID, identifies it on this node. `user` is resolved inside, as for a launch. `id_base` is the host's id of the sandbox's root.
    With a terminal it has `columns` by `rows` characters, and input and both outputs are that terminal.
    """

    uid: str
    name: str
    task: str
    argv: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    hostname: str
    id_base: int
    capabilities: int
    has_terminal: bool = False
    has_input: bool = False
    columns: int = 80
    rows: int = 24

    @property
    def has_pipes(self) -> bool:
        """Whether its streams are pipes: not those of a terminal, and not of a task that hands a socket over."""
        return not self.has_terminal and self.task != "connect"


def encode(message: Message) -> bytes:
    """*message* framed for the socket."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


def take(buffer: bytearray) -> Message | None:
    """The first whole message in *buffer*, removed from it; None when more bytes are needed. Raises BrokenPeer."""
    if len(buffer) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    if length > MAX_BYTES:
        raise BrokenPeer(f"a message of {length} bytes")
    end = _LENGTH.size + length
    if len(buffer) < end:
        return None
    body = bytes(buffer[_LENGTH.size : end])
    del buffer[:end]
    try:
        message = json.loads(body)
    except ValueError as error:
        raise BrokenPeer("not JSON") from error
    if not isinstance(message, dict):
        raise BrokenPeer("not an object")
    return message


def render_launch(launch: Launch) -> Message:
    """*launch* as JSON. What an older keeper does not know is said only where it is wanted."""
    raw = asdict(launch)
    if not launch.init:
        del raw["init"]
    return raw


def render_shell(shell: Shell) -> Message:
    """*shell* as JSON."""
    return asdict(shell)


def parse_shell(raw: Message) -> Shell:
    """A Shell from JSON."""
    link = Link(**raw["link"]) if raw["link"] is not None else None
    return Shell(slot=raw["slot"], id_base=raw["id_base"], link=link)


def render_dress(dress: Dress | None) -> Message | None:
    """*dress* as JSON."""
    return asdict(dress) if dress is not None else None


def parse_dress(raw: Message | None) -> Dress | None:
    """A Dress from JSON."""
    return Dress(layers=tuple(raw["layers"]), writable=raw["writable"]) if raw is not None else None


def parse_launch(raw: Message) -> Launch:
    """A Launch from JSON; the peer is the agent, so a wrong shape is a bug and raises."""
    fields = dict(raw)
    fields["shell"] = parse_shell(fields["shell"])
    for name in ("layers", "argv", "env"):
        fields[name] = tuple(fields[name])
    fields["volumes"] = tuple(Volume(**volume) for volume in fields["volumes"])
    return Launch(**fields)


def render_entry(entry: Entry) -> Message:
    """*entry* as JSON."""
    return asdict(entry)


def parse_entry(raw: Message) -> Entry:
    """An Entry from JSON."""
    return Entry(**{**raw, "argv": tuple(raw["argv"]), "env": tuple(raw["env"])})
