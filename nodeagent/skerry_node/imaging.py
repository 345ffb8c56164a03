"""Images for sandboxes: whether one may start with what is here, and otherwise fetching it, beside the reconciles of all others.

`admit` answers at once, from memory. What has to be asked of a registry runs as a task of its own sandbox, which looks again when it ends; how
far it is, and why it failed, is said in the condition ImageReady. Failures are tried again later and later, as the kubelet has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from skerry_api.image import BUILT_DOMAIN
from skerry_api.sandbox import ImagePullPolicy, RestartPolicy, Sandbox
from skerry_node import errors
from skerry_node.image import access, reference
from skerry_node.image.errors import ImageError, InvalidReference
from skerry_node.image.progress import Progress, render_bytes
from skerry_node.image.pulling import Puller
from skerry_node.image.reference import Reference
from skerry_node.image.registry import credentials as vault
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, InvalidRegistryConfig, NotInRegistry, PlatformMissing
from skerry_node.image.store import Image, Store
from skerry_node.model import Problem
from skerry_node.sources import Source

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 10.0, 300.0
"""As the kubelet holds failing pulls back (ImagePullBackOff)."""
PROGRESS_SECONDS = 5.0
"""How often a status says how far a pull is: each time is a write to the API server."""
_CONDITION, PULLING, FAILED = "ImageReady", "Pulling", "ImagePullFailed"
_REFUSALS = (AccessDenied, NotInRegistry, PlatformMissing)
"""What a registry says of the image that was asked for; all else may pass by itself."""
_LOG = logging.getLogger("skerry.imaging")


@dataclass(frozen=True, slots=True)
class Admission:
    """The image to start with, or why there is none yet."""

    image: Image | None
    problem: Problem | None = None


@dataclass(slots=True)
class _Work:
    """What is done for one sandbox. *wish* is what it was begun for; another one begins anew."""

    wish: tuple[object, ...]
    task: asyncio.Task[None] | None = None
    granted: tuple[int, str] | None = None
    """The attempt, and the digest that its registry admitted it to."""
    read_progress: Callable[[], Progress] | None = None
    failures: int = 0
    refusals: int = 0
    """How many of the last failures in a row were the registry's own word."""
    problem: Problem | None = None


