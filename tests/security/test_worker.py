"""The converter is hostile, taken over by the layer that it reads: what can it reach? Each probe also runs without the walls."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from skerry_node.image import blobs, conversion, sealing, store, workers
from skerry_node.image.errors import ConversionFailed, DamagedContent
from skerry_node.image.layer import Promise
from tests.harness import images

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the walls are those of an agent that is root")

PROBES = """
import os, socket, sys, ctypes, mmap, signal, resource
from skerry_node.image import worker
libc = ctypes.CDLL(None, use_errno=True)
early_root, early_cwd = os.open("/", os.O_RDONLY), os.open(".", os.O_RDONLY)
seen = []  # what a child reports goes to its result pipe

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def grow():
    return len(bytearray(400 << 20))

probes = {
    "read a file": lambda: open("/etc/passwd").read(1),
    "list the root": lambda: os.listdir("/"),
    "use an old descriptor": lambda: os.listdir(early_root),
    "open below an old descriptor": lambda: os.open("etc/passwd", os.O_RDONLY, dir_fd=early_root),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "open a unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
    "fork": lambda: os.fork() or os._exit(0),
    "run a program": lambda: os.execve("/bin/true", ["true"], {}),
    "make a file": lambda: os.close(os.open("/tmp", os.O_RDWR | os.O_TMPFILE)),
    "unshare": lambda: call("unshare", 0x20000),
    "mount": lambda: call("mount", b"none", b"/", None, 1 << 18, None),
    "see our processes": lambda: os.kill(int(sys.argv[2]), 0),
    "make memory executable": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "trace": lambda: call("ptrace", 0, 0, 0, 0),
    "take more memory": grow,
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
}

def probe(promise):
    done = {}
    name = promise.media_type
    try:
        probes[name]()
        done["message"] = "done"
    except (OSError, MemoryError, ValueError) as error:
        done["message"] = f"refused: {type(error).__name__} {getattr(error, 'errno', '')}"
    return {"error": "InvalidLayer", **done}

worker._convert = probe
if sys.argv[3] == "open":
    def keep(fds, *, cpu_seconds):
        os.dup2(fds[2], worker._RESULT)
    worker.leave = keep
    worker._NAMESPACES = 0
    worker.confining.write_maps = lambda pid, host_id: None
import socket as sockets
worker.serve(sockets.socket(fileno=int(sys.argv[1])))
"""
NAMES = [line.split('"')[1] for line in PROBES.splitlines() if line.startswith('    "')]


def ask(name, walls):
    """What the probe came to, in a converter with or without its walls."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with subprocess.Popen(
        [sys.executable, "-c", PROBES, str(theirs.fileno()), str(os.getpid()), walls], pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, start_new_session=True,
    ) as process:  # fmt: skip
        theirs.close()
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        request = {"digest": "sha256:0", "size_bytes": 0, "diff_id": "sha256:0", "media_type": name}
        socket.send_fds(ours, [json.dumps(request).encode()], [null, null, write])
        _, fds, _, _ = socket.recv_fds(ours, 64, 1)
        os.close(write)
        with open(read, encoding="utf-8") as result:
            said = result.read()
        for fd in (null, *fds):
            os.close(fd)
        ours.close()
        process.wait()
    return said


@pytest.mark.parametrize("name", NAMES)
def test_a_converter_reaches_nothing(name):
    """Refused inside; done outside."""
    inside, outside = ask(name, "walls"), ask(name, "open")
    assert '"refused: ' in inside, inside
    assert '"done"' in outside or (name == "run a program" and "message" not in outside), outside


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


PROMISE = Promise(digest="sha256:" + "a" * 64, size_bytes=1 << 30, diff_id="sha256:" + "b" * 64, media_type="application/vnd.oci.image.layer.v1.tar")


@pytest.fixture
def waiting(kept):
    """A converter that waits for its blob."""
    fd = os.open(kept.layers_dir, os.O_RDWR | os.O_TMPFILE)
    worker = kept.nursery.spawn(PROMISE, fd)
    yield worker
    worker.close()
    os.close(fd)


