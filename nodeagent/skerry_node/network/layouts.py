"""What the rules of this node are about, from its settings. Pure."""

from __future__ import annotations

from skerry_node.network import ipam, ranges, ruleset
from skerry_node.settings import Settings


def port_prefix(settings: Settings) -> str:
    """How the names of the sandboxes' links on the host begin."""
    return "sk" + settings.bridge.removeprefix("skerry")[:6] + "-"


def ifb_name(settings: Settings) -> str:
    """The name of the link by which goes what sandboxes send that have a limit."""
    return "ifb" + port_prefix(settings).rstrip("-")


def make_layout(settings: Settings) -> ruleset.Layout:
    """The bridge, its ports, its networks and addresses, and what is closed."""
    networks = (settings.network,) if settings.network6 is None else (settings.network, settings.network6)
    gateways = tuple(network[ipam.GATEWAY_SLOT] for network in networks)
    closed = ranges.make_ranges(sandboxes=networks, cluster=settings.cluster_ranges, forbidden=settings.forbidden_ranges)
    return ruleset.Layout(settings.bridge, port_prefix(settings), networks, gateways, closed)
