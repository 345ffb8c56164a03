"""Which capabilities a manifest may have."""

from __future__ import annotations

import re

import pytest

from skerry_node.keeper import confine

DEFAULT = 0xA00405FB  # Docker's default 0xa80425fb without NET_RAW (13) and MKNOD (27)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        pytest.param([], [], DEFAULT, id="all is well: the default"),
        pytest.param(["KILL"], [], DEFAULT, id="adding what is there"),
        pytest.param([], ["NET_BIND_SERVICE"], DEFAULT & ~(1 << 10), id="one dropped"),
        pytest.param([], ["CAP_CHOWN", "cap_kill"], DEFAULT & ~(1 << 0 | 1 << 5), id="with prefix, in small letters"),
        pytest.param([], ["ALL"], 0, id="all dropped"),
        pytest.param(["NET_BIND_SERVICE"], ["ALL"], 1 << 10, id="all but one"),
        pytest.param(["SYS_PTRACE"], [], DEFAULT | 1 << 19, id="one of the safe few added"),
        pytest.param([], ["SYS_ADMIN", "NET_RAW", "MKNOD"], DEFAULT, id="dropping what nobody has is no error"),
    ],
)
def test_the_set_is_the_default_with_additions_and_without_drops(add, drop, expected):
    assert confine.capability_set(add, drop) == expected


@pytest.mark.parametrize("name", ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "MKNOD", "SYS_MODULE", "BPF", "PERFMON", "SYS_TIME", "ALL", "", "NONSENSE"])
def test_what_reaches_further_cannot_be_added(name):
    """The message names the word."""
    with pytest.raises(ValueError, match=f"^{re.escape(repr(name))} cannot be added; those that can are AUDIT_WRITE"):
        confine.capability_set([name], [])


def test_a_word_that_is_no_capability_cannot_be_dropped():
    with pytest.raises(ValueError, match=r"^'NET_BIND' is no capability"):
        confine.capability_set([], ["NET_BIND"])


def test_the_mask_of_what_may_be_added_covers_the_default():
    assert confine.ADDABLE_MASK & DEFAULT == DEFAULT
    assert not confine.ADDABLE_MASK & (1 << 21 | 1 << 12 | 1 << 13 | 1 << 27)  # SYS_ADMIN, NET_ADMIN, NET_RAW, MKNOD
