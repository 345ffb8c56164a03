"""What a RUN executes: its words, or its text for the shell with its here-documents behind it. Pure."""

from __future__ import annotations

import re

from skerry_node.build import configs
from skerry_node.build import instructions as kinds
from skerry_node.build.source import find_heredocs

_INTERPRETER = re.compile(r"#!\s*(\S+)(?:[ \t]+(\S.*?))?[ \t]*\n")
_RUN_FILE = 'printf %s "$1" >/dev/shm/.script && shift && exec "$@" /dev/shm/.script'
"""A script with an interpreter of its own is a file for it, in memory and in no layer."""


def command(config: configs.Config, step: kinds.Run) -> tuple[str, ...]:
    """The program and its arguments."""
    if not step.command.is_shell or not step.heredocs:
        return configs.command(config, step.command)
    text = step.command.words[0]
    matches = find_heredocs(text)
    if len(matches) == 1 and text.strip() == matches[0][0]:
        return _script(config, step.heredocs[0].content)
    whole = text + "\n" + "".join(f"{each.content}{each.name}\n" for each in step.heredocs)
    return configs.command(config, kinds.Command((_untabbed(whole, text),), is_shell=True))


def _untabbed(whole: str, text: str) -> str:
    """The tabs are gone already, so `<<-` and `<<` mean the same now."""
    return whole.replace(text, re.sub(r"<<-", "<<", text), 1)


def _script(config: configs.Config, content: str) -> tuple[str, ...]:
    found = _INTERPRETER.match(content)
    if found is None:
        return configs.command(config, kinds.Command((content,), is_shell=True))
    interpreter = (found[1], found[2]) if found[2] else (found[1],)
    return ("/bin/sh", "-c", _RUN_FILE, "sh", content, *interpreter)
