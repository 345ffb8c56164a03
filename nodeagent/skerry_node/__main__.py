"""`skerry-agent`: run the agent of one node, or remove everything of it with `purge`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

from skerry_node import claiming, purging
from skerry_node.agent import Agent
from skerry_node.errors import AgentError
from skerry_node.manifests import ManifestSource
from skerry_node.network.ruleset import RulesFailed
from skerry_node.rootfs.filesystems import FilesystemFailed
from skerry_node.settings import KeepBlobs, Settings
from skerry_node.sources import Source

_DEFAULT_RANGE, _MAX_PREFIX = "10.88.0.0/16", 29
_EPILOG = """examples:
  skerry-agent --standalone --manifests /etc/skerry/manifests
  skerry-agent --node-name n1 --kubeconfig ~/.kube/config
  skerry-agent purge --images      end every sandbox of this node and leave nothing but your manifests
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line says; exit 1 with a sentence when the machine cannot do it."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = read_settings(arguments)
    try:
        if arguments.command == "purge":
            asyncio.run(purging.purge(settings, images=arguments.images))
        else:
            asyncio.run(_run(settings))
    except (AgentError, FilesystemFailed, RulesFailed, PermissionError) as error:
        sys.exit(f"skerry-agent: {error}")


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Settings from flags; what is not given keeps its default."""
    values = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in values.items() if value is not None}
    if arguments.standalone:
        given.setdefault("manifests_dir", os.path.join(given.get("state_dir", "/var/lib/skerry"), "manifests"))
    given.setdefault("nameservers", _nameservers())
    for name, flag in (("forbidden_ranges", "--forbidden-range"), ("cluster_ranges", "--cluster-range")):
        if name in given:
            given[name] = _parse_ranges(given[name], flag)
    _check_address_ranges(given.get("address_range", _DEFAULT_RANGE), given.get("address_range6", ""))
    given["nameservers"] = tuple(given["nameservers"])
    given["host_path_prefixes"] = tuple(given.get("host_path_prefixes", ()))
    return Settings(**given)


async def _run(settings: Settings) -> None:
    claiming.claim(settings.state_dir)  # never closed: the lock ends with the process
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each sandbox costs a pidfd, pipes, counters; the keeper inherits it
    source = await _make_source(settings)
    agent = await asyncio.to_thread(Agent, settings, source)  # it waits for mkfs, mount and nft
    task = asyncio.ensure_future(agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logging.getLogger("skerry.agent").info("agent ends; sandboxes go on")


async def _make_source(settings: Settings) -> Source:
    if settings.manifests_dir is not None:
        os.makedirs(settings.manifests_dir, mode=0o700, exist_ok=True)
        status_dir = os.path.join(settings.state_dir, "status")
        return ManifestSource(settings.manifests_dir, status_dir, node_name=settings.node_name)
    from skerry_node.kubeapi import connect  # noqa: PLC0415 - a standalone agent needs no API client

    return await connect(settings)


def _nameservers() -> tuple[str, ...]:
    """The host's own: the resolver asks from where the host itself does."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            found = [line.split()[1] for line in file if line.startswith("nameserver ") and len(line.split()) > 1]
    except FileNotFoundError:
        found = []
    return tuple(found)


def _check_address_ranges(four: str, six: str) -> None:
    """One of each family, and as wide as it must be. Exits with a sentence."""
    try:
        network = ipaddress.IPv4Network(four)
    except ValueError as error:
        sys.exit(f"skerry-agent: --address-range: write a network of IPv4, for example 10.88.0.0/16: {error}")
    if network.prefixlen > _MAX_PREFIX:
        sys.exit(f"skerry-agent: --address-range: write one of at least 8 addresses, /{_MAX_PREFIX} or wider")
    if not six:
        return
    try:
        network6 = ipaddress.IPv6Network(six)
    except ValueError as error:
        sys.exit(f"skerry-agent: --address-range6: write a network of IPv6, for example fd58:5e::/64: {error}")
    if network6.num_addresses < network.num_addresses:
        widest = 128 - (32 - network.prefixlen)
        sys.exit(f"skerry-agent: --address-range6: write one with an address for each of --address-range, /{widest} or wider")


