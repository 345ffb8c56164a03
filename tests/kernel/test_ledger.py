"""The ledger itself: each kind of thing that a test could leave behind is named, and nothing else is."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.harness import claims, neighbours, subreaper
from tests.harness import ledger as books

pytestmark = pytest.mark.host("it tests the harness")

_libc = ctypes.CDLL(None, use_errno=True)
MARK = claims.claim_mark("le")
_NET, _MNT_DETACH = 0x40000000, 2  # unshare(2), umount2(2)


@contextmanager
def _mount(directory: str) -> Iterator[None]:
    point = os.path.join(directory, "point").encode()
    os.mkdir(point)
    assert _libc.mount(b"none", point, b"tmpfs", 0, None) == 0
    yield
    assert _libc.umount2(point, _MNT_DETACH) == 0


@contextmanager
def _command(make: str, remove: str) -> Iterator[None]:
    subprocess.run(make, shell=True, check=True)
    yield
    subprocess.run(remove, shell=True, check=True)


@contextmanager
def _cgroup(_: str) -> Iterator[None]:
    top = next(path for path in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.isdir(path))
    path = os.path.join(top, f"skerry-{MARK}")
    os.mkdir(path)
    yield
    os.rmdir(path)


@contextmanager
def _nft(_: str) -> Iterator[None]:
    name = f"skerry-{MARK}"
    with _command(f"nft add table inet {name}", f"nft delete table inet {name}"):
        yield


@contextmanager
def _loop(directory: str) -> Iterator[None]:
    path = os.path.join(directory, "disk.img")
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    device = subprocess.run(["losetup", "--find", "--show", path], check=True, capture_output=True, text=True).stdout.strip()
    yield
    subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def _link(_: str) -> Iterator[None]:
    with _command(f"ip link add sk{MARK}-0 type bridge", f"ip link delete sk{MARK}-0"):
        yield


@contextmanager
def _namespace(_: str) -> Iterator[None]:
    code = f"import ctypes, time; ctypes.CDLL(None).unshare({_NET}); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


@contextmanager
def _open_file(_: str) -> Iterator[None]:
    number = os.open("/dev/null", os.O_RDONLY)
    yield
    os.close(number)


@contextmanager
def _file(_: str) -> Iterator[None]:
    path = f"/run/skerry-{MARK}"
    os.mkdir(path)
    yield
    os.rmdir(path)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        pytest.param("mount", _mount, id="mount"),
        pytest.param("link", _link, id="link"),
        pytest.param("cgroup", _cgroup, id="cgroup"),
        pytest.param("nft", _nft, id="nft table"),
        pytest.param("loop device", _loop, id="loop device"),
        pytest.param("network namespace", _namespace, id="namespace of a process"),
        pytest.param("process", _namespace, id="process"),
        pytest.param("open file", _open_file, id="open file"),
        pytest.param("file", _file, id="directory in /run"),
    ],
)
def test_each_leak_is_named(kind: str, make: Callable, tmp_path, ledger_scope: books.Scope):
    """A leak is a line that starts with its kind, and the line is gone with it."""
    before = books.snapshot(ledger_scope)
    with make(str(tmp_path)):
        lines = books.diff(before, books.snapshot(ledger_scope))
        assert [line for line in lines if line.startswith(f"left behind: {kind} ")], lines
    assert books.wait_for_balance(before, ledger_scope) == []


def test_others_do_not_trip_it(tmp_path_factory, ledger_scope: books.Scope):
    """What is not ours by name, place or descent is nobody's leak."""
    before = books.snapshot(ledger_scope)
    other = f"other{os.getpid()}"
    with (
        _command(f"ip link add {other} type bridge", f"ip link delete {other}"),
        _command(f"nft add table inet {other}", f"nft delete table inet {other}"),
    ):
        assert books.wait_for_balance(before, ledger_scope) == []


def test_orphans_are_ours_and_are_reaped(ledger_scope: books.Scope):
    """A process whose parent ended still counts as this session's, and its pid is gone as soon as it ends."""
    before = books.snapshot(ledger_scope)
    code = "import os, time\npid = os.fork()\nif pid: print(pid, flush=True)\nelse: time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
    assert [line for line in books.diff(before, books.snapshot(ledger_scope)) if "process" in line and "pid = os.fork()" in line]
    assert subreaper.root_pid() != os.getpid()
    os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 180
    while os.path.exists(f"/proc/{orphan}"):
        assert time.monotonic() < deadline, "a dead orphan is still there"
        time.sleep(0.01)


def test_a_neighbours_agent_is_not_ours():
    """What another session's command lines name is left out; what merely looks alike is not."""
    theirs = neighbours._agent_names("python -m skerry_node --bridge=skerrydemo --run-dir=/run/skerry-demo-0 --cgroup-parent=skerry-demo-0")
    for text in (
        "/run/skerry-demo-0",
        "/sys/fs/cgroup/pids/skerry-demo-0/sandboxes/1",
        "skdemo-a1",
        "skerrydemo",
        'table {"name": "skerry-skerrydemo"}',
    ):
        assert neighbours.is_theirs(text, theirs), text
    for text in ("/run/skerry-demo-1", "skdemo1-a", "skerry0", "/sys/fs/cgroup/pids/skerry/1"):
        assert not neighbours.is_theirs(text, theirs), text
    assert neighbours.is_theirs("sk0-2", neighbours._agent_names("skerry-agent --standalone"))


def test_only_our_own_marks_count(monkeypatch, ledger_scope: books.Scope):
    """What carries another session's mark, or nobody's, is none of our business: it comes and goes as it likes."""
    before = books.snapshot(ledger_scope)
    with _file(""):
        assert books.diff(before, books.snapshot(ledger_scope)) != []
        monkeypatch.setattr(claims, "read_marks", lambda: {MARK: 1})
        assert books.diff(before, books.snapshot(ledger_scope)) == []
        monkeypatch.setattr(claims, "read_marks", dict)
        assert books.diff(before, books.snapshot(ledger_scope)) == []


def test_an_agent_that_forgets_its_names_is_seen():
    """The names of an agent without flags count, whoever has claimed what."""
    for text in ("/run/skerry", "skerry0", "sk0-12", 'table {"name": "skerry-skerry0"}', "/sys/fs/cgroup/pids/skerry/sandboxes"):
        assert neighbours.is_default(text), text
    for text in ("/run/skerry-e2e", "skerry1", "skzzzz1-12", 'table {"name": "skerry-skerryzzzz1"}'):
        assert not neighbours.is_default(text), text
