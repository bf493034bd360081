"""Takes 10 GB in one go."""


def solve(n):
    return len(bytearray(10 << 30)) and None


if __name__ == "__main__":
    solve(0)
