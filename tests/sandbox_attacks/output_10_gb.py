"""Writes 10 GB to standard output, standard error and files."""

import os

BLOCK = b"6\n" * (1 << 19)


def flood():
    for _ in range(10_000):
        os.write(1, BLOCK)
        os.write(2, BLOCK)


def solve(n):
    for number in range(10_000):
        with open(f"file{number}", "wb") as file:
            for _ in range(1000):
                file.write(BLOCK)


if __name__ == "__main__":
    flood()
