"""Hostile Dockerfiles, contexts and base images: whatever links say, no byte of the host is read or written (CVE-2018-15664 and its family).

The canary is a directory of the host with a secret in it. Each case is done by us, and once by a naive builder that unpacks the base and joins
paths: there the canary must fire, or the case shows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import stat

import pytest

from skerry_node.build import trees, union
from skerry_node.build.errors import BuildError
from tests.harness import builds

SECRET = b"the host's secret\n"


@pytest.fixture
def canary(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "secret").write_bytes(SECRET)
    return directory


def look(canary: pathlib.Path) -> dict[str, object]:
    """Everything about the canary that a writer would change."""
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in (canary, *sorted(canary.iterdir()))
    }


def poisoned(canary: pathlib.Path) -> dict[str, bytes | str | None]:
    """A base image whose links lead out: absolute, upwards, in chains, in the place of passwd, as the working directory."""
    up = "../" * 20
    return {
        "abs": str(canary), "up": up + str(canary)[1:], "chain": "abs", "file": f"{canary}/secret", "fd": "/proc/self/fd/3", "cwd": "/proc/self/cwd",
        "root": "/proc/1/root", "dir/deep": f"{up}{canary}"[:4000], "plain/x": b"x", "loop": "loop2", "loop2": "loop",
    }  # fmt: skip


WRITES = [
    pytest.param("COPY a /abs/a", "abs/a", id="below an absolute link"),
    pytest.param("COPY a /up/a", "up/a", id="below a link upwards"),
    pytest.param("COPY a /chain/a", "chain/a", id="below a chain"),
    pytest.param("COPY a /abs/", "abs/a", id="into an absolute link"),
    pytest.param("COPY a /file", "file", id="onto a link to a file"),
    pytest.param("COPY d /abs", "abs/x", id="a directory onto a link"),
    pytest.param("COPY d/ /up/", "up/x", id="a directory into a link"),
    pytest.param("ADD a.tar /abs/", "abs/t", id="an archive into a link"),
    pytest.param("WORKDIR /abs/w", "abs/w", id="WORKDIR below a link"),
    pytest.param("WORKDIR /abs\nCOPY a .", "abs/a", id="a relative target from a link"),
    pytest.param("COPY --chown=alice a /chain/", "chain/a", id="with an owner from a poisoned passwd"),
    pytest.param("COPY <<x /abs/\nhi\nx\n", "abs/x", id="a here-document"),
]
READS = [
    pytest.param("COPY --from=base /file /got", "file", id="a link to a file"),
    pytest.param("COPY --from=base /abs/secret /got", "abs/secret", id="below an absolute link"),
    pytest.param("COPY --from=base /up/secret /got", "up/secret", id="below a link upwards"),
    pytest.param("COPY --from=base /abs/* /got/", "abs/secret", id="a wildcard below a link"),
    pytest.param("COPY --from=base /abs /got", "abs/secret", id="a link to a directory"),
    pytest.param("COPY --from=base /chain/../canary/secret /got", "chain/secret", id="up and down again"),
    pytest.param("COPY out /got", None, id="a link in the context"),
    pytest.param("COPY outdir/secret /got", None, id="below a link in the context"),
    pytest.param("ADD out /got", None, id="ADD of a link"),
    pytest.param("COPY ../../../../../../../../../{canary}/secret /got", None, id="upwards from the context"),
]


def context(canary: pathlib.Path) -> dict[str, bytes | str | None]:
    """A context that lies, too."""
    return {
        "a": b"from the context", "d/x": b"from the context", "out": f"{canary}/secret", "outdir": str(canary),
        "a.tar": builds.images.make_tar({"t": b"from the archive"}),
    }  # fmt: skip


@pytest.mark.parametrize(("lines", "naive"), WRITES)
def test_nothing_is_written_outside(tmp_path: pathlib.Path, canary: pathlib.Path, lines: str, naive: str) -> None:
    """The image gets the file where its own links lead, inside itself; the host's canary is as it was."""
    before = look(canary)
    base = {**poisoned(canary), "etc/passwd": b"alice:x:1000:1000::/:/bin/sh\n"}
    bench = builds.make_bench(str(tmp_path), files=base)
    with contextlib.closing(bench.store):
        image = asyncio.run(bench.build(f"FROM base\n{lines}", builds.pack(context(canary))))
        inside = [path for path in bench.tree(image) if path.startswith(str(canary))]
    assert look(canary) == before
    assert inside, "it is in the image, below the same name"
    naive_write(tmp_path / "naive", base, naive)
    assert look(canary) != before, "the control must fire"


