"""Hostile layers, as tables. A layer is refused with a sentence, or becomes an image that holds exactly the names expected.

Every image that is made passes fsck.erofs. The canary is a directory beside the store: nothing in it may change.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_node.image import base, conversion, erofs, sealing, store, tar, tree, unpacking, workers
from skerry_node.image.errors import DamagedContent, ImageError, InvalidLayer
from tests.harness.images import member, pax_record

END = bytes(1024)
TAR, GZIP, ZSTD = (f"application/vnd.oci.image.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd"))
FSCK = shutil.which("fsck.erofs")
D = b"5"  # a directory
L = b"2"  # a symlink
H = b"1"  # a hard link
WHITEOUT, OPAQUE = "whiteout", "opaque"


def convert(kept, blob, *, media_type=TAR, diff_id=None, size=None, digest=None):
    """The path of the sealed layer that the confined converter makes of *blob*; sound, whatever *blob* is."""
    promise = conversion.Promise(
        digest=digest or f"sha256:{hashlib.sha256(blob).hexdigest()}",
        size_bytes=len(blob) if size is None else size,
        diff_id=diff_id or f"sha256:{hashlib.sha256(blob).hexdigest()}",
        media_type=media_type,
    )
    sealed = conversion.convert(kept, promise, io.BytesIO(blob))
    path = os.path.join(kept.layers_dir, sealed.path)
    if FSCK:
        done = subprocess.run([FSCK, "-d0", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return path


def layer_files(kept):
    return [name for name in os.listdir(kept.layers_dir) if name != base.NAME]


def read_names(blob):
    """Names of the index, each with what it is: the table's second column."""
    index, reader = tree.Index(), tar.Reader(pieces_of(blob))
    for entry in reader:
        node = index.add(entry)
        if node is not None:
            node.block = 1
    found = {}

    def walk(node, path):
        for name, child in node.children.items():
            here = f"{path}/{name.decode('utf-8', 'replace')}" if path else name.decode("utf-8", "replace")
            found[here] = describe(child)
            if child.is_directory:
                walk(child, here)

    walk(index.root, "")
    if tree.OPAQUE_XATTR in index.root.xattrs:
        found[""] = OPAQUE
    return found


def describe(node):
    if node.is_whiteout:
        return WHITEOUT
    if node.is_directory:
        return OPAQUE if tree.OPAQUE_XATTR in node.xattrs else "dir"
    if stat.S_ISLNK(node.mode):
        return "-> " + node.target.decode("utf-8", "replace")
    return {stat.S_IFREG: "file", stat.S_IFCHR: "char", stat.S_IFBLK: "block", stat.S_IFIFO: "fifo"}[stat.S_IFMT(node.mode)]


def gnu_long(name, kind=b"L"):
    return member(b"././@LongLink", name + b"\0", kind=kind, magic=b"ustar  \0")


