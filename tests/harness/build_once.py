"""One build in a process of its own, all of it in one thread, for tests that kill it: `python -m tests.harness.build_once DIRECTORY`.

strace counts the calls of each thread by itself; so nothing is done in another one here. Prints the digest at the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from skerry_node.build import threads
from skerry_node.image.store import Store
from tests.harness import builds

DOCKERFILE = (
    "FROM base AS one\nWORKDIR /made\nCOPY a /one/\nRUN something\nFROM base\nENV x=1\nCOPY --from=one /one /two\nCOPY --chown=alice dir /d\n"
)
CONTEXT = {"a": b"a" * 100_000, "dir/x": b"x", "dir/s/y": b"y", "dir/l": "x"}


async def build(directory: str) -> str:
    """Open the store in *directory* and build; the digest."""
    store = Store(f"{directory}/images")
    try:
        bench = builds.Bench(directory=directory, store=store, runner=builds.NoRunner())
        return (await bench.build(DOCKERFILE, builds.pack(CONTEXT))).digest
    finally:
        store.close()


async def _inline(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return work(*args, **kwargs)


def main() -> None:
    """Build, without threads."""
    threads.run = _inline
    print("ready", file=sys.stderr, flush=True)
    print(asyncio.run(build(sys.argv[1])))


if __name__ == "__main__":
    main()
