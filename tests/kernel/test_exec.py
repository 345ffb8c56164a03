"""Execs on the real kernel, through the agent's door: what they are, how they end, and what outlives what."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pytest

from skerry.errors import Refused
from tests.harness import images, standalone
from tests.harness.agents import python_environment

NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user", "cgroup")
FIELDS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exec")
    with standalone.running(str(directory), tag="ke", flags=("--shells=0",)) as agent:
        agent.client.import_image(images.busybox_layout(str(directory / "layout")))
        agent.run("box", "sleep", "1000", env=[{"name": "FROM_SPEC", "value": "1"}])
        agent.wait("box", lambda found: standalone.ready_reason(found) == "Running")  # a slow machine's keeper may come late
        yield agent
        agent.remove("box")


def test_an_exec_is_as_the_first_process(node):
    """Namespaces, rights, filter, control groups and limits are those of the first process; it has three fds."""
    first = node.inspect("box")["pid"]
    name = node.client.start_exec("box", ["sleep", "1000"])
    (found,) = (each for each in node.client.execs("box") if each["id"] == name)
    pid = found["pid"]
    assert {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES} == {k: os.readlink(f"/proc/{first}/ns/{k}") for k in NAMESPACES}
    mine, theirs = _status(pid), _status(first)
    assert {field: mine[field] for field in FIELDS} == {field: theirs[field] for field in FIELDS}
    assert mine["Seccomp"] == "2"
    assert _read(f"/proc/{pid}/cgroup") == _read(f"/proc/{first}/cgroup")
    assert _read(f"/proc/{pid}/limits") == _read(f"/proc/{first}/limits")
    assert os.readlink(f"/proc/{pid}/root") == os.readlink(f"/proc/{first}/root")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    node.client.kill("box", exec_id=name)
    assert _wait_ended(node, name)["exitCode"] == 137


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        pytest.param(["echo", "hi"], {}, (0, b"hi\n", b""), id="all is well"),
        pytest.param(["sh", "-c", "echo out; echo err >&2; exit 37"], {}, (37, b"out\n", b"err\n"), id="exit code, streams apart"),
        pytest.param(["sh", "-c", "kill -9 $$"], {}, (137, b"", b""), id="ended by a signal"),
        pytest.param(["cat"], {"stdin": b"x" * 300_000}, (0, b"x" * 300_000, b""), id="input, half-closed"),
        pytest.param(["wc", "-c"], {"stdin": b""}, (0, b"0\n", b""), id="empty input"),
        pytest.param(["cat"], {}, (0, b"", b""), id="no input"),
        pytest.param(["head", "-c", "20000000", "/dev/zero"], {}, (0, bytes(20_000_000), b""), id="much output"),
        pytest.param(["id"], {"user": "alice"}, (0, b"uid=1000(alice) gid=1000(alice) groups=10(wheel)\n", b""), id="another user"),
        pytest.param(["sh", "-c", "pwd; echo $A $FROM_SPEC"], {"workdir": "/home", "env": ["A=b"]}, (0, b"/home\nb 1\n", b""), id="place, env"),
        pytest.param(["sh", "-c", "echo x > /dev/stdout"], {"user": "1000"}, (0, b"x\n", b""), id="output opened anew by a user"),
        pytest.param(["sh", "-c", "ls /proc/self/fd | wc -l"], {}, (0, b"4\n", b""), id="no fd of ours: ls has its own directory open"),
        pytest.param(["sh", "-c", "trap"], {}, (0, b"", b""), id="no signal is ignored"),
        pytest.param(["sleep", "1000"], {"timeout_seconds": 0.2}, (137, b"", b""), id="its time is over"),
    ],
)
def test_how_it_ends(node, command, options, expected):
    """Exit code, output, errors of one exec."""
    done = node.client.exec("box", command, **options)
    assert (done.exit_code, done.stdout, done.stderr) == expected


@pytest.mark.host("the words of a refusal do not depend on the kernel")
@pytest.mark.parametrize(
    ("command", "options", "field"),
    [
        pytest.param(["nothing-here"], {}, "command", id="no such program"),
        pytest.param(["/etc/passwd"], {}, "command", id="no program"),
        pytest.param(["ls"], {"workdir": "/nowhere"}, "workingDir", id="no such directory"),
        pytest.param(["ls"], {"user": "bob"}, "user", id="no such user"),
        pytest.param(["ls"], {"user": "4294967295"}, "user", id="no id"),
        pytest.param(["ls"], {"workdir": "relative"}, "workingDir", id="a relative directory"),
        pytest.param(["ls"], {"env": ["=x"]}, "env", id="no variable"),
        pytest.param(["ls"], {"exec_id": "../x"}, "id", id="a bad id"),
    ],
)
def test_what_is_refused_names_the_field(node, command, options, field):
    """Nothing runs, and the answer says which part of the request is at fault."""
    with pytest.raises(Refused) as refused:
        node.client.exec("box", command, **options)
    assert refused.value.field == field
    assert not any(each["running"] for each in node.client.execs("box"))


@pytest.mark.parametrize("directory", ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/root", "/proc/self/cwd"])
def test_no_magic_link_is_a_working_directory(node, directory):
    """A leaked directory fd cannot be entered (CVE-2024-21626): these links are not followed at all."""
    with pytest.raises(Refused) as refused:
        node.client.exec("box", ["pwd"], workdir=directory)
    assert refused.value.reason == "InvalidWorkingDir"


def test_it_ends_with_the_sandbox(node):
    """An exec lives in the first process's pid namespace: it cannot outlive it."""
    node.run("short", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    name = node.client.start_exec("short", ["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done"])
    pid = next(each["pid"] for each in node.client.execs("short") if each["id"] == name)
    node.client.stop("short")
    node.wait("short", lambda found: standalone.ready_reason(found) == "Stopped")
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(Refused) as refused:
        node.client.exec("short", ["true"])
    assert refused.value.reason == "NotRunning"
    node.remove("short")


def test_no_fd_stays(node):
    """Agent and keeper have after many execs, ended, refused and broken off, the fds that they had before."""
    pids = (node.pid, _keeper(node))

    def count():
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    before = _settled(count)
    for tty in (False, True):
        for _ in range(5):
            node.client.exec("box", ["echo", "x"], tty=tty)
            node.client.open_exec("box", ["cat"], stdin=True, tty=tty).close()
            with pytest.raises(Refused):
                node.client.exec("box", ["nothing-here"], tty=tty)
    _until(lambda: count() == before)


@pytest.mark.host("pipes are as old as the hills")
def test_a_child_in_the_background_is_not_waited_for(node):
    """An exec has ended when its process has, whoever else holds its output open."""
    node.run("busy", "sleep", "1000")
    done = node.client.exec("busy", ["sh", "-c", "yes & echo started >&2"])
    assert (done.exit_code, done.stderr) == (0, b"started\n")
    node.remove("busy")


def test_a_fork_bomb_stays_in_its_limits(node):
    """Limits and control group are joined first: all of it is in the sandbox's group, and no more than allowed."""
    node.run("small", "sleep", "1000", resources={"limits": {"pids": 16}})
    name = node.client.start_exec("small", ["sh", "-c", "f() { f | f & }; f; sleep 1000"])
    group = next(path for path in node.inspect("small")["cgroups"] if os.path.exists(f"{path}/pids.current"))
    _until(lambda: int(_read(f"{group}/pids.events").split()[1]) > 3)
    assert int(_read(f"{group}/pids.current")) <= 16
    assert node.client.exec("box", ["echo", "unharmed"]).stdout == b"unharmed\n"
    node.client.kill("small", exec_id=name)
    node.remove("small")


@pytest.mark.host("our own buffers do not depend on the kernel")
def test_a_stalled_reader_costs_bounded_memory(node):
    """A client that does not read holds the program back, not the output in our memory."""
    before = _resident(node.pid)
    streams = [node.client.open_exec("box", ["cat", "/dev/zero"]) for _ in range(8)]
    time.sleep(1.0)
    assert _resident(node.pid) - before < 24 << 20
    for stream in streams:
        stream.close()
    for each in node.client.execs("box"):
        node.client.kill("box", exec_id=each["id"])


def test_an_agent_that_dies_hurts_no_exec(node):
    """The next agent goes on with the output, the input and the end of it."""
    stream = node.client.open_exec("box", ["sh", "-c", "echo one; while read line; do echo got $line; done; exit 5"], stdin=True, exec_id="kept")
    assert stream.receive() == (1, b"one\n")
    node.kill()
    with pytest.raises(Exception, match="broke off"):
        stream.receive()
    stream.close()
    node.start()
    node.wait("box", lambda found: standalone.ready_reason(found) == "Running")
    stream = node.client.open_exec("box", exec_id="kept")
    stream.send(0, b"two\n")
    assert stream.receive() == (1, b"got two\n")
    stream.close_stdin()
    assert stream.receive() is None
    assert stream.end.exit_code == 5
    stream.close()


@pytest.mark.host("our own buffers do not depend on the kernel")
def test_detached_output_waits_for_who_attaches(node):
    """What was written while nobody was attached is there, the newest of it; and the end, for a while."""
    name = node.client.start_exec("box", ["sh", "-c", "head -c 1000000 /dev/zero; echo last; exit 3"], exec_id="left")
    assert name == "left"
    _wait_ended(node, name)
    stream = node.client.open_exec("box", exec_id=name)
    data = b""
    while (piece := stream.receive()) is not None:
        data += piece[1]
    assert data.endswith(b"last\n")
    assert len(data) < 1_000_000
    assert stream.end.exit_code == 3
    stream.close()
    with pytest.raises(Refused):
        node.client.open_exec("box", exec_id=name)


@pytest.mark.host("a connection that ends does not depend on the kernel")
def test_a_client_that_is_gone_ends_the_input(node):
    """An exec without an id whose client goes away reads the end of its input; its terminal hangs up."""
    for tty in (False, True):
        stream = node.client.open_exec("box", ["cat"], stdin=True, tty=tty)
        stream.send(0, b"x\n")
        assert stream.receive()[1].startswith(b"x")
        stream.close()
        _until(lambda: not any(each["running"] for each in node.client.execs("box")))


def test_a_terminal_from_the_command_line(node):
    """`skerry exec -it`: a terminal of its own, our size and its changes, Ctrl-C, the exact exit code."""
    script = "stty size; trap 'echo WINCH; stty size' WINCH; trap 'echo INT; exit 37' INT; echo ready; while :; do sleep 0.1; done"
    with _typing(node, "exec", "-it", "box", "sh", "-c", script) as (master, pid):
        assert _read_until(master, b"ready").startswith(b"31 97\r\n")
        _resize(master, 40, 120)
        assert b"40 120" in _read_until(master, b"40 120")
        os.write(master, b"\x03")
        _read_until(master, b"INT")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 37


@pytest.mark.host("the command line does not depend on the kernel")
def test_detach_keys_leave_it_running(node):
    """Ctrl-P Ctrl-Q: the command ends with 0, the program goes on, and is attached to again."""
    with _typing(node, "exec", "-it", "--id", "shell", "box", "sh") as (master, pid):
        _read_until(master, b"# ")
        os.write(master, b"A=kept\n")
        _read_until(master, b"# ")
        os.write(master, b"\x10\x11")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with _typing(node, "exec", "-it", "--id", "shell", "box") as (master, pid):
        os.write(master, b"echo $A; exit 4\n")
        _read_until(master, b"\nkept")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4


@contextlib.contextmanager
def _typing(node, *arguments: str):
    """The command line on a terminal of 97 by 31; its master, and the pid, which the block waits for."""
    pid, master = pty.fork()
    if pid == 0:
        _resize(0, 31, 97)
        os.environ.update(python_environment(), SKERRY_SOCKET=node.socket_path)
        os.execv(sys.executable, [sys.executable, "-m", "skerry", *arguments])
    try:
        yield master, pid
    finally:
        os.close(master)
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def _read_until(fd, wanted, seconds=180):
    data = b""
    deadline = time.monotonic() + seconds
    while wanted not in data:
        ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
        assert ready, data
        data += os.read(fd, 4096)
    return data


def _wait_ended(node, name):
    return _until(lambda: next((each for each in node.client.execs("box") if each["id"] == name and not each["running"]), None))


def _until(is_done, seconds=180):
    deadline = time.monotonic() + seconds
    while not (found := is_done()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def _settled(read):
    """What *read* gives once it has given the same for half a second: what earlier tests left to be closed is closed."""
    seen, since = read(), time.monotonic()

    def is_still():
        nonlocal seen, since
        found = read()
        if found != seen:
            seen, since = found, time.monotonic()
        return time.monotonic() - since > 0.5

    _until(is_still)
    return seen


def _keeper(node):
    """The parent of an exec's process."""
    name = node.client.start_exec("box", ["sleep", "1000"])
    pid = next(each["pid"] for each in node.client.execs("box") if each["id"] == name)
    parent = int(_status(pid)["PPid"])
    node.client.kill("box", exec_id=name)
    node.client.open_exec("box", exec_id=name).close()
    return parent


def _status(pid):
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in _read(f"/proc/{pid}/status").splitlines())}