ACCEPTED = [
    pytest.param(member(b"a", b"x"), {"a": "file"}, id="all is well"),
    pytest.param(b"", {}, id="empty"),
    pytest.param(member(b"/etc/passwd", b"x"), {"etc": "dir", "etc/passwd": "file"}, id="absolute name stays inside"),
    pytest.param(member(b"///a", b"x"), {"a": "file"}, id="many slashes"),
    pytest.param(member(b"./a/./b", b"x"), {"a": "dir", "a/b": "file"}, id="dots mean nothing"),
    pytest.param(member(b"a", kind=L, target=b"/etc/shadow"), {"a": "-> /etc/shadow"}, id="absolute link is data"),
    pytest.param(member(b"a", kind=L, target=b"../../../x"), {"a": "-> ../../../x"}, id="link out is data"),
    pytest.param(
        member(b"e", kind=L, target=b"/etc") + member(b"e/passwd", b"x"),
        {"e": "-> /etc", "etc": "dir", "etc/passwd": "file"}, id="write through absolute link lands in the layer",
    ),
    pytest.param(
        member(b"e", kind=L, target=b"../../..") + member(b"e/x", b"x"), {"e": "-> ../../..", "x": "file"},
        id="write through link out stops at the root",
    ),
    pytest.param(
        member(b"d", kind=D) + member(b"d/e", kind=L, target=b"..") + member(b"d/e/x", b"x"),
        {"d": "dir", "d/e": "-> ..", "x": "file"}, id="write through link to parent",
    ),
    pytest.param(
        member(b"e", kind=L, target=b"/out") + member(b"e", kind=D) + member(b"e/x", b"x"),
        {"e": OPAQUE, "e/x": "file"}, id="link replaced by a directory",
    ),
    pytest.param(
        member(b"d", kind=D) + member(b"d/x", b"x") + member(b"d", kind=L, target=b"/etc") + member(b"d/y", b"y"),
        {"d": "-> /etc", "etc": "dir", "etc/y": "file"}, id="parent swapped for a link",
    ),
    pytest.param(
        member(b"s", kind=L, target=b"/etc/passwd") + member(b"h", kind=H, target=b"s"),
        {"s": "-> /etc/passwd", "h": "-> /etc/passwd"}, id="hard link to a symlink links the symlink",
    ),
    pytest.param(
        member(b"a", b"x") + member(b"h", kind=H, target=b"/a"), {"a": "file", "h": "file"}, id="hard link by absolute name",
    ),
    pytest.param(member(b"a", b"x") + member(b"a", kind=H, target=b"a"), {"a": "file"}, id="hard link to itself"),
    pytest.param(
        member(b"d/a", b"x") + member(b"d", kind=H, target=b"d/a"), {"d": "file"}, id="hard link over its own parent",
    ),
    pytest.param(member(b"a", b"x") + member(b"a", b"y"), {"a": "file"}, id="the last of two wins"),
    pytest.param(member(b"a", b"x") + member(b"a", kind=D), {"a": OPAQUE}, id="file becomes directory"),
    pytest.param(member(b"a/b", b"x") + member(b"a", b"x"), {"a": "file"}, id="directory becomes file"),
    pytest.param(member(b".wh.a"), {"a": WHITEOUT}, id="whiteout"),
    pytest.param(member(b"d/.wh.a"), {"d": "dir", "d/a": WHITEOUT}, id="whiteout below"),
    pytest.param(member(b"d/.wh..wh..opq"), {"d": OPAQUE}, id="opaque"),
    pytest.param(member(b".wh..wh..opq"), {"": OPAQUE}, id="opaque root"),
    pytest.param(member(b".wh..wh.plnk", kind=D), {}, id="aufs bookkeeping"),
    pytest.param(member(b"a", b"x") + member(b".wh.a"), {"a": "file"}, id="whiteout hides only what is below"),
    pytest.param(member(b".wh.a") + member(b"a", b"x"), {"a": "file"}, id="file after its whiteout"),
    pytest.param(member(b".wh.d") + member(b"d", kind=D), {"d": OPAQUE}, id="directory after its whiteout is opaque"),
    pytest.param(member(b".wh.d") + member(b"d/x"), {"d": OPAQUE, "d/x": "file"}, id="implied directory after its whiteout"),
    pytest.param(member(b"d/x") + member(b".wh.d"), {"d": OPAQUE, "d/x": "file"}, id="whiteout after its directory"),
    pytest.param(
        member(b"e", kind=L, target=b"/etc") + member(b"e/.wh.x"), {"e": "-> /etc", "etc": "dir", "etc/x": WHITEOUT},
        id="whiteout under a linked parent",
    ),
    pytest.param(member(b"a", kind=b"3", device=(0, 0)), {}, id="0:0 device is no whiteout"),
    pytest.param(member(b"a", kind=b"4", device=(0, 0)), {}, id="0:0 block device"),
    pytest.param(member(b"a", kind=b"3", device=(1, 3)), {"a": "char"}, id="device is data"),
    pytest.param(member(b"a", kind=b"6"), {"a": "fifo"}, id="fifo"),
    pytest.param(
        member(b"a", b"x", pax={"SCHILY.xattr.trusted.overlay.redirect": b"/etc", "SCHILY.xattr.user.overlay.opaque": b"y"}),
        {"a": "file"}, id="overlay's own attributes",
    ),
    pytest.param(
        member(b"d", kind=D, pax={"SCHILY.xattr.trusted.overlay.opaque": b"y"}), {"d": "dir"}, id="opaque only by name",
    ),
    pytest.param(member(b"short", pax={"path": b"a/" + b"n" * 255}), {"a": "dir", "a/" + "n" * 255: "file"}, id="pax path"),
    pytest.param(gnu_long(b"l" * 200) + member(b"l" * 100), {"l" * 200: "file"}, id="GNU long name"),
    pytest.param(
        gnu_long(b"t" * 200, b"K") + member(b"s", kind=L, target=b"t"), {"s": "-> " + "t" * 200}, id="GNU long target",
    ),
    pytest.param(member(b"x", prefix=b"p/q"), {"p": "dir", "p/q": "dir", "p/q/x": "file"}, id="ustar prefix"),
    pytest.param(member(b"x", prefix=b"p", magic=b"ustar  \0"), {"x": "file"}, id="GNU has no prefix"),
    pytest.param(member(b"d/", kind=b"\0"), {"d": "dir"}, id="a directory before POSIX"),
    pytest.param(member(b"a\xff\xfe", b"x"), {"a\ufffd\ufffd": "file"}, id="no UTF-8"),
    pytest.param(member(b"s", kind=L, target=b"/", pax={"linkpath": b"x" * 4095}), {"s": "-> " + "x" * 4095}, id="longest link"),
    pytest.param(member(b"a", b"x", uid=0xFFFFFFFE), {"a": "file"}, id="largest owner"),
    pytest.param(member(b"a", b"x", mtime=(-5).to_bytes(12, "big", signed=True)), {"a": "file"}, id="before 1970"),
    pytest.param(member(b"a", b"x", pax={"mtime": b"99999999999999999.5"}), {"a": "file"}, id="far future"),
    pytest.param(member(b"a", b"x", mode=0o7777), {"a": "file"}, id="setuid is data"),
    pytest.param(member(b"g", pax_record(b"path", b"../x"), kind=b"g") + member(b"a"), {"a": "file"}, id="global header ignored"),
]  # fmt: skip

