"""An image to pull, made here: 8 layers, 34,000 files, about 790 MB of tar and 270 MB of gzip. The same bytes each time; kept in the cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from typing import Any

from tests.harness import images
from tests.harness.assets import cache_directory

LAYERS, FILES, RAW_BYTES = 8, 34_000, 775_000_000
_SHARES = (0.30, 0.20, 0.14, 0.12, 0.10, 0.07, 0.05, 0.02)
"""Of each layer in bytes and files: images have a large base and small ends."""
_VERSION = 3
NAME = "bench:1"


def ensure_layout() -> str:
    """An OCI layout with the image, named bench:1; about a minute the first time."""
    directory = os.path.join(cache_directory(), f"bench-image-{_VERSION}")
    if not os.path.exists(os.path.join(directory, "index.json")):
        shutil.rmtree(directory, ignore_errors=True)
        temporary = f"{directory}.{os.getpid()}"
        images.write_packed_layout(temporary, ((tar, gzip.compress(tar, 6, mtime=0)) for tar in _tars()), name=NAME)
        os.rename(temporary, directory)
    return directory


def write_second(directory: str, layout: str) -> str:
    """A layout at *directory* of an image with one small layer on top of the one in *layout*."""
    shutil.copytree(layout, directory, copy_function=_link)
    index = _read(layout, "index.json")
    manifest = _read_blob(layout, index["manifests"][0])
    config = _read_blob(layout, manifest["config"])
    tar = images.make_tar({"opt/app/second": b"second\n" * 50_000})
    config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
    manifest["layers"].append({"mediaType": manifest["layers"][0]["mediaType"], **_put(directory, gzip.compress(tar, 6, mtime=0))})
    manifest["config"] |= _put(directory, json.dumps(config).encode())
    index["manifests"][0] |= _put(directory, json.dumps(manifest).encode())
    os.unlink(os.path.join(directory, "index.json"))
    with open(os.path.join(directory, "index.json"), "w", encoding="utf-8") as file:
        json.dump(index, file)
    return directory


def _link(source: str, target: str) -> None:
    """Link where it can, copy over filesystems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _read(layout: str, name: str) -> Any:
    with open(os.path.join(layout, name), encoding="utf-8") as file:
        return json.load(file)


def _read_blob(layout: str, descriptor: dict[str, Any]) -> Any:
    return _read(layout, os.path.join("blobs", "sha256", descriptor["digest"].removeprefix("sha256:")))


def _put(directory: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    with open(os.path.join(directory, "blobs", "sha256", digest), "wb") as file:
        file.write(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _tars() -> Iterator[bytes]:
    chance = random.Random(1)
    pool = _text(chance, 48 << 20)
    for number, share in enumerate(_SHARES):
        yield _tar(chance, pool, number, files=round(FILES * share), size=round(RAW_BYTES * share))


def _tar(chance: random.Random, pool: bytes, number: int, *, files: int, size: int) -> bytes:
    """Files as packages have them: most of them small, a few large; directories of some dozens."""
    weights = [chance.paretovariate(1.3) for _ in range(files)]
    scale = (size - 1024 * files) / sum(min(weight, 2000) for weight in weights)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for index, weight in enumerate(weights):
            if index % 40 == 0:
                _add(archive, f"usr/lib/layer{number}/package{index // 40}", b"", kind=tarfile.DIRTYPE)
            length = max(int(min(weight, 2000) * scale), 1)
            start = chance.randrange(len(pool) - 1)
            content = (pool[start : start + length] * (length // max(len(pool) - start, 1) + 1))[:length] if length else b""
            _add(archive, f"usr/lib/layer{number}/package{index // 40}/module_{index}.py", content)
    return out.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(content), 1_700_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    archive.addfile(info, io.BytesIO(content))


def _text(chance: random.Random, size: int) -> bytes:
    """Words, which gzip packs to a third, as it does programs."""
    letters = "etaoinshrdlucmfwypvbgk_().=:"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 12))) for _ in range(1900)]
    return " ".join(chance.choices(words, k=size // 8)).encode()[:size]
