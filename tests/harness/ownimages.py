"""Our two images, built on this machine: a Debian base by debootstrap and wheels by the lock file, both once; then buildah, without a registry.

`build(version)` answers with paths of OCI archives. Needs root, apt's and PyPI's mirrors the first time.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from tests.harness import assets

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
REGISTRY = "registry.invalid/skerry"
"""Of the images' names: nobody asks it."""
_SUITE, _MIRROR = "bookworm", "http://deb.debian.org/debian"
_PACKAGES = ("python3", "python3-venv", "e2fsprogs", "nftables", "ca-certificates")
_LOCK = "requirements-runtime.lock"
_TARGETS = ("operator", "agent")
_BASE = "localhost/skerry-base"


class BuildFailed(Exception):
    """An image cannot be built; the message ends with the builder's last lines."""


def build(version: str, *, note: str = "", say: Callable[[str], None]) -> dict[str, str]:
    """Target -> path in the cache of an OCI archive of REGISTRY/skerry-TARGET:version, from this checkout; minutes the first time.

    A *note* becomes a comment in the keeper's code, so that it is another one. Raises BuildFailed.
    """
    base, wheels = ensure_base(say), ensure_wheels(say)
    storage = os.path.join(assets.cache_directory(), "buildah")
    os.makedirs(storage, exist_ok=True)
    with _locked(storage), tempfile.TemporaryDirectory(dir=storage) as context:
        _stage(context, wheels, note)
        key = _hash_tree(context, f"{version} {base}")
        found = {target: os.path.join(storage, f"{target}-{version}-{key}.tar") for target in _TARGETS}
        if all(map(os.path.exists, found.values())):
            return found
        buildah = _Buildah(storage)
        if not buildah.has(_BASE):
            say("making the base image")
            container = buildah.run("from", "scratch").strip()
            buildah.run("add", container, base, "/")
            buildah.run("commit", "-q", container, _BASE)
            buildah.run("rm", container)
        for target, path in found.items():
            say(f"building skerry-{target}:{version}")
            name = f"{REGISTRY}/skerry-{target}:{version}"
            buildah.run(
                "bud", "--isolation=chroot", "--layers", "--pull-never", "--timestamp=0", "-q", f"--target={target}", f"--build-arg=BASE={_BASE}",
                "--build-arg=PIP_FLAGS=--no-index --find-links=/src", f"--build-arg=VERSION={version}", "-t", name, context,
            )  # fmt: skip
            for old in glob.glob(os.path.join(storage, f"{target}-{version}-*.tar*")):
                os.unlink(old)
            buildah.run("push", "-q", name, f"oci-archive:{path}.part:{name}")
            os.rename(f"{path}.part", path)
    return found


def _stage(context: str, wheels: str, note: str) -> None:
    """What `.dockerignore` lets through, and the wheels."""
    for name in ("Dockerfile", ".dockerignore", _LOCK):
        shutil.copy(os.path.join(ROOT, name), context)
    for name in ("api", "operator", "nodeagent", "client", "crds"):
        shutil.copytree(os.path.join(ROOT, name), os.path.join(context, name), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(wheels, os.path.join(context, "wheels"), copy_function=os.link)
    if note:
        with open(os.path.join(context, "nodeagent", "skerry_node", "keeper", "wire.py"), "a", encoding="utf-8") as file:
            file.write(f"\n# {note}\n")


def _hash_tree(directory: str, start: str) -> str:
    total = hashlib.sha256(start.encode())
    for base, names, files in os.walk(directory):
        names.sort()
        for name in sorted(files):
            path = os.path.join(base, name)
            total.update(os.path.relpath(path, directory).encode() + b"\0")
            if not name.endswith(".whl"):
                with open(path, "rb") as file:
                    total.update(file.read())
    return total.hexdigest()[:12]


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
