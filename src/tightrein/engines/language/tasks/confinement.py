"""What a process can give up for good on Linux, so that code it then runs can do little harm (see sandbox.py).

Two walls of the kernel's, each used where it is there. Landlock: only Python's own files and the system's libraries can
be read, and nothing can be written, made or removed. A filter of system calls (on x86-64): nothing written, made or
removed either, no other processes, no programs, no sockets, no signals but to itself and to the process that serves it
(which is started again), no changes of limits, owners, rights and clocks. Elsewhere the limits of sandbox.py are all.

Not kept out: faults of the kernel; reading what lies in the folders that stay readable; using the processor, the memory
and the time that the limits leave; deceiving whoever reads its output.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import sysconfig

NO_NEW_PRIVILEGES, SET_FILTER, FILTER = 38, 22, 2  # of prctl
CREATE, ADD, RESTRICT = 444, 445, 446  # Landlock's system calls, the same on every machine
VERSION, BENEATH = 1, 1
RIGHTS = {1: 13, 2: 14, 3: 15}  # how many kinds of access to files each version of Landlock knows
READING, FOLDERS = 0b1101, 0b1000  # to execute, to read files, to read folders; the last of these
READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom")

ARCHITECTURE = 0xC000003E  # x86-64
OTHER_NUMBERS = 0x40000000  # from here on the same calls have other numbers
KILL, CLONE, CLONE3 = 62, 56, 435
THREAD = 0x10000  # a flag of clone: no process, but a thread of this one
OPENING = {2: 24, 257: 32}  # open and openat, and where their flags are
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
REFUSED = (
    76, 82, 83, 84, 85, 86, 87, 88, 133, 258, 259, 263, 264, 265, 266, 316, 437,  # files and folders made and removed
    29, 41, 42, 44, 49, 53, 57, 58, 59, 64, 68,  # shared memory, sockets, fork, vfork, execve, semaphores, queues
    90, 91, 92, 93, 94, 101, 129, 132, 141, 157,  # chmod, chown, ptrace, signals with data, utime, priority, prctl
    159, 160, 161, 164, 165, 166, 167, 169, 170, 175,  # clocks, limits, chroot, mount, reboot, kernel modules
    188, 189, 190, 197, 198, 199, 200, 203, 227, 234, 235, 240,  # attributes, signals to threads, affinity, clocks
    246, 248, 249, 250, 260, 261, 268, 272, 280, 297, 298, 302,  # keys, chown, chmod, unshare, times, limits
    308, 310, 311, 313, 319, 320, 321, 322, 323, 424, 425, 434, 438, 452,  # other processes' memory, bpf, io_uring
)  # fmt: skip
LOAD, EQUAL, AT_LEAST, HAS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of a filter
ALLOW, REFUSE, UNKNOWN, END = 0x7FFF0000, 0x50001, 0x50026, 0x80000000  # EPERM, ENOSYS, and the end of the process

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def confine() -> None:
    """Gives it all up, as far as this system can; what it cannot is left."""
    if _libc is None or _libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return
    _close_files()
    if platform.machine() == "x86_64" and sys.maxsize > 2**32:
        _filter_calls()


def _close_files() -> None:
    assert _libc is not None
    version = _libc.syscall(CREATE, None, 0, VERSION)
    if version < 1:
        return
    rights = (1 << RIGHTS.get(version, 15)) - 1
    ruleset = _libc.syscall(CREATE, struct.pack("=Q", rights), 8, 0)
    if ruleset < 0:
        return
    for path in {*READABLE, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        with contextlib.suppress(OSError):  # not every system has each
            _allow(ruleset, path)
    _libc.syscall(RESTRICT, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str) -> None:
    assert _libc is not None
    place = os.open(path, os.O_RDONLY)
    try:
        rights = READING if os.path.isdir(path) else READING & ~FOLDERS
        _libc.syscall(ADD, ruleset, BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _filter_calls() -> None:
    assert _libc is not None
    program = b"".join(struct.pack("=HBBI", *step) for step in _steps(os.getpid(), os.getppid()))
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    _libc.prctl(SET_FILTER, FILTER, header, 0, 0)


def _steps(*signalled: int) -> list[tuple[int, int, int, int]]:
    """The filter: (instruction, steps to skip if so, if not, number). It ends with the first RETURN it comes to."""
    steps = [
        (LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCHITECTURE), (RETURN, 0, 0, END),
        (LOAD, 0, 0, 0), (AT_LEAST, 0, 1, OTHER_NUMBERS), (RETURN, 0, 0, REFUSE),
        (EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, UNKNOWN),  # so that clone is used, whose flags can be seen here
        (EQUAL, 0, 4, CLONE), (LOAD, 0, 0, 16), (HAS, 0, 1, THREAD), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE),
    ]  # fmt: skip
    allowed = [step for pid in signalled for step in ((EQUAL, 0, 1, pid), (RETURN, 0, 0, ALLOW))]
    steps += [(EQUAL, 0, len(allowed) + 2, KILL), (LOAD, 0, 0, 16), *allowed, (RETURN, 0, 0, REFUSE)]
    for number, flags in OPENING.items():
        steps += [(EQUAL, 0, 4, number), (LOAD, 0, 0, flags), (HAS, 0, 1, CHANGING)]
        steps += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    for number in REFUSED:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    return [*steps, (RETURN, 0, 0, ALLOW)]
