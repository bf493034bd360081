"""Run untrusted Python text in a cell; only plain data goes in and comes out.

    outcomes = run("print(int(input()) ** 2)", ["3\n", "4\n"])      # [Outcome("9\n"), Outcome("16\n")]
    outcomes = run("def f(a, b): return a + b", [[1, 2]], function="f")     # [Outcome("3")], JSON of the result

What is expected of a program must never be given to it: compare outcomes here, in the caller's process.
"""

import contextlib
import json
import threading
from dataclasses import asdict, dataclass

from nano3.sandbox.cells import cell

_REPLY_OVERHEAD = 1000  # bytes of JSON around an output


@dataclass(frozen=True)
class Limits:
    """What one program may use. Memory and processes count for all that it starts, together."""

    seconds: float = 10.0  # wall and CPU, for one input
    total_seconds: float = 60.0  # wall, for all inputs
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20  # for one input
    file_bytes: int = 16 << 20
    processes: int = 16
    stop_at_fault: bool = True  # leave out the inputs after the first that fails


@dataclass(frozen=True)
class Outcome:
    """What came of one input: the output as text, and why there is none or not all of it ("" when all went well)."""

    output: str
    fault: str = ""


USUAL_LIMITS = Limits()


def run(code: str, inputs: list, *, function: str | None = None, limits: Limits = USUAL_LIMITS) -> list[Outcome]:
    """The outcomes of a program for `inputs`, in order; shorter than `inputs` where `limits.stop_at_fault` ended it.

    function None: every input is a text for standard input, the output is what is written to standard output. Else
    every input is a list of arguments of that function (or method of a class Solution), the output is JSON of its
    result. Raises UserError where this machine can't hold a program; nothing that the program does raises.
    """
    request = {"code": code, "function": function, "inputs": inputs, "limits": asdict(limits)}
    body = json.dumps(request).encode()
    most = (limits.output_bytes * 6 + _REPLY_OVERHEAD) * len(inputs)  # JSON writes a byte in six at most
    lines = _exchange(body, limits, most).splitlines()
    outcomes = []
    for line in lines[: len(inputs)]:
        try:
            reply = json.loads(line)
            outcomes.append(Outcome(str(reply["output"]), str(reply["fault"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            break
    done = len(outcomes) == len(inputs) or (limits.stop_at_fault and outcomes and outcomes[-1].fault)
    return outcomes if done else [*outcomes, Outcome("", "ended without a result")]


def _exchange(body: bytes, limits: Limits, most: int) -> bytes:
    """Give a new cell the request; its replies, at most `most` bytes."""
    seconds = limits.total_seconds + 1
    with cell(seconds, 4 * limits.file_bytes) as (requests, replies, kill):
        watchdog = threading.Timer(seconds, kill)
        watchdog.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                requests.write(body)
                requests.close()
            return replies.read(most)
        finally:
            watchdog.cancel()
