"""Builds from a Dockerfile to a tree and a config, without running anything."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pathlib
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard

from skerry_node.build import progress
from skerry_node.build.errors import BuildError
from skerry_node.image.importing import import_layout
from tests.harness import builds, images


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Iterator[builds.Bench]:
    made = builds.make_bench(str(tmp_path))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[builds.Bench]:
    """One store for the tests that look at single builds only."""
    made = builds.make_bench(str(tmp_path_factory.mktemp("bench")))
    yield made
    made.store.close()


CONTEXT: images.Files = {"a": b"a", "b": b"bb", "dir/x": b"x", "dir/sub/y": b"y", "dir/l": "/etc/passwd", "link": "a", "out": "/etc/passwd"}


def added(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is new or differs."""
    return {path: value for path, value in after.items() if before.get(path) != value}


A, B = ("-rw-r--r--", 0, 0, b"a"), ("-rw-r--r--", 0, 0, b"bb")
X, Y = ("-rw-r--r--", 0, 0, b"x"), ("-rw-r--r--", 0, 0, b"y")
D, L = ("drwxr-xr-x", 0, 0, None), ("lrwxrwxrwx", 0, 0, "/etc/passwd")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param("COPY a /", {"/a": A}, id="a file into the root"),
        pytest.param("COPY a /c", {"/c": A}, id="a file under another name"),
        pytest.param("COPY a /srv", {"/srv/a": A}, id="into a directory that is there"),
        pytest.param("COPY a /new/", {"/new": D, "/new/a": A}, id="into one that is not"),
        pytest.param("COPY a /n/m", {"/n": D, "/n/m": A}, id="parents"),
        pytest.param("COPY a b /n/", {"/n": D, "/n/a": A, "/n/b": B}, id="two"),
        pytest.param("COPY [ab] /n/", {"/n": D, "/n/a": A, "/n/b": B}, id="a class"),
        pytest.param("COPY ? /n/", {"/n": D, "/n/a": A, "/n/b": B}, id="a question mark"),
        pytest.param("COPY d*/x /", {"/x": X}, id="a wildcard on the way"),
        pytest.param("COPY dir /n", {"/n": D, "/n/x": X, "/n/l": L, "/n/sub": D, "/n/sub/y": Y}, id="a directory's content"),
        pytest.param("COPY dir/ /srv/data", {"/srv/data/x": X, "/srv/data/l": L, "/srv/data/sub": D, "/srv/data/sub/y": Y}, id="into a full one"),
        pytest.param("COPY dir/sub /srv/link", {"/srv/data/y": Y}, id="through a link of the root"),
        pytest.param("COPY a /bin/a", {"/usr/bin/a": A}, id="below a link of the root"),
        pytest.param("COPY a /away/a", {"/etc/a": A}, id="an absolute link stays inside"),
        pytest.param("COPY a /up/a", {"/etc/a": A}, id="a link that goes up stays inside"),
        pytest.param("COPY a /../../a", {"/a": A}, id="a target that goes up stays inside"),
        pytest.param("COPY ../../a /c", {"/c": A}, id="a source that goes up stays inside"),
        pytest.param("COPY link /c", {"/c": A}, id="a link as source is followed"),
        pytest.param("COPY a /usr/bin/tool", {"/usr/bin/tool": A}, id="over a file"),
        pytest.param("WORKDIR /w\nCOPY a .", {"/w": D, "/w/a": A}, id="a relative target"),
        pytest.param("WORKDIR /srv\nWORKDIR data\nCOPY a x", {"/srv/data/x": A}, id="a relative directory"),
        pytest.param("WORKDIR /srv", {}, id="a directory that is there makes no layer"),
        pytest.param("ENV d=/n\nCOPY a $d/", {"/n": D, "/n/a": A}, id="a variable"),
        pytest.param("COPY --chown=1:2 a /c", {"/c": ("-rw-r--r--", 1, 2, b"a")}, id="chown by number"),
        pytest.param("COPY --chown=7 a /c", {"/c": ("-rw-r--r--", 7, 7, b"a")}, id="chown by one number"),
        pytest.param("COPY --chown=alice a /c", {"/c": ("-rw-r--r--", 1000, 1001, b"a")}, id="chown by name"),
        pytest.param("COPY --chown=alice:staff a /c", {"/c": ("-rw-r--r--", 1000, 50, b"a")}, id="chown by names"),
        pytest.param("COPY --chmod=4711 a /c", {"/c": ("-rws--x--x", 0, 0, b"a")}, id="chmod"),
        pytest.param('COPY <<E /c\nhi $x "q"\nE\n', {"/c": ("-rw-r--r--", 0, 0, b'hi  "q"\n')}, id="a here-document"),
        pytest.param("COPY <<'E' /srv/\n$x\nE\n", {"/srv/E": ("-rw-r--r--", 0, 0, b"$x\n")}, id="a quoted here-document into a directory"),
        pytest.param("ADD a /c", {"/c": A}, id="ADD of a file"),
        pytest.param('COPY ["a", "/c d"]', {"/c d": A}, id="blanks by JSON"),
    ],
)
async def test_copies(shared: builds.Bench, lines: str, expected: dict[str, Any]) -> None:
    """What COPY, ADD and WORKDIR add to the root, and nothing else."""
    image = await shared.build(f"FROM base\n{lines}", builds.pack(CONTEXT))
    base = shared.store.find(builds.BASE)
    assert base is not None
    assert added(shared.tree(base), shared.tree(image)) == expected


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        pytest.param("COPY nope /", 2, "no 'nope' in the build context", id="no such source"),
        pytest.param("COPY n* /", 2, "no 'n*'", id="no match"),
        pytest.param("COPY a b /c", 2, "must be a directory", id="two onto one"),
        pytest.param("COPY out /c", 2, "no 'out'", id="a link out of the context finds nothing: it stays inside"),
        pytest.param("COPY a /usr/bin/tool/x", 2, "no directory", id="below a file"),
        pytest.param("COPY a /usr/bin/tool/", 2, "no directory", id="a file as directory"),
        pytest.param("COPY dir /usr/bin/tool", 2, "no directory", id="a directory over a file"),
        pytest.param("COPY --chown=bob a /", 2, "has no 'bob'", id="nobody of that name"),
        pytest.param("COPY --chown=4294967295 a /", 2, "no 32-bit id", id="an id that is none"),
        pytest.param("COPY --chmod=u+x a /", 2, "write it in octal", id="a mode in words"),
        pytest.param("\nCOPY --from=nope a /", 3, "no image 'nope'", id="no such stage"),
        pytest.param("COPY --from=localhost/skerry-build-cache:x a /", 2, "no image to build on", id="the cache's own images"),
        pytest.param("FROM localhost/skerry-build-cache:x", 2, "no image to build on", id="nor as a base"),
        pytest.param("COPY a /.wh.x", 2, "names that begin with .wh.", id="a whiteout by name"),
        pytest.param("USER a:b:c", 2, "User of the image config", id="a user that is none"),
        pytest.param("STOPSIGNAL NOPE", 2, "is no signal", id="a signal that is none"),
        pytest.param("EXPOSE 70000", 2, "is no port", id="a port that is none"),
        pytest.param("WORKDIR /usr/bin/tool", 2, "no directory", id="WORKDIR of a file"),
        pytest.param("COPY dir2 /srv/", 2, "cannot copy a file over a directory at /srv/data", id="a file over a directory below"),
    ],
)
async def test_refused_with_its_line(shared: builds.Bench, lines: str, line: int, problem: str) -> None:
    """What cannot be done names its line, and no image appears."""
    with pytest.raises(BuildError) as caught:
        await shared.build(f"FROM base\n{lines}", builds.pack({**CONTEXT, "dir2/data": b""}), references=("localhost/refused:latest",))
    assert problem in str(caught.value)
    assert caught.value.line == line
    assert shared.store.find("localhost/refused:latest") is None


