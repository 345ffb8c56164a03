"""One layer, one file, byte for byte: whatever it came packed in, however its bytes arrived, on every node."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io

import pytest
import zstandard

from skerry_node.image import blobs, conversion, store
from tests.harness.images import member

CONTENT = b"".join(
    (
        member(b"d", kind=b"5", mode=0o755, mtime=b"14500000000\0"), member(b"d/f", b"content", mode=0o600, uid=7, gid=8),
        member(b"d/large", bytes(range(256)) * 5000), member(b"d/h", kind=b"1", target=b"d/f"), member(b"s", kind=b"2", target=b"d/f"),
        member(b"d/x", b"x", pax={"SCHILY.xattr.user.a": b"1", "mtime": b"1700000000.123456789"}),
        member(b"d/y", b"y", pax={"SCHILY.xattr.user.a": b"1"}), member(b"d/.wh.gone"), member(b"o/.wh..wh..opq"),
    )
) + bytes(1024)  # fmt: skip
SEAL = "blake3:520e5c8408100826fd3f9e2dc8609ca928b803a53a76e35fcd060c21fcb544d3"
"""Of the file that CONTENT becomes: a change of it is a change of every layer on every node, and is said in the changelog."""
TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


def promise(blob, kind):
    diff_id = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    return conversion.Promise(digest=blobs.digest_of(blob), size_bytes=len(blob), diff_id=diff_id, media_type=TAR + kind)


PACKED = [
    pytest.param(CONTENT, "", id="plain"),
    pytest.param(gzip.compress(CONTENT, 1), "+gzip", id="gzip"),
    pytest.param(b"".join(gzip.compress(CONTENT[n : n + 700]) for n in range(0, len(CONTENT), 700)), "+gzip", id="gzip, many members"),
    pytest.param(zstandard.compress(CONTENT), "+zstd", id="zstd"),
    pytest.param(b"".join(zstandard.compress(CONTENT[n : n + 99_999]) for n in range(0, len(CONTENT), 99_999)), "+zstd", id="zstd, many frames"),
]


@pytest.mark.parametrize(("blob", "kind"), PACKED)
def test_the_packing_makes_no_difference(kept, blob, kind):
    """Gzip or zstd, in one or in many members, or none."""
    assert conversion.convert(kept, promise(blob, kind), io.BytesIO(blob)).seal == SEAL


@pytest.mark.parametrize("length", [1, 511, 4096, 1 << 20])
async def test_how_the_bytes_arrive_makes_no_difference(kept, length):
    """Also a byte at a time."""
    blob = gzip.compress(CONTENT, 1, mtime=0)
    started = await conversion.start(kept, promise(blob, "+gzip"))
    for position in range(0, len(blob), length):
        await started.feed(blob[position : position + length])
    assert (await started.land(await started.end())).seal == SEAL
