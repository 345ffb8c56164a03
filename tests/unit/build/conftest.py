"""One warm process for the converters of a module's tests: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skerry_node.image import store, workers


class _Shared(workers.Nursery):
    """Outlives the stores that use it."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _nursery() -> Iterator[None]:
    shared = _Shared()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "Nursery", lambda: shared)
        yield
    workers.Nursery.close(shared)
