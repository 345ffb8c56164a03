"""What is written in parts of any size, with holes, is the file that its bytes together make, and is sealed as that file is."""

import os

import pytest

from skerry_node.image import sealing, tar, unpacking, workers
from skerry_node.image.errors import ConversionFailed, InvalidLayer
from skerry_node.image.layer import Promise

HEAD = b"h" * sealing.BLOCK
LARGE = os.urandom((2 << 20) + 4096)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([], id="nothing"),
        pytest.param([[b"a" * 4096]], id="one block"),
        pytest.param([[b"a", b"b" * 4095], [memoryview(b"c" * 8192)[4096:]]], id="small parts, and a view"),
        pytest.param([[LARGE]], id="more than the buffer holds"),
        pytest.param([[b"a" * 100], [LARGE[:-100]]], id="more than the buffer has room for"),
        pytest.param([[b"a" * 4096], 3 << 20, [b"b" * 4096]], id="a hole of whole blocks"),
        pytest.param([[b"a" * 100], 10_000, [b"b" * 2188]], id="a hole of odd bounds"),
        pytest.param([[b"a" * 100], 50, [b"b" * 3946], 4096], id="a hole within a block, and one at the end"),
    ],
)
@pytest.mark.parametrize("is_threaded", [False, True])
def test_parts_and_holes_make_the_file_and_its_seal(steps, is_threaded):
    """However the bytes come."""
    whole = b"".join(bytes(step) if isinstance(step, int) else b"".join(map(bytes, step)) for step in steps)
    fd = os.memfd_create("layer")
    try:
        sink = sealing.FileSink(fd)
        sink = sealing.ThreadSink(sink) if is_threaded else sink
        for step in steps:
            if isinstance(step, int):
                sink.skip(step)
            else:
                sink.write(step)
        sealed = sink.finish(HEAD)
        assert os.pread(fd, len(whole) + 10_000, 0) == HEAD + whole
        assert sealed == sealing.seal(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("fill", [0x01, 0x7F, 0xFF])
@pytest.mark.parametrize("off", [0, 1, 65_521, 130_560])
def test_a_checksum_is_the_sum_and_nothing_like_it(fill, off):
    """Also beyond what fits into 16 bits; a sum that is off by a modulus is refused."""
    header = bytearray([fill]) * tar.BLOCK
    header[124:136], header[156:157] = b"%011o\0" % 0, b"0"
    header[100:124], header[136:148] = b"0000644\0" * 3, b"%011o\0" % 0
    header[257:265] = b"ustar  \0"
    header[:100] = header[:99] + b"\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]) + off)
    reader = tar.Reader(unpacking.Pieces(iter([bytes(header), b""]).__next__))
    if off:
        with pytest.raises(InvalidLayer, match="wrong checksum"):
            list(reader)
    else:
        assert len(list(reader)) == 1


def test_a_closed_nursery_starts_nothing():
    """Whoever comes too late is told so."""
    nursery = workers.Nursery()
    nursery.close()
    with pytest.raises(ConversionFailed, match="closed"):
        nursery.spawn(Promise(digest="sha256:0", size_bytes=1, diff_id="sha256:0", media_type="x.tar"), 0)
