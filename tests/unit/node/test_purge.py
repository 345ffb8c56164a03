"""What `purge --images` takes and what it leaves."""

from __future__ import annotations

import os

import pytest

from skerry_node import purging
from skerry_node.settings import Settings


@pytest.mark.parametrize(
    ("manifests", "left"),
    [
        pytest.param(None, None, id="all is ours: the directory goes"),
        pytest.param("manifests", ["manifests"], id="the default place"),
        pytest.param("mine/deep", ["mine"], id="a place inside"),
        pytest.param("../elsewhere", None, id="a place outside"),
    ],
)
def test_peoples_manifests_stay(tmp_path, manifests, left):
    """The rest of the state goes, whatever kind of file it is; a second purge finds nothing to do."""
    state = tmp_path / "state"
    (state / "images" / "layers").mkdir(parents=True)
    (state / "scratch.img").write_bytes(b"x")
    (state / "link").symlink_to(tmp_path)
    if manifests is not None:
        (state / manifests).mkdir(parents=True)
        (state / manifests / "a.yaml").write_text("kind: Sandbox", encoding="ascii")
    settings = Settings(node_name="n", state_dir=str(state), manifests_dir=manifests and str(state / manifests))
    for _ in range(2):
        purging._remove_state(settings)
        assert (os.listdir(state) if state.exists() else None) == left
    assert manifests is None or (state / manifests / "a.yaml").exists() or manifests.startswith("..")
    assert tmp_path.exists()
