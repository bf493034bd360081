"""Enter a cell: a process in namespaces of its own, with a root directory that holds an interpreter and nothing else.

Runs as a program of its own, `python -I -S cell.py SETTINGS`, and imports nothing of the project, so that nothing of
the project is in the memory of what runs inside. Settings with a "program" make one cell for it; settings with a
"warden" make a cell for every request, see `serve`. Needs Linux 5.12 (mount_setattr) and user namespaces; root needs no
permission for those, other users the kernel's. The way is bubblewrap's: a tmpfs becomes the root, what is needed of
the old root is bound read-only, the old root goes away, every capability is dropped.

Exit status REFUSED with one line on standard error when the kernel does not allow it.
"""

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
import types

REFUSED = 77

# <linux/sched.h>, <sys/mount.h>, <linux/prctl.h>
NEW_CGROUP, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET, NEW_MOUNT = (
    0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
SET_DEATH_SIGNAL, DROP_BOUNDING, NO_NEW_PRIVILEGES = 1, 24, 38
MOUNT_SETATTR, RECURSIVELY, AT_FDCWD = 442, 0x8000, -100
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPABILITY_VERSION_3 = 0x20080522

DEVICES = ("null", "zero", "full", "random", "urandom")
INSIDE_USER = 1000  # as whom the candidate runs when the host is root

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    """A C library call; OSError with its name when it fails."""
    wrapped = [each.encode() if isinstance(each, str) else each for each in arguments]
    result = getattr(_libc, name)(*wrapped)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{tuple(arguments)}: {os.strerror(number)}")
    return result


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def _read_only(target: str) -> None:
    """Make a mount and all below it read-only, without set-user-id programs and devices."""
    attributes = struct.pack("QQQQ", READ_ONLY | NO_SUID | NO_DEV, 0, 0, 0)
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, target, RECURSIVELY, attributes, len(attributes))


