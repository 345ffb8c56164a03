"""Small Dockerfiles built by us and by Debian's buildah: equal trees, equal configs.

Where buildah 1.28 is at odds with Docker's own reference the table has no row: it hands an exec form to a shell, leaves SHELL out of CMD and
ENTRYPOINT, makes directories for VOLUME, and fails on a stage FROM another. tests/unit/build holds those to the reference.
"""

from __future__ import annotations

import os
import shutil

import pytest

from skerry import building
from tests.harness import buildah, images, standalone

pytestmark = pytest.mark.host("buildah is not there, and what a Dockerfile means does not depend on the kernel")

if shutil.which("buildah") is None:
    pytest.skip("needs buildah", allow_module_level=True)

FILES = {
    "a": b"a\n", "b": b"bb\n", "run.sh": b"#!/bin/sh\necho made > /made\n", "d/x": b"x", "d/y.txt": b"y", "d/s/z": b"z", "d/s/t/w": b"w",
    "src/main.c": b"int main;", "src/main.o": b"\x00", "notes.md": b"n", "README.md": b"r", "e f": b"blank",
}  # fmt: skip
LINKS = {"l": "a", "d/up": "../a", "d/abs": "/etc/passwd", "dl": "d"}
MODES = {"run.sh": 0o755, "d/s": 0o750, "b": 0o600, "d/x": 0o4755}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A node of ours and a storage of theirs, with one busybox."""
    directory = str(tmp_path_factory.mktemp("pair"))
    layout = images.busybox_layout(f"{directory}/theirs")
    theirs = buildah.Buildah(f"{directory}/buildah", layout)
    with standalone.running_busybox(directory, tag="b1", flags=("--shells=0",)) as node:
        yield node, theirs
    theirs.remove()


def lay_out(directory):
    """The context, with fixed times."""
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(MODES.get(name, 0o644))
    for name, target in LINKS.items():
        os.symlink(target, directory / name)
    for top, names, files in os.walk(directory, topdown=False):
        for name in (*names, *files):
            os.utime(os.path.join(top, name), (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    (directory / "d/s").chmod(MODES["d/s"])
    os.utime(directory / "d/s", (1_600_000_000, 1_600_000_000))
    return directory


TABLE = [
    pytest.param("FROM busybox", (), id="the base as it is"),
    pytest.param("FROM scratch\nCOPY a /", (), id="scratch"),
    pytest.param("FROM busybox\nCOPY a /", (), id="a file into the root"),
    pytest.param("FROM busybox\nCOPY a /x", (), id="a file by name"),
    pytest.param("FROM busybox\nCOPY a b run.sh /srv/", (), id="several"),
    pytest.param("FROM busybox\nCOPY a /p/q/r/", (), id="new parents"),
    pytest.param("FROM busybox\nCOPY d /d", (), id="a directory"),
    pytest.param("FROM busybox\nCOPY d/ /d/", (), id="a directory with slashes"),
    pytest.param("FROM busybox\nCOPY d/s /s", (), id="a directory's mode"),
    pytest.param("FROM busybox\nCOPY d/s /s/", (), id="a directory's mode with a slash"),
    pytest.param("FROM busybox\nCOPY d/s d/x /k/", (), id="a directory and a file"),
    pytest.param("FROM busybox\nCOPY --chmod=4711 d/x /x", (), id="a set-id bit that is asked for"),
    pytest.param("FROM busybox\nCOPY --chown=9 d /n/m/", (), id="owners of new parents"),
    pytest.param("FROM busybox\nCOPY d/s /home/alice", (), id="over a directory that is there"),
    pytest.param("FROM busybox\nCOPY d /", (), id="a directory into the root"),
    pytest.param("FROM busybox\nCOPY dl /n", (), id="a link to a directory"),
    pytest.param("FROM busybox\nCOPY src/*.c notes.md /n/", (), id="wildcards and names"),
    pytest.param("FROM busybox\nCOPY . /all", (), id="everything"),
    pytest.param("FROM busybox\nCOPY *.md /n/", (), id="a wildcard"),
    pytest.param("FROM busybox\nCOPY d/?.txt d/[xz] /n/", (), id="more wildcards"),
    pytest.param('FROM busybox\nCOPY ["e f", "/g h"]', (), id="blanks"),
    pytest.param("FROM busybox\nCOPY l /followed", (), id="a link as source"),
    pytest.param("FROM busybox\nRUN ln -s /srv /sl && mkdir /srv\nCOPY a /sl/", (), id="a link in the target"),
    pytest.param("FROM busybox\nRUN mkdir -p /t/s && chmod 700 /t && ln -s t /u\nCOPY d/s /u/s", (), id="merged through a link"),
    pytest.param("FROM busybox\nWORKDIR /w/v\nCOPY a ./\nCOPY b x/", (), id="relative targets"),
    pytest.param("FROM busybox\nCOPY --chown=12:34 d /d", (), id="chown"),
    pytest.param("FROM busybox\nCOPY --chown=alice:wheel a /", (), id="chown by name"),
    pytest.param("FROM busybox\nCOPY --chmod=640 a b /m/", (), id="chmod"),
    pytest.param("FROM busybox\nCOPY a /x\nCOPY b /x", (), id="over a file"),
    pytest.param("FROM busybox\nADD d /d\nADD a /", (), id="ADD of files"),
    pytest.param("FROM busybox\nADD files.tar.gz /t/", (), id="ADD of a gzip"),
    pytest.param("FROM busybox\nADD files.tar /t", (), id="ADD of a tar"),
    pytest.param("FROM busybox\nCOPY files.tar /t/", (), id="COPY of a tar"),
    pytest.param("FROM busybox\nRUN echo hi > /hi && chmod 4711 /hi && chown 7:8 /hi", (), id="RUN"),
    pytest.param('FROM busybox\nRUN ["mkdir", "-m", "700", "/exec"]', (), id="RUN in exec form"),
    pytest.param("FROM busybox\nRUN rm /etc/lower-file && rm -r /home", (), id="RUN that removes"),
    pytest.param("FROM busybox\nCOPY d /d\nRUN rm -r /d && mkdir /d && touch /d/new", (), id="RUN that replaces a directory"),
    pytest.param("FROM busybox\nRUN mkdir /h && echo x > /h/a && ln /h/a /h/b && ln -s a /h/c && mkfifo /h/p", (), id="links and pipes"),
    pytest.param("FROM busybox\nRUN mv /home/alice /home/bob && touch '/a b' /ü", (), id="RUN that renames"),
    pytest.param("FROM busybox\nUSER alice\nWORKDIR /home/alice\nRUN id -u > /tmp/i; id -g >> /tmp/i; pwd >> /tmp/i", (), id="RUN as a user"),
    pytest.param("FROM busybox\nENV a=1 b=2\nRUN echo $a $b > /env", (), id="RUN with ENV"),
    pytest.param("FROM busybox\nARG v=1\nRUN echo $v > /arg", ("v=2",), id="RUN with ARG"),
    pytest.param("FROM busybox\nARG v=1\nENV v=3\nRUN echo $v > /arg\nLABEL v=$v", ("v=2",), id="ENV over ARG"),
    pytest.param("ARG base=nope\nFROM ${base}\nARG base\nLABEL b=$base", ("base=busybox",), id="ARG before FROM"),
    pytest.param('FROM busybox\nENV a=1\nENV a=2 b=$a c="x y" d=x\\ y\nENV e f g', (), id="ENV"),
    pytest.param("FROM busybox\nENV a=\nENV b=${a:-d} c=${a:+d} d=${n:-x}y e=\\$a", (), id="ENV with defaults"),
    pytest.param('FROM busybox\nLABEL a=1 "b c"="d e"\nLABEL a=2', (), id="LABEL"),
    pytest.param("FROM busybox\nCMD a b", (), id="CMD in shell form"),
    pytest.param('FROM busybox\nCMD ["a", "b"]', (), id="CMD in exec form"),
    pytest.param('FROM busybox\nENTRYPOINT ["e"]', (), id="ENTRYPOINT drops the base's CMD"),
    pytest.param('FROM busybox\nCMD ["c"]\nENTRYPOINT ["e"]', (), id="ENTRYPOINT keeps its own CMD"),
    pytest.param("FROM busybox\nENTRYPOINT e $HOME", (), id="ENTRYPOINT in shell form"),
    pytest.param("FROM busybox\nEXPOSE 80 53/udp\nEXPOSE 443/tcp", (), id="EXPOSE"),
    pytest.param('FROM busybox\nVOLUME /home /tmp\nVOLUME ["/root"]', (), id="VOLUME"),
    pytest.param("FROM busybox\nUSER 5:6", (), id="USER"),
    pytest.param("FROM busybox\nENV d=srv\nWORKDIR /a\nWORKDIR b/../c\nWORKDIR $d", (), id="WORKDIR"),
    pytest.param('FROM busybox\nSHELL ["/bin/ash", "-ec"]\nRUN echo $0 > /s', (), id="SHELL"),
    pytest.param("FROM busybox\nSTOPSIGNAL SIGINT", (), id="STOPSIGNAL"),
    pytest.param("FROM busybox AS one\nRUN echo 1 > /o && chown 3:4 /o\nFROM busybox\nCOPY --from=one /o /p", (), id="stages"),
    pytest.param("FROM busybox AS one\nCOPY d /d\nFROM scratch\nCOPY --from=0 /d /e", (), id="a directory from a stage"),
    pytest.param("FROM busybox AS one\nRUN ln -s /etc/passwd /pw\nFROM scratch\nCOPY --from=one /pw /pw", (), id="a link from a stage"),
    pytest.param("FROM scratch\nCOPY --from=busybox /bin/busybox /home /x/", (), id="from an image"),
    pytest.param("# escape=`\nFROM busybox\nRUN echo a`\n  b > /c", (), id="another escape character"),
    pytest.param("FROM busybox\nRUN echo \\\n# comment\n  x > /y # z", (), id="comments inside"),
]


@pytest.mark.parametrize(("dockerfile", "arguments"), TABLE)
def test_like_buildah(pair, tmp_path, dockerfile, arguments):
    """The same Dockerfile comes to the same tree and the same config."""
    node, theirs = pair
    context = lay_out(tmp_path)
    files = images.make_tar({"t/f": b"f", "t/l": "f", "t/d": None})
    (context / "files.tar").write_bytes(files)
    (context / "files.tar.gz").write_bytes(images.gzip.compress(files, mtime=0))
    for name in ("files.tar", "files.tar.gz"):
        os.utime(context / name, (1_600_000_000, 1_600_000_000))
    (context / "Dockerfile").write_text(dockerfile)
    os.utime(context / "Dockerfile", (1_600_000_000, 1_600_000_000))
    os.utime(context, (1_600_000_000, 1_600_000_000))
    options = building.Options(tags=("localhost/ours:1",), arguments=dict(each.split("=", 1) for each in arguments))
    list(node.client.build(str(context), dockerfile=dockerfile.encode(), rules=building.read_rules(str(context), None), options=options))
    tree, config = buildah.read_image(f"{node.place.state_dir}/images", "localhost/ours:1")
    other_tree, other_config = theirs.build(str(context), *(f"--build-arg={each}" for each in arguments))
    assert buildah.compare(tree, other_tree) == []
    assert config == other_config
