"""Kubernetes quantities: `100m`, `1.5`, `64Mi`, `1G`. Integers in our units come out; nothing is rounded down to zero."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_SCALES = {
    None: Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip


def parse_cpu_millicores(value: object) -> int:
    """Thousandths of a CPU, rounded up. Raises ValueError."""
    return _ceiling(_parse(value) * 1000)


def parse_memory_bytes(value: object) -> int:
    """Bytes, rounded up. Raises ValueError."""
    return _ceiling(_parse(value))


def render_cpu(millicores: int) -> str:
    """`1`, `250m`."""
    return str(millicores // 1000) if millicores % 1000 == 0 else f"{millicores}m"


def render_memory(size_bytes: int) -> str:
    """The shortest exact form: `64Mi`, `1Gi`, `1000`."""
    for suffix, scale in (("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if size_bytes and size_bytes % (1 << scale) == 0:
            return f"{size_bytes >> scale}{suffix}"
    return str(size_bytes)


def _parse(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("not a quantity; write for example 100m, 1, 64Mi or 1Gi")  # noqa: TRY004 - callers catch one kind
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        raise ValueError(f"{str(value)[:40]!r} is no quantity; write for example 100m, 1, 64Mi or 1Gi")
    return Decimal(found[1]) * _SCALES[found[2]]


def _ceiling(value: Decimal) -> int:
    return int(value.to_integral_value(rounding=ROUND_CEILING))
