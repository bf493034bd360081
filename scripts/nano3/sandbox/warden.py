"""The first process of a cell: runs one program on many inputs, each in a process of its own, and reports data.

Runs inside, as `python -I -S`, and imports nothing of the project. It is given the program and the inputs, never what
is expected of them, so there is nothing here that would help a candidate; it sends back what the program wrote or
returned, as text, and whoever asked compares that outside.

Request, one JSON line on standard input: {"code", "function": name or null, "inputs": [...], "limits": {...}}. With a
function every input is a list of arguments, else a text for standard input. Reply: one JSON line per input,
{"output": text, "fault": "" or why there is none}.
"""

import builtins
import contextlib
import ctypes
import io
import json
import os
import resource
import select
import signal
import sys
import time

POLL_SECONDS = 0.02
PAGE = resource.getpagesize()
SET_DUMPABLE, SET_CHILD_SUBREAPER, SET_NO_NEW_PRIVILEGES = 4, 36, 38


def main() -> None:
    """Serve one request."""
    request = json.loads(sys.stdin.buffer.read())
    replies = os.dup(1)
    prctl = ctypes.CDLL(None).prctl
    prctl(SET_DUMPABLE, 0, 0, 0, 0)  # /proc/1 shows a candidate nothing
    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    deadline = time.monotonic() + request["limits"]["total_seconds"]
    for given in request["inputs"]:
        result = _one(request, given, replies, min(deadline, time.monotonic() + request["limits"]["seconds"]))
        text = json.dumps(result) + "\n"
        with open(replies, "w", closefd=False) as file:
            file.write(text)
        if result["fault"] and request["limits"]["stop_at_fault"]:
            break


def _one(request: dict, given: object, replies: int, deadline: float) -> dict:
    """The program on one input."""
    limits = request["limits"]
    source, result = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(replies)
            os.close(source[1])
            os.close(result[0])
            _candidate(request, given, source[0], result[1])
        finally:
            os._exit(1)
    os.close(source[0])
    os.close(result[1])
    try:
        stdin = given.encode() if request["function"] is None else b""
        output, fault = _watch(child, source[1], stdin, result[0], limits, deadline)
    finally:
        _end_everyone(child)
        os.close(result[0])
    return {"output": output.decode(errors="replace"), "fault": fault}


def _watch(child: int, stdin: int, text: bytes, stdout: int, limits: dict, deadline: float) -> tuple[bytes, str]:
    """Feed and read the child until it ends or breaks a limit: (output, fault)."""
    os.set_blocking(stdin, False)
    waiting, output, fault, status = memoryview(text), bytearray(), "", None
    while True:
        if not waiting and stdin >= 0:
            os.close(stdin)
            stdin = -1
        if status is None:
            ended, code = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if ended else None
        # What an ended program wrote is in the pipe already; its daemons are not waited for.
        readable, writable, _ = select.select(
            [stdout], [stdin] if stdin >= 0 else [], [], 0 if status is not None else POLL_SECONDS
        )
        if writable:
            try:
                waiting = waiting[os.write(stdin, waiting[:65536]) :]
            except OSError:  # it does not read
                waiting = waiting[:0]
        if readable:
            chunk = os.read(stdout, 65536)
            output += chunk
            if not chunk and status is None:  # closed its output, but lives
                readable = []
                time.sleep(POLL_SECONDS / 10)
        if len(output) > limits["output_bytes"]:
            fault = "too much output"
        elif time.monotonic() > deadline:
            fault = "out of time"
        elif _over_memory(limits):
            fault = "out of memory or processes"
        elif status is not None and not (readable and chunk):
            fault = _fault_of(status)
        else:
            continue
        if stdin >= 0:
            os.close(stdin)
        return bytes(output[: limits["output_bytes"]]), fault


def _fault_of(status: int) -> str:
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return "out of time"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}" if status else ""


def _over_memory(limits: dict) -> bool:
    """Whether all processes of the cell together hold too much, or are too many. In a cell /proc shows no others."""
    if os.getpid() != 1:
        return False
    processes = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    resident = 0
    for name in processes:
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/statm", "rb") as file:
            resident += int(file.read().split()[1]) * PAGE
    return resident > limits["memory_bytes"] or len(processes) > limits["processes"] + 1


def _end_everyone(child: int) -> None:
    """Kill and reap all that the candidate left. In a cell that is everyone else."""
    while True:
        for target in [-1] if os.getpid() == 1 else [-child, *_children()]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Children of this process, orphans of the candidate among them."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(name) for name in file.read().split()]


# The rest runs in the candidate's process.


def _candidate(request: dict, given: object, stdin: int, result: int) -> None:
    """Become the candidate: run its code and write what comes of it to `result`. Never returns."""
    limits = request["limits"]
    os.setsid()
    os.dup2(stdin, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(result if request["function"] is None else nowhere, 1)
    os.dup2(nowhere, 2)
    channel = os.dup2(result, 3, inheritable=False) if request["function"] is not None else -1
    os.closerange(4 if channel == 3 else 3, 256)
    ctypes.CDLL(None).prctl(SET_DUMPABLE, 1, 0, 0, 0)  # else its own /proc/self is closed to it
    _limit(limits)
    name, code = request["function"], request["code"]
    request.clear()
    status = 0
    builtins.exit = builtins.quit = sys.exit  # what `site` would have done
    sys.argv[:] = ["solution.py"]
    space = {"__name__": "__main__" if name is None else "solution", "__builtins__": builtins}
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    try:
        exec(compile(code, "solution.py", "exec"), space)
        if name is not None:
            function = getattr(space["Solution"](), name) if "Solution" in space else space[name]
            text = json.dumps(function(*given)).encode()
            while text:
                text = text[os.write(channel, text) :]
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        status = 1
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(status & 255)


def _limit(limits: dict) -> None:
    """What the kernel enforces for every process that comes from here."""
    cpu = max(1, int(limits["seconds"] + 0.5))
    for name, most in (
        ("CPU", cpu),
        ("AS", limits["memory_bytes"]),
        ("FSIZE", limits["file_bytes"]),
        ("NOFILE", 64),
        ("CORE", 0),
        ("MSGQUEUE", 0),
        ("STACK", 64 << 20),
        *([("NPROC", limits["processes"])] if os.getpid() != 1 and os.getppid() == 1 else []),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    sys.setrecursionlimit(10_000)
    # Ends the program without a word, so that nothing can catch it.
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


if __name__ == "__main__":
    main()
