"""The program of `init.c` as bytes, so that an installation needs no compiler; 872 of them, static, without a library.

    gcc -Os -static -nostdlib -nostartfiles -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pic -no-pie \
        -fcf-protection=none -Wl,--build-id=none,-n,-z,noseparate-code,-z,noexecstack,--no-warn-rwx-segments -o init init.c
    strip -s -R .comment -R .note.gnu.property -R .note.GNU-stack init

gcc 12.2.0, binutils 2.40 (Debian 12). tests/kernel/test_init.py has the program, not the compiler, do all that it promises.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import os
from collections.abc import Mapping

PROGRAMS: Mapping[str, bytes] = {
    "x86_64": base64.b64decode(
        "f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAsABAAAAAAABAAAAAAAAAAKgCAAAAAAAAAAAAAEAAOAACAEAAAwACAAEAAAAFAAAAsAAAAAAAAACwAEAAAAAAALAA"
        "QAAAAAAA4AEAAAAAAADgAQAAAAAAAAEAAAAAAAAAUeV0ZAYAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAx7UiJ"
        "50iD5PDoAAAAAEFXMcBJiflBuggAAABBVjHSQVVBVFW9DgAAAFO7AgAAAEiD7DBMiy9Iid9MjWQkoEiJRCSoSInoSMdEJKD/////TInmDwVFMdK4OQAAAEiJ"
        "10iJ1g8FSYnASIXAdUNIjXQkqEiJ6EiJ30yJwkG6CAAAAA8FRTHSuEgAAAC/AwAAAEiJ3roBAAAADwW4OwAAAEmLeRhLjVTpEEmNcSAPBesCfzpJi3EQMdKA"
        "PBYAdAVI/8Lr9UUx0rgBAAAAvwMAAAAPBUG45wAAAL9/AAAAMdJFMdJMicBIidYPBevxuAMAAABFMdJIiccPBUG6AAAIAEiDz/+4IQEAAEyJ5roIAAAADwVI"
        "iUQkiDHbvYAAAABJg87/TI1kJJxBvT0AAABBvwEAAACJ2EiNfCSwuSAAAABFMdLzq0iNdCSwSIt8JIhIiepJiclIicgPBUiFwHkaQbjnAAAAv38AAAAx0kUx"
        "0kyJwEiJ1g8F6/FIY3QksEiF9n4WSIP+EXQQRTHSuD4AAABMicdMicoPBYlcJJxFMdJMiehMifdMieZMifoPBUiFwH6BSTnAdeGLRCScD7b8g+B/dAaNuIAA"
        "AABIY/9BuOcAAAAx0kUx0kyJwEiJ1g8F6/EALnNoc3RydGFiAC50ZXh0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACwAAAAEAAAAGAAAAAAAAALAAQAAAAAAAsAAAAAAAAADgAQAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAEA"
        "AAADAAAAAAAAAAAAAAAAAAAAAAAAAJACAAAAAAAAEQAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAA="
    )
}
"""By machine, as uname(2) names it."""
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_ADD_SEALS, _ALL_SEALS = 1033, 0xF


class NoInit(Exception):
    """There is none for this machine."""


def open_program() -> int:
    """An fd of the program, in memory that nobody can change any more, not even through /proc/1/exe. Raises NoInit, OSError."""
    machine = os.uname().machine
    if machine not in PROGRAMS:
        raise NoInit(f"there is no first process of ours for {machine}; leave spec.init out")
    fd = _make()
    os.write(fd, PROGRAMS[machine])
    os.fchmod(fd, 0o555)
    fcntl.fcntl(fd, _ADD_SEALS, _ALL_SEALS)
    return fd


def _make() -> int:
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        return os.memfd_create("skerry-init", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("skerry-init", flags)  # before 6.3 all of them may be run
