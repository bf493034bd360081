"""Returns far more than fits."""


def solve(n):
    return ["6" * (1 << 20)] * 10_000


if __name__ == "__main__":
    while True:
        print("6" * (1 << 20))