def enter(settings: dict) -> None:
    """Leave the host behind. Returns in a new process, the first of its namespaces; the calling process stays outside,
    waits, and exits as the inner one does.

    settings: {"binds": [paths to see, read-only], "file_bytes": size of /tmp, "seconds": life of the
    cell, or null where it ends with its standard input}.
    """
    if settings["seconds"] is not None:
        signal.alarm(int(settings["seconds"]) + 1)  # should whoever started this be gone
    _unshare()
    inner = os.fork()
    if inner:
        for number in range(3):  # the pipes close when the last process inside is gone
            os.close(number)
        status = os.waitpid(inner, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    signal.alarm(0)
    _call("prctl", SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    _new_root(settings["binds"], settings["file_bytes"])
    _no_shared_memory()
    _drop_privileges()
    _call("prctl", SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # a change of user clears it


def _unshare() -> None:
    """New namespaces of every kind. Users: 0 inside is the caller; for root also INSIDE_USER, a user nobody else is."""
    user, group, me = os.getuid(), os.getgid(), os.getpid()
    ready = os.pipe()
    helper = os.fork()  # a second user can be mapped only from outside
    if not helper:
        os.close(ready[1])
        status = 1
        try:
            if os.read(ready[0], 1):
                _map_users(me, user, group)
                status = 0
        finally:
            os._exit(status)
    _call("unshare", NEW_USER | NEW_MOUNT | NEW_PID | NEW_NET | NEW_IPC | NEW_UTS | NEW_CGROUP)
    os.write(ready[1], b"x")
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("the kernel refused the user mapping")
    for number in ready:
        os.close(number)


def _map_users(pid: int, user: int, group: int) -> None:
    # A number of its own for every cell: limits on processes count by user.
    more = f"{INSIDE_USER} {(1 << 30) + pid} 1\n" if user == 0 else ""
    if user:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"0 {user} 1\n{more}")
    _write(f"/proc/{pid}/gid_map", f"0 {group} 1\n{more}")


def _new_root(binds: list[str], file_bytes: int) -> None:
    _mount("none", "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", NO_SUID | NO_DEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    os.chdir("/tmp")
    _call("syscall", PIVOT_ROOT[os.uname().machine], b".", b"old")
    os.chdir("/")
    os.mkdir("/tmp")  # first, since a bind may lie below it: a checkout in /tmp
    _mount("tmpfs", "/tmp", "tmpfs", NO_SUID | NO_DEV, f"size={file_bytes},nr_inodes=1000,mode=1777")
    for path in binds:
        if os.path.islink(f"/old{path}"):  # /lib -> usr/lib
            os.symlink(os.readlink(f"/old{path}"), path)
        else:
            os.makedirs(path, exist_ok=True)
            _mount(f"/old{path}", path, None, BIND | RECURSIVE)
            _read_only(path)
    os.mkdir("/dev")
    for device in DEVICES:
        os.close(os.open(f"/dev/{device}", os.O_CREAT))
        _mount(f"/old/dev/{device}", f"/dev/{device}", None, BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.mkdir("/proc")
    _mount("proc", "/proc", "proc", NO_SUID | NO_DEV | NO_EXEC)
    _call("umount2", "/old", DETACH)
    os.rmdir("/old")
    _mount("none", "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)
    os.chdir("/tmp")


def _no_shared_memory() -> None:
    """System V segments outlive and escape every limit on processes, and a cell within the cell is not needed."""
    for name in ("kernel/shmmni", "user/max_user_namespaces"):
        with contextlib.suppress(OSError):  # older kernels do not let a namespace set them
            _write(f"/proc/sys/{name}", "0")
    _mount("/proc/sys", "/proc/sys", None, BIND | RECURSIVE)
    _read_only("/proc/sys")  # 0 inside may be the owner of these


def _drop_privileges() -> None:
    if _mapped(INSIDE_USER):
        os.setgroups([])
        os.setresgid(INSIDE_USER, INSIDE_USER, INSIDE_USER)
    last = int(_read("/proc/sys/kernel/cap_last_cap"))
    for capability in range(last + 1):
        _call("prctl", DROP_BOUNDING, capability, 0, 0, 0)
    if _mapped(INSIDE_USER):
        os.setresuid(INSIDE_USER, INSIDE_USER, INSIDE_USER)
    header, none = struct.pack("Ii", CAPABILITY_VERSION_3, 0), struct.pack("6I", *[0] * 6)
    _call("capset", header, none)
    _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _mapped(user: int) -> bool:
    return any(line.split()[0] == str(user) for line in _read("/proc/self/uid_map").splitlines())


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def serve(settings: dict) -> None:
    """Make a cell for every message on standard input, a socket: {"seconds", "file_bytes"} and two pipes, for standard
    input and output of the cell. Answers with a file descriptor of the process to kill. Ends with the socket.

    A cell that is forked from here needs no interpreter to start and no packages to load: a fifth of the time.
    """
    import socket

    control = socket.socket(fileno=os.dup(0))
    warden = compile(_read(settings["warden"]), "warden", "exec")
    while True:
        message, pipes, _, _ = socket.recv_fds(control, 4096, 2)
        if not message:
            return
        child = os.fork()
        if not child:
            control.close()
            os.setsid()
            for number, pipe in enumerate(pipes):
                os.dup2(pipe, number)
                os.close(pipe)
            _become(settings | json.loads(message), warden)
        process = os.pidfd_open(child)
        socket.send_fds(control, [b"started"], [process])
        for number in (process, *pipes):
            os.close(number)
        with contextlib.suppress(ChildProcessError):  # those that ended meanwhile
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _become(settings: dict, warden: types.CodeType | None) -> None:
    """Enter a cell, then serve in this process, or become the program that the settings name. Never returns."""
    try:
        enter(settings)
    except (OSError, KeyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(REFUSED)
    if warden is None:
        os.execve(settings["program"][0], settings["program"], dict(os.environ))
    try:
        exec(warden, {"__name__": "__main__"})
    finally:
        os._exit(0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "warden" in given:
        serve(given)
    else:
        _become(given, None)
