"""Hands on a sandbox of a cluster, through API server and gateway: a forwarded port, processes, signals, output, the freezer, files in bulk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import stat
import subprocess
import threading
import time
import urllib.request

import pytest

from tests.harness import person
from tests.harness.agents import wait_for
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_BODY_BYTES = 3 << 20
FILES = 10_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster.start(str(tmp_path_factory.mktemp("hands")), tag="ch", agents=1, agent_flags=["--shells=0"]) as running:
        yield running


@pytest.fixture
def skerry(cluster):
    yield functools.partial(person.run, cluster)
    person.remove_all(cluster)


@contextlib.contextmanager
def _running(cluster, words):
    """`skerry WORDS` beside us, ended at the end."""
    with subprocess.Popen(
        person.command(*words), env=person.environment(cluster), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _forwarded(cluster, name, port):
    """The local port that leads to *port* of *name*."""
    with _running(cluster, ("port-forward", name, f"0:{port}")) as process:
        yield int(process.stdout.readline().split()[0].rpartition(":")[2])


def test_a_web_server_is_reached_through_a_forwarded_port(cluster, skerry):
    """Whole answers of a real server, one after another and at once; it listens on the loopback of the sandbox only."""
    script = f"mkdir /tmp/w; head -c {_BODY_BYTES} /dev/urandom > /tmp/w/file; exec httpd -f -p 127.0.0.1:8080 -h /tmp/w"
    skerry("run", "-d", "--name", "web", "busybox", "sh", "-c", script)
    wait_for(None, "httpd listens", lambda: ":1F90" in skerry("exec", "web", "cat", "/proc/net/tcp").stdout)
    expected = skerry("exec", "web", "sha256sum", "/tmp/w/file").stdout.split()[0]
    with _forwarded(cluster, "web", 8080) as port:
        found = []

        def fetch():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/file", timeout=60) as answer:
                found.append(_hash(answer))

        fetch()
        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 5


def test_a_half_closed_connection_still_answers(cluster, skerry):
    """What is sent comes back after the sender's end of file; a server that speaks first is heard; where nobody listens a line says so."""
    skerry("run", "-d", "--name", "echo", "busybox", "nc", "-ll", "-p", "7002", "-e", "cat")
    wait_for(None, "nc listens", lambda: ":1B5A" in skerry("exec", "echo", "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout)
    with _forwarded(cluster, "echo", 7002) as port:
        for text in (b"one", b"two" * 100_000):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                assert b"".join(iter(functools.partial(connection.recv, 65_536), b"")) == text
    skerry("exec", "-d", "echo", "sh", "-c", "echo hello | nc -l -p 7004")
    wait_for(None, "it listens", lambda: ":1B5C" in skerry("exec", "echo", "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout)
    with _forwarded(cluster, "echo", 7004) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        assert connection.recv(100) == b"hello\n"
    with _running(cluster, ("port-forward", "echo", "0:7003")) as process:
        port = int(process.stdout.readline().split()[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            assert connection.recv(1) == b""
        assert "7003" in process.stderr.readline()


def test_top_pause_attach_and_kill(cluster, skerry):
    """The processes are listed, a paused program stands still, attach hands on what is written and the end that kill makes."""
    skerry("run", "-d", "--name", "loop", "busybox", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done")
    assert any(row.split()[0] == "1" and "while" in row for row in skerry("top", "loop").stdout.splitlines()[1:])
    skerry("pause", "loop")
    assert skerry("ps", "-q", "--filter", "status=paused").stdout == "loop\n"
    assert "skerry unpause loop" in skerry("exec", "loop", "true", check=125).stderr
    before = skerry("logs", "loop").stdout
    time.sleep(0.5)
    assert skerry("logs", "loop").stdout == before
    assert skerry("top", "loop").stdout.splitlines()[1:]
    with _running(cluster, ("attach", "loop")) as process:
        skerry("unpause", "loop")
        first = int(process.stdout.readline())
        assert first >= int(before.split()[-1])
        assert [int(process.stdout.readline()) for _ in range(5)] == list(range(first + 1, first + 6))
        skerry("kill", "-s", "TERM", "loop")  # a first process without a handler does not feel it
        assert process.stdout.readline()
        skerry("kill", "loop")
        process.stdout.read()
        assert process.wait(60) == 137
    assert json.loads(skerry("inspect", "loop").stdout)["status"]["termination"]["signal"] == "SIGKILL"


def test_a_gigabyte_of_holes_goes_both_ways(skerry, tmp_path):
    """Equal by hash, its holes kept inside and when it comes back."""
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        for place in (0, 300 << 20, (1 << 30) - 5):
            file.seek(place)
            file.write(b"piece")
    skerry("run", "-d", "--name", "box", "busybox", "sleep", "10000")
    skerry("cp", str(source), "box:/tmp/sparse")
    assert int(skerry("exec", "box", "stat", "-c", "%b", "/tmp/sparse").stdout) * 512 < 8 << 20
    skerry("cp", "box:/tmp/sparse", str(tmp_path / "back"))
    assert (tmp_path / "back").stat().st_blocks * 512 < 8 << 20
    assert _hash_of(tmp_path / "back") == _hash_of(source)


def test_a_tree_of_many_files_goes_both_ways(skerry, tmp_path):
    """Content, modes, times, hard and soft links are equal when they come back."""
    tree = tmp_path / "tree"
    for number in range(FILES):
        path = tree / f"d{number % 100}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * (number % 50))
        path.chmod(0o600 | number % 0o200)
    os.link(tree / "d1" / "file1", tree / "d2" / "hard")
    (tree / "d3" / "soft").symlink_to("../d1/file1")
    (tree / "d3" / "absolute").symlink_to("/etc/passwd")
    (tree / "d4").chmod(0o2750)
    skerry("run", "-d", "--name", "box", "busybox", "sleep", "10000")
    skerry("cp", "-a", str(tree), "box:/tmp/tree")
    skerry("cp", "-a", "box:/tmp/tree", str(tmp_path / "back"))
    assert _describe(tmp_path / "back") == _describe(tree)


def _describe(tree):
    """What is to be equal, by path: mode, owners, time in nanoseconds, content or target, and with whom it shares an inode."""
    found, first = {}, {}
    for path in sorted(tree.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(tree))
        is_file = stat.S_ISREG(status.st_mode)
        content = _hash_of(path) if is_file else str(path.readlink()) if path.is_symlink() else None
        same = first.setdefault(status.st_ino, name) if is_file else None
        found[name] = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, content, same)
    return found


def _hash_of(path):
    with path.open("rb") as file:
        return _hash(file)


def _hash(file):
    return hashlib.file_digest(file, "sha256").hexdigest()
