"""How this machine holds untrusted programs: namespaces of its own making, bubblewrap, or, when told so, not at all."""

import functools
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from nano3.errors import UserError

_CELL = Path(__file__).with_name("cell.py")
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store")  # where interpreters have their libraries

_allow_unsafe = False


def allow_unsafe(allowed: bool) -> None:
    """Whether programs may run with resource limits alone where the machine has neither namespaces nor bubblewrap."""
    global _allow_unsafe
    _allow_unsafe = allowed


def command(settings: dict) -> list[str]:
    """The command that starts a cell, see `cell.enter` for the settings; "binds" are added to what Python needs.

    Either settings["warden"] names the program that serves inside, or settings["program"] the command to become.
    Raises UserError where nothing can hold a program and `allow_unsafe` has not been said.
    """
    settings = {**settings, "binds": _distinct([*_python_binds(), *settings["binds"]])}
    return _COMMANDS[kind()](settings)


@functools.cache
def _possible() -> tuple[str, ...]:
    """Kinds of confinement that work here, and the refusals of the others logged."""
    found = []
    for name in ("namespaces", "bubblewrap"):
        if name == "bubblewrap" and not shutil.which("bwrap"):
            continue
        settings = {"binds": _python_binds(), "file_bytes": 1 << 20, "seconds": 10, "program": [_python(), *_FLAGS]}
        settings["program"] += ["-c", "print('held')"]
        try:
            tried = subprocess.run(_COMMANDS[name](settings), capture_output=True, text=True, env={}, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            logging.getLogger(__name__).info("%s can't be used: %s", name, error)
            continue
        if tried.stdout == "held\n":
            return (*found, name)
        logging.getLogger(__name__).info("%s can't be used: %s", name, tried.stderr.strip())
    return tuple(found)


def kind() -> str:
    """ "namespaces", "bubblewrap" or "unsafe". Raises UserError when nothing is possible and unsafe is not allowed."""
    if found := _possible():
        return found[0]
    if _allow_unsafe:
        return "unsafe"
    raise UserError(
        "this machine can't hold untrusted programs: the kernel refuses user namespaces and bubblewrap (bwrap) is not "
        "on PATH or does not work. Install bubblewrap, or let users make namespaces (sysctl user.max_user_namespaces, "
        "kernel.apparmor_restrict_unprivileged_userns=0), or set `execution.allow_unsafe: true` "
        "in the recipe to run model text with resource limits alone."
    )


_FLAGS = ("-I", "-S", "-B")


def _namespaces(settings: dict) -> list[str]:
    return [_python(), *_FLAGS, str(_CELL), json.dumps(settings)]


def _bubblewrap(settings: dict) -> list[str]:
    made = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--cap-drop",
        "ALL",
    ]
    made += ["--as-pid-1", "--die-with-parent", "--new-session", "--hostname", "cell"]
    made += ["--tmpfs", "/tmp"]  # first, since a bind may lie below it: a checkout in /tmp
    for path in settings["binds"]:
        if os.path.islink(path):
            made += ["--symlink", os.readlink(path), path]
        else:
            made += ["--ro-bind", path, path]
    made += ["--dev", "/dev", "--proc", "/proc", "--chdir", "/tmp"]
    if "warden" in settings:
        return [*made, "--ro-bind", settings["warden"], "/warden.py", "--", _python(), *_FLAGS, "/warden.py"]
    return [*made, "--", *settings["program"]]


def _unsafe(settings: dict) -> list[str]:
    return [_python(), *_FLAGS, settings["warden"]] if "warden" in settings else settings["program"]


_COMMANDS = {"namespaces": _namespaces, "bubblewrap": _bubblewrap, "unsafe": _unsafe}


def _python() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(sys.executable)


def _python_binds() -> list[str]:
    """What an interpreter needs to start."""
    return _distinct([path for path in (*_SYSTEM, sys.base_prefix, sys.base_exec_prefix) if os.path.exists(path)])


def _distinct(paths: list[str]) -> list[str]:
    """Without repeats and without what lies inside another."""
    kept: list[str] = []
    for path in dict.fromkeys(paths):
        if not any(path == other or path.startswith(f"{other}/") for other in kept if not os.path.islink(other)):
            kept.append(path)
    return kept
