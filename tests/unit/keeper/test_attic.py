"""The attic: descriptors outlive whoever put them there."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from skerry_node.keeper import attic, holding

OPENED: list[holding.Attic] = []


@pytest.fixture
def path(tmp_path):
    """An attic that serves in a thread, until nobody is connected and it holds nothing."""
    found = str(tmp_path / "attic.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(found)
    listener.listen(4)
    thread = threading.Thread(target=attic.serve, args=(listener,))
    thread.start()
    yield found
    holding.stop_attic(found)
    thread.join(10)
    while OPENED:
        close(OPENED.pop())
    listener.close()
    assert not thread.is_alive(), "it ends when it is told to, and when nothing is left to do"


def open_pipe(text):
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    return reading


def put(keeper, uid, attempt, text):
    """Keep a pipe with *text* in it, in the place of pidfd and pipes, and close our own."""
    fds = [open_pipe(text) for _ in range(3)]
    keeper.keep(uid, attempt, pidfd=fds[0], pipe_fds=fds[1:])
    for fd in fds:
        os.close(fd)


def take(path):
    """What is held now, read out, and the connection that asked."""
    connection, kept = holding.open_attic(path)
    OPENED.append(connection)
    found = {}
    for key, each in kept.items():
        found[key] = [os.read(fd, 100) for fd in (each.pidfd, *each.pipe_fds)]
        each.close()
    return connection, found


def close(keeper):
    """As the kernel does when a keeper is killed."""
    if keeper._connection is not None:
        keeper._connection.close()


def test_what_a_dead_keeper_put_there_is_handed_out(path):
    """Whole, under uid and number of the start, and only what was not taken back."""
    first, found = take(path)
    assert found == {}
    put(first, "a.b-c", 0, b"one")
    put(first, "a.b-c", 1, b"two")
    put(first, "gone", 0, b"three")
    first.drop("gone", 0)
    first.drop("never", 0)
    close(first)
    second, found = take(path)
    assert found == {("a.b-c", 0): [b"one"] * 3, ("a.b-c", 1): [b"two"] * 3}
    for key in found:
        second.drop(*key)
    close(second)


def test_the_newest_counts(path):
    """Keeping again replaces, and closes what was there."""
    keeper, _ = take(path)
    put(keeper, "a", 0, b"old")
    put(keeper, "a", 0, b"new")
    _, found = take(path)
    assert found["a", 0][0] == b"new"


def test_nonsense_does_no_harm(path):
    """A packet of no known letter, or with descriptors that nothing asked for: ignored, and they are closed."""
    keeper, _ = take(path)
    put(keeper, "a", 0, b"kept")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(path)
        reading, writing = os.pipe()
        for packet in (b"?", b"K", b"Dxyz", b"x" * 2000):
            socket.send_fds(stranger, [packet], [writing])
        os.close(writing)
        _, found = take(path)
        assert found[("a", 0)] == [b"kept"] * 3
    assert os.read(reading, 1) == b"", "nobody holds the other end any more"
    os.close(reading)


def test_a_broken_attic_is_done_without(path):
    """Every call is quiet afterwards: the keeper has more to do than that."""
    keeper, _ = take(path)
    keeper.stop()
    for _ in range(3):
        put(keeper, "a", 0, b"x")
        keeper.drop("a", 0)


def test_an_attic_that_is_stuck_holds_nobody_up(tmp_path):
    """Nobody reads: after the queue is full the keeper waits once, for a moment, and goes on without."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "attic.sock"))
        listener.listen(1)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(tmp_path / "attic.sock"))
        keeper = holding.Attic(connection)
        for number in range(5000):
            keeper.drop("a", number)
        assert keeper._connection is None


def test_a_thousand_at_once_are_kept(path):
    """As a keeper that adopts them all puts them there."""
    keeper, _ = take(path)
    reading = open_pipe(b"")
    for number in range(1000):
        keeper.keep("a", number, pidfd=reading, pipe_fds=())
    os.close(reading)
    _, found = take(path)
    assert found.keys() == {("a", number) for number in range(1000)}
