"""Which kernel tests go to which machine of `make test-vm`, so that both end at about the same time. Pure but for the listing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

SECONDS: Mapping[str, int] = {
    "test_carry.py": 270, "test_cgroup.py": 40, "test_resize.py": 150, "test_shells.py": 220, "test_volumes.py": 520,
}  # fmt: skip
"""What files took emulated, when it was last measured. One that is not here counts as _UNKNOWN; a wrong number costs time, nothing else."""
_UNKNOWN = 20
_DIRECTORY = "tests/kernel"


def find_files(root: str) -> list[str]:
    """The files of kernel tests, relative to *root*."""
    return sorted(f"{_DIRECTORY}/{name}" for name in os.listdir(os.path.join(root, _DIRECTORY)) if name.startswith("test_"))


def deal(files: Sequence[str], count: int) -> list[list[str]]:
    """*files* in *count* shares, the longest first, each to whoever has the least."""
    shares: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for path in sorted(files, key=lambda path: (-_weigh(path), path)):
        place = loads.index(min(loads))
        shares[place].append(path)
        loads[place] += _weigh(path)
    return shares


def _weigh(path: str) -> int:
    return SECONDS.get(os.path.basename(path), _UNKNOWN)
