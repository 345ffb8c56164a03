"""Which filesystem a path lies on, as mountinfo tells it."""

import pytest

from skerry_node.rootfs import runtime

LINES = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
23 22 0:21 / /run/skerry rw - ext4 /dev/vdb rw
24 23 0:22 / /run/skerry rw - ramfs later rw
25 21 0:23 / /running rw shared:3 master:1 - xfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        pytest.param("/run", "tmpfs", id="the mount point itself"),
        pytest.param("/run/other", "tmpfs", id="below it"),
        pytest.param("/run/skerry/sandboxes", "ramfs", id="of two on one point the later"),
        pytest.param("/running/x", "xfs", id="a name that begins alike is another; optional fields are skipped"),
        pytest.param("/var", "ext4", id="the root"),
        pytest.param("/run/../var", "ext4", id="as the kernel resolves it"),
    ],
)
def test_the_deepest_latest_mount_counts(tmp_path, path, kind):
    """Order and depth, not the length of a name."""
    (tmp_path / "mountinfo").write_text(LINES)
    assert runtime.find_filesystem(path, str(tmp_path / "mountinfo")) == kind
