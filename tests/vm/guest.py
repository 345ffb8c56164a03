"""Process 1 of the virtual machine: prepares the kernel, runs pytest, says how it ended, powers off. Standard library only.

/src is the disk with the working tree and `.vm.json`: {"nonce": ..., "arguments": [...], "accelerator": "tcg"}. The exit code leaves as a
line `<nonce> <code>`.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess

_MODULES = (
    *("overlay", "erofs", "loop", "virtio_rng", "tun", "dummy", "veth", "bridge", "br_netfilter", "sch_tbf", "sch_netem"),
    *("nf_tables", "nft_chain_nat", "nft_masq", "nft_ct", "nft_reject_inet", "nft_fib_inet", "nf_conntrack"),
)
_MOUNTS = (  # type, target, options
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("ext4", "/tmp", "prjquota"),
)
_SOURCES = {"ext4": "/dev/vdc"}
_OPTIONS = ("-v", "-ra", "--durations=25", "--color=no", "-m", "not host", "-p", "no:hypothesispytest")
"""No kernel test draws its cases, and an import of hypothesis takes seconds here."""
_POWER_OFF = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF, reboot(2)


def main() -> None:
    """Never returns: the machine is off at the end."""
    status: int | str = "the guest failed before pytest started"
    nonce = "?"
    try:
        with open("/src/.vm.json", encoding="utf-8") as file:
            order = json.load(file)
        nonce = order["nonce"]
        _prepare(order["accelerator"])
        status = _run([*["python3", "-m", "pytest", *_OPTIONS, "-o", "faulthandler_timeout=300"], *order["arguments"]])
    finally:
        print(f"\n{nonce} {status}", flush=True)
        os.sync()
        ctypes.CDLL(None).reboot(_POWER_OFF)


def _prepare(accelerator: str) -> None:
    os.environ.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME="/root",
        LANG="C.UTF-8",
        PYTHONPATH="/src/api:/src/operator:/src/nodeagent:/src/client:/src",
        COLUMNS="160",
        SKERRY_VM=accelerator,
    )
    for kind, target, options in _MOUNTS:
        os.makedirs(target, exist_ok=True)
        subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), _SOURCES.get(kind, kind), target], check=True)
    os.chmod("/tmp", 0o1777)  # a new filesystem's root is 0755
    for name in _MODULES:
        subprocess.run(["modprobe", "-q", name], check=False)  # built in, or a test says what it misses
    with open("/sys/fs/cgroup/cgroup.controllers", encoding="utf-8") as file:
        controllers = file.read().split()
    for name in controllers:
        with open("/sys/fs/cgroup/cgroup.subtree_control", "w", encoding="utf-8") as file:
            file.write(f"+{name}")
    with open("/proc/sys/kernel/hostname", "w", encoding="utf-8") as file:
        file.write("skerry-vm")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(f"vm: Linux {os.uname().release}, cgroup v2 with {' '.join(controllers)}", flush=True)
    if not os.path.isdir("/src/api/skerry_api/__pycache__"):  # else it came compiled
        subprocess.run(["python3", "-m", "compileall", "-q", *["/src/api", "/src/operator", "/src/nodeagent", "/src/client"]], check=False)


def _run(command: list[str]) -> int:
    """Exit code of *command*, as a shell counts it. Meanwhile reap whatever is orphaned, as process 1 must."""
    child = subprocess.Popen(command, cwd="/src", stdin=subprocess.DEVNULL)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
