"""Leaves processes behind that would go on for ever."""

import os
import time


def leave():
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(0.1)
            os._exit(0)


def solve(n):
    leave()


if __name__ == "__main__":
    leave()