def _resident(pid):
    return int(_status(pid)["VmRSS"].split()[0]) * 1024


def _read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


@pytest.mark.host("the command line does not depend on the kernel")
def test_attach_follows_from_now_on_and_ends_with_the_program(node):
    """`skerry attach`: what it writes after, not before; a signal is passed on; the exit code is the program's."""
    node.run("talker", "sh", "-c", "echo before; trap 'echo heard; exit 6' INT; while :; do sleep 0.1; done")
    _until(lambda: node.output("talker") == "before\n")
    stream = node.client.open_attach("talker")
    stream.signal("INT")
    assert stream.receive() == (1, b"heard\n")
    assert stream.receive() is None
    assert stream.end.exit_code == 6
    stream.close()
    node.remove("talker")


@pytest.mark.host("the command line does not depend on the kernel")
def test_top_shows_the_processes_inside(node):
    """Pids inside and out, the user inside, the command; a name that would steer a terminal is spelled out by the command line."""
    name = node.client.start_exec("box", ["sh", "-c", "exec sleep 999"], user="alice")
    _until(lambda: any(each["command"] == "sleep 999" for each in node.client.top("box")))
    found = {each["command"]: each for each in node.client.top("box")}
    assert found["sleep 1000"]["pidInside"] == 1
    assert found["sleep 999"]["user"] == 1000
    assert os.path.exists(f"/proc/{found['sleep 999']['pid']}")
    node.client.kill("box", exec_id=name)
    assert _wait_ended(node, name)["exitCode"] == 137
