"""Generations of keys: an authority and a ticket key each, made, used and forgotten by age. Time comes in; nothing is written here.

A generation is trusted as soon as everybody can know it, signs after `overlap`, and is dropped when whatever it signed has ended.
"""

from __future__ import annotations

import base64
import datetime
import itertools
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_operator.gateway import certificates
from skerry_operator.gateway.certificates import Pair

_LONGEST_OVERLAP, _LONGEST_LEAF = datetime.timedelta(minutes=10), datetime.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things last."""

    generation: datetime.timedelta = datetime.timedelta(days=60)

    @property
    def overlap(self) -> datetime.timedelta:
        """Between a generation's publication and its first signature."""
        return min(_LONGEST_OVERLAP, self.generation / 4)

    @property
    def leaf(self) -> datetime.timedelta:
        """The longest life of a certificate for gateway or agent."""
        return min(_LONGEST_LEAF, self.generation)

    @property
    def refresh_seconds(self) -> float:
        """How often everybody looks for new keys: several times in an overlap."""
        return min(self.overlap.total_seconds() / 4, 60.0)


@dataclass(frozen=True, slots=True)
class Generation:
    """One authority and one ticket key."""

    name: str
    created: datetime.datetime
    authority: Pair
    ticket_key: bytes
    """Raw Ed25519 private key, 32 bytes."""

    @property
    def public_ticket_key(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        public = Ed25519PrivateKey.from_private_bytes(self.ticket_key).public_key()
        return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def make_generation(timing: Timing, *, now: datetime.datetime) -> Generation:
    """A new one; its authority outlives every leaf that it can sign."""
    name = secrets.token_hex(4)
    lifetime = 2 * timing.generation + 2 * timing.leaf + timing.overlap
    authority = certificates.make_authority(f"skerry-stream-{name}", now=now, lifetime=lifetime)
    return Generation(name=name, created=now, authority=authority, ticket_key=Ed25519PrivateKey.generate().private_bytes_raw())


def turn(generations: tuple[Generation, ...], timing: Timing, *, now: datetime.datetime) -> tuple[Generation, ...]:
    """What shall be kept at *now*, oldest first: a new one when the newest is old, none whose every signature has run out."""
    kept = [each for each, after in itertools.pairwise(generations) if now < after.created + timing.overlap + timing.leaf]
    kept += generations[-1:]
    if not kept or now >= kept[-1].created + timing.generation:
        kept.append(make_generation(timing, now=now))
    return tuple(kept)


def find_signing(generations: tuple[Generation, ...], timing: Timing, *, now: datetime.datetime) -> Generation:
    """Whose keys sign at *now*: the newest that everybody knows, and the oldest when there is none such."""
    known = [each for each in generations if each.created + timing.overlap <= now]
    return known[-1] if known else generations[0]


def render(generations: tuple[Generation, ...]) -> str:
    """As it stands in the Secret."""
    return json.dumps([
        {
            "name": each.name, "created": each.created.isoformat(), "certificate": each.authority.certificate.decode(),
            "key": each.authority.key.decode(), "ticketKey": base64.b64encode(each.ticket_key).decode(),
        }
        for each in generations
    ])  # fmt: skip


def parse(text: str) -> tuple[Generation, ...]:
    """From the Secret. Raises ValueError."""
    try:
        return tuple(
            Generation(
                name=each["name"], created=datetime.datetime.fromisoformat(each["created"]),
                authority=Pair(each["certificate"].encode(), each["key"].encode()), ticket_key=base64.b64decode(each["ticketKey"]),
            )
            for each in json.loads(text)
        )  # fmt: skip
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not the gateway's keys: {error!r}") from error


def render_trust(generations: tuple[Generation, ...]) -> Mapping[str, str]:
    """The public half: authorities as one PEM bundle, ticket keys by name as JSON."""
    keys = {each.name: base64.b64encode(each.public_ticket_key).decode() for each in generations}
    return {"authorities": bundle(generations), "keys": json.dumps(keys, sort_keys=True)}


def bundle(generations: tuple[Generation, ...]) -> str:
    """Every authority, PEM."""
    return "".join(each.authority.certificate.decode() for each in generations)