async def test_set_id_bits_of_the_context_go(shared: builds.Bench) -> None:
    """What is copied from the context cannot become root's set-id program by chance; between stages, and in archives, the bits stay."""
    context = builds.archive(images.member(b"s", b"s", mode=0o6755) + images.member(b"s.tar", images.member(b"t", b"t", mode=0o6755)))
    image = await shared.build("FROM scratch AS one\nCOPY s /\nADD s.tar /\nFROM scratch\nCOPY --from=one / /", context)
    assert shared.tree(image) == {"/s": ("-rwxr-xr-x", 0, 0, b"s"), "/t": ("-rwsr-sr-x", 0, 0, b"t")}


async def test_the_config(bench: builds.Bench) -> None:
    """Instructions that change no file change the config, with variables replaced."""
    image = await bench.build(
        'FROM base\nARG who=me\nENV a=1 b="$who x"\nENV b=$b-$a c=$b\nLABEL l1=v "l 2"="v 2"\nEXPOSE 80 53/udp\nVOLUME /d "/e"\n'
        'WORKDIR /srv\nUSER alice\nSTOPSIGNAL SIGINT\nCMD x y\nSHELL ["/bin/ash", "-ec"]\nENTRYPOINT go $a\n'
    )
    assert bench.config(image)["config"] == {
        "Env": ["PATH=/bin", "a=1", "b=me x-1", "c=me x"], "Labels": {"l1": "v", "l 2": "v 2"}, "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "Volumes": {"/d": {}, "/e": {}}, "WorkingDir": "/srv", "User": "alice", "StopSignal": "SIGINT", "Cmd": ["/bin/sh", "-c", "x y"],
        "Entrypoint": ["/bin/ash", "-ec", "go $a"], "Shell": ["/bin/ash", "-ec"],
    }  # fmt: skip
    assert [entry.get("empty_layer", False) for entry in bench.config(image)["history"]].count(False) == len(image.layers)


