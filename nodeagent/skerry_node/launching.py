"""The keeper's order for one start: manifest over image config, as OCI and Docker have it. Pure but for the host's resolv.conf, read once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from skerry_api.sandbox import NetworkMode, Sandbox
from skerry_node import mounting
from skerry_node.image import base
from skerry_node.image.store import Image
from skerry_node.keeper import client, confine, wire
from skerry_node.network import ipam

if TYPE_CHECKING:
    from skerry_node.means import Hands

_LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_MAX_HOSTNAME = 63


def order(sandbox: Sandbox, image: Image, hands: Hands, *, slot: int, attempt: int, dressed: bool, variables: tuple[str, ...]) -> wire.Launch:
    """Everything the keeper needs to start *sandbox*; *variables* are its own, NAME=VALUE. Raises client.Refused naming the field at fault."""
    spec = sandbox.spec
    mode = spec.network.mode
    if mode is NetworkMode.HOST and not hands.settings.allow_host_network:
        raise client.Refused(
            problem="this node's policy refuses the host's network; use Bridge or None, or start the agent with --allow-host-network",
            field="spec.network.mode",
            reason="HostNetworkRefused",
        )
    hostname = (spec.hostname or sandbox.metadata.name)[:_MAX_HOSTNAME]
    shell = make_shell(hands, slot=slot, with_link=mode is NetworkMode.BRIDGE)
    addresses = [address for address in (shell.link.address, shell.link.address6) if address] if shell.link is not None else ["127.0.1.1"]
    return wire.Launch(
        uid=sandbox.metadata.uid,
        attempt=attempt,
        shell=shell,
        host_network=mode is NetworkMode.HOST,
        layers=root_layers(image),
        argv=_argv(sandbox, image),
        env=(*(("TERM=xterm",) if spec.tty else ()), *image.config.env, *variables),
        working_dir=spec.working_dir or image.config.working_dir or "/",
        user=spec.user or image.config.user or "",
        hostname=hostname,
        hosts=_LOCALHOST + "".join(f"{address}\t{hostname}\n" for address in addresses),
        resolv_conf=_resolv_conf(hands, mode),
        read_only=spec.security.read_only_root_filesystem,
        capabilities=_capabilities(sandbox),
        dressed=dressed,
        volumes=mounting.orders(sandbox),
        init=spec.init,
        has_terminal=spec.tty,
        has_input=spec.stdin,
    )


def root_layers(image: Image) -> tuple[str, ...]:
    """The names of the layers of a root filesystem, lowest first: the base layer and the image's."""
    return (base.NAME, *(layer.path for layer in image.layers))


def make_shell(hands: Hands, *, slot: int, with_link: bool) -> wire.Shell:
    """The namespaces of *slot*: its id range and, with a bridge, its link."""
    leases = hands.view.leases
    network, network6 = hands.settings.network, hands.settings.network6
    base, _ = leases.id_range(slot)
    link = None
    if with_link:
        link = wire.Link(
            host_name=leases.veth_name(slot),
            bridge_index=hands.bridge_index,
            mac=leases.mac(slot),
            address=str(network[slot]),
            prefix=network.prefixlen,
            gateway=str(network[ipam.GATEWAY_SLOT]),
        )
        if network6 is not None:
            gateway6 = str(network6[ipam.GATEWAY_SLOT])
            link = dataclasses.replace(link, address6=str(network6[slot]), prefix6=network6.prefixlen, gateway6=gateway6)
    return wire.Shell(slot=slot, id_base=base, link=link)


def _argv(sandbox: Sandbox, image: Image) -> tuple[str, ...]:
    """Kubernetes' rule: `command` replaces ENTRYPOINT and drops CMD, `args` replaces CMD."""
    spec, config = sandbox.spec, image.config
    if spec.command:
        argv = (*spec.command, *(spec.args or ()))
    else:
        argv = (*config.entrypoint, *(config.cmd if spec.args is None else spec.args))
    if not argv:
        raise client.Refused(
            problem=f"neither the manifest nor the image {spec.image} says what to run; set spec.command",
            field="spec.command",
            reason="CommandNotFound",
        )
    return argv


def _resolv_conf(hands: Hands, mode: NetworkMode) -> str:
    if mode is NetworkMode.NONE:
        return ""
    if mode is NetworkMode.BRIDGE:
        return f"nameserver {hands.view.leases.address(ipam.GATEWAY_SLOT)}\n"
    return "".join(f"nameserver {address}\n" for address in hands.settings.nameservers)


def _capabilities(sandbox: Sandbox) -> int:
    security = sandbox.spec.security
    try:
        return confine.capability_set(security.capabilities_add, security.capabilities_drop)
    except ValueError as error:
        raise client.Refused(problem=str(error), field="spec.security.capabilities", reason="InvalidCapability") from error