@pytest.mark.parametrize(("lines", "naive"), READS)
def test_nothing_is_read_outside(tmp_path: pathlib.Path, canary: pathlib.Path, lines: str, naive: str | None) -> None:
    """What a link names does not exist inside, so the build fails, or copies something of the image; never the host's secret."""
    bench = builds.make_bench(str(tmp_path), files=poisoned(canary))
    with contextlib.closing(bench.store), contextlib.suppress(BuildError):
        image = asyncio.run(bench.build(f"FROM base\n{lines.format(canary=canary)}", builds.pack(context(canary))))
        assert SECRET not in [value[3] for value in bench.tree(image).values()]
    assert naive_read(tmp_path / "naive", canary, naive) == SECRET, "the control must fire"


@pytest.mark.parametrize("path", ["fd", "cwd", "root", "fd/secret", "root/etc/passwd", "dir/deep/secret", "loop", "loop/x"])
def test_magic_links_are_words(tmp_path: pathlib.Path, canary: pathlib.Path, path: str) -> None:
    """Links into /proc lead into the image's own /proc, which is empty; circles are errors."""
    bench = builds.make_bench(str(tmp_path), files=poisoned(canary))
    found = bench.store.find(builds.BASE)
    assert found is not None
    with contextlib.closing(bench.store), union.opened(bench.store.layers_fd, [layer.path for layer in found.layers]) as root:
        if path.startswith("loop"):
            with pytest.raises(BuildError, match="circles"):
                trees.resolve(root, path.encode())
        else:
            assert trees.resolve(root, path.encode()).node is None


@pytest.mark.parametrize(
    "passwd",
    [
        pytest.param(b"alice:x:4294967295:0::/:/x\n", id="an id that is none"),
        pytest.param(b"alice:x:-1:0::/:/x\n", id="a negative one"),
        pytest.param(b"alice:x:0x0:0::/:/x\n", id="in another base"),
        pytest.param("alice:x:\u0665:0::/:/x\n".encode(), id="digits of another script"),
        pytest.param(b"alice\n" * 200_000, id="larger than a MiB"),
        pytest.param("/etc/passwd", id="a link to itself"),
        pytest.param(None, id="a directory"),
    ],
)
def test_poisoned_passwd(tmp_path: pathlib.Path, passwd: bytes | str | None) -> None:
    """Names come from the image's own file, regular and small; numbers are decimal and fit."""
    bench = builds.make_bench(str(tmp_path), files={"etc/passwd": passwd, "etc/group": b""})
    with contextlib.closing(bench.store), pytest.raises(BuildError, match="Dockerfile line 2"):
        asyncio.run(bench.build("FROM base\nCOPY --chown=alice a /", builds.pack({"a": b""})))


def test_variables_that_hold_one_another(tmp_path: pathlib.Path) -> None:
    """A billion laughs ends as an error, soon."""
    lines = ["FROM scratch", "ENV a0=" + "x" * 1000, *(f"ENV a{number}=${{a{number - 1}}}" + f"${{a{number - 1}}}" * 9 for number in range(1, 12))]
    bench = builds.make_bench(str(tmp_path))
    with contextlib.closing(bench.store), pytest.raises(BuildError, match="grows too large"):
        asyncio.run(bench.build("\n".join(lines)))


def naive_write(directory: pathlib.Path, files: dict[str, bytes | str | None], target: str) -> None:
    """What a builder does that unpacks the base and joins paths."""
    unpack(directory, files)
    path = os.path.join(directory, target)
    if stat.S_ISDIR(os.stat(os.path.dirname(path)).st_mode) and not os.path.isdir(path):
        pathlib.Path(path).write_bytes(b"escaped")


def naive_read(directory: pathlib.Path, canary: pathlib.Path, source: str | None) -> bytes:
    """The same for reading; without a *source* in the base it is the context's link."""
    if source is None:
        unpack(directory, context(canary))
        return (directory / "out").read_bytes()
    unpack(directory, poisoned(canary))
    return pathlib.Path(os.path.join(directory, source)).read_bytes()


def unpack(directory: pathlib.Path, files: dict[str, bytes | str | None]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        elif content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