async def test_stages(bench: builds.Bench) -> None:
    """--from takes from a stage by name or number, keeps owners, and builds no stage that is not needed."""
    text = (
        "FROM base AS one\nCOPY --chown=5:6 a /o/a\nFROM base AS unneeded\nCOPY nope /\nFROM scratch AS two\nCOPY --from=one /o /p\n"
        "COPY --from=0 /o/a /q\nCOPY --from=base /usr/bin /r\nFROM two\nCOPY b /\n"
    )
    image = await bench.build(text, builds.pack(CONTEXT))
    owned = ("-rw-r--r--", 5, 6, b"a")
    assert bench.tree(image) == {
        "/p": D, "/p/a": owned, "/q": owned, "/r": D, "/r/tool": ("-rw-r--r--", 0, 0, b"tool"), "/b": B,
    }  # fmt: skip
    target = await bench.build(text, builds.pack(CONTEXT), target="ONE")
    assert "/o/a" in bench.tree(target)
    assert "/b" not in bench.tree(target)


async def test_two_builds_one_digest(bench: builds.Bench, tmp_path: pathlib.Path) -> None:
    """With SOURCE_DATE_EPOCH the result is a function of the Dockerfile and the context; without the cache, and in another store."""
    text = "FROM base\nWORKDIR /made\nCOPY dir a /n/\nRUN something\n"
    first = await bench.build(text, builds.pack(CONTEXT))
    again = await bench.build(text, builds.pack(CONTEXT), use_cache=False, references=("localhost/other:latest",))
    other = builds.make_bench(str(tmp_path / "other"))
    with contextlib.closing(other.store):
        elsewhere = await other.build(text, builds.pack(CONTEXT))
    assert first.digest != again.digest  # the runner of this bench makes another file each time
    assert first.digest == elsewhere.digest


def cached(bench: builds.Bench) -> list[bool]:
    """For each step of the last build whether it came from the cache."""
    found: list[bool] = []
    for event in bench.events:
        if isinstance(event, progress.Started):
            found.append(False)
        elif isinstance(event, progress.Cached):
            found[-1] = True
    return found


async def test_the_cache(bench: builds.Bench) -> None:
    """A step is done again when it, what it reads, or anything before it changed; and only then."""
    text = "FROM base\nCOPY a /x\nRUN one\nCOPY b /y\nRUN two\n"
    await bench.build(text, builds.pack(CONTEXT))
    assert cached(bench) == [False] * 5
    await bench.build(text, builds.pack(CONTEXT))
    assert cached(bench) == [False, True, True, True, True]
    await bench.build(text, builds.pack({**CONTEXT, "b": b"changed"}))
    assert cached(bench) == [False, True, True, False, False]
    await bench.build(text.replace("one", "other"), builds.pack(CONTEXT))
    assert cached(bench) == [False, True, False, False, False]
    await bench.build(text, builds.pack(CONTEXT), use_cache=False)
    assert cached(bench) == [False] * 5
    await bench.build("FROM base\nARG v\nCOPY a /x\nRUN one\n", builds.pack(CONTEXT), arguments={"v": "1"})
    assert cached(bench) == [False, False, True, False]


