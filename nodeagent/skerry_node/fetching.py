"""A pull that a person asks for at the agent's door: the same pipeline as a sandbox's, with what they show to the registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from skerry_node.image import reference as references
from skerry_node.image.progress import Progress
from skerry_node.image.registry import credentials as vault
from skerry_node.image.store import Image
from skerry_node.imaging import Imaging

LOOK_SECONDS = 0.1
"""A progress bar is smooth at ten looks a second."""


async def fetch(images: Imaging, text: str, *, docker_config: bytes | None) -> AsyncGenerator[Progress | Image]:
    """How far it is, again and again; at last the image. Closing it ends the pull. Raises ImageError's subclasses, OSError."""
    wanted = references.parse(text)
    own = vault.parse(docker_config, source="the Docker config given") if docker_config is not None else ()
    reads: list[Callable[[], Progress]] = []
    task = asyncio.ensure_future(images.puller.pull(wanted, credentials=(*own, *images.read_node_credentials()), is_named=True, watch=reads.append))
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_SECONDS)
            if reads:
                yield reads[0]()
        yield task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
