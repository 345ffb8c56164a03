"""Copies on the real kernel, through the agent's door: trees and sparse files both ways, docker's rules, what is refused; port-forward beside it."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import struct
import subprocess
import sys

import pytest

from skerry import copying
from skerry.errors import Refused
from tests.harness import images, standalone
from tests.harness.agents import python_environment

FILES = 10_000


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("copy")
    with standalone.running(str(directory), tag="kc", flags=("--shells=0",)) as agent:
        agent.client.import_image(images.busybox_layout(str(directory / "layout"), layers=[{"opt/link": "/etc"}]))
        agent.run("box", "sleep", "10000")
        yield agent
        agent.remove("box")


@pytest.fixture
def opened(node):
    yield functools.partial(node.client.open_copy, "box")
    node.client.exec("box", ["rm", "-rf", "/root/t", "/root/back"])


@pytest.mark.host("10,000 files take minutes emulated; the others pass by the same calls")
def test_a_tree_of_many_files_goes_both_ways(opened, tmp_path):
    """10,000 files: content, modes, owners, times to the nanosecond, hard and soft links are equal when they come back."""
    tree = tmp_path / "tree"
    for number in range(FILES):
        directory = tree / f"d{number % 100}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file{number}"
        path.write_bytes(b"%d" % number * (number % 50))
        os.chmod(path, 0o600 | number % 0o200)
        os.chown(path, number % 1000, number % 777)
    os.link(tree / "d1" / "file1", tree / "d2" / ("hard" * 40))
    os.symlink("../d1/file1", tree / "d3" / "soft")
    os.symlink("/etc/passwd", tree / "d3" / "absolute")
    os.mkfifo(tree / "d3" / "pipe")
    os.chmod(tree / "d4", 0o2750)
    copying.copy_in(opened, str(tree), "/root/t", keeps_owners=True, warn=pytest.fail)
    copying.copy_out(opened, "/root/t", str(tmp_path / "back"), keeps_owners=True, warn=pytest.fail)
    assert _describe(tmp_path / "back") == _describe(tree)


def test_a_sparse_file_of_a_gigabyte_goes_both_ways(node, opened, tmp_path):
    """Its holes are kept, inside and when it comes back; GNU tar reads what travels."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        for place in range(0, 1 << 30, 64 << 20):
            file.seek(place)
            file.write(os.urandom(1 << 16))
        file.truncate(1 << 30)
    copying.copy_in(opened, str(path), "/root/t", warn=pytest.fail)
    size, blocks = node.client.exec("box", ["stat", "-c", "%s %b", "/root/t"]).stdout.split()
    assert (int(size), int(blocks) * 512 < 16 << 20) == (1 << 30, True)
    copying.copy_out(opened, "/root/t", str(tmp_path / "back"), warn=pytest.fail)
    assert _hash(tmp_path / "back") == _hash(path)
    assert (tmp_path / "back").stat().st_blocks * 512 < 16 << 20
    (tmp_path / "gnu").mkdir()
    with open(tmp_path / "archive", "wb") as file:
        file.writelines(copying.receive(opened, "/root/t", follows=False, warn=pytest.fail))
    subprocess.run(["tar", "-xf", tmp_path / "archive", "-C", tmp_path / "gnu"], check=True)
    assert _hash(tmp_path / "gnu" / "t") == _hash(path)


