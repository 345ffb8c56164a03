"""Which signals a first process would hear, by what the kernel shows of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from skerry_node import observe

READY = "sys.stdout.write('.'); sys.stdout.flush(); "


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another process's system call is its own affair")
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        pytest.param("signal.signal(15, print); " + READY + "signal.pause()", True, id="catches it"),
        pytest.param("signal.pthread_sigmask(0, [15]); " + READY + "signal.pause()", True, id="blocks it"),
        pytest.param("signal.pthread_sigmask(0, [15]); " + READY + "signal.sigwaitinfo([15])", True, id="awaits it, as tini does"),
        pytest.param(READY + "signal.pause()", False, id="neither"),
    ],
)
def test_a_signal_is_heard_by_who_catches_or_awaits_it(program, expected):
    """Programs that sleep in each way."""
    with subprocess.Popen([sys.executable, "-c", f"import signal, sys; {program}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        deadline = time.monotonic() + 30
        while b"S (sleeping)" not in _status(process.pid):  # asleep in the call that is meant, not about to be
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = observe.read_process_state(process.pid, signal.SIGTERM)
        process.kill()
    assert found is not None
    assert found.handles_signal is expected


def _status(pid: int) -> bytes:
    with open(f"/proc/{pid}/status", "rb") as file:
        return file.read()
