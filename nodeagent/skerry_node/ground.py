"""What stands on a node before its agent works: directories, the filesystem of writable layers, control groups, rules, bridge, and views of them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable

from skerry_node import errors, observe
from skerry_node.cgroup import group, hierarchy
from skerry_node.image.store import Store
from skerry_node.keeper import bootstrap
from skerry_node.keeper.settings import Settings as KeeperSettings
from skerry_node.kernel import features
from skerry_node.network import bridge, firewall, ipam, layouts, portrules, ports, refusals, ruleset, shaper
from skerry_node.rootfs import disks, runtime, scratch
from skerry_node.settings import Settings


def ensure_directories(settings: Settings) -> None:
    """The state's and the records', of which the second lies in memory. Raises errors.Unsupported on a kernel that cannot do this."""
    features.require()
    runtime.ensure_memory(settings.run_dir)
    for path in (settings.run_dir, settings.state_dir, settings.sandboxes_dir, settings.logs_dir, settings.volumes_dir):
        os.makedirs(path, mode=0o700, exist_ok=True)


def ensure(settings: Settings) -> tuple[observe.View, int]:
    """All else, and where to look at it; the index of the bridge. Raises errors.Unsupported, ruleset.RulesFailed, OSError."""
    scratch.ensure_scratch(settings.state_dir, settings.scratch_bytes)
    disks.adopt(settings.volumes_dir, settings.scratch_dir)
    groups = ensure_groups(settings)
    layout = layouts.make_layout(settings)
    ruleset.ensure_rules(layout)  # they match by name: they stand before the link is up
    gateways = [ipaddress.ip_interface((network[ipam.GATEWAY_SLOT], network.prefixlen)) for network in layout.networks]
    index = bridge.ensure_bridge(settings.bridge, gateways)
    leases = make_leases(settings)
    view = observe.View(
        runtime_fd=_open(settings.sandboxes_dir),
        scratch_fd=_open(settings.scratch_dir),
        volumes_fd=_open(settings.volumes_dir),
        logs_fd=_open(settings.logs_dir),
        groups=groups,
        leases=leases,
        firewall=make_firewall(settings, leases),
        refusals=make_refusals(settings, leases),
        ports=make_ports(settings, leases),
        shaper=make_shaper(settings, leases),
    )
    return view, index


def ensure_groups(settings: Settings) -> group.Parent:
    """The parent cgroups, made. Raises errors.Unsupported."""
    try:
        found = hierarchy.detect()
    except hierarchy.CgroupsMissing as error:
        raise errors.Unsupported(str(error)) from error
    hierarchy.ensure_parent(found, settings.cgroup_parent)
    return group.Parent(found, settings.cgroup_parent)


def make_leases(settings: Settings) -> ipam.Ipam:
    """The node's leases."""
    prefix = layouts.port_prefix(settings)
    return ipam.Ipam(settings.leases_dir, network=settings.network, network6=settings.network6, id_base=settings.id_base, link_prefix=prefix)


def make_firewall(settings: Settings, leases: ipam.Ipam) -> firewall.Firewall:
    """The sandboxes' part of the rules, read from the kernel; what belongs to no lease goes."""
    made = firewall.Firewall(settings.bridge, port_of=_port_of(leases), slot_of=leases.find_slot)
    for slot in made.slots() - {lease.slot for lease in leases.list()}:
        made.remove(slot)
    return made


def make_refusals(settings: Settings, leases: ipam.Ipam) -> refusals.Refusals:
    """What those rules refuse."""
    return refusals.Refusals(settings.bridge, port_of=_port_of(leases))


def _port_of(leases: ipam.Ipam) -> Callable[[int], firewall.Port]:
    return lambda slot: firewall.Port(slot, leases.veth_name(slot), leases.mac(slot), leases.addresses(slot))


def make_ports(settings: Settings, leases: ipam.Ipam) -> ports.Ports:
    """What the node publishes, as the last agent left it, with the rules for it in place. Raises ruleset.RulesFailed, OSError."""

    def ensure() -> None:
        portrules.ensure_rules(settings.bridge, settings.network, link_prefix=leases.link_prefix, network6=settings.network6)

    made = ports.Ports(portrules.table_name(settings.bridge), leases.addresses, link_name=leases.veth_name, ensure_rules=ensure)
    made.repair(must_ensure=True)
    return made


def make_shaper(settings: Settings, leases: ipam.Ipam) -> shaper.Shaper:
    """What holds sandboxes to their bandwidth, as the last agent left it. Raises OSError."""
    made = shaper.Shaper(layouts.ifb_name(settings), link_name=leases.veth_name)
    made.refresh(lease.slot for lease in leases.list())
    return made


def keeper_settings(settings: Settings, groups: group.Parent, store: Store) -> KeeperSettings:
    """What this node's keeper is started with."""
    return KeeperSettings(
        socket_path=settings.keeper_socket,
        runtime_dir=settings.sandboxes_dir,
        logs_dir=settings.logs_dir,
        layers_dir=store.layers_dir,
        scratch_dir=settings.scratch_dir,
        build_dir=os.path.join(settings.run_dir, "keeper-root"),
        cgroup_dirs=groups.directories,
        io_dirs=groups.io_directories,
        log_segment_bytes=settings.log_segment_bytes,
        log_segments=settings.log_segments,
    )


def make_outside(settings: Settings, groups: group.Parent) -> bootstrap.Outside | None:
    """Where a keeper outside the agent's container lives; None: it stays with the agent."""
    if not settings.keeper_outside:
        return None
    return bootstrap.Outside(os.path.join(settings.state_dir, "runtime"), hierarchy.outside_groups(groups.hierarchies, settings.cgroup_parent))


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
