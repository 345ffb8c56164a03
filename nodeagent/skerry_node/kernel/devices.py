"""Block devices by number (Documentation/ABI/stable/sysfs-block, /sys/dev/block)."""

from __future__ import annotations

import os


def find_disk(device: int) -> str | None:
    """The whole disk that *device*, a st_dev, is or is a part of, as `MAJOR:MINOR`; None for what is no block device."""
    directory = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    try:
        is_part = os.path.exists(f"{directory}/partition")
        with open(f"{directory}/../dev" if is_part else f"{directory}/dev", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None
