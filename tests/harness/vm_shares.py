"""Which kernel tests go to which machine of `make test-vm`, so that both end at about the same time. Pure but for the listing.

An emulated processor takes half a minute to start an agent: what is here covers every feature that differs by kernel or by version of control
groups, once, within a quarter of an hour on two processors. `make test-vm` names what it leaves out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

SECONDS: Mapping[str, int] = {
    "test_attic.py": 110, "test_cgroup.py": 13, "test_confine.py": 40, "test_diffing.py": 30, "test_exec.py": 150, "test_idle.py": 130,
    "test_init.py": 80, "test_kernel_features.py": 10, "test_layer_mounts.py": 8, "test_limits.py": 100, "test_lives.py": 120,
    "test_network.py": 60, "test_pause.py": 80, "test_ports.py": 120, "test_resize.py": 80, "test_runtime_directory.py": 10,
    "test_sandbox.py": 450, "test_scratch.py": 30, "test_usage.py": 50, "test_verity.py": 10,
}  # fmt: skip
"""What runs, and what it took emulated when it was last measured; a wrong number costs time, nothing else."""
_AGENTS = "each of its tests starts an agent, half a minute emulated"
LEFT_OUT: Mapping[str, str] = {
    "test_build.py": "RUN is a start like any other; the rest is our own files",
    "test_build_agent_dies.py": "what a killed builder leaves is our own files",
    "test_build_buildah.py": "buildah is not there",
    "test_build_crash.py": "thousands of builds",
    "test_carry.py": f"{_AGENTS}; test_diffing.py reads writable layers of this kernel",
    "test_console.py": "ptys and pipes do not differ; test_exec.py has a terminal",
    "test_copy.py": "copies are execs, which test_exec.py has, and our own format",
    "test_egress.py": "one node and a resolver for minutes, and no nmap there; test_network.py loads the rules",
    "test_egress_window.py": _AGENTS,
    "test_housekeeping.py": "decided over our own files",
    "test_image_trees.py": "its trees take minutes emulated; test_layer_mounts.py reads layers by loop device",
    "test_images.py": "the format is read by test_layer_mounts.py and by every start",
    "test_ledger.py": "it tests the harness",
    "test_metrics.py": "test_usage.py reads the same counters",
    "test_outside.py": _AGENTS,
    "test_pull_command.py": "no registry there",
    "test_registries.py": "no registry there",
    "test_shells.py": f"{_AGENTS}; every start here is from a shell of this kernel, and test_sandbox.py has dressed ones",
    "test_volumes.py": f"{_AGENTS}; test_lives.py fills sized volumes, test_limits.py others",
}
_DIRECTORY, _UNKNOWN = "tests/kernel", 20


def find_files(root: str) -> list[str]:
    """The files of kernel tests that are chosen, relative to *root*."""
    return sorted(f"{_DIRECTORY}/{name}" for name in os.listdir(os.path.join(root, _DIRECTORY)) if name in SECONDS)


def find_left_out(root: str) -> list[tuple[str, str]]:
    """The others, each with the reason."""
    names = (name for name in os.listdir(os.path.join(root, _DIRECTORY)) if name.startswith("test_") and name not in SECONDS)
    return sorted((name, LEFT_OUT.get(name, "new: nobody has looked at what it takes")) for name in names)


def deal(files: Sequence[str], count: int) -> list[list[str]]:
    """*files* in *count* shares, the longest first, each to whoever has the least."""
    shares: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for path in sorted(files, key=lambda path: (-SECONDS.get(os.path.basename(path), _UNKNOWN), path)):
        place = loads.index(min(loads))
        shares[place].append(path)
        loads[place] += SECONDS.get(os.path.basename(path), _UNKNOWN)
    return shares
