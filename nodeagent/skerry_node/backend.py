"""The agent as its own door sees it: answers for the CLI of this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, Any

from skerry_api.sandbox import DesiredState, Sandbox
from skerry_node import act, entering, errors, fetching, inventory, means, processes, report, usage, variables
from skerry_node.build import cache
from skerry_node.image import importing
from skerry_node.image.errors import ImageError
from skerry_node.image.store import Image as StoredImage
from skerry_node.keeper import client, wire
from skerry_node.manifests import ManifestSource
from skerry_node.model import Running
from skerry_node.serving.backend import Image, Info, Refused
from skerry_node.serving.exec_options import ExecOptions
from skerry_node.sessions.consoles import Consoles
from skerry_node.sessions.table import Sessions

if TYPE_CHECKING:
    from skerry_node.agent import Agent

VERSION = inventory.VERSION
_LIST_SECONDS = 10.0
"""For the first list of sandboxes: of a directory a moment, of an API server that is there half a second."""
_IN_CLUSTER = "this agent takes sandboxes from the API server; apply it with kubectl"


class Backend:
    """skerry_node.serving.backend.Backend over a running agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def info(self) -> Info:
        """The agent about itself."""
        settings = self._agent.settings
        details = {
            "kernel": platform.release(),
            "cgroup": f"v{self._agent.hands.view.groups.hierarchies.version}",
            "bridge": settings.bridge,
            "addressRange": settings.address_range,
            "stateDirectory": settings.state_dir,
            "runtimeDirectory": settings.run_dir,
            "sandboxes": len(self._agent.loop.wanted),
            "shellsReady": len(self._agent.hands.shells),
        }
        standalone = isinstance(self._agent.source, ManifestSource)
        return Info(version=VERSION, node_name=settings.node_name, is_standalone=standalone, details=details)

    async def await_list(self) -> None:
        """Return once there has been a complete list of sandboxes. Raises Refused."""
        try:
            async with asyncio.timeout(_LIST_SECONDS):
                await self._agent.loop.listed.wait()
        except TimeoutError:
            problem = "this agent has just been started and has had no list of its sandboxes yet; try again once the API server answers"
            raise Refused(problem, status=503, reason="Unavailable") from None

    def list(self) -> tuple[Sandbox, ...]:
        """Every sandbox of this node, with its status as last seen."""
        return tuple(self._with_status(sandbox) for sandbox in self._agent.loop.wanted.values())

    def find(self, namespace: str, name: str) -> Sandbox | None:
        """One sandbox by name."""
        for sandbox in self._agent.loop.wanted.values():
            if sandbox.metadata.namespace == namespace and sandbox.metadata.name == name:
                return self._with_status(sandbox)
        return None

    async def inspect(self, sandbox: Sandbox) -> Mapping[str, Any]:
        """What the node knows beyond the object."""
        hands, uid = self._agent.hands, sandbox.metadata.uid
        outcome = self._agent.loop.outcomes.get(uid)
        observed = outcome.observed if outcome is not None else None
        process = observed.process if observed is not None else None
        image = self._agent.store.find(sandbox.spec.image)
        writable = os.path.join(hands.settings.scratch_dir, uid)
        pid = process.pid if isinstance(process, Running) else None
        slot = observed.slot if observed is not None else None
        return {
            "pid": pid,
            "layers": [dataclasses.asdict(layer) for layer in image.layers] if image is not None else [],
            "lower": [os.path.join(self._agent.store.layers_dir, layer.path) for layer in image.layers] if image else [],
            "upper": os.path.join(writable, "upper"),
            "work": os.path.join(writable, "work"),
            "merged": f"/proc/{pid}/root" if pid is not None else None,
            "logs": self.log_directory(sandbox),
            "cgroups": sorted(set(hands.view.groups.open(uid).paths.values())),
            "namespaces": _namespaces(pid) if pid is not None else {},
            "slot": slot,
            "link": hands.view.leases.veth_name(slot) if slot is not None else None,
            "idRange": list(hands.view.leases.id_range(slot)) if slot is not None else None,
            "plan": [type(step).__name__ for step in outcome.steps] if outcome is not None else [],
            "events": self._events(sandbox),
        }

    async def create(self, raw: Mapping[str, Any]) -> Sandbox:
        """A new sandbox from a manifest."""
        return await self._manifests().create(raw)

    async def set_desired_state(self, sandbox: Sandbox, *, state: DesiredState, grace_seconds: int | None = None) -> Sandbox:
        """Write spec.desiredState."""
        return await self._manifests().set_desired_state(sandbox, state=state, grace_seconds=grace_seconds)

    async def delete(self, sandbox: Sandbox) -> None:
        """Ask for the sandbox's deletion."""
        await self._manifests().delete(sandbox)

    async def import_image(self, path: str, *, reference: str | None) -> tuple[Image, ...]:
        """Put an OCI layout or a docker-archive into the store, and start what waited for it; without *reference* all images in it."""
        try:
            if reference is None:
                images = await asyncio.to_thread(importing.import_all, self._agent.store, path)
            else:
                images = (await asyncio.to_thread(importing.import_layout, self._agent.store, path, reference=reference),)
        except ImageError as error:
            raise Refused(str(error), reason=error.reason, field="path") from error
        except OSError as error:
            raise Refused(f"cannot read {path}: {error.strerror}", reason="Unreadable", field="path") from error
        self._agent.loop.poke_all()
        return tuple(_describe(image) for image in images)

    async def pull_image(self, reference: str, *, docker_config: bytes | None) -> AsyncGenerator[Mapping[str, Any] | Image]:
        """Pull *reference* as its registry has it now; sandboxes that waited for it start."""
        try:
            async with aclosing(fetching.fetch(self._agent.images, reference, docker_config=docker_config)) as pieces:
                async for piece in pieces:
                    yield _describe(piece) if isinstance(piece, StoredImage) else piece.render()
        except ImageError as error:
            raise Refused(str(error), reason=error.reason, field="reference") from error
        except OSError as error:
            raise Refused(f"the image cannot be stored: {error.strerror or error}", status=500, reason="Unwritable") from error
        self._agent.loop.poke_all()

    def images(self) -> tuple[Image, ...]:
        """What the store holds."""
        return tuple(_describe(image) for image in self._agent.store.list() if not cache.is_stage(image.reference))

    async def remove_image(self, reference: str) -> None:
        """Take the reference out of the store; one that a sandbox uses stays."""
        image = self._agent.store.find(reference)
        if image is not None:
            for sandbox in self._agent.loop.wanted.values():
                if self._agent.store.find(sandbox.spec.image) == image:
                    name = sandbox.metadata.name
                    raise Refused(f"image {reference} is used by sandbox {name}; remove that first", status=409, reason="InUse")
        try:
            gone = self._agent.store.remove(reference)
        except ImageError as error:
            raise Refused(str(error), status=404, reason=error.reason) from error
        for layer in gone:
            try:
                await act.forget_layer(self._agent.hands, layer)
            except client.KeeperLost:
                break  # the next keeper mounts only what it is asked for

    def stats(self, sandbox: Sandbox) -> Mapping[str, Any] | None:
        """What the kernel counted for it up to now."""
        outcome = self._agent.loop.outcomes.get(sandbox.metadata.uid)
        if outcome is None or not isinstance(outcome.observed.process, Running):
            return None
        hands, slot = self._agent.hands, outcome.observed.slot
        link = hands.view.leases.veth_name(slot) if slot is not None else None
        try:
            uid, denied = sandbox.metadata.uid, hands.view.refusals.count(slot) if slot is not None else None
            known = usage.Known(self._agent.gauges.disk_bytes(uid), denied)
            read = usage.read_usage(hands.view.groups.open(uid), link, known=known, spec=sandbox.spec)
        except OSError:
            return None
        return {"time": report.render_time(time.time_ns()), **read}

    def log_directory(self, sandbox: Sandbox) -> str:
        """Where the sandbox's output is."""
        return os.path.join(self._agent.settings.logs_dir, sandbox.metadata.uid)

    @property
    def sessions(self) -> Sessions:
        """The execs of this node."""
        return self._agent.sessions

    @property
    def consoles(self) -> Consoles:
        """What is typed to first processes."""
        return self._agent.consoles

    async def order_exec(self, sandbox: Sandbox, options: ExecOptions) -> wire.Entry:
        """The keeper's order for an exec in *sandbox*. Raises Refused while nothing runs there."""
        id_base, hands = self._require_running(sandbox), self._agent.hands
        try:
            env = await hands.environments.find(hands.source, sandbox, means.find_facts(hands, sandbox))
        except variables.VariableFailed as error:
            raise Refused(error.problem, status=409, reason=error.reason, field=error.field) from error
        except errors.SourceUnavailable as error:
            raise Refused(f"{error}; try again in a moment", status=503, reason="SourceUnavailable") from error
        return entering.order(sandbox, self._agent.store.find(sandbox.spec.image), options, id_base=id_base, variables=env)

    def processes(self, sandbox: Sandbox) -> Sequence[Mapping[str, Any]]:
        """The processes in *sandbox*, plain data. Raises Refused while nothing runs there."""
        id_base = self._require_running(sandbox, is_frozen_fine=True)
        try:
            text = self._agent.hands.view.groups.open(sandbox.metadata.uid).read("pids", "cgroup.procs")
        except FileNotFoundError:
            return []
        return processes.read((int(pid) for pid in text.split()), id_base=id_base)

    def order_task(self, sandbox: Sandbox, task: str, arguments: tuple[str, ...], *, user: str = "") -> wire.Entry:
        """The keeper's order for a task of ours in *sandbox*. Raises Refused while nothing runs there."""
        image = self._agent.store.find(sandbox.spec.image)
        return entering.task(sandbox, image, task, arguments, id_base=self._require_running(sandbox), user=user)

    async def signal(self, sandbox: Sandbox, number: int) -> None:
        """Send a signal to the first process of *sandbox*. Raises Refused."""
        self._require_running(sandbox, is_frozen_fine=True)
        try:
            await self._agent.hands.keeper.signal(sandbox.metadata.uid, number)
        except client.KeeperLost as error:
            raise Refused(f"{error}; try again in a moment", status=503, reason="KeeperLost") from error

    def _require_running(self, sandbox: Sandbox, *, is_frozen_fine: bool = False) -> int:
        """The host's id of its root, when it runs. Raises Refused."""
        name, outcome = sandbox.metadata.name, self._agent.loop.outcomes.get(sandbox.metadata.uid)
        observed = outcome.observed if outcome is not None else None
        if observed is None or observed.slot is None or not isinstance(observed.process, Running):
            raise Refused(f"{name} does not run; start it: skerry start {name}", status=409, reason="NotRunning")
        is_still = observed.is_frozen or sandbox.spec.ttl.idle_seconds is not None
        if is_still and not is_frozen_fine and not self._agent.dozing.rouse(sandbox):
            raise Refused(f"{name} is paused; let it go on: skerry unpause {name}", status=409, reason="Paused")
        return self._agent.hands.view.leases.id_range(observed.slot)[0]

    def visit(self, sandbox: Sandbox) -> AbstractContextManager[None]:
        """Somebody is with *sandbox* for the time of a block."""
        return self._agent.dozing.visit(sandbox)

    def _manifests(self) -> ManifestSource:
        if not isinstance(self._agent.source, ManifestSource):
            raise Refused(_IN_CLUSTER, status=405, reason="MethodNotAllowed")
        return self._agent.source

    def _events(self, sandbox: Sandbox) -> Sequence[Any]:
        if not isinstance(self._agent.source, ManifestSource):
            return []
        return [dataclasses.asdict(event) for event in self._agent.source.events(sandbox)]

    def _with_status(self, sandbox: Sandbox) -> Sandbox:
        outcome = self._agent.loop.outcomes.get(sandbox.metadata.uid)
        if outcome is None or outcome.status is None:
            return sandbox
        return dataclasses.replace(sandbox, status=outcome.status)


def _describe(image: StoredImage) -> Image:
    return Image(reference=image.reference, digest=image.digest, size_bytes=image.size_bytes, layers=len(image.layers))


def _namespaces(pid: int) -> dict[str, str]:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    try:
        return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}
    except OSError:
        return {}
