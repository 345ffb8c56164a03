"""How kernel tests are dealt out to the machines of `make test-vm`."""

from __future__ import annotations

import pytest

from tests.harness import vm_shares


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_file_goes_to_one_machine(count):
    """None is left out and none runs twice, whether its time is known or not."""
    files = [f"tests/kernel/{name}" for name in (*vm_shares.SECONDS, "test_new.py", "test_newer.py")]
    shares = vm_shares.deal(files, count)
    assert len(shares) == count
    assert sorted(path for share in shares for path in share) == sorted(files)


def test_the_longest_stands_alone_where_the_others_are_short():
    """Both machines are to end at about the same time."""
    files = ["tests/kernel/test_sandbox.py", "tests/kernel/test_cgroup.py", "tests/kernel/test_new.py"]
    assert vm_shares.deal(files, 2)[0] == files[:1]
