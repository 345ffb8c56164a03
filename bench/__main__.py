"""`make bench`: measure, print a table, write bench/out/NAME.json (rows of system, what, unit, samples). Needs root and a quiet machine."""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict

from bench import bandwidth, cluster, crowd, hands, limits, logs, node, peers, pull, rates, scrape
from bench.row import Row

_SUITES: dict[str, Callable[[str], Iterable[Row]]] = {
    "node": node.measure,
    "bandwidth": bandwidth.measure,
    "crowd": crowd.measure,
    "logs": logs.measure,
    "rates": rates.measure,
    "peers": peers.measure,
    "cluster": cluster.measure,
    "pull": pull.measure,
    "hands": hands.measure,
    "limits": limits.measure,
    "scrape": scrape.measure,
}


def main() -> None:
    """Run the suites that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[[], *_SUITES][1:], help="which suites (default: all)")
    parser.add_argument("--part", action="append", choices=pull.PARTS, help="of pull: only this part (may be repeated)")
    parser.add_argument("--rounds", type=int, default=pull.ROUNDS, help="of pull: how often each is measured (default: %(default)s)")
    asked = parser.parse_args()
    suites = {**_SUITES, "pull": functools.partial(pull.measure, parts=asked.part or pull.PARTS, rounds=asked.rounds)}
    wanted = asked.suites or list(suites)
    rows: list[Row] = []
    for name in wanted:
        print(f"measuring {name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="skerry-bench-") as directory:
            found = list(suites[name](directory))
        _write(name, found)
        rows += found
    _print(rows)


def _write(name: str, rows: list[Row]) -> None:
    os.makedirs("bench/out", exist_ok=True)
    with open(f"bench/out/{name}.json", "w", encoding="utf-8") as file:
        json.dump([asdict(row) for row in rows], file, indent=1)


def _print(rows: list[Row]) -> None:
    """A table; `OURS` is how many times our median a peer's is, where both were measured."""
    ours = {(row.what, row.unit): statistics.median(row.samples) for row in rows if row.system == "skerry"}
    print(f"\n{'SYSTEM':<12} {'WHAT':<56} {'P50':>9} {'P95':>9} {'MAX':>9} {'N':>5}  {'UNIT':<6} OURS")
    for row in rows:
        ordered = sorted(row.samples)
        middle, p95 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        ratio = "" if row.system == "skerry" or (row.what, row.unit) not in ours else f"{middle / ours[row.what, row.unit]:.1f} x"
        numbers = f"{middle:>9.2f} {p95:>9.2f} {ordered[-1]:>9.2f} {len(ordered):>5}"
        print(f"{row.system:<12} {row.what:<56} {numbers}  {row.unit:<6} {ratio}".rstrip())


if __name__ == "__main__":
    main()