REFUSED = [
    pytest.param(member(b"../a", b"x"), "goes up", id="dot dot"),
    pytest.param(member(b"a/../../b", b"x"), "goes up", id="dot dot within"),
    pytest.param(member(b"/../a", b"x"), "goes up", id="dot dot absolute"),
    pytest.param(member(b"a", pax={"path": b"../../x"}), "goes up", id="dot dot by pax"),
    pytest.param(gnu_long(b"../x") + member(b"a"), "goes up", id="dot dot by GNU name"),
    pytest.param(member(b"a", kind=H, target=b"../../etc/passwd"), "goes up", id="hard link out"),
    pytest.param(member(b"a", kind=H, target=b"/etc/passwd"), "points to nothing", id="hard link to the host"),
    pytest.param(
        member(b"e", kind=L, target=b"/etc") + member(b"a", kind=H, target=b"e/passwd"), "points to nothing",
        id="hard link through a symlink",
    ),
    pytest.param(member(b"a", kind=H, target=b"a"), "points to nothing", id="hard link to itself only"),
    pytest.param(member(b"d", kind=D) + member(b"a", kind=H, target=b"d"), "points to nothing", id="hard link to a directory"),
    pytest.param(member(b"a", kind=H, target=b"/"), "points to nothing", id="hard link to the root"),
    pytest.param(member(b".wh.b") + member(b"a", kind=H, target=b"b"), "points to nothing", id="hard link to a whiteout"),
    pytest.param(member(b"a", kind=L), "empty", id="symlink to nothing"),
    pytest.param(member(b"a", kind=L, pax={"linkpath": b"x" * 4096}), "too long", id="link too long"),
    pytest.param(member(b"a", kind=L, pax={"linkpath": b"x\0y"}), "NUL", id="NUL in a target"),
    pytest.param(member(b"a", pax={"path": b"x\0y"}), "NUL", id="NUL in a name"),
    pytest.param(
        member(b"a", kind=L, target=b"b") + member(b"b", kind=L, target=b"a") + member(b"a/x"), "circles", id="links in circles",
    ),
    pytest.param(member(b"a", kind=L, target=b"a/a") + member(b"a/x"), "circles", id="link below itself"),
    pytest.param(member(b"a", b"x") + member(b"a/b", b"x"), "is no directory", id="below a file"),
    pytest.param(member(b"a", kind=b"6") + member(b"a/b", b"x"), "is no directory", id="below a fifo"),
    pytest.param(member(b".wh."), "names nothing", id="whiteout of nothing"),
    pytest.param(member(b".wh.."), "names nothing", id="whiteout of dot"),
    pytest.param(member(b".wh..."), "names nothing", id="whiteout of dot dot"),
    pytest.param(member(b"d/.wh..."), "names nothing", id="whiteout of dot dot below"),
    pytest.param(member(b"/", kind=L, target=b"/etc"), "no directory", id="root becomes a link"),
    pytest.param(member(b"."), "no directory", id="root becomes a file"),
    pytest.param(member(b"n" * 100, prefix=b"m" * 155, pax={"path": b"n" * 256}), "too long", id="name of 256 bytes"),
    pytest.param(member(b"a", pax={"path": b"a/" * 513 + b"a"}), "too deep", id="deep"),
    pytest.param(member(b"a", pax={"path": b"a/" * 2500}), "too long", id="path of 5,000 bytes"),
    pytest.param(member(b"a", kind=b"x", size=1 << 40), "extension header", id="pax header of a TiB"),
    pytest.param(member(b"a", kind=b"L", size=1 << 30), "extension header", id="GNU name of a GiB"),
    pytest.param(member(b"a", b"999999 path=x\n", kind=b"x"), "pax header", id="pax record longer than its header"),
    pytest.param(member(b"a", b"0 path=x\n", kind=b"x"), "pax header", id="pax record of no length"),
    pytest.param(member(b"a", b"-9 path=x\n", kind=b"x"), "pax header", id="pax record of negative length"),
    pytest.param(member(b"a", b"8 path-x\n", kind=b"x"), "pax header", id="pax record without ="),
    pytest.param(member(b"a", pax={"size": b"-1"}), "no number", id="negative pax size"),
    pytest.param(member(b"a", pax={"size": b"1" * 30}), "no number", id="huge pax size"),
    pytest.param(member(b"a", pax={"uid": b"4294967295"}), "32-bit", id="owner minus one"),
    pytest.param(member(b"a", uid=1 << 40), "32-bit", id="owner of 40 bits"),
    pytest.param(member(b"a", uid=-1), "negative", id="negative owner"),
    pytest.param(member(b"a", pax={"mtime": b"soon"}), "no time", id="mtime in words"),
    pytest.param(member(b"a", size=1 << 62), "bytes", id="file of exabytes"),
    pytest.param(b"\xff" * 512, "tar header", id="no tar"),
    pytest.param(b"PK\3\4" + bytes(600), "tar header", id="a zip"),
    pytest.param(member(b"a")[:-1] + b"x" + member(b"a"), "checksum", id="wrong checksum"),
    pytest.param(member(b"a", kind=b"Z"), "unknown type", id="unknown type"),
    pytest.param(member(b"a", kind=b"3", device=(1 << 12, 0)), "a device", id="major too large"),
    pytest.param(member(b"a", kind=b"4", device=(8, 1 << 20)), "a device", id="minor too large"),
    pytest.param(member(b"a", pax={"SCHILY.xattr.user.x": bytes(1 << 16)}), "too many", id="xattrs too large"),
    pytest.param(member(b"a", pax={"SCHILY.xattr.user.": b"x"}), "attribute", id="xattr without a name"),
    pytest.param(member(b"a", pax={"SCHILY.xattr.user." + "n" * 260: b"x"}), "attribute", id="xattr name too long"),
    pytest.param(
        member(b"a", b"", pax={"GNU.sparse.map": b"0,0", "GNU.sparse.size": str(1 << 62).encode()}), "bytes", id="sparse exabytes",
    ),
    pytest.param(
        member(b"a", b"xy", pax={"GNU.sparse.map": b"5,1,0,1", "GNU.sparse.size": b"9"}), "backwards", id="sparse backwards",
    ),
    pytest.param(
        member(b"a", b"x", pax={"GNU.sparse.map": b"0,99", "GNU.sparse.size": b"99"}), "does not fit", id="sparse map lies",
    ),
    pytest.param(
        member(b"a", bytes(512), pax={"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"9"}),
        "number", id="sparse map of zeros",
    ),
    pytest.param(
        member(b"a", b"9" * 10 + b"\n" + bytes(501), pax={"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0"}), "pieces",
        id="sparse in a billion pieces",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def nursery():
    """One warm process for all."""
    warm = workers.Nursery()
    yield warm
    warm.close()


@pytest.fixture
def kept(tmp_path, nursery):
    """A store, and a canary beside it."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "x").write_text("untouched")
    opened = store.Store(str(tmp_path / "store"))
    own, opened.nursery = opened.nursery, nursery
    yield opened
    opened.nursery = own
    opened.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["canary", "store"]
    assert [(p.name, p.read_text()) for p in (tmp_path / "canary").iterdir()] == [("x", "untouched")]


@pytest.mark.parametrize(("content", "expected"), ACCEPTED)
def test_names_stay_inside_the_layer(kept, content, expected):
    """Whatever the names say, they are names of this layer; the image is sound."""
    assert read_names(content + END) == expected
    convert(kept, content + END)
    assert len(layer_files(kept)) == 1


def test_a_layer_without_an_end_mark_is_whole(kept):
    """The end of the stream is one as well."""
    convert(kept, member(b"a", bytes(512)))
    assert len(layer_files(kept)) == 1


@pytest.mark.parametrize(("content", "sentence"), REFUSED)
def test_nonsense_is_refused_with_a_sentence(kept, content, sentence):
    """What has no meaning is an error that says why, with nothing left behind."""
    with pytest.raises(InvalidLayer, match=sentence):
        convert(kept, content + END)
    assert layer_files(kept) == []


def symlink(target):
    return member(b"e", kind=L, target=target)


ESCAPES = [
    pytest.param(lambda _: member(b"../canary/x", b"fired"), id="dot dot"),
    pytest.param(lambda out: member(out + b"/x", b"fired"), id="absolute"),
    pytest.param(lambda out: symlink(out) + member(b"e/x", b"fired"), id="through a symlink"),
    pytest.param(lambda _: symlink(b"../canary") + member(b"e/x", b"fired"), id="through a relative symlink"),
    pytest.param(lambda _: symlink(b"..") + member(b"e/canary/x", b"fired"), id="through a link to the parent"),
    pytest.param(lambda _: member(b"h", kind=H, target=b"../canary/x") + member(b"h", b"fired"), id="by hard link"),
    pytest.param(lambda out: symlink(out) + member(b"e/.wh.x"), id="a whiteout through a symlink"),
    pytest.param(lambda _: member(b"s", pax={"path": b"../canary/x"}), id="by a pax path"),
    pytest.param(lambda _: gnu_long(b"../canary/x") + member(b"s", b"fired"), id="by a GNU name"),
]


def extract_naively(content, directory):
    """What a program does that makes paths of names: the control."""
    for entry in tar.Reader(io.BytesIO(content)):
        path = os.path.join(os.fsencode(directory), entry.path)
        if os.path.basename(path).startswith(tree.WHITEOUT):
            os.unlink(os.path.join(os.path.dirname(path), os.path.basename(path)[4:]))
        elif stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, path)
        elif entry.is_hardlink:
            os.link(os.path.join(os.fsencode(directory), entry.target), path)
        else:
            with open(path, "wb") as file:
                file.write(b"fired")


@pytest.mark.parametrize("make", ESCAPES)
def test_the_canary_would_have_fired(tmp_path, nursery, make):
    """Names that lead out: ours refuses them or keeps them inside; the control changes what is outside."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "x").write_text("untouched")
    content = make(os.fsencode(canary)) + END
    opened = store.Store(str(tmp_path / "store"))
    own, opened.nursery = opened.nursery, nursery
    with contextlib.suppress(ImageError):
        convert(opened, content)
    opened.nursery = own
    opened.close()
    assert (canary / "x").read_text() == "untouched"
    (tmp_path / "naive").mkdir()
    extract_naively(content, tmp_path / "naive")
    assert not (canary / "x").exists() or (canary / "x").read_text() == "fired"


@pytest.mark.parametrize("field", [b"-000010", b"000_010", b"0o00010", b"+000010", b"0000009", b"00 0010"])
@pytest.mark.parametrize("offset", [108, 124, 136, 329])
def test_numbers_are_octal_digits_and_nothing_else(kept, field, offset):
    """What int() would take beyond digits, a sign above all, is refused wherever a header has a number."""
    header = bytearray(member(b"a", kind=b"0" if offset == 124 else b"3"))
    header[offset : offset + 7] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(InvalidLayer, match="number that is none"):
        convert(kept, bytes(header) + END)


@pytest.mark.parametrize("length", [300, 512 + 700])
def test_a_cut_layer_is_refused(kept, length):
    """A tar that ends within a header or a file is not taken for a shorter one."""
    with pytest.raises(InvalidLayer, match="ends inside"):
        convert(kept, (member(b"a", bytes(2000)))[:length])


def zeros(size):
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


@pytest.mark.parametrize(
    ("blob", "media_type"),
    [
        pytest.param(gzip.compress(member(b"a", size=256 << 20) + bytes(256 << 20)), GZIP, id="gzip"),
        pytest.param(zeros(256 << 20), ZSTD, id="zstd, once a tar's end"),
    ],
)
def test_a_bomb_ends_early(kept, blob, media_type):
    """1000:1 is refused at the ratio's bound; nothing is left."""
    with pytest.raises(InvalidLayer, match="grows beyond"):
        convert(kept, blob, media_type=media_type)
    assert layer_files(kept) == []


def test_entries_are_counted(monkeypatch):
    """A layer of endless empty files ends at the bound."""
    monkeypatch.setattr(tar, "MAX_ENTRIES", 100)
    with pytest.raises(InvalidLayer, match="more than 100 entries"):
        read_names(b"".join(member(b"f%d" % n) for n in range(101)) + END)


def test_a_stream_that_never_ends_is_cut_at_its_promised_size(kept):
    """No byte beyond the descriptor's size is read on."""
    with pytest.raises(DamagedContent, match="longer than"):
        convert(kept, member(b"a", b"x") + bytes(1 << 20), size=2048)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"digest": "sha256:" + "0" * 64}, "does not match", id="digest"),
        pytest.param({"diff_id": "sha256:" + "0" * 64}, "image config promises", id="diff id"),
        pytest.param({"size": 9999}, "does not match", id="size"),
    ],
)
def test_promises_are_proved(kept, change, sentence):
    """Digest, size and diff id hold, or the layer is damaged and named."""
    with pytest.raises(DamagedContent, match=f"sha256:.*{sentence}"):
        convert(kept, member(b"a", b"x") + END, **change)
    assert layer_files(kept) == []


