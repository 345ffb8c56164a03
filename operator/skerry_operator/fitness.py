"""What of a node suits a sandbox beyond room: features that it cannot do without, and an image that is there already. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from skerry_api.node import SandboxNode
from skerry_api.sandbox import DesiredState, NetworkMode, OnIdle, SandboxSpec

_SMALL_BYTES, _LARGE_BYTES = 23 << 20, 1000 << 20
"""kube-scheduler's bounds (ImageLocality): below, a pull is no matter; above, one is as bad as the other."""
_LEAST_BONUS, _BONUS = 0.02, 0.2
"""In shares of a node: an image that is there is worth a little, a large one as much as a fifth of the node being free."""
_DEFAULT_PREFIXES = ("", "docker.io/", "docker.io/library/")


def find_needs(spec: SandboxSpec) -> Iterator[str]:
    """The features, by the names that nodes tell, without which *spec* cannot be kept."""
    if spec.network.mode is NetworkMode.HOST:
        yield "host-network"
    may_sleep = spec.ttl.idle_seconds is not None and spec.ttl.on_idle is OnIdle.PAUSE
    if spec.desired_state is DesiredState.PAUSED or may_sleep:
        yield "freezer"
    if spec.init:
        yield "init"


def find_lack(spec: SandboxSpec, node: SandboxNode) -> str | None:
    """The first feature that *node* does not have, None when it has all."""
    return next((need for need in find_needs(spec) if need not in node.status.features), None)


def score_image(spec: SandboxSpec, node: SandboxNode) -> float:
    """What it is worth that the node holds the image, in shares of a node; 0 when it does not."""
    wanted = _spellings(spec.image)
    sizes = [each.size_bytes for each in node.status.images if each.reference in wanted]
    if not sizes:
        return 0.0
    scale = (min(max(sizes), _LARGE_BYTES) - _SMALL_BYTES) / (_LARGE_BYTES - _SMALL_BYTES)
    return max(_BONUS * scale, _LEAST_BONUS)


def _spellings(image: str) -> frozenset[str]:
    """As nodes may list what people write short: docker.io, library and latest are understood."""
    tagged = image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"
    return frozenset(prefix + tagged for prefix in _DEFAULT_PREFIXES)
