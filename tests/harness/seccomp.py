"""System calls that a process is denied, as containers deny them: a filter of seccomp(2) that gives EPERM."""
import ctypes
import errno
import os
import platform
import struct

IO_URING_SETUP, IO_URING_ENTER = 425, 426    # the same on every architecture

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06    # of the classic BPF machine
ALLOW, FAIL = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def forbid(calls):
    """From now on, for this process and its children."""
    if not calls:
        return
    instructions = [(LOAD_WORD, 0, 0, 0)]    # the number of the call
    for number in calls:
        instructions += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | errno.EPERM)]
    instructions.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter can be set")


def available():
    """Whether a child can be denied calls here."""
    if platform.system() != "Linux":
        return False
    child = os.fork()
    if child == 0:
        try:
            forbid([IO_URING_SETUP])
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0