async def test_the_cache_outlives_the_image_and_failed_builds(bench: builds.Bench) -> None:
    """Layers of other stages and of a build that failed are there for the next one, after a restart as well."""
    text = "FROM base AS one\nCOPY a /x\nRUN one\nFROM base\nCOPY --from=one /x /y\n"
    with pytest.raises(BuildError):
        await bench.build(text + "COPY nope /", builds.pack(CONTEXT))
    bench.store.close()
    bench.store = type(bench.store)(f"{bench.directory}/images")
    await bench.build(text, builds.pack(CONTEXT))
    assert cached(bench) == [False, True, True, False, True]


async def test_run_is_ordered_right(bench: builds.Bench) -> None:
    """RUN gets the shell, ARGs on top of ENV, proxies undeclared, and no network unless asked for."""
    text = (
        'FROM base\nARG v=1\nARG PATH\nENV e=2\nUSER alice\nWORKDIR /srv\nRUN a $v\nRUN ["b", "$v"]\nRUN --network=default c\n'
        "RUN <<E\nscript\nE\nRUN cat <<-E >/x\n\tdoc\n\tE\nRUN <<E\n#!/bin/ash -e\nx\nE\n"
    )
    await bench.build(text, arguments={"PATH": "/evil", "http_proxy": "http://p"})
    orders = bench.runner.orders
    assert [order.argv for order in orders] == [
        ("/bin/sh", "-c", "a $v"), ("b", "$v"), ("/bin/sh", "-c", "c"), ("/bin/sh", "-c", "script\n"),
        ("/bin/sh", "-c", "cat <<E >/x\ndoc\nE\n"),
        ("/bin/sh", "-c", orders[5].argv[2], "sh", "#!/bin/ash -e\nx\n", "/bin/ash", "-e"),
    ]  # fmt: skip
    assert {order.env for order in orders} == {("http_proxy=http://p", "v=1")}
    assert [order.has_network for order in orders] == [False, False, True, False, False, False]
    assert (orders[0].image.config.user, orders[0].image.config.working_dir) == ("alice", "/srv")
    assert orders[0].image.config.env == ("PATH=/bin", "e=2")
    config = bench.config(bench.store.find("localhost/test:latest"))
    assert "http://p" not in str(config)


async def test_arguments(bench: builds.Bench) -> None:
    """Global ARGs serve FROM and what is declared again; predefined ones are there; unknown ones are told."""
    text = "ARG name=nope\nARG g=global\nFROM ${name}:latest\nARG g\nARG TARGETARCH\nARG d=${g}-d\nLABEL g=$g d=$d t=$TARGETARCH n=$name"
    image = await bench.build(text, arguments={"name": "base", "typo": "1"})
    assert bench.config(image)["config"]["Labels"] == {"g": "global", "d": "global-d", "t": "amd64", "n": ""}
    assert [event.message for event in bench.events if isinstance(event, progress.Warned)] == ["build arguments that no ARG asked for: typo"]


async def test_what_a_base_wants_done_is_not_done(tmp_path: pathlib.Path) -> None:
    """ONBUILD of the base runs nothing; that is told, and the new image does not inherit it."""
    bench = builds.make_bench(str(tmp_path), config={"OnBuild": ["RUN evil"], "Healthcheck": {"Test": ["CMD", "x"]}, "Cmd": ["c"]})
    with contextlib.closing(bench.store):
        image = await bench.build("FROM base\nUSER 1")
        assert bench.config(image)["config"] == {"Cmd": ["c"], "User": "1"}
    assert [event.message for event in bench.events if isinstance(event, progress.Warned)] == ["line 1: ONBUILD instructions of base are ignored"]
    assert bench.runner.orders == []


@pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz"])
async def test_add_unpacks_archives(bench: builds.Bench, form: Any) -> None:
    """ADD unpacks a tar of any usual packing, owners and links kept; COPY leaves it as it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=form) as made:
        info = tarfile.TarInfo("d/f")
        info.size, info.uid, info.gid, info.mode = 3, 7, 8, 0o640
        made.addfile(info, io.BytesIO(b"tar"))
        link = tarfile.TarInfo("d/h")
        link.type, link.linkname = tarfile.LNKTYPE, "d/f"
        made.addfile(link)
    context = {"x.tar": out.getvalue()}
    image = await bench.build("FROM scratch\nADD x.tar /t/\nCOPY x.tar /c", builds.pack(context))
    file = ("-rw-r-----", 7, 8, b"tar")
    tree = bench.tree(image)
    assert tree.pop("/c")[3] == out.getvalue()
    assert tree == {"/t": D, "/t/d": D, "/t/d/f": file, "/t/d/h": file}


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(images.member(b"../x", b"y"), id="goes up"),
        pytest.param(images.member(b"l", kind=b"2", target=b"/etc") + images.member(b"l/x", b"y"), id="below a link"),
        pytest.param(images.member(b"h", kind=b"1", target=b"/etc/passwd"), id="a hard link to nothing"),
        pytest.param(images.member(b".wh.x"), id="a whiteout"),
        pytest.param(images.member(b"x", b"y", size=1 << 40), id="longer than it is"),
    ],
)
async def test_hostile_archives_in_add(shared: builds.Bench, members: bytes) -> None:
    """A hostile archive is an error of its line, and nothing appears."""
    with pytest.raises(BuildError) as caught:
        await shared.build("FROM scratch\nADD x.tar /t/", builds.pack({"x.tar": members}), references=("localhost/refused:latest",))
    assert caught.value.line == 2
    assert shared.store.find("localhost/refused:latest") is None


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
async def test_a_bomb_in_add(shared: builds.Bench, pack: Callable[[bytes], bytes]) -> None:
    """An archive that grows beyond all measure ends as an error once it does."""
    zeros = images.member(b"zeros", bytes(80 << 20))
    with pytest.raises(BuildError, match="unpacks to more than") as caught:
        await shared.build("FROM scratch\nADD bomb /", builds.pack({"bomb": pack(zeros)}))
    assert caught.value.line == 2


@pytest.mark.parametrize("content", [b"", b"\1" * 600, b"BZh9", b"\x1f\x8b"], ids=["empty", "no tar", "bzip2's magic", "gzip's magic"])
async def test_add_of_no_archive(shared: builds.Bench, content: bytes) -> None:
    """What is no archive, whatever its first bytes say, is copied as it is."""
    image = await shared.build("FROM scratch\nADD x.tar /t/", builds.pack({"x.tar": content}))
    assert shared.tree(image)["/t/x.tar"][3] == content


async def test_nothing_is_left_open(bench: builds.Bench) -> None:
    """A build, good or bad, leaves no descriptor and no file of its own."""
    await bench.build("FROM base\nCOPY a /", builds.pack(CONTEXT))
    before, files = len(os.listdir("/proc/self/fd")), sorted(os.listdir(bench.directory))
    for text in ("FROM base\nCOPY b /", "FROM base\nCOPY nope /"):
        context = builds.pack(CONTEXT)
        with contextlib.suppress(BuildError):
            await bench.build(text, context)
        context.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(bench.directory)) == files


async def test_the_result_is_an_image_for_others(bench: builds.Bench, tmp_path: pathlib.Path) -> None:
    """Manifest, config and blobs are all there, and make an OCI layout that imports again as the same image."""
    image = await bench.build("FROM base\nCOPY a /", builds.pack(CONTEXT))
    layout = tmp_path / "out"
    (layout / "blobs/sha256").mkdir(parents=True)
    for blob in image.blobs:
        with bench.store.blobs.open(blob.digest) as file:
            (layout / "blobs/sha256" / blob.digest.removeprefix("sha256:")).write_bytes(file.read())
    (layout / "index.json").write_text(
        f'{{"manifests":[{{"mediaType":"{image.media_type}","digest":"{image.digest}","size":{image.manifest_bytes}}}]}}'
    )
    other = builds.make_bench(str(tmp_path / "other"))
    with contextlib.closing(other.store):
        again = import_layout(other.store, str(layout), reference="localhost/again:1")
        assert (again.digest, builds.read_tree(other.store, again)) == (image.digest, bench.tree(image))
