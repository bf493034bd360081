"""Run one check away from this process, in a cell (`nano3.sandbox`), and end it when it takes too long.

Symbolic algebra and regular expressions from data can take forever or all memory on the wrong input, inside C
code that no Python signal interrupts. So such checks run in one long-lived server, which sees no network and no files
but the installed packages. Every check has a process of its own, forked from the server when the packages are already
loaded: what a check leaves in memory, the next one does not see.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import nano3
from nano3.errors import UserError
from nano3.sandbox import launch

MEMORY_BYTES = 4 << 30  # address space; what sympy needs is a tenth of it

_lock = threading.Lock()
_child: subprocess.Popen | None = None
_owner: int | None = None  # a forked process must not talk to its parent's child


class CheckFailed(Exception):
    """The check ran out of time or memory, or raised; the message says which."""


def call(function: str, *arguments: object, seconds: float) -> object:
    """Return function(*arguments), computed in a process of its own. Arguments and result pass as JSON.

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
        program = [sys.executable, "-B", "-m", "nano3.environments.bounded"]
        settings = {"program": program, "binds": _packages(), "file_bytes": 1 << 20, "seconds": None}
        command = launch.command(settings)
        surroundings = {"PYTHONPATH": os.pathsep.join(_packages()), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        _child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=surroundings,
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        _owner = os.getpid()
        if not _child.stdout.readline():
            stop()
            again = subprocess.run(command, input="", capture_output=True, text=True, env=surroundings)
            said = again.stderr.strip().rpartition("\n")[2] or f"exit status {again.returncode}"
            raise UserError(f"the checker of rewards, {' '.join(program)}, does not start in the sandbox: {said}")
    return _child


def _packages() -> list[str]:
    """Directories of the installed packages and of this one."""
    installed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    own = [str(Path(path).parent) for path in nano3.__path__]
    return [path for path in dict.fromkeys([sys.prefix, *own, *installed]) if os.path.isdir(path)]


def _serve() -> None:
    """The server: answer requests, one JSON object a line, until standard input closes."""
    import importlib

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
        replies.write(_in_a_fork(function, request["arguments"], request["seconds"]) + "\n")


def _in_a_fork(function, arguments: list, seconds: float) -> str:
    """The reply to one request, computed in a process of its own."""
    import select
    import signal
    import time

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _check(function, arguments, writing)
    os.close(writing)
    deadline, reply = time.monotonic() + seconds, b""
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        reply += chunk
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        return json.dumps(json.loads(reply))
    except ValueError:
        return json.dumps({"error": f"no result within {seconds:g} s"})


def _check(function, arguments: list, writing: int) -> None:
    """Write function(*arguments) and end this process."""
    import contextlib
    import resource

    try:
        with contextlib.suppress(ValueError, OSError):  # not every system can limit memory
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        try:
            reply = json.dumps({"value": function(*arguments)})
        except Exception as error:
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"[:200]})
        with os.fdopen(writing, "w") as file:
            file.write(reply)
    finally:
        os._exit(0)


atexit.register(stop)

if __name__ == "__main__":
    _serve()
