"""Names that belong to agents of someone else on this machine, such as a `make cluster` in another terminal: no test's business.

A neighbour's command lines, its keeper's too, carry the names of everything it makes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

_NAME = re.compile(r"(?<![\w-])(?:skerry[\w-]*|sk[\w]+-)")  # links are sk<part of the bridge's name>-<slot>
_PLACE = re.compile(r"(?:/run|/tmp|/var/lib)/(skerry[\w-]+)")
_COMMON = frozenset({"skerry", "skerry_node", "skerry_operator", "skerry_api", "skerry-system", "skerry-keeper"})
_DEFAULTS = frozenset({"skerry", "skerry0", "skerry-skerry0", "sk0-"})  # of an agent without flags: its settings
_known: set[str] = set()


def learn(find_ours: Callable[[], set[int]]) -> frozenset[str]:
    """The neighbours' names, now and earlier in this session: of every agent and keeper that is not among ours."""
    found = {int(name): _read_names(name) for name in os.listdir("/proc") if name.isdigit()}
    ours = find_ours()  # after the look at the others: whoever was started meanwhile is not in *found*
    for pid, names in found.items():
        if pid not in ours:
            _known.update(names)
    return frozenset(_known)


def is_default(text: str) -> bool:
    """Whether a name in *text* is one that an agent without flags takes: what it makes where it forgets its flags."""
    return not _names(text).isdisjoint(_DEFAULTS)


def _read_names(pid: str) -> set[str]:
    """What a process says it owns: an agent and a keeper by every name, another (a virtual machine of tests) by its directories."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return set()
    if "skerry_node" in words and "socket_path" in words:  # a keeper
        return _names(words) - _COMMON
    return _agent_names(words) if re.search(r"-m skerry_node\b|skerry-agent\b", words) else set(_PLACE.findall(words))


def is_theirs(text: str, theirs: Iterable[str]) -> bool:
    """Whether one of the names in *text* is a neighbour's."""
    return not _names(text).isdisjoint(theirs)


def _agent_names(words: str) -> set[str]:
    found = _names(words) - _COMMON
    if "--bridge" not in words:
        found |= _DEFAULTS
    for bridge in list(found):
        found |= {f"skerry-{bridge}", f"sk{bridge.removeprefix('skerry')[:6]}-"}  # its nft table, its sandboxes' links
    return found


def _names(text: str) -> set[str]:
    return set(_NAME.findall(text))
