"""The fixtures that kernel and API server tests share; a conftest takes them by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import claims
from tests.harness import ledger as books


@pytest.fixture(scope="session")
def ledger_scope(tmp_path_factory: pytest.TempPathFactory) -> books.Scope:
    """What is this session's own on the machine."""
    claims.open_all()
    return books.Scope(roots=(str(tmp_path_factory.getbasetemp()),))


@pytest.fixture
def ledger(ledger_scope: books.Scope) -> Iterator[books.Snapshot]:
    """The books before the test; it fails afterwards with a line for each thing left behind."""
    before = books.snapshot(ledger_scope)
    yield before
    leaks = books.wait_for_balance(before, ledger_scope)
    if leaks:
        pytest.fail("the machine is not as it was:\n  " + "\n  ".join(leaks), pytrace=False)
