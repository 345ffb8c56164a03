"""The filter, run by an interpreter of classic BPF: each number gets its verdict, on both machines, without a kernel."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path

import pytest

from skerry_node.keeper import seccomp, seccomp_table
from tests.unit.keeper import decisions

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(ARCH)
ALLOW, KILL = "allow", "kill"
HEADER = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


def verdict(program: list[tuple[int, int, int, int]], number: int, *arguments: int, arch: int) -> str | int:
    """What the kernel would do: allow, kill, or an errno. Only the instructions that seccomp(2) accepts and we use are known."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    place, register = 0, 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        match code:
            case 0x20:  # load a word
                assert operand % 4 == 0
                register = struct.unpack_from("<I", data, operand)[0]
            case 0x54:
                register &= operand
            case 0x15:
                place += if_true if register == operand else if_false
            case 0x35:
                place += if_true if register >= operand else if_false
            case 0x45:
                place += if_true if register & operand else if_false
            case 0x06:
                return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(operand) or operand - 0x50000
            case _:
                raise AssertionError(f"instruction {code:#x}")


@pytest.fixture(scope="module", params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture(scope="module")
def ask(machine):
    program = decode(seccomp.build_filter(machine))
    numbers = seccomp_table.NUMBERS[machine]

    def answer(call: str | int, *arguments: int, arch: int = ARCH[machine]) -> str | int:
        return verdict(program, numbers[call] if isinstance(call, str) else call, *arguments, arch=arch)

    return answer


def test_each_name_is_decided_once(machine):
    """A name that joins the table is a decision: it fails here until it stands in one list."""
    lists = (decisions.ALLOWED, decisions.REFUSED, decisions.ABSENT, decisions.BY_ARGUMENT)
    assert sum(map(len, lists)) == len(frozenset().union(*lists))
    assert not seccomp_table.NUMBERS[machine].keys() - frozenset().union(*lists)


def test_each_number_gets_its_verdict(machine, ask):
    """All of the table and all that lies between and behind it."""
    names = {number: name for name, number in seccomp_table.NUMBERS[machine].items()}
    wrong = {}
    for number in range(2048):
        name = names.get(number)
        if name in decisions.BY_ARGUMENT:
            continue
        expected: str | int = errno.ENOSYS
        if name in decisions.ALLOWED:
            expected = ALLOW
        elif name in decisions.REFUSED:
            expected = errno.EPERM
        if ask(number) != expected:
            wrong[number, name] = ask(number)
    assert not wrong


def test_the_tables_hold_every_call():
    """aarch64 has what x86_64 has but for the old calls: a row left out would be a call that no program can make."""
    x86_64, aarch64 = (seccomp_table.NUMBERS[name] for name in MACHINES)
    assert x86_64.keys() - aarch64.keys() == decisions.NOT_ON_AARCH64
    assert aarch64.keys() <= x86_64.keys()
    assert len(set(x86_64.values())) == len(x86_64)
    assert len(set(aarch64.values())) == len(aarch64)
    assert {name for name, number in x86_64.items() if number >= 424} == {name for name, number in aarch64.items() if number >= 424}
    assert [name for name, number in x86_64.items() if number >= 424 and aarch64[name] != number] == []


@pytest.mark.skipif(not os.path.exists(HEADER), reason="the kernel's headers are not installed")
def test_the_numbers_are_those_of_the_kernels_header():
    text = Path(HEADER).read_text(encoding="ascii")
    header = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    ours = seccomp_table.NUMBERS["x86_64"]
    assert {name: ours.get(name) for name in header if ours.get(name) != header[name]} == {}


HIGH = 1 << 32  # the kernel reads these arguments as 32 bits wide, so a bit above them must change nothing
BY_ARGUMENT = [
    ("clone", (0x11,), ALLOW, "fork"),
    ("clone", (0x3D0F00,), ALLOW, "a thread, as glibc makes it"),
    ("clone", (0x4111,), ALLOW, "vfork"),
    *(
        ("clone", (bit | 0x11,), errno.EPERM, f"namespace {bit:#x}")
        for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
    ),
    ("clone", (0x10000000 | HIGH,), errno.EPERM, "user namespace with a bit above"),
    ("socket", (1, 1, 0), ALLOW, "unix"),
    ("socket", (2, 1, 6), ALLOW, "inet"),
    ("socket", (10, 2, 17), ALLOW, "inet6"),
    ("socket", (16, 3, 0), ALLOW, "netlink route"),
    *(("socket", (16, 3, protocol), errno.EPERM, f"netlink {protocol}") for protocol in range(1, 23)),
    *(("socket", (family, 1, 0), errno.EPERM, f"family {family}") for family in range(64) if family not in (1, 2, 10, 16)),
    ("socket", (HIGH | 17, 3, 0), errno.EPERM, "packet with a bit above"),
    ("socket", (0xFFFFFFFF, 1, 0), errno.EPERM, "family -1"),
    ("socketpair", (1, 1, 0), ALLOW, "unix"),
    *(("socketpair", (family, 1, 0), errno.EPERM, f"family {family}") for family in (0, 2, 10, 16, 17, 30, 38, 40)),
    ("ioctl", (0, 0x5401), ALLOW, "TCGETS"),
    ("ioctl", (0, 0x5413), ALLOW, "TIOCGWINSZ"),
    ("ioctl", (0, 0x5412), errno.EPERM, "TIOCSTI"),
    ("ioctl", (0, HIGH | 0x5412), errno.EPERM, "TIOCSTI with a bit above (CVE-2023-28100)"),
    ("ioctl", (0, 0x541C), errno.EPERM, "TIOCLINUX"),
    ("ioctl", (0, HIGH | 0x541C), errno.EPERM, "TIOCLINUX with a bit above"),
    *(("personality", (value,), ALLOW, hex(value)) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)),
    *(("personality", (value,), errno.EPERM, hex(value)) for value in (0x40000, 0x400000, 0x100000, 0xC, 1)),
]