@pytest.mark.host("the format of an archive does not depend on the kernel")
def test_what_gnu_tar_writes_is_taken(node, opened, tmp_path):
    """A tar from elsewhere, with long names and sparse files of both kinds of header that GNU tar has now."""
    tree = tmp_path / "t"
    tree.mkdir()
    (tree / ("long" * 40)).write_bytes(b"x")
    with open(tree / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.write(b"head")
    for flags in (["--format=pax", "--sparse"], ["--format=gnu"]):
        data = subprocess.run(["tar", "-c", *flags, "-C", tmp_path, "t"], check=True, capture_output=True).stdout
        copying.send(opened, "/root", [data], keeps_owners=False, warn=pytest.fail)
        done = node.client.exec("box", ["sh", "-c", f"ls /root/t; wc -c < /root/t/sparse; cat /root/t/{'long' * 40}; rm -r /root/t"])
        assert done.stdout == b"long" * 40 + b"\nsparse\n1048576\nx"


def test_one_look(opened):
    """Stat and list: type, mode, owner, link target; a link is followed when asked."""
    assert copying.look(opened, "/nowhere", follow=False) is None
    assert copying.look(opened, "/etc/passwd/x", follow=False) is None
    link = copying.look(opened, "/opt/link", follow=False)
    assert (link["type"], link["target"]) == ("l", "/etc")
    assert copying.look(opened, "/opt/link", follow=True)["type"] == "d"
    assert "passwd" in {each["name"] for each in copying.list_files(opened, "/opt/link")}
    assert copying.look(opened, "/", follow=False)["type"] == "d"


@pytest.mark.parametrize(
    ("user", "expected"),
    [pytest.param(None, "0:0", id="the sandbox's user"), pytest.param("alice", "1000:1000", id="another user")],
)
def test_it_is_done_as_the_user(node, opened, tmp_path, user, expected):
    """Files belong to whom the copy is made as, who can write where that user can."""
    (tmp_path / "f").write_bytes(b"x")
    copying.copy_in(functools.partial(opened, user=user), str(tmp_path / "f"), "/tmp/f", warn=pytest.fail)
    done = node.client.exec("box", ["sh", "-c", "stat -c %u:%g /tmp/f; rm /tmp/f"])
    assert done.stdout.decode().strip() == expected
    with pytest.raises(copying.CopyFailed):
        copying.copy_in(functools.partial(opened, user="alice"), str(tmp_path / "f"), "/etc/f", warn=lambda _: None)


def test_a_mounted_file_is_written_over(node, opened, tmp_path):
    """/etc/hosts is a mount: it cannot be replaced, and is written."""
    before = node.client.exec("box", ["cat", "/etc/hosts"]).stdout
    (tmp_path / "hosts").write_bytes(before + b"# more\n")
    copying.copy_in(opened, str(tmp_path / "hosts"), "/etc/hosts", warn=pytest.fail)
    assert node.client.exec("box", ["cat", "/etc/hosts"]).stdout == before + b"# more\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"not a tar" * 100, "damaged", id="no tar"),
        pytest.param(images.member(b"f", b"x" * 600)[:700], "in the middle", id="cut off"),
        pytest.param(images.member(b"../f", b"x"), "out of the archive", id="a name that leads out"),
        pytest.param(images.member(b"/f", b"x"), "out of the archive", id="an absolute name"),
        pytest.param(images.member(b"d", kind=b"3", device=(1, 3)), "not permitted", id="a device"),
        pytest.param(images.member(b"l", kind=b"2", target=b"/etc") + images.member(b"l/passwd", b"x"), "cross-device", id="through a link"),
    ],
)
def test_a_hostile_archive_is_refused(node, opened, data, problem):
    """Nothing is written where it was not asked for, and the first complaint says why."""
    before = node.client.exec("box", ["sh", "-c", "ls / /etc; cat /etc/passwd"]).stdout
    node.client.exec("box", ["mkdir", "/root/t"])
    problems: list[str] = []
    with pytest.raises(copying.CopyFailed):
        copying.send(opened, "/root/t", [data, bytes(1024)], keeps_owners=False, warn=problems.append)
    assert problem in problems[0]
    assert node.client.exec("box", ["sh", "-c", "ls / /etc; cat /etc/passwd"]).stdout == before


def test_a_port_is_forwarded_from_its_loopback(node):
    """A connection made inside reaches what listens there, and is closed half by half; nobody there is a refusal."""
    node.client.start_exec("box", ["nc", "-l", "-p", "7000", "-e", "sh", "-c", "read line; echo got $line"])
    stream = None
    for _ in range(100):
        try:
            stream = node.client.open_port("box", 7000)
            break
        except Refused:
            node.client.exec("box", ["usleep", "50000"])
    assert stream is not None
    assert stream.receive() == (0, struct.pack("<H", 7000))
    assert stream.receive() == (1, struct.pack("<H", 7000))
    stream.send(0, b"hello\n")
    stream.send(255, b"\0")
    assert stream.receive() == (0, b"got hello\n")
    assert stream.receive() == (255, b"\0")
    stream.close()
    with pytest.raises(Refused, match="nobody listens"):
        node.client.open_port("box", 7001)


def _describe(root):
    found = {}
    first: dict[int, str] = {}
    for directory, names, files in os.walk(root):
        for name in sorted((*names, *files, ".")):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            relative = os.path.relpath(path, root)
            is_file = os.path.isfile(path) and not os.path.islink(path)
            content = _hash(path) if is_file else os.readlink(path) if os.path.islink(path) else None
            same = first.setdefault(status.st_ino, relative) if is_file and status.st_nlink > 1 else None
            time = status.st_mtime_ns
            found[relative] = (oct(status.st_mode), status.st_uid, status.st_gid, time, content, status.st_nlink if is_file else None, same)
    return found


def _hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.host("the command line does not depend on the kernel")
def test_the_command_line_forwards_a_port(node):
    """`skerry port-forward`: what connects here talks to what listens inside."""
    node.client.start_exec("box", ["nc", "-ll", "-p", "7002", "-e", "cat"])
    command = [sys.executable, "-m", "skerry", "port-forward", "box", "0:7002"]
    environment = {**python_environment(), "SKERRY_SOCKET": node.socket_path}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline().split()[0].rpartition(":")[2])
        for text in (b"one", b"two" * 100_000):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: connection.recv(65_536), b"")) == text
        process.terminate()
    for each in node.client.execs("box"):
        node.client.kill("box", exec_id=each["id"])