class Imaging:
    """Must be used inside one event loop. *poke* has a sandbox looked at again; *read_node_credentials* gives those that hold for all of this node.

    A sandbox that is never restarted has failed after *tries* refusals in a row.
    *is_named*: those who write sandboxes are the operator of this machine, so their registries may have private addresses.
    """

    def __init__(
        self, store: Store, puller: Puller, source: Source, *, poke: Callable[[str], None],
        read_node_credentials: Callable[[], tuple[Credential, ...]] = tuple, is_named: bool = False, tries: int = 3,
    ) -> None:  # fmt: skip
        self._tries = tries
        self.puller = puller
        self.read_node_credentials = read_node_credentials
        self._store = store
        self._source = source
        self._poke = poke
        self._is_named = is_named
        self._works: dict[str, _Work] = {}
        self._public: set[tuple[str, str, str]] = set()
        """Repositories that showed an image to anybody, with its digest: so that a start reads no file."""

    def admit(self, sandbox: Sandbox, *, attempt: int) -> Admission:
        """What start number *attempt* of *sandbox* gets now. Does not wait."""
        uid, spec = sandbox.metadata.uid, sandbox.spec
        try:
            wanted = reference.parse(spec.image)
        except InvalidReference as error:
            return Admission(None, _problem(error.reason, f"spec.image: {error}"))
        if not self._is_named and wanted.domain == BUILT_DOMAIN and wanted.path.partition("/")[0] != sandbox.metadata.namespace:
            message = f"spec.image: images of {BUILT_DOMAIN} are those of one's own namespace, {BUILT_DOMAIN}/{sandbox.metadata.namespace}/..."
            return Admission(None, _problem("ImageNotFound", message))
        work = self._renewed(
            uid, (spec.image_pull_policy, spec.image_pull_secrets, attempt if spec.image_pull_policy is ImagePullPolicy.ALWAYS else 0)
        )
        image = self._find(wanted)
        if image is not None and self._may_start(sandbox, image, wanted, work, attempt):
            return Admission(image)
        if image is None and spec.image_pull_policy is ImagePullPolicy.NEVER:
            message = f"spec.image: no image {spec.image!r} on this node, and imagePullPolicy is Never; bring it with `skerry image import PATH`"
            return Admission(None, _problem("ImageNotFound", message))
        if work.task is None and (work.problem is None or (not work.problem.is_lasting and _now() >= work.problem.retry_at_seconds)):
            work.task = asyncio.get_running_loop().create_task(self._bring(sandbox, wanted, work, attempt))
            work.task.add_done_callback(lambda done: None if done.cancelled() else self._poke(uid))
        if work.task is not None:
            return Admission(None, _problem(PULLING, _describe(work, spec.image), retry_at_seconds=_now() + PROGRESS_SECONDS))
        return Admission(None, work.problem)

    def forget(self, uid: str) -> None:
        """Nothing is wanted for *uid* any more: a fetch that nobody else waits for ends."""
        work = self._works.pop(uid, None)
        if work is not None and work.task is not None:
            work.task.cancel()

    async def close(self) -> None:
        """End all fetches and close the connections."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for uid in list(self._works):
            self.forget(uid)
        if tasks:
            await asyncio.wait(tasks)
        await self.puller.close()

    def _renewed(self, uid: str, wish: tuple[object, ...]) -> _Work:
        work = self._works.get(uid)
        if work is None or work.wish != wish:
            self.forget(uid)
            work = self._works[uid] = _Work(wish)
        return work

    def _find(self, wanted: Reference) -> Image | None:
        """The image that is here under this repository. One of the same digest from another is no answer: it was shown to somebody else."""
        image = self._store.find(str(wanted))
        if image is None:
            return None
        held = reference.parse(image.reference)
        return image if (held.domain, held.path) == (wanted.domain, wanted.path) or image.is_local else None

    def _may_start(self, sandbox: Sandbox, image: Image, wanted: Reference, work: _Work, attempt: int) -> bool:
        if sandbox.spec.image_pull_policy is ImagePullPolicy.ALWAYS:
            return work.granted == (attempt, image.digest)
        if work.granted is not None and work.granted[1] == image.digest:
            return True
        key = (image.digest, wanted.domain, wanted.path)
        if image.is_local or key in self._public:
            return True
        if access.is_public(self._store, image, wanted):
            self._public.add(key)
        return key in self._public

    async def _bring(self, sandbox: Sandbox, wanted: Reference, work: _Work, attempt: int) -> None:
        """Get an image that the sandbox may use, or note why there is none."""
        began, notes = time.monotonic(), list[str]()
        try:
            credentials = await self._read_credentials(sandbox, notes)
            image = await self._get(sandbox, wanted, credentials, work, began)
        except Exception as error:  # noqa: BLE001 - a bug is no reason to try without rest
            if not isinstance(error, ImageError | errors.SourceUnavailable | OSError):
                _LOG.exception("image failed uid=%s image=%s", sandbox.metadata.uid, wanted)
            work.failures += 1
            work.refusals = work.refusals + 1 if isinstance(error, _REFUSALS) else 0
            held = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(work.failures - 1, 10), MAX_BACKOFF_SECONDS)
            hint = f" ({'; '.join(notes)})" if notes and isinstance(error, AccessDenied) else ""
            is_over = work.refusals >= self._tries and sandbox.spec.restart_policy is RestartPolicy.NEVER
            work.problem = _problem(FAILED, f"{error}{hint}", retry_at_seconds=0.0 if is_over else _now() + held, is_lasting=is_over)
            next_try = f"given up after {work.refusals} refusals" if is_over else f"next try in {held:g} s"
            _LOG.warning("image failed uid=%s image=%s failures=%d problem=%s", sandbox.metadata.uid, wanted, work.failures, error)
            self._tell(sandbox, "Failed", f'failed to pull image "{sandbox.spec.image}": {error}{hint}; {next_try}', warning=True)
        else:
            work.granted, work.problem, work.failures, work.refusals = (attempt, image.digest), None, 0, 0
        finally:
            work.task = None

    async def _get(self, sandbox: Sandbox, wanted: Reference, credentials: tuple[Credential, ...], work: _Work, began: float) -> Image:
        policy, image = sandbox.spec.image_pull_policy, self._find(wanted)
        if image is not None and policy is not ImagePullPolicy.ALWAYS:
            if not access.is_proved(self._store, image, wanted, credentials):
                await self.puller.prove(image, wanted, credentials=credentials, is_named=self._is_named)
            return image
        self._tell(sandbox, "Pulling", f'pulling image "{sandbox.spec.image}"')

        def watch(read: Callable[[], Progress]) -> None:
            work.read_progress = read

        image = await self.puller.pull(wanted, credentials=credentials, is_named=self._is_named, watch=watch)
        moved = work.read_progress().received_bytes if work.read_progress is not None else 0
        work.read_progress = None
        _LOG.info("pulled image=%s digest=%s bytes=%d seconds=%.2f", wanted, image.digest, moved, time.monotonic() - began)
        seconds = f"{time.monotonic() - began:.1f} s"
        self._tell(sandbox, "Pulled", f'pulled image "{sandbox.spec.image}" in {seconds}, {render_bytes(moved)} moved, {image.digest}')
        return image

    async def _read_credentials(self, sandbox: Sandbox, notes: list[str]) -> tuple[Credential, ...]:
        """The sandbox's Secrets first, then the node's own. One that is missing or wrong is noted: the image may need none."""
        found: list[Credential] = []
        for name in sandbox.spec.image_pull_secrets:
            place = f"secret {sandbox.metadata.namespace}/{name}"
            content = await self._source.read_pull_secret(sandbox.metadata.namespace, name)
            if content is None:
                notes.append(f"{place} does not exist, or is not of type kubernetes.io/dockerconfigjson")
                continue
            try:
                found += vault.parse(content, source=place)
            except InvalidRegistryConfig as error:
                notes.append(str(error))
        return (*found, *self.read_node_credentials())

    def _tell(self, sandbox: Sandbox, reason: str, message: str, *, warning: bool = False) -> None:
        self._source.post_event(sandbox, reason=reason, message=message, warning=warning)


def read_docker_config(path: str | None) -> tuple[Credential, ...]:
    """The node's own credentials, read now; none without a file. Raises InvalidRegistryConfig."""
    if path is None:
        return ()
    try:
        with open(path, "rb") as file:
            return vault.parse(file.read(vault.MAX_CONFIG_BYTES + 1), source=path)
    except OSError as error:
        raise InvalidRegistryConfig(f"--docker-config {path} cannot be read: {error.strerror}") from error


def _describe(work: _Work, image: str) -> str:
    return work.read_progress().describe() if work.read_progress is not None else f"asking for {image}"


def _problem(reason: str, message: str, *, retry_at_seconds: float = 0.0, is_lasting: bool = False) -> Problem:
    return Problem(reason=reason, message=message, field="spec.image", condition=_CONDITION, retry_at_seconds=retry_at_seconds, is_lasting=is_lasting)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
