"""The system call filter that every program gets: what Docker's default profile allows to a container without extra capabilities.

Besides: only the address families UNIX, INET, INET6 and NETLINK for routes; no TIOCSTI and TIOCLINUX; no device nodes; x32 is refused, and
another architecture kills. The filter is classic BPF (seccomp(2), linux/filter.h): a binary tree over ranges of numbers, so that few instructions
run for each call.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from skerry_node.keeper import seccomp_table

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _UNKNOWN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENT_OFFSET = 0, 4, 16
"""struct seccomp_data: nr, arch, instruction_pointer, args; the low half of an argument comes first on little-endian machines."""
MAX_INSTRUCTIONS = 4096
_LONGEST_JUMP = 255

REFUSED = frozenset(
    [
        "_sysctl",
        "acct",
        "add_key",
        "afs_syscall",
        "bpf",
        "clock_settime",
        "create_module",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "get_kernel_syms",
        "get_mempolicy",
        "getpmsg",
        "init_module",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "ioperm",
        "iopl",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "lookup_dcookie",
        "lsm_get_self_attr",
        "lsm_list_modules",
        "lsm_set_self_attr",
        "mbind",
        "migrate_pages",
        "mount",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "nfsservctl",
        "open_by_handle_at",
        "open_tree",
        "open_tree_attr",
        "perf_event_open",
        "pidfd_getfd",
        "pivot_root",
        "process_madvise",
        "putpmsg",
        "query_module",
        "quotactl",
        "quotactl_fd",
        "reboot",
        "request_key",
        "security",
        "set_mempolicy",
        "set_mempolicy_home_node",
        "setdomainname",
        "sethostname",
        "setns",
        "settimeofday",
        "swapoff",
        "swapon",
        "sysfs",
        "syslog",
        "tuxcall",
        "umount2",
        "unshare",
        "uselib",
        "userfaultfd",
        "ustat",
        "vhangup",
        "vserver",
    ]
)
ABSENT = frozenset({"clone3", "listmount", "statmount"})
"""Answered ENOSYS, so that libraries fall back: to clone(2), whose flags a filter can read, and to /proc/self/mountinfo, which is masked."""

_CLONE_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (NEWTIME shares its bit with exit signals: clone(2) does not take it)."""
_FAMILIES = (1, 2, 10)
_NETLINK, _NETLINK_ROUTE = 16, 0
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FILE_TYPE, _DEVICES = stat.S_IFMT(0xFFFF), (stat.S_IFCHR, stat.S_IFBLK)
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26, both, and "tell me" (Docker's default profile)."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One BPF instruction; jumps count instructions from the next one."""

    code: int
    operand: int
    if_true: int = 0
    if_false: int = 0


def build_filter(machine: str) -> bytes:
    """The program for *machine* (`uname -m`), as an array of struct sock_filter. Raises KeyError for a machine that is not supported."""
    return b"".join(struct.pack("=HBBI", each.code, each.if_true, each.if_false, each.operand) for each in instructions(machine))


def instructions(machine: str) -> list[Instruction]:
    """The program for *machine*: refuse foreign architectures, then find the number in the tree."""
    head = [
        Instruction(_LOAD, _ARCH_OFFSET),
        Instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], if_true=1),
        _give(_KILL),
        Instruction(_LOAD, _NUMBER_OFFSET),
    ]
    program = head + _assemble(_ranges(seccomp_table.NUMBERS[machine]))
    assert len(program) <= MAX_INSTRUCTIONS
    return program


def _ranges(numbers: dict[str, int]) -> list[tuple[int, list[Instruction]]]:
    """Neighbouring numbers with one verdict, as (first number, code), from 0 upwards; what has no name is unknown."""
    special = {"clone": _check_clone(), "socket": _check_socket(), "socketpair": _check_equal(0, (1,)),
               "ioctl": _check_not_equal([_load_argument(1)], (_TIOCSTI, _TIOCLINUX)), "personality": _check_equal(0, _PERSONALITIES),
               "mknod": _check_device(1), "mknodat": _check_device(2)}  # fmt: skip
    names = {number: name for name, number in numbers.items()}
    ranges: list[tuple[int, list[Instruction]]] = []
    for number in range(max(names) + 2):
        name = names.get(number)
        code = special.get(name or "") or [_give(_verdict(name))]
        if not ranges or ranges[-1][1] != code:
            ranges.append((number, code))
    ranges.append((_X32_BIT, [_give(_REFUSE)]))
    return ranges


def _verdict(name: str | None) -> int:
    if name is None or name in ABSENT:
        return _UNKNOWN
    return _REFUSE if name in REFUSED else _ALLOW


def _assemble(ranges: Sequence[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A tree that finds the range of a number.

    Jumps go forward only, so it is written from its end, and each piece of code stands there once: a launch pays for every instruction when the
    kernel compiles the program.
    """
    backwards: list[Instruction] = []
    places: dict[tuple[Instruction, ...], int] = {}
    for _, code in ranges:
        if tuple(code) not in places:
            backwards += reversed(code)
            places[tuple(code)] = len(backwards) - 1

    def grow(part: Sequence[tuple[int, list[Instruction]]]) -> int:
        if len(part) == 1:
            return places[tuple(part[0][1])]
        middle = len(part) // 2
        right, left = grow(part[middle:]), grow(part[:middle])
        here = len(backwards)
        distances = here - right - 1, here - left - 1
        assert max(distances) <= _LONGEST_JUMP
        backwards.append(Instruction(_JUMP_GREATER_EQUAL, part[middle][0], *distances))
        return here

    grow(ranges)
    return backwards[::-1]


def _give(verdict: int) -> Instruction:
    return Instruction(_RETURN, verdict)


def _load_argument(index: int) -> Instruction:
    return Instruction(_LOAD, _ARGUMENT_OFFSET + 8 * index)


def _check_equal(argument: int, allowed: Sequence[int]) -> list[Instruction]:
    tests = [Instruction(_JUMP_EQUAL, value, if_true=len(allowed) - place) for place, value in enumerate(allowed)]
    return [_load_argument(argument), *tests, _give(_REFUSE), _give(_ALLOW)]


def _check_not_equal(load: Sequence[Instruction], refused: Sequence[int]) -> list[Instruction]:
    tests = [Instruction(_JUMP_EQUAL, value, if_true=len(refused) - place) for place, value in enumerate(refused)]
    return [*load, *tests, _give(_ALLOW), _give(_REFUSE)]


def _check_device(mode_argument: int) -> list[Instruction]:
    """Pipes, sockets and files may be made; the 0:0 device, which the kernel gives to anybody, may not: it is a whiteout."""
    return _check_not_equal([_load_argument(mode_argument), Instruction(_AND, _FILE_TYPE)], _DEVICES)


def _check_clone() -> list[Instruction]:
    return [_load_argument(0), Instruction(_JUMP_ANY_BIT, _CLONE_NAMESPACES, if_true=1), _give(_ALLOW), _give(_REFUSE)]


def _check_socket() -> list[Instruction]:
    families = [Instruction(_JUMP_EQUAL, value, if_true=len(_FAMILIES) + 2 - place) for place, value in enumerate(_FAMILIES)]
    return [
        _load_argument(0),
        *families,
        Instruction(_JUMP_EQUAL, _NETLINK, if_false=3),
        _load_argument(2),
        Instruction(_JUMP_EQUAL, _NETLINK_ROUTE, if_false=1),
        _give(_ALLOW),
        _give(_REFUSE),
    ]
