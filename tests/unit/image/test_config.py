"""Image configs: data of strangers, each field proved."""

from __future__ import annotations

import signal

import pytest

from skerry_node.image.config import ImageConfig, parse_config
from skerry_node.image.errors import InvalidImageConfig

DIGEST = "sha256:" + "a" * 64


def raw(**run: object):
    return {"config": run, "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}


def test_every_field_is_read():
    """What says how to run is there; the rest is left."""
    found = parse_config(
        raw(
            Env=["A=1", "B="], Entrypoint=["/e"], Cmd=["c", ""], WorkingDir="w", User="1000:wheel", StopSignal="SIGINT", Labels={"x": "y"},
        )
    )  # fmt: skip
    assert found == ImageConfig(
        env=("A=1", "B="), entrypoint=("/e",), cmd=("c", ""), working_dir="/w", user="1000:wheel",
        stop_signal=int(signal.SIGINT), diff_ids=(DIGEST,),
    )  # fmt: skip


@pytest.mark.parametrize("empty", [{}, {"config": None}, {"config": {"Env": None, "Cmd": None, "User": ""}, "rootfs": None}])
def test_what_is_absent_is_a_default(empty):
    """Docker writes null where there is nothing."""
    assert parse_config(empty) == ImageConfig()


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3), ("64", 64), ("SIGRTMIN", 34)]
)
def test_signals_by_name_and_number(text, number):
    """Names with and without SIG, numbers, and systemd's real-time ones."""
    assert parse_config(raw(StopSignal=text)).stop_signal == number


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"StopSignal": "SIGNOTHING"}, "StopSignal", id="no signal"),
        pytest.param({"StopSignal": "0"}, "StopSignal", id="signal 0"),
        pytest.param({"StopSignal": "65"}, "StopSignal", id="signal 65"),
        pytest.param({"StopSignal": "²"}, "StopSignal", id="a digit that is none"),
        pytest.param({"StopSignal": "RTMIN+31"}, "StopSignal", id="beyond RTMAX"),
        pytest.param({"StopSignal": 15}, "StopSignal", id="signal as number"),
        pytest.param({"Env": ["A"]}, "Env", id="env without ="),
        pytest.param({"Env": ["=x"]}, "Env", id="env without name"),
        pytest.param({"Env": ["A=\0"]}, "Env", id="NUL in env"),
        pytest.param({"Env": "A=1"}, "Env", id="env is text"),
        pytest.param({"Env": ["A=" + "x" * 131_072]}, "Env", id="env too long"),
        pytest.param({"Env": ["A=\ud800"]}, "Env", id="half a surrogate"),
        pytest.param({"Env": ["A=1"] * 1025}, "Env", id="too many"),
        pytest.param({"Cmd": [1]}, "Cmd", id="cmd of numbers"),
        pytest.param({"Cmd": {"a": 1}}, "Cmd", id="cmd is an object"),
        pytest.param({"Entrypoint": ["a\0b"]}, "Entrypoint", id="NUL in entrypoint"),
        pytest.param({"WorkingDir": "/a\0"}, "WorkingDir", id="NUL in working dir"),
        pytest.param({"WorkingDir": ["/a"]}, "WorkingDir", id="working dir is a list"),
        pytest.param({"User": "a b"}, "User", id="space in user"),
        pytest.param({"User": "a:b:c"}, "User", id="three parts"),
        pytest.param({"User": "x" * 300}, "User", id="user too long"),
    ],
)
def test_a_wrong_field_is_named(change, field):
    """The message says which field of the image is wrong."""
    with pytest.raises(InvalidImageConfig, match=field):
        parse_config(raw(**change))


@pytest.mark.parametrize("diff_ids", [["sha256:x"], [DIGEST + "/../x"], [1], "x", ["../../etc/passwd"]])
def test_diff_ids_are_digests(diff_ids):
    """They become file names: nothing but a digest passes."""
    with pytest.raises(InvalidImageConfig, match="diff_ids"):
        parse_config({"rootfs": {"diff_ids": diff_ids}})
