"""The agent's settings: one frozen value made in `__main__` from flags and environment, passed inwards."""

from __future__ import annotations

import enum
import ipaddress
import os
from dataclasses import dataclass

from skerry_node.backoff import Backoff

MAX_SLOTS = 16_384
"""Slots a node can ever use: 16,384 ranges of 65,536 ids end below 2**31 from the default base."""


class KeepBlobs(enum.StrEnum):
    """Whose compressed layers stay in the store once they were converted; manifests and configs always do."""

    ALL = "all"
    LOCAL = "local"
    """Those of images that no registry has: imported, built, committed. What was pulled is fetched again when it is saved or pushed."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one agent owns on its machine; two agents on one machine differ in every path, name and range."""

    node_name: str
    state_dir: str = "/var/lib/skerry"
    run_dir: str = "/run/skerry"
    cgroup_parent: str = "skerry"
    bridge: str = "skerry0"
    address_range: str = "10.88.0.0/16"
    address_range6: str = ""
    """A second one, of IPv6: each sandbox has an address of both then."""
    id_base: int = 1_000_013_824 & ~0xFFFF
    """First host id of slot 0; far above the ids that /etc/subuid hands to people."""
    keeper_outside: bool = False
    """The agent is in a container: the keeper leaves it, for the host."""
    shells: int = 4
    scratch_bytes: int = 8 << 30
    log_segment_bytes: int = 4 << 20
    log_segments: int = 4
    keep_blobs: KeepBlobs = KeepBlobs.LOCAL
    image_high_percent: int = 85
    image_low_percent: int = 80
    image_minimum_age_seconds: float = 120.0
    """When unused images go: the kubelet's --image-gc-* flags and their defaults."""
    scrub_bytes_per_second: int = 8 << 20
    nameservers: tuple[str, ...] = ()
    """Whom the resolver asks: `address` or `address:port`, an IPv6 address with a port in brackets."""
    cluster_ranges: tuple[str, ...] = ()
    """Closed to sandboxes as private ranges are: those of pods, services and nodes that are not private."""
    forbidden_ranges: tuple[str, ...] = ("169.254.0.0/16", "fd00:ec2::254/128", "fd20:ce::254/128")
    """What no manifest opens: where clouds serve the node's credentials."""
    allow_host_network: bool = False
    host_path_prefixes: tuple[str, ...] = ()
    """Below which directories of the host a hostPath volume may lie."""
    manifests_dir: str | None = None
    """Standalone when set: the directory of manifests that takes the API server's place."""
    registry_config: str = "/etc/skerry/certs.d"
    """Hosts files in containerd's style: HOST/hosts.toml."""
    docker_config: str | None = None
    """Credentials for registries that hold for every sandbox of this node."""
    kubeconfig: str | None = None
    system_namespace: str = "skerry-system"
    metrics_address: str = "127.0.0.1:0"
    max_stale_seconds: float = 120.0
    """After how long without any observation probes call the agent hung."""
    heartbeat_seconds: float = 10.0
    refresh_seconds: float = 60.0
    """How often volumes made of ConfigMaps and Secrets follow them: the kubelet's sync period."""
    restart_backoff_seconds: float = 10.0
    restart_backoff_max_seconds: float = 300.0
    restart_backoff_reset_seconds: float = 600.0
    """How restarts are held back, see backoff.Backoff."""
    idle_sample_seconds: float = 1.0
    """How often sandboxes that may become idle are looked at."""
    image_tries: int = 3
    """Refusals in a row by the registry itself after which a sandbox that is never restarted has failed."""
    stream_address: str = ":9469"
    """Where the gateway finds this agent, `host:port`; no host: every address; port 0: a free one."""

    @property
    def restarts(self) -> Backoff:
        """How restarts are held back."""
        return Backoff(self.restart_backoff_seconds, self.restart_backoff_max_seconds, self.restart_backoff_reset_seconds)

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The address range as a network."""
        return ipaddress.IPv4Network(self.address_range)

    @property
    def network6(self) -> ipaddress.IPv6Network | None:
        """The second address range as a network."""
        return ipaddress.IPv6Network(self.address_range6) if self.address_range6 else None

    @property
    def keeper_socket(self) -> str:
        """Where the keeper listens."""
        return os.path.join(self.run_dir, "keeper.sock")

    @property
    def agent_socket(self) -> str:
        """Where the agent serves the CLI of this machine."""
        return os.path.join(self.run_dir, "agent.sock")

    @property
    def sandboxes_dir(self) -> str:
        """Runtime records, one directory per sandbox uid, gone after a reboot."""
        return os.path.join(self.run_dir, "sandboxes")

    @property
    def verified_path(self) -> str:
        """Which layers are known to be fine since boot."""
        return os.path.join(self.run_dir, "verified-layers")

    @property
    def leases_dir(self) -> str:
        """One file per slot in use."""
        return os.path.join(self.run_dir, "leases")

    @property
    def images_dir(self) -> str:
        """The image store."""
        return os.path.join(self.state_dir, "images")

    @property
    def builds_dir(self) -> str:
        """What builds remember and lay aside."""
        return os.path.join(self.state_dir, "builds")

    @property
    def scratch_dir(self) -> str:
        """The mounted filesystem that holds the writable layers."""
        return os.path.join(self.state_dir, "scratch")

    @property
    def volumes_dir(self) -> str:
        """Volumes with a size of their own, one directory per uid."""
        return os.path.join(self.state_dir, "volumes")

    @property
    def logs_dir(self) -> str:
        """Output of sandboxes, one directory per uid."""
        return os.path.join(self.state_dir, "logs")
