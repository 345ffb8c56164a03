"""Exec and cp in a sandbox that means harm: a poisoned image, a racer, files that lead to our own program.

The canary of the poisoned image is inotify: an open of any of its files tells, also when nothing of it runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import os
import struct
import sys
import tarfile
import typing

import pytest

import skerry_node
from skerry import copying
from skerry.errors import Refused, SkerryError
from tests.harness import images, standalone

ROUNDS = 10_000
TRIES = int(os.environ.get("SKERRY_TRIES", "100"))
"""Of a program that would open ours; more by hand."""
_IN_OPEN, _IN_ACCESS = 0x20, 0x1
_EVIL = b"#!/bin/busybox sh\necho fired > /fired\n"
_LIBRARY = os.path.dirname(os.__file__).lstrip("/")
_OWN = os.path.dirname(skerry_node.__file__).lstrip("/")
POISON = (
    "etc/ld.so.preload", "etc/ld.so.cache", "etc/nsswitch.conf", "lib/libnss_files.so.2", "lib/x86_64-linux-gnu/libnss_files.so.2",
    "lib/x86_64-linux-gnu/libc.so.6", "bin/tar", "bin/gzip", "usr/bin/python3", f"{_LIBRARY}/encodings/__init__.py", f"{_LIBRARY}/encodings/idna.py",
    f"{_LIBRARY}/tarfile.py", f"{_LIBRARY}/stringprep.py", f"{_OWN}/keeper/tasks.py", f"{_OWN}/keeper/packing.py", "usr/lib/locale/locale-archive",
    "etc/localtime",
)  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    directory = tmp_path_factory.mktemp("hands")
    layers = [dict.fromkeys(POISON, _EVIL), {"bin/self": b"#!/proc/self/exe\n", "outside": None}]
    with standalone.running(str(directory), tag="sh", flags=("--shells=0",)) as agent:
        agent.client.import_image(images.busybox_layout(str(directory / "layout"), layers=layers))
        agent.run("box", "busybox", "sh", "-c", "echo hello; exec busybox sleep 10000")
        yield agent
        agent.remove("box")


@pytest.fixture
def opened(node):
    return functools.partial(node.client.open_copy, "box")


def test_a_poisoned_image_fires_no_canary(node, opened, tmp_path):
    """Exec, cp both ways, stat, ls, attach, logs and a connection open nothing of the image but the program, passwd and group."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f\udcff").write_bytes(b"x")
    with _Watch(f"/proc/{node.inspect('box')['pid']}/root", POISON) as watch:
        assert node.client.exec("box", ["busybox", "true"]).exit_code == 0
        assert node.client.exec("box", ["busybox", "true"], user="alice", tty=True).exit_code == 0
        with pytest.raises(Refused):
            node.client.exec("box", ["nothing-here"])
        copying.copy_in(opened, str(tmp_path / "tree"), "/root/t", keeps_owners=True, warn=pytest.fail)
        copying.copy_out(opened, "/root/t", str(tmp_path / "back"), keeps_owners=True, warn=pytest.fail)
        with pytest.raises(SkerryError):
            copying.copy_in(opened, str(tmp_path / "tree"), "/nowhere/t", warn=lambda _: None)
        copying.list_files(opened, "/root")
        with pytest.raises(Refused):
            node.client.open_port("box", 9)
        assert b"".join(piece.data for piece in node.client.logs("box")) == b"hello\n"
        with contextlib.closing(node.client.open_attach("box", cursor={"stdout": 0, "stderr": 0})) as attached:
            assert attached.receive() == (1, b"hello\n")
        assert watch.events() == []
        node.client.exec("box", ["busybox", "cat", "/etc/ld.so.preload"])  # the positive control
        assert watch.events() == ["etc/ld.so.preload"]
    assert copying.look(opened, "/fired", follow=False) is None
    node.client.exec("box", ["/bin/tar"])
    assert copying.look(opened, "/fired", follow=False) is not None, "the canary works"


def test_our_own_program_is_out_of_reach(node):
    """A script whose interpreter is /proc/self/exe (CVE-2019-5736) leaves our interpreter as it is; nothing of ours is seen in /proc meanwhile."""
    path = os.path.realpath(sys.executable)
    before = (_hash(path), os.stat(path).st_mtime_ns, os.stat(path).st_ino)
    spy = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/$$ ] && continue; : 3<> $p/exe && echo opened $p; ls -l $p/fd; done 2>/dev/null; done"
    name = node.client.start_exec("box", ["busybox", "sh", "-c", spy], exec_id="spy")
    for _ in range(TRIES):
        try:
            node.client.exec("box", ["/bin/self"])
        except Refused:
            continue
    stream = node.client.open_exec("box", exec_id=name)
    seen = b""
    node.client.kill("box", exec_id=name)
    while (piece := stream.receive()) is not None:
        seen += piece[1]
    stream.close()
    assert (_hash(path), os.stat(path).st_mtime_ns, os.stat(path).st_ino) == before
    assert b"cgroup" not in seen
    assert b"layers" not in seen


def test_a_racer_leads_no_copy_astray(node, opened):
    """While somebody swaps directories and links, 10,000 files are written and read: none outside where they belong (CVE-2018-15664)."""
    swap = "cd /root/race && while :; do mv d e; ln -s /outside d; rm d; ln -s ../../outside d; rm d; mv e d; done 2>/dev/null"
    node.client.exec("box", ["busybox", "sh", "-c", "mkdir -p /root/race/d; echo secret > /outside/secret"])
    name = node.client.start_exec("box", ["busybox", "sh", "-c", swap])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as opening:
        for number in range(ROUNDS):
            for directory in ("d", "other"):  # in turns, so that each is looked up anew
                opening.addfile(tarfile.TarInfo(f"{directory}/file{number % 50}"))
    refused: list[str] = []
    try:
        copying.send(opened, "/root/race", [archive.getvalue()], keeps_owners=True, warn=refused.append)
    except copying.CopyFailed:
        assert refused  # some were, and were told
    read = b"".join(_read_out(opened) for _ in range(100))
    assert b"file1" in read
    node.client.kill("box", exec_id=name)
    assert node.client.exec("box", ["busybox", "ls", "/outside"]).stdout == b"secret\n"
    assert b"secret" not in read
    node.client.exec("box", ["busybox", "sh", "-c", "cd /root/race; rm -rf d e; ln -s /outside d; echo x > d/landed"])  # the positive control
    assert b"landed" in node.client.exec("box", ["busybox", "ls", "/outside"]).stdout


def _read_out(opened):
    """The tree as a tar, whole or not: what vanishes while it is read is left out and told."""
    pieces = []
    with contextlib.suppress(copying.CopyFailed):
        for piece in copying.receive(opened, "/root/race", follows=False, warn=lambda _: None):
            pieces.append(piece)  # noqa: PERF402 - what came before a failure counts
    return b"".join(pieces)


class _Watch:
    """Opens and reads of files below a root, by inotify(7)."""

    def __init__(self, root, names) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names = {}
        for name in names:
            number = libc.inotify_add_watch(self._fd, f"{root}/{name}".encode(), _IN_OPEN | _IN_ACCESS)
            assert number > 0, name
            self._names[number] = name

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def events(self):
        """The names of those touched since the last call."""
        found = set()
        while True:
            try:
                data = os.read(self._fd, 65_536)
            except BlockingIOError:
                return sorted(found)
            while data:
                number, _, _, length = struct.unpack_from("iIII", data)
                found.add(self._names[number])
                data = data[16 + length :]


def _hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