@pytest.mark.parametrize(("call", "arguments", "expected"), [pytest.param(*row[:3], id=f"{row[0]}: {row[3]}") for row in BY_ARGUMENT])
def test_arguments_decide(ask, call, arguments, expected):
    assert ask(call, *arguments) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param(0o644, ALLOW, id="no type is a file"),
        pytest.param(0o100644, ALLOW, id="file"),
        pytest.param(0o010644, ALLOW, id="pipe"),
        pytest.param(0o140644, ALLOW, id="socket"),
        pytest.param(0o020644, errno.EPERM, id="character device, also 0:0, the whiteout"),
        pytest.param(0o060644, errno.EPERM, id="block device"),
        pytest.param(0o200000 | 0o020644, errno.EPERM, id="a bit above the type"),
    ],
)
def test_device_nodes_are_refused(machine, ask, mode, expected):
    assert ask("mknodat", 0, 0, mode) == expected
    if machine == "x86_64":
        assert ask("mknod", 0, mode) == expected


def test_other_architectures_end_the_process(machine, ask):
    others = {0x40000003, 0x40000028, 0x8000003E, 0, *ARCH.values()} - {ARCH[machine]}
    for arch in others:
        assert {ask(number, arch=arch) for number in (0, 1, 11, 57, 102, 221, 435)} == {KILL}


def test_x32_is_refused(ask):
    """Numbers with that bit are other calls, or the same ones by another name (CVE-2014-0038); -1 is what a tracer writes to skip one."""
    for number in (0x40000000, 0x40000001, 0x40000000 + 520, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        assert ask(number) == errno.EPERM


def test_the_program_is_one_that_the_kernel_takes(machine):
    """Jumps stay inside, everything can be reached, every way ends: seccomp(2) and bpf_check_classic. The kernel's limit is 4096."""
    program = decode(seccomp.build_filter(machine))
    assert len(program) < 256
    reached, queue = set(), [0]
    while queue:
        place = queue.pop()
        if place in reached:
            continue
        code, if_true, if_false, _ = program[place]  # raises beyond the end
        reached.add(place)
        if code in {0x15, 0x35, 0x45}:
            queue += [place + 1 + if_true, place + 1 + if_false]
        elif code != 0x06:
            queue.append(place + 1)
    assert reached == set(range(len(program)))


def test_another_machine_has_no_filter():
    with pytest.raises(KeyError):
        seccomp.build_filter("riscv64")
