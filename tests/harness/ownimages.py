"""Our two images, built on this machine: a Debian base by debootstrap and wheels by the lock file, both once; then buildah, without a registry.

`build(directory, version)` answers with paths of OCI archives. Needs root, apt's and PyPI's mirrors the first time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

from tests.harness import assets

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
REGISTRY = "registry.invalid/skerry"
"""Of the images' names: nobody asks it."""
_SUITE, _MIRROR = "bookworm", "http://deb.debian.org/debian"
_PACKAGES = ("python3", "python3-venv", "e2fsprogs", "nftables", "ca-certificates")
_LOCK = "requirements-runtime.lock"
_TARGETS = ("operator", "agent")


class BuildFailed(Exception):
    """An image cannot be built; the message ends with the builder's last lines."""


def build(directory: str, version: str, *, say: Callable[[str], None]) -> dict[str, str]:
    """Target -> path of an OCI archive of REGISTRY/skerry-TARGET:version, below *directory*. Minutes the first time. Raises BuildFailed."""
    base, wheels = ensure_base(say), ensure_wheels(say)
    storage = os.path.join(assets.cache_directory(), "buildah")
    buildah = _Buildah(storage)
    with _locked(storage):
        if not buildah.has("localhost/skerry-base"):
            say("making the base image")
            container = buildah.run("from", "scratch").strip()
            buildah.run("add", container, base, "/")
            buildah.run("commit", "-q", container, "localhost/skerry-base")
            buildah.run("rm", container)
        made = {}
        for target in _TARGETS:
            say(f"building skerry-{target}:{version}")
            name, path = f"{REGISTRY}/skerry-{target}:{version}", os.path.join(directory, f"{target}-{version}.tar")
            buildah.run(
                "bud", "--isolation=chroot", "--layers", "--pull-never", "--timestamp=0", "-q", f"--target={target}", f"--volume={wheels}:/wheels:ro",
                "--build-arg=BASE=localhost/skerry-base", "--build-arg=PIP_FLAGS=--no-index --find-links=/wheels", f"--build-arg=VERSION={version}",
                "-t", name, ROOT,
            )  # fmt: skip
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            buildah.run("push", "-q", name, f"oci-archive:{path}:{name}")
            made[target] = path
    return made


def ensure_base(say: Callable[[str], None]) -> str:
    """A tar of a small Debian with what our images need."""
    path = os.path.join(assets.cache_directory(), f"base-{_SUITE}-{_short(' '.join(_PACKAGES).encode())}.tar")
    with _locked(path):
        if not os.path.exists(path):
            say("debootstrap of the base image: about a minute")
            tree = f"{path}.tree"
            shutil.rmtree(tree, ignore_errors=True)
            try:
                _run("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, tree, _MIRROR)
                for name in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale"):
                    shutil.rmtree(os.path.join(tree, name), ignore_errors=True)
                _run("tar", "-C", tree, "--sort=name", "--mtime=@0", "--numeric-owner", "-cf", f"{path}.part", "--exclude=./dev/*", ".")
                os.rename(f"{path}.part", path)
            finally:
                shutil.rmtree(tree, ignore_errors=True)
    return path


def ensure_wheels(say: Callable[[str], None]) -> str:
    """A directory with the wheels of the lock file."""
    with open(os.path.join(ROOT, _LOCK), "rb") as file:
        path = os.path.join(assets.cache_directory(), f"wheels-{_short(file.read())}")
    with _locked(path):
        if not os.path.isdir(path):
            say("downloading wheels")
            _run(
                sys.executable, "-m", "pip", "download", "-q", "--require-hashes", "--only-binary", ":all:", "-r", os.path.join(ROOT, _LOCK),
                "-d", f"{path}.part",
            )  # fmt: skip
            os.rename(f"{path}.part", path)
    return path


class _Buildah:
    def __init__(self, directory: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self._policy = os.path.join(directory, "policy.json")
        with open(self._policy, "w", encoding="ascii") as file:
            file.write('{"default":[{"type":"insecureAcceptAnything"}]}')
        self._flags = ["--root", f"{directory}/root", "--runroot", f"{directory}/runroot", "--storage-driver", "overlay"]

    def has(self, name: str) -> bool:
        return subprocess.run(["buildah", *self._flags, "inspect", "--type=image", name], capture_output=True, check=False).returncode == 0

    def run(self, command: str, *rest: str) -> str:
        policy = [f"--signature-policy={self._policy}"] if command in {"bud", "from", "commit", "push"} else []
        # in a mount namespace of its own: the mounts of its storage go with it
        return _run("unshare", "--mount", "--propagation=private", "buildah", *self._flags, command, *policy, *rest)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"{' '.join(argv[:4])} ...: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