def _parse_ranges(given: Sequence[str], flag: str) -> tuple[str, ...]:
    """Networks as text; `none` means that there are none. Exits with a sentence when one is no network."""
    if list(given) == ["none"]:
        return ()
    for text in given:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            sys.exit(f"skerry-agent: {flag}: write a network, for example 10.0.0.0/8: {error}")
    return tuple(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skerry-agent", description="The node agent: runs the sandboxes of this machine.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", nargs="?", choices=("run", "purge"), default="run", help="what to do (default: run)")
    parser.add_argument("--images", action="store_true", help="purge: the images too")
    parser.add_argument("--standalone", action="store_true", help="no cluster: take sandboxes from a directory of manifests")
    parser.add_argument("--manifests", dest="manifests_dir", metavar="DIR", help="the directory of manifests (with --standalone)")
    parser.add_argument("--node-name", default=socket.gethostname(), help="this node's name (default: the hostname)")
    parser.add_argument("--kubeconfig", help="how to reach the API server (default: KUBECONFIG, or the pod's own account)")
    parser.add_argument(
        "--keeper-outside", action="store_true", default=None, help="this is a container: run the keeper in the host's namespaces, to outlive it"
    )
    parser.add_argument("--allow-host-network", action="store_true", default=None, help="let sandboxes ask for network.mode Host")
    parser.add_argument(
        "--host-path-prefix", dest="host_path_prefixes", action="append", metavar="DIR", help="let hostPath volumes lie below DIR (repeatable)"
    )
    for name, place, text in _LISTS:
        parser.add_argument(f"--{name}", dest=place, action="append", metavar="VALUE", help=text)
    for name, kind, text in _FLAGS:
        parser.add_argument(f"--{name}", type=kind, help=text)
    return parser


_LISTS = (
    ("cluster-range", "cluster_ranges", "a network of pods, services or nodes, closed to sandboxes as private ranges are (repeatable)"),
    ("forbidden-range", "forbidden_ranges", "a network that no manifest opens; none: there are none (repeatable; default: metadata services)"),
    ("nameserver", "nameservers", "whom the sandboxes' resolver asks, ADDRESS or ADDRESS:PORT (repeatable; default: the host's)"),
)

_FLAGS: tuple[tuple[str, type, str], ...] = (
    ("keep-blobs", KeepBlobs, "compressed layers to keep once converted: all, local (what no registry has) or none (default: local)"),
    ("registry-config", str, "directory of hosts files, HOST/hosts.toml: mirrors, private authorities (default: /etc/skerry/certs.d)"),
    ("docker-config", str, "a Docker config.json whose credentials open registries for every sandbox of this node"),
    ("image-high-percent", int, "remove unused images when the disk is fuller than this (default: 85)"),
    ("image-low-percent", int, "remove them until it is no fuller than this (default: 80)"),
    ("image-minimum-age-seconds", float, "never an image that was used or brought in within this time (default: 120)"),
    ("scrub-bytes-per-second", int, "how fast to look at sealed layers for damage; 0: never (default: 8 MiB)"),
    ("state-dir", str, "images, writable layers and logs (default: /var/lib/skerry)"),
    ("run-dir", str, "runtime records and sockets, on tmpfs (default: /run/skerry)"),
    ("cgroup-parent", str, "the cgroup that holds the sandboxes (default: skerry)"),
    ("bridge", str, "the bridge of the sandboxes' network (default: skerry0)"),
    ("address-range", str, "addresses of the sandboxes (default: 10.88.0.0/16)"),
    ("address-range6", str, "a second range, of IPv6, such as fd58:5e::/64: each sandbox has an address of both then"),
    ("id-base", int, "first host id of the sandboxes' ranges"),
    ("shells", int, "how many shells to keep prepared (default: 4)"),
    ("scratch-bytes", int, "size of the filesystem of writable layers; 0: a plain directory"),
    ("system-namespace", str, "where Leases lie (default: skerry-system)"),
    ("metrics-address", str, "host:port for Prometheus (default: a free port of loopback)"),
    ("max-stale-seconds", float, "probes fail when nothing was observed for so long (default: 120)"),
    ("stream-address", str, "host:port of the gateway's door, TLS (default: :9469, on every address)"),
    ("refresh-seconds", float, "how often volumes of ConfigMaps and Secrets follow them (default: 60)"),
    ("heartbeat-seconds", float, "how often to renew the node's Lease (default: 10)"),
    ("restart-backoff-seconds", float, "how long the second restart in a row is held back; each further one twice as long (default: 10)"),
    ("restart-backoff-max-seconds", float, "and how long at most (default: 300)"),
    ("restart-backoff-reset-seconds", float, "a run this long forgives the ends before (default: 600)"),
    ("idle-sample-seconds", float, "how often to look at sandboxes that have ttl.idleSeconds (default: 1)"),
    ("image-tries", int, "refusals by a registry after which a sandbox that is never restarted has failed (default: 3)"),
)


if __name__ == "__main__":
    main()
