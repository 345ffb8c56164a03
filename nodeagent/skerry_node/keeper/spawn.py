"""Shells and launches: a child cloned into every namespace, given its ids, its link and its cgroup, then sent what to become.

A cold launch is a shell made at that moment, so there is one way only. Runs in the keeper, single-threaded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from dataclasses import dataclass, field

from skerry_node.keeper import consoles, inside, link, logs, records, rootfs, wire
from skerry_node.kernel import syscalls

_NAMESPACES = (
    syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
)  # fmt: skip
IDS = 65_536


@dataclass(slots=True)
class Parked:
    """A shell that waits for its sandbox. `orders` is the keeper's end of its socket; closing it ends the child."""

    shell: wire.Shell
    dress: wire.Dress | None
    pid: int
    start_ticks: int
    pidfd: int
    userns_fd: int
    orders: socket.socket

    def close(self) -> None:
        """Let go of every fd; the child ends by itself when it has not been launched."""
        self.orders.close()
        for fd in (self.userns_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class Room:
    """The directories that the keeper reaches, by fd: it has no paths of the host."""

    runtime_fd: int
    logs_fd: int
    layers: rootfs.Layers
    cgroup_fds: tuple[int, ...]
    io_fds: tuple[int, ...]
    """Parents of control groups that only some sandboxes have: those of version 1 whose devices are limited."""
    rtnl: link.Rtnl
    seccomp_program: bytes
    bounds: logs.Bounds


@dataclass(slots=True)
class Starting:
    """A launch between its orders and its exec: the status pipe says how it went."""

    launch: wire.Launch
    pid: int
    pidfd: int
    status_fd: int
    streams: tuple[logs.Stream, ...]
    console: consoles.Console | None = None
    problem: bytearray = field(default_factory=bytearray)


def prepare(room: Room, shell: wire.Shell, *, waits: bool, dress: wire.Dress | None = None, host_network: bool = False) -> Parked:
    """A new shell for *shell*'s slot, with its link, and with a root where *dress* says one. Raises OSError; nothing of it stays then.

    One that *waits* for its sandbox goes through its part before.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = syscalls.clone(_NAMESPACES | (0 if host_network else syscalls.CLONE_NEWNET))
    if pid == 0:
        os.dup2(theirs.fileno(), inside.ORDER_FD)
        syscalls.close_range(inside.ORDER_FD + 1)
        inside.main(socket.socket(fileno=inside.ORDER_FD), room.seccomp_program)
    theirs.close()
    parked = Parked(shell=shell, dress=dress, pid=pid, start_ticks=0, pidfd=-1, userns_fd=-1, orders=ours)
    try:
        parked.pidfd = os.pidfd_open(pid)
        parked.start_ticks = records.read_start_ticks(pid) or 0
        proc_fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _write_maps(proc_fd, shell.id_base)
            parked.userns_fd = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
            with contextlib.ExitStack() as opened:
                fds = [] if dress is None else [_mount_root(room, parked, dress.layers, writable=dress.writable)]
                opened.callback(_close, fds)
                _send(ours, {**wire.render_shell(shell), "host_network": host_network, "dressed": dress is not None, "waits": waits}, fds)
            if shell.link is not None and not host_network:
                _give_link(room, proc_fd, shell.link)
                ours.send(inside.LINK_IS_THERE)  # the child has built its mounts meanwhile
        finally:
            os.close(proc_fd)
    except BaseException:
        parked.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise
    return parked


def launch(room: Room, parked: Parked, order: wire.Launch, raw: wire.Message, *, volume_fds: list[int]) -> Starting:
    """Turn *parked* into the sandbox that *order* describes: cgroup, root filesystem, output, then its orders, *raw* as they came.

    Consumes *parked*; *volume_fds* stay the caller's. Raises OSError; the child is gone then.
    """
    opened: list[int] = []
    console = None
    try:
        _join_cgroups(room, order.uid, parked.pid)
        if order.dressed:
            _check_dress(parked, order)
        else:
            place = volume_fds[0] if order.has_disk else order.uid
            opened.append(_mount_root(room, parked, order.layers, writable=place, read_only=order.read_only))
        volume_fds = volume_fds[1:] if order.has_disk else volume_fds
        _map_volumes(parked, order, volume_fds)
        root_fds = tuple(opened)
        directory = os.open(order.uid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=room.runtime_fd)
        try:
            logs.ensure_pipes(directory)
            streams = logs.open_streams(directory, room.logs_fd, order.uid, room.bounds)
            if order.has_input and not order.has_terminal:
                console, reading_end = consoles.make_input(order.shell.id_base)
                opened.append(reading_end)
            opened += logs.open_writing_ends(directory, order.shell.id_base)
        finally:
            os.close(directory)
        reading, writing = _make_status_channel(has_terminal=order.has_terminal)
        opened.append(writing)
        _send(parked.orders, raw, [*root_fds, *volume_fds, *opened[len(root_fds) :]])
    except BaseException:
        parked.close()
        if console is not None:
            console.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(parked.pid, 0)
        raise
    finally:
        _close(opened)
    starting = Starting(launch=order, pid=parked.pid, pidfd=parked.pidfd, status_fd=reading, streams=streams, console=console)
    parked.pidfd = -1
    parked.close()
    return starting


def _make_status_channel(*, has_terminal: bool) -> tuple[int, int]:
    """Our end, which does not block, and the child's: a pipe, or where a terminal is to come the other way, a socket."""
    if has_terminal:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        reading, writing = ours.detach(), theirs.detach()
    else:
        reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    return reading, writing


def _mount_root(room: Room, parked: Parked, layers: tuple[str, ...], *, writable: str | int, read_only: bool = False) -> int:
    layer_fds = [room.layers.ensure(name) for name in layers]
    return rootfs.mount_overlay(layer_fds, writable=writable, userns_fd=parked.userns_fd, read_only=read_only)


def _map_volumes(parked: Parked, order: wire.Launch, fds: list[int]) -> None:
    """Files of the host keep their owners' numbers inside: 0 there is 0 here."""
    if len(fds) != len(order.volumes):
        raise OSError(errno.EBADF, f"{len(fds)} fds came for {len(order.volumes)} volumes")
    for volume, fd in zip(order.volumes, fds, strict=True):
        if volume.is_mapped:
            syscalls.mount_setattr(fd, set_flags=syscalls.MOUNT_ATTR_IDMAP, userns_fd=parked.userns_fd)


def _check_dress(parked: Parked, order: wire.Launch) -> None:
    if parked.dress is None or parked.dress.layers != order.layers:
        raise OSError(errno.ESTALE, f"the shell of slot {order.shell.slot} has no root of that image")


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _write_maps(proc_fd: int, id_base: int) -> None:
    """Map ids 0 to 65,535 of the sandbox to its own range. Host root is in no range (user_namespaces(7))."""
    line = f"0 {id_base} {IDS}\n".encode()
    for name in ("uid_map", "gid_map"):
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def _give_link(room: Room, proc_fd: int, wanted: wire.Link) -> None:
    netns_fd = os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        room.rtnl.create_veth(wanted.host_name, peer_netns_fd=netns_fd, master_index=wanted.bridge_index, mac=wanted.mac, isolated=True)
    finally:
        os.close(netns_fd)


def _join_cgroups(room: Room, uid: str, pid: int) -> None:
    for parent_fd in (*room.cgroup_fds, *room.io_fds):
        try:
            fd = os.open(f"{uid}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent_fd)
        except FileNotFoundError:
            if parent_fd in room.io_fds:
                continue  # its devices are not limited
            raise
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)


def _send(orders: socket.socket, order: wire.Message, fds: list[int]) -> None:
    body = json.dumps(order).encode()
    head = b"%-15d\n" % len(body)
    if fds:
        socket.send_fds(orders, [head], fds)
        orders.sendall(body)
    else:
        orders.sendall(head + body)
