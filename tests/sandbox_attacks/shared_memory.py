"""Takes memory that belongs to no process: System V segments and files without a name."""

import ctypes
import os

BLOCK = b"1" * (100 << 20)
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p


def take():
    taken = 0
    for _ in range(100):
        segment = libc.shmget(0, 100 << 20, 0o1600)
        if segment >= 0:
            address = libc.shmat(segment, None, 0)
            ctypes.memset(address, 1, 100 << 20)
            libc.shmdt(ctypes.c_void_p(address))
            taken += 100
        try:
            descriptor = os.memfd_create("x")
            taken += os.write(descriptor, BLOCK) >> 20
        except OSError:
            pass
    return taken


def solve(n):
    if take() < 1000:
        raise MemoryError


if __name__ == "__main__":
    if take() < 1000:
        raise MemoryError
