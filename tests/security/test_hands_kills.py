"""SIGKILL before each state-changing system call of an exec and of a copy, in the keeper and in what it forks.

strace's fault injection does it (strace(1), "Tampering"), attached to the keeper of a node that lives on. `make test` takes a part of the points,
`make test-all` takes all (tests/harness/points.py); how many there are is printed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
from collections import Counter

import pytest

from skerry import copying
from skerry.errors import SkerryError
from tests.harness import images, killpoints, standalone
from tests.harness import points as parts

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
CALLS = (
    f"{killpoints.CALLS},clone,clone3,vfork,setns,chroot,fchdir,setresuid,setresgid,setgroups,capset,prctl,seccomp,execve,sendmsg,dup2,dup3,setsid"
)
_CALL = re.compile(r"(\d+)\s+(\w+)\(")
_PARTS = 12


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hands-kills")
    with standalone.running(str(directory), tag="hk", flags=("--shells=0",)) as agent:
        agent.client.import_image(images.busybox_layout(str(directory / "layout")))
        agent.run("box", "sleep", "100000")
        yield agent
        agent.remove("box")


@pytest.fixture
def copies(node, tmp_path):
    """Copies a tree in, again and again."""
    (tmp_path / "t" / "inner").mkdir(parents=True)
    (tmp_path / "t" / "inner" / "file").write_bytes(b"x" * 300_000)
    (tmp_path / "t" / "link").symlink_to("inner/file")
    (tmp_path / "t" / "hard").hardlink_to(tmp_path / "t" / "inner" / "file")
    opened = functools.partial(node.client.open_copy, "box")
    return lambda: copying.copy_in(opened, str(tmp_path / "t"), "/root", keeps_owners=True, warn=lambda _: None)


def test_an_exec_killed_anywhere_hurts_nobody(node, tmp_path, record_property):
    """The sandbox's first process lives on, nothing of the exec stays, the next exec does what it should."""
    _at_every_point(node, lambda: node.client.exec("box", ["true"]), tmp_path, record_property, name="exec")


def test_a_copy_killed_anywhere_is_made_whole_by_the_next(node, copies, tmp_path, record_property):
    """As above; and what the broken copy left is overwritten, with no file beside it."""

    def check():
        copies()
        found = node.client.exec(
            "box", ["sh", "-c", "cd /root/t && find . | sort && wc -c < hard && cmp hard inner/file && stat -c %h hard && rm -r /root/t"]
        )
        assert found.stdout.decode().split() == [".", "./hard", "./inner", "./inner/file", "./link", "300000", "2"], found

    _at_every_point(node, copies, tmp_path, record_property, name="copy", check=check)


def _at_every_point(node, act, tmp_path, record_property, *, name, check=None):
    first = _first_process(node)
    points = _find(node, act, str(tmp_path / "log"))
    taken = parts.take(points, _PARTS)
    for point in taken:
        call, number = point
        with _traced(node, f"inject={call}:signal=KILL:when={number}", calls=call, log=os.devnull), contextlib.suppress(SkerryError):
            act()
        standalone.until(functools.partial(_is_well, node))
        assert _first_process(node) == first, point
        if check is not None:
            check()
        standalone.until(lambda: [each["pid"] for each in node.client.top("box")] == [first])
    record_property(parts.KEY, f"{name}: {len(taken)} of {len(points)}")
    assert len(points) > 20


def _find(node, act, log):
    """Every call that changes something, by name and number within its process."""
    with _traced(node, f"trace={CALLS}", calls=CALLS, log=log):
        act()
    seen: Counter[tuple[str, str]] = Counter()
    points: dict[killpoints.Point, None] = {}
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            if found := _CALL.match(line):
                process, call = found.groups()
                seen[process, call] += 1
                points[call, seen[process, call]] = None
    return list(points)


@contextlib.contextmanager
def _traced(node, expression, *, calls, log):
    """The keeper, and whatever it forks, under strace for the time of a block."""
    command = ["strace", "-f", "-o", log, "-e", f"trace={calls}", "-e", expression, "-p", str(_keeper(node))]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        assert b"attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()


def _is_well(node):
    with contextlib.suppress(SkerryError):
        return node.client.exec("box", ["echo", "well"]).stdout == b"well\n"
    return False


def _first_process(node):
    return node.inspect("box")["pid"]


def _keeper(node):
    """The parent of an exec's process is the keeper."""
    name = node.client.start_exec("box", ["sleep", "1000"])
    pid = next(each["pid"] for each in node.client.execs("box") if each["id"] == name)
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        parent = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
    node.client.kill("box", exec_id=name)
    node.client.open_exec("box", exec_id=name).close()
    return parent
