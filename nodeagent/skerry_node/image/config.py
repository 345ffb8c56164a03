"""The part of an OCI image config that says how to run it. It is data, and hostile: each field is validated. Pure.

Source: OCI image-spec, config.md.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_node.image.errors import InvalidImageConfig

_MAX_ENTRIES = 1024
_MAX_TEXT_BYTES = 131_072
"""execve's bound for one string, its NUL included (MAX_ARG_STRLEN)."""
_USER = re.compile(r"[^:\s\x00]{0,256}(:[^:\s\x00]{0,256})?")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How the image wants to be run, and the digests of its unpacked layers, lowest first."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: int = int(signal.SIGTERM)
    diff_ids: tuple[str, ...] = ()


def parse_config(raw: Mapping[str, Any]) -> ImageConfig:
    """The config in *raw*. Raises InvalidImageConfig naming the field."""
    if not isinstance(raw, Mapping):
        raise InvalidImageConfig("the image config is no object")
    run = raw.get("config") or {}
    rootfs = raw.get("rootfs") or {}
    if not isinstance(run, Mapping) or not isinstance(rootfs, Mapping):
        raise InvalidImageConfig("config and rootfs of the image config must be objects")
    diff_ids = _texts(rootfs, "diff_ids")
    if any(_DIGEST.fullmatch(each) is None for each in diff_ids):
        raise InvalidImageConfig("rootfs.diff_ids of the image config has a digest that is none")
    env = _texts(run, "Env")
    if any("=" not in each or each.startswith("=") for each in env):
        raise InvalidImageConfig("config.Env of the image has an entry without a name")
    working_dir = _text(run, "WorkingDir")
    return ImageConfig(
        env=env,
        entrypoint=_texts(run, "Entrypoint"),
        cmd=_texts(run, "Cmd"),
        working_dir="/" + working_dir.lstrip("/") if working_dir else "",
        user=_user(run),
        stop_signal=_signal(_text(run, "StopSignal")),
        diff_ids=diff_ids,
    )


def _texts(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key) or []
    if not isinstance(value, list) or len(value) > _MAX_ENTRIES:
        raise InvalidImageConfig(f"{key} of the image config must be a list of at most {_MAX_ENTRIES} strings")
    return tuple(_checked(each, key) for each in value)


def _text(raw: Mapping[str, Any], key: str) -> str:
    return _checked(raw.get(key) or "", key)


def _checked(value: object, key: str) -> str:
    try:
        is_fine = isinstance(value, str) and len(value.encode()) < _MAX_TEXT_BYTES and "\x00" not in value
    except UnicodeEncodeError:
        is_fine = False
    if not is_fine or not isinstance(value, str):
        raise InvalidImageConfig(f"{key} of the image config must be text below {_MAX_TEXT_BYTES} bytes without NUL")
    return value


def _user(run: Mapping[str, Any]) -> str:
    user = _text(run, "User")
    if _USER.fullmatch(user) is None:
        raise InvalidImageConfig("User of the image config must be user, uid or user:group")
    return user


def _signal(text: str) -> int:
    if not text:
        return int(signal.SIGTERM)
    name = text.upper().removeprefix("SIG")
    if re.fullmatch(r"[0-9]{1,2}", name) and 1 <= int(name) <= 64:
        return int(name)
    if (offset := re.fullmatch(r"RTMIN\+([0-9]{1,2})", name)) and signal.SIGRTMIN + int(offset[1]) <= signal.SIGRTMAX:
        return signal.SIGRTMIN + int(offset[1])
    try:
        return int(signal.Signals["SIG" + name])
    except KeyError:
        raise InvalidImageConfig(f"StopSignal {text[:20]!r} of the image config is no signal") from None
