"""The system calls of a worker that converts a layer: reading, writing, memory, threads. Everything else is refused. Pure.

A refusal is EPERM, so that the worker ends with a sentence; another architecture kills. Numbers: arch/x86/entry/syscalls/syscall_64.tbl,
scripts/syscall.tbl. The filter is classic BPF (seccomp(2), linux/filter.h).
"""

from __future__ import annotations

import errno
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOWED = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39,
        "exit": 60, "ftruncate": 77, "getrusage": 98, "sigaltstack": 131, "gettid": 186, "futex": 202, "restart_syscall": 219,
        "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "set_robust_list": 273, "sync_file_range": 277, "getrandom": 318,
        "rseq": 334,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "ppoll": 73, "lseek": 62, "munmap": 215, "brk": 214, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67, "pwrite64": 68, "sched_yield": 124, "mremap": 216, "madvise": 233,
        "nanosleep": 101, "getpid": 172, "exit": 93, "ftruncate": 46, "getrusage": 165, "sigaltstack": 132, "gettid": 178, "futex": 98,
        "restart_syscall": 128, "clock_gettime": 113, "clock_nanosleep": 115, "exit_group": 94, "set_robust_list": 99, "sync_file_range": 84,
        "getrandom": 278, "rseq": 293,
    },
}  # fmt: skip
_MAPPINGS = {"x86_64": (9, 10), "aarch64": (222, 226)}
"""mmap and mprotect: never executable."""
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
"""Answered ENOSYS: its flags are out of a filter's sight, and libraries fall back to clone."""
_PROT_EXEC, _CLONE_THREAD = 4, 0x00010000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""


def build_filter(machine: str) -> bytes:
    """The program for *machine* (`uname -m`), as an array of struct sock_filter. Raises KeyError for a machine that is not supported."""
    mapping = [(_LOAD, _ARGUMENTS + 2 * 8, 0, 0), (_ANY_BIT, _PROT_EXEC, 0, 1), _give(_ERRNO | errno.EPERM), _give(_ALLOW)]
    thread = [(_LOAD, _ARGUMENTS, 0, 0), (_ANY_BIT, _CLONE_THREAD, 0, 1), _give(_ALLOW), _give(_ERRNO | errno.EPERM)]
    tails = [[_give(_ALLOW)], mapping, thread, [_give(_ERRNO | errno.ENOSYS)]]
    calls = [(number, 0) for number in sorted(_ALLOWED[machine].values())]
    calls += [*((number, 1) for number in _MAPPINGS[machine]), (_CLONE[machine], 2), (_CLONE3, 3)]
    starts = [1 + sum(len(tail) for tail in tails[:place]) for place in range(len(tails))]  # behind the refusal
    program = [(_LOAD, _ARCH, 0, 0), (_EQUAL, _ARCHITECTURES[machine], 1, 0), _give(_KILL), (_LOAD, _NUMBER, 0, 0)]
    program += [(_EQUAL, number, len(calls) - 1 - place + starts[tail], 0) for place, (number, tail) in enumerate(calls)]
    program += [_give(_ERRNO | errno.EPERM), *(each for tail in tails for each in tail)]
    return b"".join(struct.pack("=HBBI", code, if_true, if_false, operand) for code, operand, if_true, if_false in program)


def _give(verdict: int) -> tuple[int, int, int, int]:
    return (_RETURN, verdict, 0, 0)