def pid_of(worker):
    with open(f"/proc/self/fdinfo/{worker.pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def is_gone(pid):
    """Whether nothing runs there; whose child it became may not have looked yet."""
    try:
        return status_of(pid)["State"].startswith("Z")
    except FileNotFoundError:
        return True


def wait_for(claim, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_the_kernel_says_of_a_converter(waiting):
    """Another user, no capability, no new privileges, a filter, six namespaces of its own, an empty root, three descriptors."""
    pid = pid_of(waiting)
    wait_for(lambda: status_of(pid)["Seccomp"] == "2")
    status = status_of(pid)
    assert status["Uid"].split() == status["Gid"].split() == [str((1 << 31) - 2)] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert os.listdir(f"/proc/{pid}/root") == []
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["3", "4", "5"]
    with open(f"/proc/{pid}/mountinfo", encoding="ascii") as file:
        assert len(file.readlines()) == 1


def test_a_killed_converter_is_no_verdict_on_the_layer(kept, waiting):
    """It may have been the machine's memory: the layer is tried again by whoever wants it."""
    waiting.kill()
    with open(waiting.result_fd, "rb", closefd=False) as file:
        said = file.read()
    with pytest.raises(ConversionFailed, match="status 9"):
        workers.read_result(waiting, said)


def test_converters_end_with_the_agent(kept, waiting):
    """When the other end of the warm process goes, nothing of it stays."""
    pid = pid_of(waiting)
    os.kill(kept.nursery._process.pid, signal.SIGKILL)
    wait_for(lambda: is_gone(pid))
    kept.nursery.close()


def test_the_warm_process_is_started_again(kept):
    """After it was killed, the next layer is converted all the same."""
    fd = os.open(kept.layers_dir, os.O_RDWR | os.O_TMPFILE)
    kept.nursery.spawn(PROMISE, fd).close()
    os.kill(kept.nursery._process.pid, signal.SIGKILL)
    kept.nursery.spawn(PROMISE, fd).close()
    os.close(fd)


async def test_an_aborted_conversion_leaves_nothing(kept):
    """No file, no process; repeatable."""
    started = await conversion.start(kept, PROMISE)
    await started.feed(bytes(4096))
    pid = pid_of(started._worker)
    await started.abort()
    await started.abort()
    wait_for(lambda: is_gone(pid))
    assert os.listdir(kept.layers_dir) == ["base-1.erofs"]


async def feed_on(started, count):
    for _ in range(count):
        await started.feed(bytes(65536))


async def test_a_feeder_hears_at_once_what_is_wrong(kept):
    """A blob that does not end at its promised size is not read on; what follows is an error of the next `feed`."""
    started = await conversion.start(kept, dataclasses.replace(PROMISE, size_bytes=1 << 20))
    try:
        with pytest.raises(DamagedContent, match="longer than its 1048576 bytes"):
            await feed_on(started, 1 << 12)
    finally:
        await started.abort()


def seal_of(kept, layer):
    with open(os.path.join(kept.layers_dir, layer.path), "rb") as file:
        return sealing.seal(file.fileno())


async def test_many_layers_are_converted_at_once(kept, tmp_path):
    """Each gets its own converter; what they make is in the store and sealed."""
    tars = [images.make_tar({"f": b"%d" % number, "large": os.urandom(3 << 20)}) for number in range(8)]

    async def bring(tar):
        digest = blobs.digest_of(tar)
        started = await conversion.start(kept, dataclasses.replace(PROMISE, digest=digest, diff_id=digest, size_bytes=len(tar)))
        for start in range(0, len(tar), 100_000):
            await started.feed(tar[start : start + 100_000])
        return await started.land(await started.end())

    for layer in await asyncio.gather(*map(bring, tars)):
        assert seal_of(kept, layer) == sealing.Sealed(layer.size_bytes, layer.seal)
