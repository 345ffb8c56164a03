"""Control files as bytes: a number is found by its name at the beginning of a line, and no other."""

import pytest

from skerry_node.cgroup import scanning


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param(b"max 3\noom 4\n", b"max ", 3, id="the first line"),
        pytest.param(b"max 3\noom_kill 4\n", b"oom_kill ", 4, id="the last line"),
        pytest.param(b"oom_kill 4", b"oom_kill ", 4, id="no newline at the end"),
        pytest.param(b"total_inactive_file 1\ninactive_file 2\n", b"inactive_file ", 2, id="a longer name that ends so is another"),
        pytest.param(b"low 0\n", b"max ", None, id="not there"),
        pytest.param(b"", b"max ", None, id="empty"),
    ],
)
def test_a_count_is_found_by_its_name(text, name, expected):
    assert scanning.find_count(text, name) == expected


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param(
            b"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:1 rbytes=5 wbytes=0 rios=3 wios=0\n", b" rbytes=", 15, id="version 2"
        ),
        pytest.param(b"8:0 Read 10\n8:0 Write 20\n7:1 Read 7\nTotal 37\n", b" Read ", 17, id="version 1"),
        pytest.param(b"7:0\n", b" rbytes=", 0, id="a device's number alone"),
        pytest.param(b"", b" rbytes=", 0, id="no device"),
    ],
)
def test_devices_are_summed(text, name, expected):
    assert scanning.sum_words(text, name) == expected
