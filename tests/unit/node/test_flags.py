"""The agent's flags: what is wrong with one is told by its name, before anything on the machine is touched."""

from __future__ import annotations

import pytest

from skerry_node import __main__ as command


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--address-range=10.88.0.0"], "--address-range: write one of at least 8 addresses, /29 or wider"),
        (["--address-range=fd58:5e::/64"], "--address-range: write a network of IPv4"),
        (["--address-range=10.88.0.1/16"], "has host bits set"),
        (["--address-range6=10.88.0.0/16"], "--address-range6: write a network of IPv6"),
        (["--address-range=10.88.0.0/16", "--address-range6=fd58:5e::/120"], "an address for each of --address-range, /112 or wider"),
        (["--cluster-range=x"], "--cluster-range: write a network"),
    ],
)
def test_a_wrong_range_is_named(flags, sentence):
    """With what to write instead."""
    with pytest.raises(SystemExit, match="skerry-agent: ") as told:
        command.read_settings(command._parser().parse_args([*flags, "--node-name=n"]))
    assert sentence in str(told.value)


def test_both_ranges_are_taken():
    """As networks; without the second one there is none."""
    read = command.read_settings(command._parser().parse_args(["--node-name=n", "--address-range6=fd58:5e::/64"]))
    assert (str(read.network), str(read.network6)) == ("10.88.0.0/16", "fd58:5e::/64")
    assert command.read_settings(command._parser().parse_args(["--node-name=n"])).network6 is None
