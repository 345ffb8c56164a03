"""Giving up rights, in the child, right before the program: capabilities, ids, limits, fds, the filter. A few raw calls each.

Sources: capabilities(7), capset(2), credentials(7), seccomp(2), close_range(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from collections.abc import Iterable

from skerry_node.kernel import syscalls

_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE",
    "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
CAPABILITIES = {name: number for number, name in enumerate(_NAMES)}
"""All of linux/capability.h, by number: dropping one that nobody has is no error."""
DEFAULT_CAPABILITIES = frozenset({
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "AUDIT_WRITE", "SETFCAP",
})  # fmt: skip
"""Docker's default list without NET_RAW (spoofing) and MKNOD (dead in a user namespace)."""
ADDABLE = DEFAULT_CAPABILITIES | {"SYS_PTRACE", "SYS_NICE", "IPC_LOCK", "DAC_READ_SEARCH"}
"""What a manifest may add: nothing that reaches beyond the sandbox's own processes and files."""
_ADDABLE_NUMBERS = tuple(sorted(CAPABILITIES[name] for name in ADDABLE))
ADDABLE_MASK = sum(1 << number for number in _ADDABLE_NUMBERS)
_LAST_CAPABILITY = 63
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 24, 38, 4
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_NOFILE = 1_048_576
_MEMLOCK = 8 << 20
"""The kernel's own default since 5.16 (MLOCK_LIMIT); an agent may have inherited more."""
_libc = ctypes.PyDLL(None, use_errno=True)
# Made once, before any fork: a type or a symbol looked up in the child dirties its pages, which costs ten times the system call
_prctl, _capset = _libc.prctl, _libc.capset
_header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_data = (ctypes.c_uint32 * 6)()
"""Effective, permitted, inheritable of capabilities 0 to 31, then of 32 and up; inheritable stays 0 (struct __user_cap_data_struct)."""


class _Program(ctypes.Structure):
    """struct sock_fprog (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_program = _Program()
_program_pointer = ctypes.byref(_program)


def capability_set(add: Iterable[str], drop: Iterable[str]) -> int:
    """The default list with *add* and without *drop* ("ALL" drops all first), as a bit mask. Raises ValueError naming a word that is refused."""
    dropped = {_plain(name) for name in drop}
    kept = set() if "ALL" in dropped else DEFAULT_CAPABILITIES - dropped
    for name in dropped - {"ALL"} - CAPABILITIES.keys():
        raise ValueError(f"{name!r} is no capability; use names such as NET_BIND_SERVICE, or ALL")
    for name in map(_plain, add):
        if name not in ADDABLE:
            raise ValueError(f"{name!r} cannot be added; those that can are {', '.join(sorted(ADDABLE))}")
        kept = kept | {name}
    return sum(1 << CAPABILITIES[name] for name in kept)


def drop_bounding_set(keep: int) -> None:
    """Drop every capability outside *keep* from the bounding set, for good. Needs CAP_SETPCAP; raises OSError when one stays."""
    for number in range(_LAST_CAPABILITY + 1):
        if not keep >> number & 1 and not _drop_bounding(number):
            break  # the kernel knows no higher one


def drop_from_addable(keep: int) -> None:
    """The same, after everything outside ADDABLE_MASK has been dropped: only what is left needs a call."""
    for number in _ADDABLE_NUMBERS:
        if not keep >> number & 1:
            _drop_bounding(number)


def _drop_bounding(number: int) -> bool:
    """Whether the kernel knows that capability. A set that silently stayed wide would be worse than a sandbox that does not start."""
    if _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        return True
    if ctypes.get_errno() == errno.EINVAL:
        return False
    raise OSError(ctypes.get_errno(), f"dropping capability {number} from the bounding set")


def set_identity(uid: int, gid: int, groups: Iterable[int], *, keep: int) -> None:
    """Become *uid*, *gid* and *groups*. Root keeps the capabilities in *keep*; anybody else has none. Nothing is inheritable or ambient."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    kept = keep if uid == 0 else 0
    _data[0] = _data[1] = kept & 0xFFFFFFFF
    _data[3] = _data[4] = kept >> 32
    if _capset(_header, _data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def set_no_new_privs() -> None:
    """No program that is run from here on gains rights by its file."""
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(value: bool) -> None:  # noqa: FBT001 - the flag is the whole call
    """Whether others of our ids may trace us and open our /proc files."""
    syscalls.prctl(_PR_SET_DUMPABLE, int(value))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter. Needs no_new_privs."""
    _program.length = len(program) // 8
    _program.filter = program
    if _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _program_pointer, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def close_fds(first: int) -> None:
    """Close every fd from *first* upwards."""
    syscalls.close_range(first)


def set_rlimits() -> None:
    """Docker's limits where we may set them: raising a hard limit takes CAP_SYS_RESOURCE, and doing without is no error."""
    for kind, wanted in ((resource.RLIMIT_NOFILE, _NOFILE), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, _MEMLOCK)):
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def _plain(name: str) -> str:
    return name.upper().removeprefix("CAP_")
