"""Layers that would eat the machine. Each is refused with a sentence, within the converter's memory and time, and leaves nothing.

The control: without the bounds the same layer is not refused, but goes on until it is stopped, or is made.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time

import pytest
import zstandard

from skerry_node.image import base, store, workers
from skerry_node.image.errors import DamagedContent, InvalidLayer
from skerry_node.image.layer import Promise
from tests.harness.images import member, pax_record

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the walls are those of an agent that is root")

TAR, GZIP, ZSTD = (f"application/vnd.oci.image.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd"))
MEMORY_BYTES = 256 << 20
HUGE = 1 << 40
MIB = 1 << 20


def zeros(count):
    return itertools.repeat(gzip.compress(bytes(16 * MIB), 9, mtime=0), count)


def frames(count):
    return itertools.repeat(zstandard.ZstdCompressor().compress(bytes(64 * MIB)), count)


def names(count, render=lambda n: member(b"d/%x" % n)):
    """Plain tar, a megabyte at a time."""
    numbers = iter(range(count))
    while part := b"".join(render(n) for n in itertools.islice(numbers, 200)):
        yield part


def sparse(size):
    return member(b"a", pax={"GNU.sparse.map": b"0,0", "GNU.sparse.size": str(size).encode()})


def deep(n):
    return member(b"x", pax={"path": b"%x/" % n + b"a/" * 500 + b"f"})


def large_xattr(n):
    return member(b"f%d" % n, pax={f"SCHILY.xattr.user.{k}": os.urandom(7000) for k in range(6)})


RECORDS = b"".join(pax_record(b"k%x" % k, b"") for k in range(60_000))


def records(n):
    return member(b"p", RECORDS, kind=b"x") + member(b"f%d" % n)


def chain(n):
    """Names through 40 links of 12 steps each."""
    link = member(b"l", kind=b"2", target=b"/".join([b"d"] * 12 + [b".."] * 12)) + member(b"/".join([b"d"] * 13), kind=b"5") if n == 0 else b""
    return link + member(b"./" * (n % 2) + b"/".join([b"l"] * 40) + b"/f%x" % n)


def many_extents(n):
    """A sparse file whose map says 60,000 times: nothing."""
    text = (b"60000\n" + b"0\n0\n" * 60_000).ljust(-(-(6 + 240_000) // 512) * 512, b"\0")
    return member(b"f%d" % n, text, pax={"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"0"})


BOMBS = [
    pytest.param(lambda: itertools.chain([gzip.compress(member(b"a", size=8 << 30), mtime=0)], zeros(64)), GZIP, "grows beyond", id="1000 to 1"),
    pytest.param(lambda: itertools.chain([zstandard.compress(member(b"a", size=8 << 30))], frames(100)), ZSTD, "grows beyond", id="10000 to 1, zstd"),
    pytest.param(lambda: zeros(64), GZIP, "grows beyond", id="1000 to 1, behind the end mark"),
    pytest.param(lambda: itertools.repeat(gzip.compress(b"", mtime=0) * 50_000, 60), GZIP, "empty gzip members", id="3 million empty gzip members"),
    pytest.param(lambda: [sparse((1 << 63) - 1)], TAR, "bytes", id="sparse, 8 EiB"),
    pytest.param(lambda: [sparse(7 << 30) + sparse(7 << 30)], TAR, "in holes", id="sparse, 14 GiB in two"),
    pytest.param(lambda: names(510_000), TAR, "more than 500000 entries", id="entries without end"),
    pytest.param(lambda: names(20_000, deep), TAR, "imply more than", id="10 million implied directories"),
    pytest.param(lambda: [member(b"a", kind=b"x", size=HUGE)], TAR, "extension header", id="a pax header of a TiB"),
    pytest.param(lambda: names(60, lambda n: member(b"p", pax_record(b"k%x" % n, bytes(900_000)), kind=b"x")), TAR, "extension header",
                 id="pax headers without end"),
    pytest.param(lambda: names(100, records), TAR, "records", id="6 million pax records"),
    pytest.param(lambda: names(9_000, large_xattr), TAR, "takes more than", id="380 MB of attributes"),
    pytest.param(lambda: names(60_000, chain), TAR, "steps", id="paths through a million links"),
    pytest.param(lambda: names(200, many_extents), TAR, "pieces", id="12 million extents"),
    pytest.param(lambda: itertools.repeat(bytes(MIB)), TAR, "longer than", id="a stream that never ends"),
]  # fmt: skip
PROMISED_BYTES = 512 * MIB


def promise_for(media_type):
    return Promise(digest="sha256:" + "a" * 64, size_bytes=PROMISED_BYTES, diff_id="sha256:" + "b" * 64, media_type=media_type)


@pytest.fixture
def kept(tmp_path):
    (tmp_path / "canary").write_text("untouched")
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened
    assert (tmp_path / "canary").read_text() == "untouched"


def feed(fd, pieces):
    """Write *pieces* until they end or nobody reads any more; returns how many bytes."""
    fed = 0
    with contextlib.suppress(BrokenPipeError):
        for piece in pieces:
            view = memoryview(piece)
            while view:
                written = os.write(fd, view)
                view, fed = view[written:], fed + written
    return fed


@pytest.mark.parametrize(("pieces", "media_type", "sentence"), BOMBS)
def test_a_bomb_ends_in_a_sentence(kept, pieces, media_type, sentence):
    """Its own, although its digest is a lie as well: damage is told of only when the blob could be read to its end."""
    blob = list(itertools.islice(pieces(), 600)) if sentence == "longer than" else list(pieces())
    whole = hashlib.sha256()
    for piece in blob:
        whole.update(piece)
    size = PROMISED_BYTES if sentence == "longer than" else sum(map(len, blob))
    promise = Promise(digest=f"sha256:{whole.hexdigest()}", size_bytes=size, diff_id="sha256:" + "b" * 64, media_type=media_type)
    fd = os.open(kept.layers_dir, os.O_RDWR | os.O_TMPFILE)
    began = time.monotonic()
    worker = kept.nursery.spawn(promise, fd)
    feed(worker.input_fd, blob)
    worker.close_input()
    with open(worker.result_fd, "rb", closefd=False) as result:
        said = result.read()
    with pytest.raises((InvalidLayer, DamagedContent), match=sentence):
        workers.read_result(worker, said)
    worker.close()
    peak = json.loads(said.splitlines()[0])["peak_bytes"]
    print(f"{time.monotonic() - began:.1f} s, {peak / MIB:.0f} MiB at most, {os.fstat(fd).st_size / MIB:.0f} MiB written")
    os.close(fd)
    assert peak <= MEMORY_BYTES
    assert os.listdir(kept.layers_dir) == [base.NAME]


UNBOUND = """
import io, os, resource, sys
from skerry_node.image import headers, layer, sparse, tar, tree, unpacking
for room in (headers, sparse, tar, tree, unpacking):
    for name in dir(room):
        if name.lstrip("_").startswith("MAX_") and isinstance(getattr(room, name), int):
            setattr(room, name, 1 << 100)
resource.setrlimit(resource.RLIMIT_DATA, (768 << 20, 768 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))
promise = layer.Promise(digest=sys.argv[3], size_bytes=int(sys.argv[4]), diff_id="sha256:0", media_type=sys.argv[1])
try:
    layer.convert(open(0, "rb", buffering=0), promise, int(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("pieces", "media_type", "sentence"), BOMBS)
def test_without_bounds_it_would_go_on(tmp_path, pieces, media_type, sentence):
    """Its sentence does not come: what ends it is the time, memory and disk that this test gives, or its own end."""
    is_endless = sentence == "longer than"
    blob = pieces() if is_endless else list(pieces())
    whole = hashlib.sha256()
    for piece in () if is_endless else blob:
        whole.update(piece)
    size = 1 << 62 if is_endless else sum(map(len, blob))
    fd = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", UNBOUND, media_type, str(fd), f"sha256:{whole.hexdigest()}", str(size)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        pass_fds=[fd], env=environment,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        feed(process.stdin.fileno(), blob)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stdout.read().decode()
    os.close(fd)
    assert re.search(sentence, said) is None, said
