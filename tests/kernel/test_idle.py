"""Idle sandboxes on the real kernel: put to sleep, woken by execs and packets, stopped or deleted; what is not idle goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from skerry.errors import Refused
from tests.harness import standalone
from tests.harness.agents import python_environment

SERVE = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 8000 -h /www"
PAUSE = {"idleSeconds": 1, "onIdle": "Pause"}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("idle")
    with standalone.running_busybox(str(directory), tag="ki", flags=("--shells=0", "--idle-sample-seconds=0.2")) as agent:
        yield agent


def test_one_that_sleeps_is_woken_by_an_exec_and_sleeps_again(node):
    """It is not asleep before its time, an exec enters without a word about it, and while one lives it does not sleep."""
    with node.sandbox("e", "sh", "-c", "cat /proc/uptime; exec sleep 1000", ttl=PAUSE):
        _wait_asleep(node, "e")
        assert node.client.exec("e", ["echo", "hi"]).stdout == b"hi\n"
        _wait_woken(node, "e", times=1)
        _wait_asleep(node, "e")
        slept = node.client.exec("e", ["sh", "-c", "sleep 3; echo up"])
        assert slept.exit_code == 0
        assert slept.stdout.endswith(b"up\n")
        _wait_asleep(node, "e")


def test_one_that_sleeps_answers_a_packet(node):
    """An HTTP request to its address finds it asleep and is answered, again and again."""
    with node.sandbox("h", "sh", "-c", SERVE, ttl=PAUSE):
        _wait_asleep(node, "h")
        address = node.client.get("h").status.address
        for times in (1, 2, 3):
            assert _get(address).endswith(b"hello\n")
            _wait_woken(node, "h", times=times)
            _wait_asleep(node, "h")


def test_what_works_does_not_sleep(node):
    """Above the trickle of CPU it goes on, beside one that sleeps."""
    with (
        node.sandbox("busy", "sh", "-c", "while :; do :; done", resources={"limits": {"cpu": "100m"}}, ttl=PAUSE),
        node.sandbox("lazy", "sh", "-c", "while :; do sleep 0.5; done", ttl=PAUSE),
    ):
        _wait_asleep(node, "lazy")
        assert standalone.ready_reason(node.client.get("busy")) == "Running"


def test_what_its_user_paused_is_never_woken(node):
    """Not by an exec nor a packet, also when it slept before; and it is not stopped as idle."""
    with node.sandbox("u", "sh", "-c", SERVE, ttl={"idleSeconds": 3}):
        address = node.client.get("u").status.address
        _wait_asleep(node, "u")
        _skerry(node, "pause", "u")
        node.wait("u", lambda found: standalone.ready_reason(found) == "Paused")
        with pytest.raises(Refused) as refused:
            node.client.exec("u", ["true"])
        assert refused.value.reason == "Paused"
        with pytest.raises(TimeoutError):
            _get(address, seconds=1.0)
        assert standalone.ready_reason(node.client.get("u")) == "Paused"
        _skerry(node, "unpause", "u")
        node.wait("u", lambda found: standalone.ready_reason(found) in {"Running", "Idle"})
        assert _get(address).endswith(b"hello\n")


def test_time_goes_on_while_the_agent_is_dead(node):
    """Killed as it counts, and asleep: the next agent goes on counting from where it was, and keeps asleep what sleeps."""
    with node.sandbox("k", "sleep", "1000", ttl={"idleSeconds": 4}), node.sandbox("s", "sleep", "1000", ttl=PAUSE):
        _wait_asleep(node, "s")
        uid = node.client.get("k").metadata.uid
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        standalone.until(lambda: uid in _read(os.path.join(node.place.run_dir, "idle")))
        node.kill()
        time.sleep(1.0)
        node.start()
        _wait_asleep(node, "s")
        _wait_asleep(node, "k")
        assert time.clock_gettime(time.CLOCK_BOOTTIME) - since >= 2.0
        assert node.client.exec("s", ["echo", "hi"]).stdout == b"hi\n"


def test_idle_ones_are_stopped_or_deleted_when_asked(node):
    """IdleTimeout is the reason, no policy starts it again; Delete takes the object away."""
    node.run("gone", "sleep", "1000", ttl={"idleSeconds": 1, "onIdle": "Delete"})
    with node.sandbox("stop", "sleep", "1000", restartPolicy="Always", ttl={"idleSeconds": 1, "onIdle": "Stop"}):
        end = node.wait_end("stop")
        assert (end.reason, end.message) == ("IdleTimeout", "it was idle for ttl.idleSeconds")
        assert node.client.get("stop").status.restarts == 0
        standalone.until(lambda: all(each.metadata.name != "gone" for each in node.client.list()))


def test_one_that_sleeps_is_stopped_and_removed(node):
    """As any that is paused."""
    node.run("t", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 1 & wait $!; done", ttl=PAUSE)
    _wait_asleep(node, "t")
    node.client.stop("t")
    ended = node.wait("t", lambda found: standalone.ready_reason(found) == "Stopped")
    assert ended.status.termination.exit_code == 5
    node.remove("t")


def _wait_asleep(node, name):
    found = node.wait(name, lambda found: standalone.ready_reason(found) == "Idle")
    assert found.status.phase == "Paused"


def _wait_woken(node, name, *, times):
    """By the log: it may sleep again before anybody looks."""
    uid = node.client.get(name).metadata.uid
    standalone.until(lambda: sum(f"woken uid={uid}" in line for line in _read(node.log_path).splitlines()) == times)


def _get(address, *, seconds=180.0):
    with socket.create_connection((address, 8000), timeout=seconds) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
        return answer


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _skerry(node, *words: str):
    command = [sys.executable, "-m", "skerry", *words]
    subprocess.run(command, env={**os.environ, **python_environment(), "SKERRY_SOCKET": node.socket_path}, check=True, capture_output=True)
