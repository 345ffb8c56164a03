"""What is looked at anew from time to time, whatever happens: the rules of the network, and the objects that volumes are made of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from skerry_api.sandbox import Sandbox
from skerry_node import errors, means, mounting, starting
from skerry_node.network import layouts, ruleset
from skerry_node.volumes.errors import VolumeFailed

_LOG = logging.getLogger("skerry.upkeep")


async def check_rules(hands: means.Hands) -> None:
    """Read the rules of the network anew, and close what belongs to no slot in use; where the tables are gone, make them again."""
    firewall = hands.view.firewall
    try:
        if not firewall.has_tables():
            _LOG.error("the rules of the network were removed by somebody else; they are made again")
            await asyncio.to_thread(ruleset.ensure_rules, layouts.make_layout(hands.settings))
        firewall.refresh()
        for slot in firewall.slots() - {lease.slot for lease in hands.view.leases.list()}:
            _LOG.info("rules of a free slot removed slot=%s", slot)
            firewall.remove(slot)
    except (OSError, ruleset.RulesFailed) as error:
        _LOG.error("rules of the network cannot be read problem=%s", error)


def repair_ports(hands: means.Hands) -> None:
    """Have the published ports as they were written."""
    try:
        hands.view.ports.repair()
    except (OSError, ruleset.RulesFailed) as error:
        _LOG.warning("published ports not looked at problem=%s", error)


def refresh_bandwidth(hands: means.Hands) -> None:
    """See what holds sandboxes to their bandwidth; what is lacking is put back by their next pass."""
    try:
        hands.view.shaper.refresh(lease.slot for lease in hands.view.leases.list())
    except OSError as error:
        _LOG.warning("bandwidth not looked at problem=%s", error)


async def follow_volumes(hands: means.Hands, list_running: Callable[[], Iterable[Sandbox]]) -> None:
    """Follow the objects that volumes are made of, as often as the kubelet does for pods. For ever."""
    while True:
        await asyncio.sleep(hands.settings.refresh_seconds)
        for sandbox in [each for each in list_running() if mounting.has_projections(each)]:
            try:
                await starting.refresh_volumes(hands, sandbox)
            except (errors.SourceUnavailable, VolumeFailed, OSError) as error:
                _LOG.warning("volumes not refreshed uid=%s problem=%s", sandbox.metadata.uid, error)
