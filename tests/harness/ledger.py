"""The books of the machine: what carries our name in the kernel and on disk, before a test and after it.

Only what is ours counts, for a machine is busy with other things, and sessions run side by side: names with a mark that this session has
claimed (claims.py), the names that an agent without flags takes, unless a neighbour's does (neighbours.py), paths below the session's own
temporary directory, and what its processes hold.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.harness import claims, machine, neighbours, subreaper

PATIENCE_SECONDS = 30.0 * machine.PATIENCE  # namespaces, and the links and mounts in them, vanish in a kernel worker some time after their last user
_FILE = re.compile(r"skerry|^sk[-_.\d]")
_PLACES = ("/run", "/run/netns", "/var/lib", "/tmp")
_HELD = frozenset({"network namespace", "process", "open file"})
"""Kinds that are found from our processes, so that no name need tell whose they are."""
_MOVING = frozenset({"handle", "counter", "expires", "used"})
"""Of nft's objects, in the words of libnftables-json(5): what traffic, time and each load change."""
_OBJECT = ("table", "chain", "rule", "set", "map", "element")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is ours: *roots* are directories of this session, *pid* the process above all of it."""

    roots: tuple[str, ...] = ()
    pid: int = field(default_factory=subreaper.root_pid)

    def is_ours(self, text: str) -> bool:
        """Whether a path or a name is ours, or of someone who names things as we do."""
        return "skerry" in text or any(f"{root}/" in text for root in self.roots)


Snapshot = Mapping[str, Counter[str]]
"""What there is by kind of thing: readable lines with their number."""


def snapshot(scope: Scope) -> Snapshot:
    """Everything of ours that there is now. Needs root to see all of it."""
    ours = _descendants(scope.pid)
    kinds: dict[str, Callable[[], Iterator[str]]] = {
        "mount": lambda: _mounts(scope),
        "link": _links,
        "network namespace": lambda: _net_namespaces(ours),
        "cgroup": lambda: _cgroups(scope),
        "nft": _nft_objects,
        "loop device": lambda: _loop_devices(scope),
        "process": lambda: _processes(ours),
        "open file": _open_files,
        "file": _files,
    }
    found = {kind: list(read()) for kind, read in kinds.items()}
    theirs = neighbours.learn(lambda: _descendants(scope.pid) | {scope.pid})
    own = (*(mark for mark, root in claims.read_marks().items() if root == scope.pid), *(f"{root}/" for root in scope.roots))

    def counts(kind: str, line: str) -> bool:
        return kind in _HELD or any(part in line for part in own) or (neighbours.is_default(line) and not neighbours.is_theirs(line, theirs))

    return {kind: Counter(line for line in lines if counts(kind, line)) for kind, lines in found.items()}


def diff(before: Snapshot, after: Snapshot) -> list[str]:
    """Readable lines: what is there now and was not before, and what of ours is gone."""
    added = [f"left behind: {kind} {line}" for kind in after for line in sorted((after[kind] - before[kind]).elements())]
    gone = [
        f"taken away: {kind} {line}"
        for kind in after
        if kind not in ("process", "open file", "network namespace", "file")  # a fixture of a wider scope may end these
        for line in sorted((before[kind] - after[kind]).elements())
    ]
    return added + gone


def wait_for_balance(before: Snapshot, scope: Scope, *, patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
    """The difference from *before*, empty as soon as there is none; else what it still is after *patience_seconds*."""
    deadline = time.monotonic() + patience_seconds
    gc.collect()  # what only a dead cycle holds is not held
    while True:
        found = diff(before, snapshot(scope))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _mounts(scope: Scope) -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            head, _, tail = line.partition(" - ")
            point, (kind, source, *_) = head.split()[4], tail.split()
            if scope.is_ours(f"{point} {source}"):
                yield f"{point} ({kind} from {source})"


def _links() -> Iterator[str]:
    return (name for name in os.listdir("/sys/class/net") if name.startswith("sk"))


def _net_namespaces(pids: set[int]) -> Iterator[str]:
    """Those that processes of ours are in or hold an fd of, each once, other than our own."""
    found: set[str] = set()
    for pid in pids:
        found |= {target for _, target in _read_links(f"/proc/{pid}/fd") if target.startswith("net:")}
        found |= {target for name, target in _read_links(f"/proc/{pid}/ns") if name == "net"}
    return iter(found - {os.readlink("/proc/self/ns/net")})


def _cgroups(scope: Scope) -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        tops = {line.split()[4] for line in file if line.partition(" - ")[2].startswith("cgroup")}
    for top in tops:
        for directory, _, _ in os.walk(top):
            if scope.is_ours(directory.removeprefix(top)):
                yield directory


def _nft_objects() -> Iterator[str]:
    """Tables of ours and what is in them, element by element."""
    if shutil.which("nft") is None:
        return
    text = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True, text=True).stdout
    for entry in json.loads(text or '{"nftables": []}')["nftables"]:
        for kind in _OBJECT:
            value = entry.get(kind)
            if value is not None and "skerry" in value.get("table", value.get("name", "")):
                lasting = _without_what_moves(value)
                elements = lasting.pop("elem", ())
                yield f"{kind} {json.dumps(lasting, sort_keys=True)}"
                for element in elements:
                    yield f"{kind} {value['table']} {value['name']}: {json.dumps(element, sort_keys=True)}"


def _without_what_moves(value: Any) -> Any:
    """Without counters and times, and without the handles that change at each load."""
    if isinstance(value, dict):
        return {key: _without_what_moves(each) for key, each in value.items() if key not in _MOVING}
    return [_without_what_moves(each) for each in value] if isinstance(value, list) else value


def _loop_devices(scope: Scope) -> Iterator[str]:
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
                backing = file.read().strip()
        except OSError:
            continue
        if scope.is_ours(backing):
            yield f"{name} on {backing}"


def _processes(pids: set[int]) -> Iterator[str]:
    for pid in pids - {os.getpid()}:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        yield words[:300] or "(ended, and nobody waited for it)"  # without the pid: a restart is no leak


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])  # proc(5): the name may hold anything, also ')'
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found, queue = set[int](), [root]
    while queue:
        new = children.get(queue.pop(), [])
        found |= set(new)
        queue += new
    return found


def _open_files() -> Iterator[str]:
    """Without the three standard streams: pytest swaps them as it captures."""
    return (f"{number} -> {target}" for number, target in _read_links("/proc/self/fd") if int(number) > 2)


def _files() -> Iterator[str]:
    for place in _PLACES:
        if os.path.isdir(place):
            yield from (os.path.join(place, name) for name in os.listdir(place) if _FILE.search(name))


def _read_links(directory: str) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        try:
            yield name, os.readlink(os.path.join(directory, name))
        except OSError:  # closed meanwhile, as the directory's own fd is
            continue
