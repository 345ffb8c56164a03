"""The SDK's calls for images; a part of Client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from skerry.cluster import IMAGES_HINT, NO_IMAGES, ClusterTransport
from skerry.errors import Refused, SkerryError
from skerry.transport import Transport

if TYPE_CHECKING:
    from skerry import building
    from skerry_api import ignoring


class ImageCalls:
    """What can be done with the images of the agent's node. Every method raises SkerryError's subclasses."""

    transport: Transport | ClusterTransport

    @property
    def _local(self) -> Transport:
        """The agent's door. Raises Refused over a cluster."""
        if isinstance(self.transport, ClusterTransport):
            raise Refused(NO_IMAGES, status=405, reason="MethodNotAllowed", hint=IMAGES_HINT)
        return self.transport

    def images(self) -> tuple[dict[str, Any], ...]:
        """The store's images: reference, digest, sizeBytes, layers, created."""
        return tuple(self._local.request("GET", "/v1/images")["items"])

    def import_image(self, path: str, *, reference: str | None = None) -> dict[str, Any]:
        """Import an OCI layout (directory or tar) or a docker-archive that the agent's machine has at *path*.

        Without *reference* every image in it, under its own name: the first one comes back, and all of them as its `items`.
        """
        body = {"path": os.path.abspath(path), "reference": reference}
        return dict(self._local.request("POST", "/v1/images", body=body, timeout_seconds=None))

    def pull_image(self, reference: str, *, docker_config: str | None = None) -> Iterator[dict[str, Any]]:
        """Have the agent fetch *reference* from its registry: {"progress": ...} again and again, at last {"image": ...}.

        *docker_config* is the text of a Docker config.json with credentials; the agent keeps it in memory for this pull only. Leaving the loop
        ends the pull. Raises Refused with the registry's words.
        """
        body = {"reference": reference, "dockerConfig": docker_config}
        for found in self._local.read_objects("POST", "/v1/images/pull", body=body):
            if "error" in found:
                error = found["error"]
                raise Refused(error["message"], status=422, reason=error["reason"], field=error["field"])
            yield found
            if "image" in found:
                return
        raise SkerryError("the agent ended before the image was there; try again")

    def build(self, directory: str, *, dockerfile: bytes, rules: ignoring.Rules, options: building.Options) -> Iterator[dict[str, Any]]:
        """Build *dockerfile* with *directory* as its context; events as they come, the last one `done` with the image. Raises BuildFailed."""
        from skerry import building  # noqa: PLC0415 - `skerry --help` needs none of it

        return building.build(self._local, directory, dockerfile=dockerfile, rules=rules, options=options)

    def remove_image(self, reference: str) -> None:
        """Take the reference out of the store."""
        self._local.request("DELETE", "/v1/images", query={"reference": reference})

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Everything that is known of an image: digests, config, layers with what made them, who uses it."""
        return dict(self._local.request("GET", "/v1/images/inspect", query={"reference": reference}))

    def image_history(self, reference: str) -> tuple[dict[str, Any], ...]:
        """How it came about, first step first: created, instruction, comment, isEmpty, sizeBytes, diffId."""
        return tuple(self._local.request("GET", "/v1/images/history", query={"reference": reference})["items"])

    def tag_image(self, source: str, target: str) -> dict[str, Any]:
        """Give an image a second name: its whole reference, and the digest."""
        return dict(self._local.request("POST", "/v1/images/tag", body={"source": source, "target": target}))

    def prune_images(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Remove the images that no sandbox uses, or only say which: references and freedBytes."""
        return dict(self._local.request("POST", "/v1/images/prune", body={"dryRun": dry_run}, timeout_seconds=None))

    def push_image(self, reference: str, target: str | None = None, *, docker_config: str | None = None) -> Iterator[dict[str, Any]]:
        """Have the agent push an image, as *target* when given: {"progress": ...} again and again, at last {"image": ...}.

        *docker_config* is the text of a Docker config.json with credentials; the agent keeps it in memory for this push only. Leaving the loop
        ends the push. Raises Refused with the registry's words.
        """
        body = {"reference": reference, "target": target or "", "dockerConfig": docker_config}
        for found in self._local.read_objects("POST", "/v1/images/push", body=body):
            if "error" in found:
                error = found["error"]
                raise Refused(error["message"], status=422, reason=error["reason"], field=error["field"])
            yield found
            if "image" in found:
                return
        raise SkerryError("the agent ended before the image was there; try again")

    def save_images(self, references: Sequence[str], *, form: str = "docker-archive") -> Iterator[bytes]:
        """The images as one tar, in pieces: *form* is docker-archive (an OCI layout too) or oci-archive."""
        return self._local.read_chunks("/v1/images/archive", query={"reference": list(references), "format": form})

    def export(self, name: str, *, namespace: str | None = None) -> Iterator[bytes]:
        """The sandbox's root filesystem as a tar, in pieces, whether it runs or not."""
        return self._local.read_chunks(self._target(name, namespace) + "/export")

    def commit(
        self, name: str, reference: str, *, changes: Sequence[str] = (), message: str = "", author: str = "", namespace: str | None = None
    ) -> dict[str, Any]:
        """Make an image of what the sandbox changed, on its own image: reference, digest, layer, dropped, droppedCount.

        *changes* are instructions for its config, as `CMD ["sh"]`, `ENV A=b`. A sandbox that runs goes on, and is taken as it is met.
        """
        body = {"reference": reference, "changes": list(changes), "message": message, "author": author}
        return dict(self._local.request("POST", self._target(name, namespace) + "/commit", body=body, timeout_seconds=None))

    def _target(self, name: str, namespace: str | None) -> str:
        raise NotImplementedError
