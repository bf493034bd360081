"""Cells with a warden in them, one for every program; they are forked from one process that has all it needs loaded."""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from nano3.errors import UserError
from nano3.sandbox import launch

WARDEN = Path(__file__).with_name("warden.py")
ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}

_lock = threading.Lock()
_server: subprocess.Popen | None = None
_control: socket.socket | None = None
_owner: int | None = None  # a forked process must not talk to its parent's server


@contextlib.contextmanager
def cell(seconds: float, file_bytes: int) -> Iterator[tuple[BinaryIO, BinaryIO, Callable[[], None]]]:
    """(where the warden reads its request, where it replies, what kills it) of a new cell; the end kills it, too.

    seconds: life of the cell; file_bytes: size of its /tmp. Raises UserError where nothing can hold a program.
    """
    if launch.kind() == "namespaces":
        with _forked({"seconds": seconds, "file_bytes": file_bytes}) as parts:
            yield parts
        return
    with tempfile.TemporaryDirectory(prefix="nano3-sandbox-") as directory:
        child = subprocess.Popen(
            launch.command({"warden": str(WARDEN), "binds": []}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd=directory,
            start_new_session=True,
        )
        try:
            yield child.stdin, child.stdout, child.kill
        finally:
            child.kill()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()
            child.wait()


@contextlib.contextmanager
def _forked(settings: dict) -> Iterator[tuple[BinaryIO, BinaryIO, Callable[[], None]]]:
    """A cell from the server."""
    (stdin, requests), (replies, stdout) = os.pipe(), os.pipe()
    with open(requests, "wb") as requesting, open(replies, "rb") as replying:
        try:
            process = _ask(json.dumps(settings).encode(), [stdin, stdout])
        finally:
            os.close(stdin)
            os.close(stdout)

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)

        try:
            yield requesting, replying, kill
        finally:
            kill()
            select.select([process], [], [], 1.0)  # until it is gone
            os.close(process)
            with contextlib.suppress(BrokenPipeError):
                requesting.close()


def _ask(message: bytes, pipes: list[int]) -> int:
    """File descriptor of a new cell's process. Starts the server where there is none; tries a broken one once more."""
    with _lock:
        for _ in range(2):
            control = _running()
            try:
                socket.send_fds(control, [message], pipes)
                _, descriptors, _, _ = socket.recv_fds(control, 64, 1)
                if descriptors:
                    return descriptors[0]
            except OSError:
                pass
            stop()
    raise UserError(f"{WARDEN.with_name('cell.py')} does not start cells; run tests/test_sandbox.py to see why")


def _running() -> socket.socket:
    global _server, _control, _owner
    if _control is None or _owner != os.getpid():
        stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _server = subprocess.Popen(
                launch.command({"warden": str(WARDEN), "binds": [], "owner": os.getpid()}),
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        _control, _owner = ours, os.getpid()
    return _control


def stop() -> None:
    """End the server, if this process has one."""
    global _server, _control
    if _control is not None:
        _control.close()
        if _owner == os.getpid():
            _server.kill()
            _server.wait()
    _server = _control = None


atexit.register(stop)
