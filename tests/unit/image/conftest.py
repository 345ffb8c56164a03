"""One warm process for the converters of all tests here: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skerry_node.image import store, workers


class _Shared(workers.Nursery):
    """Outlives the stores that use it."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def _nursery() -> Iterator[workers.Nursery]:
    shared = _Shared()
    yield shared
    workers.Nursery.close(shared)


@pytest.fixture(autouse=True)
def _shared_nursery(_nursery: workers.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "Nursery", lambda: _nursery)
