"""Commands for the nodes of a cluster: nodes; node cordon, uncordon, drain, purge."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from skerry import purging
from skerry.cli import examples, options, output, running
from skerry.client import Client
from skerry.errors import Refused, SkerryError

app = typer.Typer(help="Nodes of the cluster.", no_args_is_help=True, rich_markup_mode=None)
Nodes = Annotated[list[str], typer.Argument(metavar="NODE...", help="As in `skerry nodes`.")]
Node = Annotated[str, typer.Argument(metavar="NODE", help="As in `skerry nodes`.")]
_POLL_SECONDS = 0.2
_MOVED = ("labels", "annotations")


def nodes(
    form: Annotated[output.Format, typer.Option("--output", "-o", help="How to print.", show_default=False)] = output.Format.TABLE,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """List the cluster's nodes and what they can take."""
    found = options.connect(socket, namespace).nodes()
    if form is output.Format.NAME:
        for node in found:
            print(f"sandboxnode.skerry.dev/{node['metadata']['name']}")
    elif form in {output.Format.JSON, output.Format.YAML}:
        output.print_data({"apiVersion": "v1", "kind": "List", "items": list(found)}, form)
    else:
        is_wide = form is output.Format.WIDE
        header = ("NAME", "STATUS", "SANDBOXES", "CPU", "MEMORY", "AGE")
        output.print_table((*header, "ADDRESS", "KERNEL", "VERSION") if is_wide else header, [_row(node, is_wide=is_wide) for node in found])


@app.command("cordon", epilog=examples.render("node cordon"))
def cordon(names: Nodes, socket: options.Socket = None) -> None:
    """Let nodes take no more sandboxes. They keep what they have."""
    client = options.connect(socket, None)
    _each(names, client.cordon)


@app.command("uncordon", epilog=examples.render("node uncordon"))
def uncordon(names: Nodes, socket: options.Socket = None) -> None:
    """Let nodes take sandboxes again."""
    client = options.connect(socket, None)
    _each(names, lambda name: client.cordon(name, unschedulable=False))


@app.command("drain", epilog=examples.render("node drain"))
def drain(
    name: Node,
    move: Annotated[bool, typer.Option("--move", help="Make each again, so that another node takes it; its files are lost.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove sandboxes that nobody makes again.")] = False,
    grace: Annotated[
        int | None, typer.Option("--grace-period", min=0, metavar="SECONDS", help="From TERM to KILL, in the place of each one's own.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up then.")] = 300.0,
    socket: options.Socket = None,
) -> None:
    """Cordon a node and remove its sandboxes, each with its own grace period.

    A sandbox that runs and has no owner is gone for good then: that needs --move or --force.
    """
    client = options.connect(socket, None)
    client.cordon(name)
    found = client.list_on(name)
    kept = [each for each in found if not (move or force) and _is_precious(each)]
    if kept:
        listed = ", ".join(_key(each) for each in kept[:5]) + (" ..." if len(kept) > 5 else "")
        raise Refused(
            f"{len(kept)} sandboxes would be gone for good: {listed}", status=409, reason="NotOwned",
            hint=f"node {name} is cordoned. Make them again elsewhere: --move; remove them: --force; or let it be: skerry node uncordon {name}",
        )  # fmt: skip
    for each in found:
        _delete(client, each, grace=grace)
    if not _await_gone(client, name, found, end=time.monotonic() + timeout, move=move):
        raise SkerryError(
            f"node {name} still has sandboxes after {timeout:g} s",
            hint=f"it goes on; look: skerry ps -A -o wide; again: skerry node drain {name}",
        )


@app.command("purge", epilog=examples.render("node purge"))
def purge(
    name: Node,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up then.")] = 300.0,
    socket: options.Socket = None,
) -> None:
    """Take a node that has no sandboxes out of Skerry: its agent ends, and nothing of Skerry is left on it."""
    options.connect(socket, None).purge_node(name, timeout_seconds=timeout, say=lambda text: print(f"{name} {text}", flush=True))
    if sys.stderr.isatty():
        print(f"to have its agent back: kubectl label node {name} {purging.LABEL}-", file=sys.stderr)


