"""What is typed to first processes, on the real kernel: `run -it`, `run -i`, `attach`; what outlives the agent and the keeper."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from skerry.errors import Refused
from tests.harness import standalone
from tests.harness.agents import python_environment


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("console")
    with standalone.running_busybox(str(directory), tag="kc", flags=("--shells=0",)) as agent:
        yield agent


def test_a_pipe_is_the_input(node):
    """`run -i` passes input to its end, gives the exit code, and with --rm leaves nothing."""
    command = (sys.executable, "-m", "skerry", "run", "-i", "--rm", "--name", "piped", "busybox", "sh", "-c", "wc -c; exit 7")
    done = subprocess.run(command, env=_environment(node), input=b"x" * 300_000, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"300000\n", b"", 7)
    with pytest.raises(Refused):
        node.client.get("piped")


def test_without_it_there_is_no_input(node):
    """A first process without spec.stdin reads nothing, and an attach that would type is refused."""
    with node.sandbox("plain", "sh", "-c", "cat; echo end; sleep 1000"):
        _until(lambda: node.output("plain") == "end\n")
        with pytest.raises(Refused, match="no input"):
            node.client.open_attach("plain", stdin=True)


def test_a_terminal_from_the_command_line(node):
    """`run -it --rm`: a terminal of its own, our size and its changes, Ctrl-C, the exact exit code."""
    script = "trap 'stty size' WINCH; trap 'echo INT; exit 37' INT; tty; echo ready; while :; do sleep 0.1; done"
    with _typing(node, "run", "-it", "--rm", "--name", "typed", "busybox", "sh", "-c", script) as (master, pid):
        assert b"/dev/pts/0" in _read_until(master, b"ready")
        _resize(master, 40, 120)
        _read_until(master, b"40 120")
        os.write(master, b"\x03")
        _read_until(master, b"INT")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 37


def test_detach_and_attach_again(node):
    """Ctrl-P Ctrl-Q leaves the shell running; attach goes on with it and ends as it ends. Its log is what the terminal showed."""
    with _typing(node, "run", "-it", "--name", "shell", "busybox", "sh") as (master, pid):
        _read_until(master, b"# ")
        os.write(master, b"A=kept\n")
        _read_until(master, b"# ")
        os.write(master, b"\x10\x11")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with _typing(node, "attach", "shell") as (master, pid):
        os.write(master, b"echo $A; exit 4\n")
        _read_until(master, b"\nkept")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    node.wait_end("shell")
    assert "A=kept\r\n" in node.output("shell")
    node.remove("shell")


@pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])
def test_input_outlives_agent_and_keeper(node, tty):
    """Killed together, they leave the program its input; typed to later, it answers."""
    name = f"kept-{str(tty).lower()}"
    node.run(name, "sh", "-c", "while read line; do echo got $line; done; echo end", stdin=True, tty=tty)
    for word in ("one", "two"):
        stream = node.client.open_attach(name, stdin=True, cursor={"stdout": 0})
        stream.send(0, f"{word}\n".encode())
        data = b""
        while f"got {word}".encode() not in data:
            piece = stream.receive()
            assert piece is not None, (word, stream.end)
            data += piece[1]
        stream.close()
        if word == "one":
            node.kill_keeper()
            node.kill()
            node.start()
            _until(lambda: standalone.ready_reason(node.wait(name, bool)) == "Running")
    stream = node.client.open_attach(name, stdin=True)
    if tty:
        stream.send(0, b"\x04")
    else:
        stream.close_stdin()
    while stream.receive() is not None:
        pass
    assert stream.end.exit_code == 0
    stream.close()
    assert node.output(name).rstrip().endswith("end")
    node.remove(name)


def _environment(node):
    return {**os.environ, **python_environment(), "SKERRY_SOCKET": node.socket_path}


@contextlib.contextmanager
def _typing(node, *arguments: str):
    """The command line on a terminal of 97 by 31; its master, and the pid, which the block waits for."""
    pid, master = pty.fork()
    if pid == 0:
        _resize(0, 31, 97)
        os.execve(sys.executable, [sys.executable, "-m", "skerry", *arguments], _environment(node))
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
        try:
            data += os.read(fd, 4096)
        except OSError as error:  # hung up
            raise AssertionError(data) from error
    return data


def _until(is_done, seconds=180):
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
