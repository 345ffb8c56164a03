"""Roots read from sealed layers: what is seen is what applying one layer after the other comes to."""

from __future__ import annotations

import contextlib
import stat
import tempfile
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry_node.build import trees, union
from skerry_node.image import importing
from skerry_node.image.store import Store
from tests.harness import images

_NAME = st.sampled_from(["a", "b"])
_PATH = st.lists(_NAME, min_size=1, max_size=3).map("/".join)
_CONTENT = st.one_of(st.none(), st.binary(max_size=2), st.sampled_from(["a", "/b", "../c"]))
_LAYER = st.tuples(st.dictionaries(_PATH, _CONTENT, max_size=5), st.lists(_PATH, max_size=2), st.lists(_NAME, max_size=2))
"""Files, paths that a whiteout removes, directories that are opaque."""


def render(layer: tuple[dict[str, Any], list[str], list[str]]) -> images.Files:
    """*layer* as files, less what cannot be in one archive: a path below a file, a whiteout beside the name that it hides."""
    files, removed, opaque = layer
    kept: dict[str, Any] = {}
    for path in sorted(files):
        above = ["/".join(path.split("/")[:length]) for length in range(1, path.count("/") + 1)]
        if not any(kept.get(each) is not None for each in above if each in kept):
            kept[path] = files[path]
    for path in removed:
        head, _, name = path.rpartition("/")
        is_free = not any(other == path or other.startswith(path + "/") for other in kept)
        if is_free and all(kept.get(each) is None for each in prefixes(path)):
            kept[f"{head}/.wh.{name}".lstrip("/")] = b""
    for path in opaque:
        if (
            all(kept.get(each) is None for each in (*prefixes(path), path))
            and f"{path.rpartition('/')[0]}/.wh.{path.rpartition('/')[2]}".lstrip("/") not in kept
        ):
            kept[f"{path}/.wh..wh..opq"] = b""
    return kept


def prefixes(path: str) -> list[str]:
    """The directories above *path*."""
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def apply(root: dict[str, Any], files: images.Files) -> None:
    """*files* onto *root*, by the words of the OCI specification: first what they remove, then what they are."""
    for path in files:
        head, _, name = path.rpartition("/")
        if name == ".wh..wh..opq":
            remove(root, head, itself=False)
        elif name.startswith(".wh."):
            remove(root, f"{head}/{name[4:]}".lstrip("/"), itself=True)
    for path in sorted(files):
        name = path.rpartition("/")[2]
        for above in prefixes(path):
            put(root, above, None)
        if not name.startswith(".wh."):
            put(root, path, files[path])


def put(root: dict[str, Any], path: str, content: Any) -> None:
    """One entry; a directory over a directory keeps what is in it."""
    if not (content is None and path in root and root[path] is None):
        remove(root, path, itself=True)
    root[path] = content


def remove(root: dict[str, Any], path: str, *, itself: bool) -> None:
    """*path* with all below it."""
    for each in [each for each in root if each.startswith(path + "/") or (itself and each == path)]:
        del root[each]


def look(node: trees.Node, above: str = "") -> dict[str, Any]:
    """Everything in the union."""
    found: dict[str, Any] = {}
    for name, child in node.children().items():
        path = f"{above}/{name.decode()}".lstrip("/")
        found[path] = None
        if stat.S_ISREG(child.mode):
            found[path] = b"".join(child.read())
        elif stat.S_ISLNK(child.mode):
            found[path] = child.target.decode()
        found |= look(child, path)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_LAYER, min_size=1, max_size=4))
def test_a_union_is_its_layers_applied(layers: list[tuple[dict[str, Any], list[str], list[str]]]) -> None:
    """Whatever the layers put, hide and replace."""
    rendered = [render(layer) for layer in layers]
    expected: dict[str, Any] = {}
    for files in rendered:
        apply(expected, files)
    with tempfile.TemporaryDirectory() as directory:
        layout = images.write_layout(f"{directory}/layout", [images.make_tar(files) for files in rendered])
        with contextlib.closing(Store(f"{directory}/images")) as store:
            image = importing.import_layout(store, layout)
            with union.opened(store.layers_fd, [layer.path for layer in image.layers]) as root:
                assert look(root) == expected


def test_many_names_and_long_ones() -> None:
    """Directories of many blocks, files of many pieces, links longer than half a block."""
    files: dict[str, bytes | str | None] = {f"many/{number:05}-{'x' * 100}": b"" for number in range(3000)}
    files |= {"big": bytes(range(256)) * 10_000, "link": "/" + "y" * 4000, "empty": b"", "dir": None, "n" * 255: b"long"}
    with tempfile.TemporaryDirectory() as directory:
        layout = images.write_layout(f"{directory}/layout", [images.make_tar(files)])
        with contextlib.closing(Store(f"{directory}/images")) as store:
            image = importing.import_layout(store, layout)
            with union.opened(store.layers_fd, [layer.path for layer in image.layers]) as root:
                assert look(root) == {**files, "many": None}
