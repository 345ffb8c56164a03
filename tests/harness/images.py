"""OCI layouts made on the spot: a busybox image from Debian's static busybox, and layers of any kind for tests. Standard library only."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BUSYBOX = "/bin/busybox"
REFERENCE = "docker.io/library/busybox:latest"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
Files = Mapping[str, "bytes | str | None"]
"""A layer by path: bytes are a file's content, text a symlink's target, None a directory."""


def busybox_layout(
    directory: str, *, name: str = REFERENCE, layers: Sequence[Files] = (), config: Mapping[str, Any] | None = None,
    architecture: str | None = None,
) -> str:  # fmt: skip
    """An OCI layout with busybox and, on top, *layers*; returns *directory*. Needs Debian's busybox-static."""
    with open(BUSYBOX, "rb") as file:
        busybox = file.read()
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    base: dict[str, bytes | str | None] = {"bin/busybox": busybox, "tmp": None, "root": None, "home/alice": None}
    base |= {f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"}
    base["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n"
    base["etc/group"] = b"root:x:0:\nalice:x:1000:\nwheel:x:10:alice\n"
    base["etc/lower-file"] = b"a file of the image\n"
    run = {"Env": ["PATH=/usr/local/bin:/bin"], "Cmd": ["sh"], **(config or {})}
    return write_layout(directory, [make_tar(base), *(make_tar(layer) for layer in layers)], name=name, config=run, architecture=architecture)


def make_tar(files: Files) -> bytes:
    """An uncompressed tar of *files*, owned by root, parents first."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(_with_parents(files)):
            content = files.get(path)
            info = tarfile.TarInfo(path)
            info.mode, info.mtime = 0o755, 1_700_000_000
            if content is None:
                info.type = tarfile.DIRTYPE
                info.mode = 0o1777 if path == "tmp" else 0o755
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                info.mode = 0o755 if path.startswith("bin/") else 0o644
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_layout(
    directory: str, tars: Sequence[bytes], *, name: str = REFERENCE, config: Mapping[str, Any] | None = None, architecture: str | None = None
) -> str:
    """An OCI layout of layers that are given as tars."""
    return write_packed_layout(
        directory, ((tar, gzip.compress(tar, 1, mtime=0)) for tar in tars), name=name, config=config, architecture=architecture
    )


def write_packed_layout(
    directory: str, pairs: Iterable[tuple[bytes, bytes]], *, name: str = REFERENCE, config: Mapping[str, Any] | None = None,
    architecture: str | None = None,
) -> str:  # fmt: skip
    """An OCI layout of layers, each as a tar and gzipped; one at a time is held in memory."""
    os.makedirs(os.path.join(directory, "blobs", "sha256"), exist_ok=True)
    layers, diff_ids = [], []
    for tar, packed in pairs:
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **_put(directory, packed)})
        diff_ids.append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
    machine = platform.machine()
    image = {
        "architecture": architecture or _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **_put(directory, json.dumps(image).encode()),
        },
        "layers": layers,
    }
    described = {"mediaType": manifest["mediaType"], **_put(directory, json.dumps(manifest).encode())}
    index = {
        "schemaVersion": 2,
        "manifests": [{**described, "annotations": {"org.opencontainers.image.ref.name": name}}],
    }
    for path, body in (("index.json", index), ("oci-layout", {"imageLayoutVersion": "1.0.0"})):
        with open(os.path.join(directory, path), "w", encoding="utf-8") as file:
            json.dump(body, file)
    return directory


def _put(directory: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    with open(os.path.join(directory, "blobs", "sha256", digest), "wb") as file:
        file.write(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _with_parents(files: Files) -> set[str]:
    found = set(files)
    for path in files:
        parts = path.split("/")
        found |= {"/".join(parts[:length]) for length in range(1, len(parts))}
    return found


def member(
    name: bytes, content: bytes = b"", *, kind: bytes = b"0", target: bytes = b"", size: int | None = None, mode: int = 0o644,
    uid: int = 0, gid: int = 0, mtime: bytes = b"00000000001\0", device: tuple[int, int] = (0, 0), pax: Mapping[str, bytes] | None = None,
    prefix: bytes = b"", magic: bytes = b"ustar\x0000",
) -> bytes:  # fmt: skip
    """One tar member exactly as given, however wrong; the checksum is right. Python's tarfile would correct it."""
    before = b""
    if pax:
        body = b"".join(pax_record(key.encode(), value) for key, value in pax.items())
        before = member(b"pax", body, kind=b"x")
    length = len(content) if size is None else size
    header = b"".join(
        (
            name[:100].ljust(100, b"\0"), b"%07o\0" % mode, _octal(uid, 8), _octal(gid, 8), _octal(length, 12), mtime, b" " * 8,
            kind, target[:100].ljust(100, b"\0"), magic, bytes(64), b"%07o\0" % device[0], b"%07o\0" % device[1],
            prefix.ljust(155, b"\0"), bytes(12),
        )
    )  # fmt: skip
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return before + header + content + bytes(-len(content) % 512)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One record of a pax header, with its own length in front."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _octal(number: int, width: int) -> bytes:
    digits = b"%0*o" % (width - 1, number)
    if number >= 0 and len(digits) < width:
        return digits + b"\0"
    return b"\x80" + number.to_bytes(width - 1, "big") if number >= 0 else number.to_bytes(width, "big", signed=True)
