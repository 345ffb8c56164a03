"""Kernel tests on Debian's kernel 6.1 with cgroup v2, in QEMU: `python -m tests.harness.vm [pytest arguments]` is `make test-vm`.

Without a file among the arguments: those that vm_shares.py chooses, but what is marked `host`, in two machines side by side where there are two
processors.
The exit code is pytest's, the worse of two. Where the processor and /dev/kvm allow it the machine is virtual, else it is emulated, 20 to 40
times slower than this one; SKERRY_VM_ACCEL=tcg or kvm decides otherwise. Nothing is mounted here. QEMU dies with this process, and its disks
have no name once the guest runs; SIGKILL in the first seconds leaves them in /tmp. Needs root (vm_image.py).
"""

from __future__ import annotations

import compileall
import concurrent.futures
import json
import os
import py_compile
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from tests.harness import vm_image, vm_shares
from tests.harness.vm_image import VmFailed, step

_SOURCES = ("api", "operator", "nodeagent", "client", "tests", "crds", "examples", "pyproject.toml")
_TIMEOUT_VARIABLE = "SKERRY_VM_TIMEOUT_SECONDS"
_TIMEOUT_SECONDS = 2400.0
_MAX_GUESTS = 2
_GUEST_PYTHON = (3, 11)  # Debian 12's
_SPARE_BYTES = 256 << 20
_SCRATCH_BYTES = 8 << 30  # the guest's /tmp; sparse
_ACCELERATOR_VARIABLE = "SKERRY_VM_ACCEL"
_ACCELERATORS = {"kvm": ("-accel", "kvm", "-cpu", "host"), "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max,la57=off")}
_KERNEL_LINE = "console=ttyS0 loglevel=3 panic=-1 mitigations=off"
"""Page tables of the kernel's own, against Meltdown, make an emulated processor forget all addresses at each system call."""
_QEMU = (
    *("qemu-system-x86_64", "-M", "q35", "-m", "2G"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-nic", "none", "-device", "virtio-rng-pci"),
)


def main(arguments: Sequence[str]) -> int:
    """Run the tests in the machine; their exit code."""
    if os.geteuid() != 0:
        print("vm: needs root, to build the guest's root filesystem", file=sys.stderr)
        return 2
    chosen = [argument for argument in arguments if not argument.startswith("-") and os.path.exists(argument.split("::")[0])]
    shares = [[]] if chosen else vm_shares.deal(vm_shares.find_files(vm_image.ROOT), min(os.cpu_count() or 1, _MAX_GUESTS))
    if not chosen:
        for name, reason in vm_shares.find_left_out(vm_image.ROOT):
            print(f"vm: left out {name}: {reason}", flush=True)
    try:
        image, accelerator = vm_image.ensure(), choose_accelerator()
        with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
            names = [f"{number}: " if len(shares) > 1 else "" for number in range(1, len(shares) + 1)]
            return max(pool.map(lambda name, share: _boot(image, accelerator, [*arguments, *share], name, len(shares)), names, shares))
    except VmFailed as problem:
        print(f"vm: {problem}", file=sys.stderr)
        return 2


def _boot(image: vm_image.Image, accelerator: str, arguments: Sequence[str], name: str, guests: int) -> int:
    nonce = f"vm-{secrets.token_hex(8)}"
    directory = tempfile.mkdtemp(prefix="skerry-vm-")
    try:
        with step(f"{name}copying the working tree"):
            _write_disks(directory, {"nonce": nonce, "arguments": list(arguments), "accelerator": accelerator})
        print(f"vm: {name}booting ({accelerator}); pytest {' '.join(arguments)}", flush=True)
        process = _start(image, directory, accelerator, processors=2 // guests)
        try:
            return _follow(process, nonce, directory, name)
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_disks(directory: str, order: dict[str, object]) -> None:
    """The disks of one run: the working tree as git sees it, changed and new files included, and an empty one with project quota."""
    tree = os.path.join(directory, "tree")
    listed = vm_image.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_SOURCES], cwd=vm_image.ROOT)
    for name in filter(None, listed.split("\0")):
        source, target = os.path.join(vm_image.ROOT, name), os.path.join(tree, name)
        if os.path.lexists(source):  # else deleted, and not committed
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)
    if sys.version_info[:2] == _GUEST_PYTHON:  # an emulated processor takes a minute for what this one does in seconds
        compileall.compile_dir(tree, quiet=1, force=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    with open(os.path.join(tree, ".vm.json"), "w", encoding="utf-8") as file:
        json.dump(order, file)
    vm_image.make_filesystem(os.path.join(directory, "sources.img"), tree, spare_bytes=_SPARE_BYTES)
    shutil.rmtree(tree)
    quota = ("-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota")
    vm_image.make_filesystem(os.path.join(directory, "scratch.img"), None, spare_bytes=_SCRATCH_BYTES, features=quota)


def choose_accelerator() -> str:
    """`kvm` where the processor says that it has it and the kernel lets us, `tcg` elsewhere; what the environment says comes first."""
    wanted = os.environ.get(_ACCELERATOR_VARIABLE)
    if wanted:
        if wanted not in _ACCELERATORS:
            raise VmFailed(f"{_ACCELERATOR_VARIABLE}={wanted}: give one of {', '.join(_ACCELERATORS)}")
        return wanted
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # a /dev/kvm of a processor without the flag boots, but crawls
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    return "kvm" if {"vmx", "svm"} & set(flags) and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def _start(image: vm_image.Image, directory: str, accelerator: str, *, processors: int) -> subprocess.Popen[str]:
    disks = [f"file={image.root},snapshot=on"] + [f"file={os.path.join(directory, name)}" for name in ("sources.img", "scratch.img")]
    drives = [word for disk in disks for word in ("-drive", f"{disk},if=virtio,format=raw,cache=unsafe")]
    boot = ["-kernel", image.kernel, "-initrd", image.initramfs, "-append", _KERNEL_LINE]
    command = ["setpriv", "--pdeathsig", "KILL", *_QEMU, "-smp", str(processors), *_ACCELERATORS[accelerator], *drives, *boot]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", bufsize=1
    )


def _follow(process: subprocess.Popen[str], nonce: str, directory: str, name: str) -> int:
    """Show the console, each line with the seconds since the start, until the machine is off; the exit code that its last line bears."""
    began = time.monotonic()
    seconds = float(os.environ.get(_TIMEOUT_VARIABLE) or _TIMEOUT_SECONDS)
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    result = "the machine ended before pytest did; its console is above"
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("vm: Linux"):
            shutil.rmtree(directory)  # QEMU has its disks open
        if line.startswith(f"{nonce} "):
            result = line.removeprefix(nonce).strip()
        else:
            print(f"{name}[{time.monotonic() - began:4.0f} s] {line.rstrip()}", flush=True)
    timer.cancel()
    if expired.is_set():
        raise VmFailed(f"no end after {seconds:.0f} s ({_TIMEOUT_VARIABLE} sets another limit)")
    if not result.isdigit():
        raise VmFailed(result)
    return int(result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
