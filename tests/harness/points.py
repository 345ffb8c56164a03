"""Which part of many repetitions of one property a run takes: every n-th, from a start that moves with the day; `make test-all` takes all.

SKERRY_TEST_PARTS=1 takes all; SKERRY_TEST_PART says at which to start, so that a failure of another day is repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TypeVar

KEY = "kill points"
T = TypeVar("T")
_SCALE = int(os.environ.get("SKERRY_TEST_PARTS", "0"))
_PART = int(os.environ.setdefault("SKERRY_TEST_PART", str(int(time.time()) // 86_400 % 840)))  # 840: every number up to 8 divides it


def take(points: Sequence[T], parts: int) -> Sequence[T]:
    """One of *parts* parts of *points*, at equal distances; all of them for `make test-all`. No points give none."""
    count = _SCALE or parts
    return points[_PART % count :: count]


def describe() -> str:
    """For the header of a run."""
    if _SCALE == 1:
        return "kill points: all of them"
    return f"kill points: every n-th from number {_PART} modulo n (SKERRY_TEST_PART={_PART} repeats it; `make test-all` takes all)"
