"""The keeper's order for one process that joins a sandbox: manifest, image and request together. Pure."""

from __future__ import annotations

import secrets

from skerry_api.sandbox import Sandbox
from skerry_node.image.store import Image
from skerry_node.keeper import confine, wire
from skerry_node.serving.exec_options import ExecOptions

_MAX_HOSTNAME = 63


def order(sandbox: Sandbox, image: Image | None, options: ExecOptions, *, id_base: int, variables: tuple[str, ...] = ()) -> wire.Entry:
    """A program of the sandbox's image, run as the first process is: its user, its environment, its rights, unless *options* say other.

    *variables* are NAME=VALUE of the sandbox itself.
    """
    spec = sandbox.spec
    config = image.config if image is not None else None
    env = [*(config.env if config is not None else ()), *variables]
    if options.has_terminal:
        env.append("TERM=xterm")
    return wire.Entry(
        uid=sandbox.metadata.uid,
        name=f"{sandbox.metadata.uid}/{options.name or secrets.token_hex(8)}",
        task="",
        argv=options.command,
        env=(*env, *options.env),
        working_dir=options.working_dir or spec.working_dir or (config.working_dir if config is not None else "") or "/",
        user=options.user or spec.user or (config.user if config is not None else "") or "",
        hostname=(spec.hostname or sandbox.metadata.name)[:_MAX_HOSTNAME],
        id_base=id_base,
        capabilities=confine.capability_set(spec.security.capabilities_add, spec.security.capabilities_drop),
        has_terminal=options.has_terminal,
        has_input=options.has_input,
        columns=options.columns,
        rows=options.rows,
    )


def task(sandbox: Sandbox, image: Image | None, name: str, arguments: tuple[str, ...], *, id_base: int, user: str = "") -> wire.Entry:
    """A task of ours inside the sandbox, as its user and with its rights."""
    options = ExecOptions(command=arguments, user=user, has_input=True)
    entry = order(sandbox, image, options, id_base=id_base)
    return wire.Entry(
        uid=entry.uid, name=entry.name, task=name, argv=entry.argv, env=(), working_dir="/", user=entry.user, hostname=entry.hostname,
        id_base=entry.id_base, capabilities=entry.capabilities, has_input=True,
    )  # fmt: skip
