"""Start a keeper: from this installation, or on the host from a sealed runtime. It is nobody's child, in its own session."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import skerry_node
from skerry_node.keeper import detaching, sealed
from skerry_node.keeper.settings import Settings, render

_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from skerry_node.keeper.__main__ import main; main()"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_DETACH = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
os.chdir("/")
os.execv(sys.argv[1], [sys.argv[1], "-I", "-S", "-c", *sys.argv[2:]])
"""


@dataclass(frozen=True, slots=True)
class Outside:
    """A keeper on the host: where sealed runtimes lie, and the files cgroup.procs that take it out of the agent's pod."""

    directory: str
    groups: tuple[str, ...]


def find_log(settings: Settings) -> str:
    """Where a keeper complains."""
    return os.path.join(os.path.dirname(settings.socket_path), "keeper.log")


def spawn(settings: Settings, outside: Outside | None) -> None:
    """Start one. Raises OSError, subprocess.SubprocessError."""
    for path in (settings.build_dir, settings.runtime_dir, settings.logs_dir):
        os.makedirs(path, mode=0o700, exist_ok=True)
    if outside is not None:
        _spawn_outside(settings, outside)
        return
    package_root = os.path.dirname(os.path.dirname(skerry_node.__file__))
    command = [sys.executable, "-I", "-S", "-c", _DETACH, sys.executable, _BOOT, package_root]
    with open(find_log(settings), "ab") as log:
        subprocess.run([*command, render(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, close_fds=True, env=_ENVIRONMENT)


def _spawn_outside(settings: Settings, outside: Outside) -> None:
    """In the host's namespaces, and in a control group of its own."""
    order = {
        "groups": outside.groups, "host": detaching.find_host(os.getppid()), "log": find_log(settings),
        "argv": render_command(settings, sealed.ensure(outside.directory)),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-S", detaching.__file__, json.dumps(order)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, check=False, env=_ENVIRONMENT,
    )  # fmt: skip
    if done.returncode != 0:
        raise subprocess.SubprocessError(done.stderr.decode(errors="replace").strip()[-500:])


def render_command(settings: Settings, runtime: sealed.Runtime) -> list[str]:
    """The command line of a keeper that runs from *runtime*."""
    complete = dataclasses.replace(settings, runtime=runtime.digest)
    return [*runtime.command, "-I", "-S", "-c", _BOOT, runtime.packages, render(complete)]
