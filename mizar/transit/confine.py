# SPDX-License-Identifier: Apache-2.0
"""Takes from a process, and all that it becomes, the system calls that nothing in a namespace needs (seccomp(2)).

Run by mizar.transit.processes as a program of its own, between entering the namespace and giving up privileges:
`confine.py [--pretend IOCTL]... -- PROGRAM...`. `--pretend`: the ioctl of this number does nothing and says that it
did, for programs that set what the daemon has set already, and would end without the privilege. It must import nothing
but the standard library.
"""

import ctypes
import os
import platform
import struct
import sys

X86_64, AARCH64 = 0xC000003E, 0xC00000B7
"""AUDIT_ARCH_* of linux/audit.h."""
_X32 = 0x40000000
_IOCTL = {X86_64: 16, AARCH64: 29}
_DENIED = {  # each: its number on x86_64, on aarch64
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsmount": (432, 432), "move_mount": (429, 429), "open_tree": (428, 428), "mount_setattr": (442, 442),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "unshare": (272, 97), "setns": (308, 268), "swapon": (167, 224),
    "swapoff": (168, 225), "reboot": (169, 142), "open_by_handle_at": (304, 265), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "io_uring_setup": (425, 425),
}  # fmt: skip
_CLONE, _CLONE3 = {X86_64: 56, AARCH64: 220}, 435
_NAMESPACES = 0x7E020000
"""CLONE_NEW* of linux/sched.h: whoever begins a process in a user namespace of its own has all privileges there."""
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000, 1, 38
_NUMBER, _ARCH, _FLAGS, _REQUEST = 0, 4, 16, 24
"""Offsets in struct seccomp_data; `_FLAGS` and `_REQUEST` are the lower halves of the first and second argument."""
_SET_SECCOMP, _FILTER = 22, 2


def instructions(arch: int, pretended: list[int]) -> bytes:
    """The filter for one architecture; calls of any other one fail."""
    numbers = sorted(pair[arch == AARCH64] for pair in _DENIED.values())
    code = [(_LD, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_RET, 0, 0, _ERRNO | _ENOSYS), (_LD, 0, 0, _NUMBER)]
    if arch == X86_64:
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    for number in numbers:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ERRNO | _EPERM)]
    # What clone3() is asked for is in memory, where no filter looks; whoever misses it takes clone().
    code += [(_JEQ, 0, 1, _CLONE3), (_RET, 0, 0, _ERRNO | _ENOSYS), (_JEQ, 0, 4, _CLONE[arch]), (_LD, 0, 0, _FLAGS)]
    code += [(_JSET, 0, 1, _NAMESPACES), (_RET, 0, 0, _ERRNO | _EPERM), (_RET, 0, 0, _ALLOW)]
    if pretended:
        code += [(_JEQ, 1, 0, _IOCTL[arch]), (_RET, 0, 0, _ALLOW), (_LD, 0, 0, _REQUEST)]
        for request in pretended:
            code += [(_JEQ, 0, 1, request), (_RET, 0, 0, _ERRNO)]
    code += [(_RET, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def confine(pretended: list[int]) -> None:
    """From now on, for good. Raises OSError."""
    arch = {"x86_64": X86_64, "aarch64": AARCH64}.get(platform.machine())
    if arch is None or struct.calcsize("P") != 8:
        if pretended:
            raise OSError(_ENOSYS, f"no filter of system calls for {platform.machine()}")
        return
    code = ctypes.create_string_buffer(filtered := instructions(arch, pretended), len(filtered))
    program = struct.pack("@HP", len(filtered) // 8, ctypes.addressof(code))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_SET_SECCOMP, _FILTER, program, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(words: list[str]) -> None:
    """Becomes the program."""
    pretended: list[int] = []
    while words and words[0] == "--pretend":
        pretended.append(int(words[1]))
        words = words[2:]
    try:
        confine(pretended)
        os.execvp(words[1], words[1:])  # noqa: S606 - the arguments are the daemon's own
    except OSError as error:
        sys.exit(f"{words[1]} cannot be confined or started: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
