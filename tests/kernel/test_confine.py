"""A child that has given up its rights, tried for real: each probe is refused, and succeeds beside it in a child without the filter."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
from collections.abc import Callable

import pytest

from skerry_node.keeper import confine, seccomp
from skerry_node.kernel import syscalls
from tests.kernel import probes
from tests.kernel.probes import DONE, PROBES

MACHINE = platform.machine()
PROGRAM = seccomp.build_filter(MACHINE)
DEFAULT = confine.capability_set([], [])
ID_BASE = 3_000_000_000  # above what the machine and the agents of other tests use


def in_sandbox(act: Callable[[], object]) -> object:
    """What *act* returned in a child with its own user, mount, network, ipc and uts namespaces, as their root; JSON carries it."""
    go, ready = os.pipe(), os.pipe()
    pid = syscalls.clone(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    if pid == 0:
        try:
            os.close(ready[0])
            os.read(go[0], 1)
            os.setresgid(0, 0, 0)
            os.setgroups([])
            os.setresuid(0, 0, 0)
            syscalls.mount(b"tmpfs", b"/mnt", b"tmpfs")
            answer = json.dumps(act())
        except BaseException as error:  # noqa: BLE001 - nothing may unwind into the copy of pytest
            answer = json.dumps(f"{type(error).__name__}: {error}")
        os.write(ready[1], answer.encode())
        os._exit(0)
    os.close(ready[1])
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(f"0 {ID_BASE} 65536\n")
        os.write(go[1], b"!")
        with open(ready[0], "rb", closefd=False) as pipe:
            return json.loads(pipe.read())
    finally:
        for fd in (ready[0], *go):
            os.close(fd)
        os.waitpid(pid, 0)


def give_up_rights(uid: int = 0, gid: int = 0, groups: tuple[int, ...] = (), keep: int = DEFAULT) -> None:
    """As the keeper's child does, in its order."""
    confine.set_dumpable(False)
    confine.drop_bounding_set(confine.ADDABLE_MASK)
    confine.set_rlimits()
    confine.drop_from_addable(keep)
    confine.set_identity(uid, gid, groups, keep=keep)
    confine.set_no_new_privs()
    confine.install_filter(PROGRAM)


def run_program(*argv: str) -> str:
    """The output of a program that is run from here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.execv(argv[0], argv)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def status_of_a_program() -> dict[str, str]:
    lines = run_program("/bin/cat", "/proc/self/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def try_all() -> dict[str, int]:
    """Each in a child of its own, for some would change what the next one finds."""
    return {name: status_of_child(probe) for name, (probe, _, _) in PROBES.items()}


def status_of_child(act: Callable[[], int]) -> int:
    """The small number that *act* returned, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(act())
        except BaseException:  # noqa: BLE001 - see in_sandbox
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_refused_calls_are_refused_and_the_others_work():
    """With the filter each probe ends as its row says."""

    def act() -> object:
        give_up_rights()
        return try_all()

    assert in_sandbox(act) == {name: expected for name, (_, _, expected) in PROBES.items()}


def test_the_probes_bite_where_there_is_no_filter():
    """The positive control: the same root in the same namespaces, unconfined. Else a refusal would prove nothing."""
    found = in_sandbox(try_all)
    assert isinstance(found, dict)
    assert {name: value for name, value in found.items() if value not in PROBES[name][1]} == {}
    assert sum(value == DONE for value in found.values()) > 20


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "keep"),
    [
        pytest.param(0, 0, (), DEFAULT, id="root with the default"),
        pytest.param(0, 0, (), 0, id="root with nothing"),
        pytest.param(0, 0, (), DEFAULT | 1 << 19, id="root with one added"),
        pytest.param(1000, 1001, (7, 8), DEFAULT, id="a user has none, whatever the bounding set"),
    ],
)
def test_a_program_has_what_was_kept_and_no_way_to_more(uid, gid, groups, keep):
    """/proc/self/status of a program after exec: CVE-2022-36109 and CVE-2023-6507 are about these lines."""

    def act() -> object:
        give_up_rights(uid, gid, groups, keep)
        return status_of_a_program()

    status = in_sandbox(act)
    held = f"{keep if uid == 0 else 0:016x}"
    expected = {"CapInh": "0" * 16, "CapPrm": held, "CapEff": held, "CapBnd": f"{keep:016x}", "CapAmb": "0" * 16,
                "NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1", "Uid": "\t".join([str(uid)] * 4), "Gid": "\t".join([str(gid)] * 4),
                "Groups": " ".join(map(str, groups))}  # fmt: skip
    assert isinstance(status, dict), status
    assert {name: status[name] for name in expected} == expected


def test_a_bounding_set_that_cannot_be_cut_is_an_error():
    """Without CAP_SETPCAP nothing would be dropped: said, not passed over."""

    def act() -> object:
        confine.set_identity(1000, 1000, (), keep=DEFAULT)
        confine.drop_bounding_set(0)
        return "dropped"

    assert in_sandbox(act) == "PermissionError: [Errno 1] dropping capability 0 from the bounding set"


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 and x32 are x86's")
def test_other_call_interfaces_are_shut():
    """Getpid by the 32-bit gate ends the process; by its x32 name it is refused. Without the filter neither ends by SIGSYS."""

    def by_gate() -> int:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        return DONE

    def by_x32() -> int:
        return probes.call_number(0x40000000 | 39)

    def confined() -> object:
        give_up_rights()
        return [status_of_child(by_gate), status_of_child(by_x32)]

    assert in_sandbox(confined) == [-signal.SIGSYS, errno.EPERM]
    gate, x32 = in_sandbox(lambda: [status_of_child(by_gate), status_of_child(by_x32)])
    assert gate in {DONE, -signal.SIGSEGV}  # the latter where the kernel has no 32-bit gate
    assert x32 in {DONE, errno.ENOSYS}


def test_files_limits_and_memory_are_closed():
    """Fds from the given one on are gone, limits are lowered and never raised, and nobody of our ids may look into us."""

    def act() -> object:
        os.dup2(1, 499)
        os.dup2(1, 500)
        confine.close_fds(500)
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 512))
        give_up_rights()
        limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
        lock = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        return {"open": is_open(499), "closed": not is_open(500), "limits": limits, "lock": 0 <= lock <= 8 << 20, "dumpable": syscalls.prctl(3)}

    assert in_sandbox(act) == {"open": True, "closed": True, "limits": [[512, 512], [0, 0]], "lock": True, "dumpable": 0}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        return error.errno != errno.EBADF
    return True
