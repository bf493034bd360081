"""Kills everybody it can, the warden first."""

import os
import signal


def kill():
    for process in (1, os.getppid(), -1, 0):
        try:
            os.kill(process, signal.SIGKILL)
        except OSError:
            pass


def solve(n):
    kill()


if __name__ == "__main__":
    kill()
