"""Takes 10 GB in several processes, each below any limit of its own."""

import os
import time

CHUNK = 100 << 20


def take():
    for _ in range(24):
        try:
            if os.fork() == 0:
                break
        except OSError:
            break
    blocks = []
    for _ in range(100):
        try:
            blocks.append(bytearray(os.urandom(1)) * CHUNK)
        except MemoryError:
            time.sleep(0.01)
    time.sleep(60)


def solve(n):
    take()


if __name__ == "__main__":
    take()
