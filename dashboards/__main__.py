"""`python -m dashboards`: write what is generated; with `--check`, only say what differs, and fail if anything does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from dashboards import grafana, metricspage, pages

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def render() -> Mapping[str, str]:
    """The content of every generated file, by its path from the root of the tree."""
    made = {f"charts/skerry/dashboards/{page.uid}.json": grafana.render(page) for page in pages.ALL}
    return {"docs/metrics.md": metricspage.render(), **made}


def find_differing() -> list[str]:
    """Paths of files that are not as the code has them."""
    return [path for path, content in render().items() if _read(os.path.join(ROOT, path)) != content]


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def main() -> None:
    """Write, or compare."""
    differing = find_differing()
    if "--check" in sys.argv[1:]:
        if differing:
            sys.exit(f"run `python -m dashboards`: not as the code has them: {', '.join(differing)}")
        return
    for path in differing:
        with open(os.path.join(ROOT, path), "w", encoding="utf-8") as file:
            file.write(render()[path])
        print(path)  # noqa: T201 - says what it wrote


if __name__ == "__main__":
    main()