PATHS = st.lists(st.sampled_from([b"a", b"b", b"c", b"..", b".", b".wh.a", b".wh..wh..opq", b""]), min_size=1, max_size=4).map(b"/".join)
ENTRIES = st.lists(
    st.builds(
        lambda name, kind, target, content, device: member(
            name, content if kind == b"0" else b"", kind=kind, target=target, device=device,
        ),
        PATHS, st.sampled_from([b"0", H, L, b"3", D, b"6"]), PATHS, st.binary(max_size=9),
        st.sampled_from([(0, 0), (1, 3)]),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=int(os.environ.get("SKERRY_EXAMPLES", "400")), deadline=None)
@given(entries=ENTRIES)
def test_random_sequences_are_refused_or_sound(tmp_path_factory, entries):
    """Any order of any entries: an ImageError, or an image; the same bytes give the same image."""
    images = []
    for _ in range(2):
        index, fd = tree.Index(), os.memfd_create("image")
        try:
            writer, reader = erofs.Writer(sealing.FileSink(fd)), tar.Reader(pieces_of(b"".join(entries) + END))
            for entry in reader:
                node = index.add(entry)
                if node is not None:
                    node.block = writer.append(reader.read_content())
            sealed = writer.finish(index.root)
            assert sealing.seal(fd) == sealed
            images.append(os.pread(fd, sealed.size_bytes, 0))
            if FSCK and len(images) == 2 and len(entries) > 6:
                done = subprocess.run([FSCK, "-d0", f"/proc/self/fd/{fd}"], capture_output=True, pass_fds=[fd], check=False)
                assert done.returncode == 0, done.stdout + done.stderr
        except ImageError:
            return
        finally:
            os.close(fd)
    assert images[0] == images[1]


def pieces_of(blob):
    return unpacking.Pieces(io.BytesIO(blob).read1)
