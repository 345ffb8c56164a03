"""The one program of BPF that we have the kernel run, put together by hand (bpf(2), Documentation/bpf/standardization/instruction-set.rst)."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _SCHED_CLS = 5, 3
_ATTRIBUTES = struct.Struct("=IIQQIIQ")
"""union bpf_attr of BPF_PROG_LOAD begins: type, count, instructions, licence, level, size and buffer of the verifier's log."""
_ATTRIBUTE_BYTES, _LOG_BYTES = 128, 4096
_INSTRUCTION = struct.Struct("=BBhi")
_MOVE, _STORE_WORD, _CALL, _EXIT = 0xB7, 0x63, 0x85, 0x95
_REDIRECT = 23
"""BPF_FUNC_redirect, linux/bpf.h."""
_PRIORITY_OFFSET = 32
"""Of `priority` in struct __sk_buff."""


def render_redirect(*, link_index: int, priority: int) -> bytes:
    """A classifier (direct-action): note *priority* in the packet, and send it out by link *link_index*."""
    return b"".join([
        _INSTRUCTION.pack(_MOVE, 2, 0, priority),  # r2 = priority
        _INSTRUCTION.pack(_STORE_WORD, 2 << 4 | 1, _PRIORITY_OFFSET, 0),  # context->priority = r2
        _INSTRUCTION.pack(_MOVE, 1, 0, link_index),
        _INSTRUCTION.pack(_MOVE, 2, 0, 0),
        _INSTRUCTION.pack(_CALL, 0, 0, _REDIRECT),
        _INSTRUCTION.pack(_EXIT, 0, 0, 0),
    ])  # fmt: skip


def load_classifier(program: bytes) -> int:
    """An fd of *program*, verified. Needs CAP_BPF and CAP_NET_ADMIN. Raises OSError with the verifier's words."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(f"bpf: the number of the system call is not known on {platform.machine()}")
    instructions, licence, log = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(_LOG_BYTES)
    attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    count = len(program) // _INSTRUCTION.size
    _ATTRIBUTES.pack_into(
        attributes, 0, _SCHED_CLS, count, ctypes.addressof(instructions), ctypes.addressof(licence), 1, _LOG_BYTES, ctypes.addressof(log)
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, _PROG_LOAD, attributes, _ATTRIBUTE_BYTES)
    if fd < 0:
        code = ctypes.get_errno()
        said = log.value.decode("utf-8", "replace").strip()[-200:]
        raise OSError(code, f"bpf: load a classifier: {os.strerror(code)}{said and f' ({said})'}")
    return int(fd)
