"""One agent for one state directory."""

from __future__ import annotations

import os

import pytest

from skerry_node import claiming, errors


def test_a_second_agent_is_refused_by_name_and_process(tmp_path):
    """As long as the first holds it; a file that a dead one left is no hindrance."""
    held = claiming.claim(str(tmp_path))
    with pytest.raises(errors.StateDirectoryTaken, match=f"process {os.getpid()}, .*--state-dir"):
        claiming.claim(str(tmp_path))
    os.close(held)
    os.close(claiming.claim(str(tmp_path)))