def _await_gone(client: Client, node: str, wanted: tuple[dict[str, Any], ...], *, end: float, move: bool) -> bool:
    """Until none of *wanted* is left, making them again as they go when *move*; a line for each. False at *end*."""
    waiting = {each["metadata"]["uid"]: each for each in wanted}
    while waiting:
        left = {each["metadata"]["uid"] for each in client.list_on(node)}
        for uid in [uid for uid in waiting if uid not in left]:
            gone = waiting.pop(uid)
            is_moved = move and _is_precious(gone)
            if is_moved:
                _make_again(client, gone)
            print(f"{_key(gone)} {'moved' if is_moved else 'removed'}", flush=True)
            if sys.stderr.isatty() and waiting:
                print(f"{len(waiting)} of {len(wanted)} to go", file=sys.stderr)
        if waiting:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
    return True


def _make_again(client: Client, gone: dict[str, Any]) -> None:
    """Raises SkerryError, the manifest printed: nobody else has it any more."""
    manifest = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", **_fresh(gone)}
    try:
        client.create(manifest)
    except SkerryError:
        output.print_error(f"{_key(gone)} was removed and could not be made again; this is its manifest, for kubectl create -f")
        output.print_data(manifest, "json")
        raise


def _fresh(raw: dict[str, Any]) -> dict[str, Any]:
    """The manifest that a person would have written for *raw*."""
    metadata = {"name": raw["metadata"]["name"], "namespace": raw["metadata"]["namespace"]}
    metadata |= {key: raw["metadata"][key] for key in _MOVED if raw["metadata"].get(key)}
    return {"metadata": metadata, "spec": {key: value for key, value in raw["spec"].items() if key != "nodeName"}}


def _is_precious(raw: dict[str, Any]) -> bool:
    """Whether it has something to lose and nobody makes it again."""
    has_ended = (raw.get("status") or {}).get("termination") is not None
    return not has_ended and not raw["metadata"].get("ownerReferences") and not raw["metadata"].get("deletionTimestamp")


def _delete(client: Client, raw: dict[str, Any], *, grace: int | None) -> None:
    """One that is on its way out already is only hurried."""
    name, namespace = raw["metadata"]["name"], raw["metadata"]["namespace"]
    try:
        if grace is not None:
            client.stop(name, grace_seconds=grace, namespace=namespace)
        if not raw["metadata"].get("deletionTimestamp"):
            client.delete(name, namespace=namespace)
    except Refused as error:
        if error.status != 404:
            raise


def _key(raw: dict[str, Any]) -> str:
    return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"


def _row(node: dict[str, Any], *, is_wide: bool) -> list[str]:
    status = node.get("status") or {}
    ready = next((each["status"] for each in status.get("conditions") or () if each["type"] == "Ready"), "Unknown")
    state = {"True": "Ready", "False": "NotReady"}.get(ready, "Unknown")
    if (node.get("spec") or {}).get("unschedulable"):
        state += ",Cordoned"
    can, has = status.get("allocatable") or {}, status.get("allocated") or {}
    row = [
        node["metadata"]["name"], state, f"{has.get('sandboxes', 0)}/{can.get('sandboxes', 0)}", f"{has.get('cpu', 0)}/{can.get('cpu', 0)}",
        f"{has.get('memory', 0)}/{can.get('memory', 0)}", output.render_age(node["metadata"].get("creationTimestamp")),
    ]  # fmt: skip
    versions = status.get("versions") or {}
    return [*row, status.get("address") or "", versions.get("kernel", ""), versions.get("agent", "")] if is_wide else row


def _each(names: list[str], act: Any) -> None:
    is_failed = False
    for name in names:
        try:
            act(name)
        except Refused as error:
            if error.status == 405:
                raise
            output.print_error(f"{name}: {error}")
            is_failed = True
        else:
            print(name)
    if is_failed:
        raise typer.Exit(running.FAILED)
