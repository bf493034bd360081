"""Run one check in a child process that a watchdog can end.

Symbolic algebra and regular expressions from data can take forever or all memory on the wrong input, inside C
code that no Python signal interrupts. So such checks run in one long-lived child, under a memory limit and a
watchdog thread that ends the process when the time is up. A new child starts when the next check needs one.
"""

import atexit
import json
import os
import subprocess
import sys
import threading

from nano3.errors import UserError

MEMORY_BYTES = 4 << 30

_lock = threading.Lock()
_child: subprocess.Popen | None = None
_owner: int | None = None  # a forked process must not talk to its parent's child


class CheckFailed(Exception):
    """The check ran out of time or memory, or raised; the message says which."""


def call(function: str, *arguments: object, seconds: float) -> object:
    """Return function(*arguments), computed in the child. Arguments and result pass as JSON.

    function: "package.module:name"; importing the module does not count against `seconds` of wall time.
    Raises CheckFailed for what the arguments cause, UserError when the check can't run at all: a missing package
    must not look like a wrong answer.
    """
    request = json.dumps({"function": function, "arguments": arguments, "seconds": seconds}) + "\n"
    with _lock:
        child = _running()
        try:
            child.stdin.write(request)
            child.stdin.flush()
            reply = child.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            stop()
    if not reply:
        raise CheckFailed(f"no result within {seconds:g} s")
    result = json.loads(reply)
    if "missing" in result:
        raise UserError(
            f"{function} can't be loaded: {result['missing']}. Install what pyproject.toml lists: pip install -e ."
        )
    if "error" in result:
        raise CheckFailed(result["error"])
    return result["value"]


def stop() -> None:
    """End the child, if this process has one."""
    global _child
    if _child is not None and _owner == os.getpid():
        _child.kill()
        _child.wait()
        _child.stdin.close()
        _child.stdout.close()
    _child = None


def _running() -> subprocess.Popen:
    global _child, _owner
    if _child is None or _owner != os.getpid() or _child.poll() is not None:
        stop()
        _child = subprocess.Popen(
            [sys.executable, "-m", "nano3.environments.bounded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        _owner = os.getpid()
        if not _child.stdout.readline():
            stop()
            raise UserError(f"{sys.executable} -m {__spec__.name} does not start; run it by hand to see why")
    return _child


def _serve() -> None:
    """The child: answer requests, one JSON object a line, until standard input closes."""
    import contextlib
    import faulthandler
    import importlib
    import resource

    with contextlib.suppress(ValueError, OSError):  # not every system can limit memory
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not reach the protocol
    replies.write("{}\n")  # ready
    for line in sys.stdin:
        request = json.loads(line)
        module, name = request["function"].split(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except Exception as error:
            replies.write(json.dumps({"missing": f"{type(error).__name__}: {error}"}) + "\n")
            continue
        try:
            faulthandler.dump_traceback_later(request["seconds"], exit=True)
            result = {"value": function(*request["arguments"])}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"[:200]}
        finally:
            faulthandler.cancel_dump_traceback_later()
        replies.write(json.dumps(result) + "\n")


atexit.register(stop)

if __name__ == "__main__":
    _serve()
