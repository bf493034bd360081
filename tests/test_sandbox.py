"""The sandbox: attacks score nothing and leave nothing, honest programs pass, and quickly."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from nano3 import environments, sandbox
from nano3.environments import code_gen
from nano3.errors import UserError
from nano3.sandbox import cells, launch

ATTACKS = Path(__file__).with_name("sandbox_attacks")
ANSWER = "hidden-answer-" + str(4711 * 3)  # in this process's memory only


def row(form):
    """A task that no attack knows how to do, for a function and for a program."""
    if form == "function":
        tests = {"inputs": ["3", "4"], "outputs": [f'"{ANSWER}"', '"other"'], "fn_name": "solve"}
    else:
        tests = {"inputs": ["3\n", "4\n"], "outputs": [f"{ANSWER}\n", "other\n"], "fn_name": None}
    return {"id": 1, "agent_ref": {"name": "code_gen_simple_agent"}, "verifier_metadata": {"unit_tests": tests}}


def score(example, code):
    return environments.verify(example, f"</think>```python\n{code}\n```")


HONEST = {
    "function": f'def solve(n):\n    return {{3: "{ANSWER}"}}.get(n, "other")',
    "program": f'print({{3: "{ANSWER}"}}.get(int(input()), "other"))',
}


# Attacks need not be given ten seconds. The odd number tells the cells of this process from those of others.
QUICK = sandbox.Limits(seconds=2.0, total_seconds=4.0 + os.getpid() / 1e7)

MARK = f'"seconds": {QUICK.total_seconds + 1}'


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(code_gen, "LIMITS", QUICK)


@pytest.fixture(autouse=True)
def nothing_under_way():
    """The server of cells is up and has none: what a test finds before it starts is what it must find afterwards."""
    if launch.kind() == "namespaces":
        sandbox.run("", [""])
        deadline = time.monotonic() + 5
        while len(in_cells()) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A file with the answer, beside the directory that temporary files go to."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    file = tmp_path / "answer.txt"
    file.write_text(ANSWER)
    return file


@pytest.fixture
def listener():
    """A server on the loopback that tells the answer, and one on an abstract Unix socket."""
    served = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0nano3-sandbox-{server.getsockname()[1]}")
        local.listen()

        def serve(listening):
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                served.append(connection)
                connection.sendall(ANSWER.encode())
                connection.close()

        threads = [threading.Thread(target=serve, args=[each], daemon=True) for each in (server, local)]
        for thread in threads:
            thread.start()
        yield server.getsockname()[1], served
        for each in (server, local):
            each.shutdown(socket.SHUT_RDWR)


def descendants():
    return [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]


def in_cells():
    """Processes of this process's cells, wherever they have gone: forks keep the command line."""
    mark = f'"owner": {os.getpid()}'
    return {each.pid for each in psutil.process_iter(["cmdline"]) if mark in str(each.info["cmdline"])}


def traces(secret):
    """What an attack could have left: processes, files, mounts, memory that belongs to no process."""
    return {
        "processes": {each.pid for each in descendants()},
        "in cells": in_cells(),
        "files": sorted(map(str, secret.parent.rglob("*"))),
        "secret": (secret.read_text(), secret.stat().st_mode, secret.stat().st_mtime_ns),
        "mounts": Path("/proc/self/mounts").read_text(),
        "segments": Path("/proc/sysvipc/shm").read_text(),
        "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    }


def settled(secret, before):
    """The traces, once the kernel has had a second to tidy up."""
    for _ in range(50):
        if (now := traces(secret)) == before:
            break
        time.sleep(0.02)
    return now


@pytest.mark.parametrize("form", ["function", "program"])
@pytest.mark.parametrize("attack", sorted(path.stem for path in ATTACKS.glob("*.py")))
def test_an_attack_scores_zero_in_bounded_time_and_leaves_no_trace(attack, form, quick, secret, listener):
    port, served = listener
    code = (ATTACKS / f"{attack}.py").read_text().replace("PORT", str(port)).replace("SECRET", str(secret))
    before = traces(secret)
    start = time.monotonic()
    reward = score(row(form), code)
    assert time.monotonic() - start < 15
    assert reward.value == 0.0 and reward.reason and ANSWER not in reward.reason.partition("expected")[0], reward
    assert settled(secret, before) == before
    assert not served
    assert score(row(form), HONEST[form]).value == 1.0
    assert psutil.virtual_memory().available > 1 << 30


@pytest.mark.parametrize("form", ["function", "program"])
def test_the_attack_on_a_task_that_it_happens_to_solve_is_told_apart_by_its_output_alone(form):
    """There is no verdict inside to forge: the right output counts whatever else the program does."""
    assert score(row(form), HONEST[form] + "\nimport builtins\nbuiltins.print = None").value == 1.0


def test_a_program_sees_no_environment_no_network_and_no_home(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    code = """
import os, socket
print("SOME_TOKEN" in os.environ, [name for name in os.listdir("/") if name in ("home", "work", "etc", "var", "root")
      and os.listdir("/" + name) and name != "root"])
print(sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1], os.getppid(), os.listdir("."))
print([name for _, name in socket.if_nameindex() if name != "lo"])
"""
    (outcome,) = sandbox.run(code, [""])
    assert outcome == sandbox.Outcome("False []\n[0, 1, 2] 1 []\n[]\n")


def test_limits_end_a_program_with_a_reason():
    limits = sandbox.Limits(seconds=0.5, memory_bytes=200 << 20, output_bytes=1000)
    faults = {
        "while True: pass": "out of time",
        "import time; time.sleep(9)": "out of time",
        "print('x' * 2000)": "too much output",
        "b = b'x' * (1 << 30)": "exit status 1",
        "open('f', 'wb').write(b'x' * (1 << 25))": "exit status 1",
        "import os; os.kill(os.getpid(), 11)": "killed by signal 11",
        "raise SystemExit(3)": "exit status 3",
        "(": "exit status 1",
        "f(" * 5000 + ")" * 5000: "exit status 1",
    }
    for code, fault in faults.items():
        (outcome,) = sandbox.run(code, [""], limits=limits)
        assert outcome.fault.startswith(fault), (code[:50], outcome.fault)


def test_every_input_has_a_process_of_its_own():
    code = "import builtins\nprint(getattr(builtins, 'seen', 'nothing'))\nbuiltins.seen = input()"
    assert sandbox.run(code, ["a\n", "b\n"]) == [sandbox.Outcome("nothing\n")] * 2


def test_programs_read_input_in_every_usual_way():
    for reading in ("input()", "open(0).read().strip()", "__import__('sys').stdin.readline().strip()"):
        assert sandbox.run(f"print({reading})\nexit()", ["hé\n"]) == [sandbox.Outcome("hé\n")]
    large = "1 " * 500_000
    assert sandbox.run("import sys\nprint(len(sys.stdin.buffer.read()))", [large])[0].output == "1000000\n"
    assert sandbox.run("print(open('/dev/stdin').read())", ["x"])[0].output == "x\n"


def test_a_method_of_a_solution_class_is_called_like_a_function():
    code = "class Solution:\n    def add(self, a, b):\n        return a + b"
    assert sandbox.run(code, [[1, 2], [[1], [2]]], function="add") == [sandbox.Outcome("3"), sandbox.Outcome("[1, 2]")]


def test_the_inputs_after_a_fault_are_left_out_unless_asked_for():
    code = "print(1 // int(input()))"
    assert len(sandbox.run(code, ["0", "1", "1"])) == 1
    outcomes = sandbox.run(code, ["0", "1", "1"], limits=sandbox.Limits(stop_at_fault=False))
    assert [bool(outcome.fault) for outcome in outcomes] == [True, False, False]


def test_a_dead_server_of_cells_is_replaced_and_a_forked_process_has_its_own():
    assert sandbox.run("print(1)", [""]) == [sandbox.Outcome("1\n")]
    cells._server.kill()
    assert sandbox.run("print(1)", [""]) == [sandbox.Outcome("1\n")]
    child = os.fork()
    if not child:
        os._exit(sandbox.run("print(2)", [""]) != [sandbox.Outcome("2\n")])
    assert os.waitpid(child, 0)[1] == 0
    assert sandbox.run("print(1)", [""]) == [sandbox.Outcome("1\n")]


def test_twenty_trivial_programs_a_second():
    example = {"inputs": ["1", "2"], "outputs": ["2", "4"], "fn_name": "double"}
    example = row("function") | {"verifier_metadata": {"unit_tests": example}}
    code = "def double(n):\n    return 2 * n"
    score(example, code)  # finds out how this machine holds programs
    best = 0.0
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):  # other work on the machine slows some rounds
            start = time.perf_counter()
            rewards = list(pool.map(lambda _: score(example, code), range(40)))
            assert all(reward.value == 1.0 for reward in rewards)
            best = max(best, len(rewards) / (time.perf_counter() - start))
    print(f"{best:.0f} verdicts a second")
    assert best >= 20


# How the machine holds programs


@pytest.fixture
def nothing_works(monkeypatch):
    monkeypatch.setattr(launch, "_possible", lambda: ())
    yield
    sandbox.allow_unsafe(False)


def test_where_nothing_can_hold_a_program_none_runs(nothing_works):
    with pytest.raises(UserError, match=r"bubblewrap.*allow_unsafe: true"):
        sandbox.run("print(1)", [""])


def test_allow_unsafe_runs_programs_with_limits_alone(nothing_works, secret):
    sandbox.allow_unsafe(True)
    assert sandbox.kind() == "unsafe"
    assert sandbox.run("print(open('x', 'w').write(input()))", ["ab\n"]) == [sandbox.Outcome("2\n")]
    before = traces(secret)
    code = (ATTACKS / "daemons.py").read_text()
    assert sandbox.run(code, [""], limits=sandbox.Limits(seconds=2)) == [sandbox.Outcome("")]
    assert settled(secret, before) == before


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
@pytest.mark.parametrize("attack", ["os_exit", "daemons", "read_proc", "connect", "sibling_files"])
def test_bubblewrap_holds_them_too(attack, monkeypatch, quick, secret, listener):
    monkeypatch.setattr(launch, "_possible", lambda: ("bubblewrap",))
    assert score(row("program"), HONEST["program"]).value == 1.0
    code = (ATTACKS / f"{attack}.py").read_text().replace("PORT", str(listener[0])).replace("SECRET", str(secret))
    before = traces(secret)
    assert score(row("program"), code).value == 0.0
    assert settled(secret, before) == before and not listener[1]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_privileges_can_hold_programs():
    interpreter = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)), None)
    if interpreter is None:
        pytest.skip("no interpreter that every user may run")
    code = """
import os
print(os.getuid(), os.listdir('/tmp'), os.getpid(), open('/proc/self/status').read().count('0000000000000000') >= 5)
for path in ('/proc/sys/kernel/shmmni', '/usr/x', '/x'):
    try:
        open(path, 'w').write('9')
        print('wrote', path)
    except OSError:
        pass
"""
    program = [interpreter, "-I", "-S", "-c", code]
    binds = ["/usr", "/bin", "/lib", "/lib64"]
    settings = json.dumps({"binds": binds, "file_bytes": 1 << 20, "seconds": 5, "program": program})
    source = Path(launch.__file__).with_name("cell.py").read_text()
    done = subprocess.run(
        [interpreter, "-I", "-S", "-c", source, settings],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        env={},
        cwd="/",
    )
    assert done.stdout == "0 [] 1 True\n", done.stderr


@pytest.mark.parametrize("kind", ["namespaces", "bubblewrap"])
def test_what_a_program_is_shown_may_lie_below_tmp(kind):
    if kind == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # as of a checkout in /tmp
        os.chmod(directory, 0o755)
        shown = Path(directory, "shown.txt")
        shown.write_text("seen")
        code = f"import os; open('/tmp/own', 'w'); print(open({str(shown)!r}).read(), sorted(os.listdir('/tmp')))"
        program = [launch._python(), "-I", "-S", "-c", code]
        settings = {"program": program, "binds": [*launch._python_binds(), directory], "file_bytes": 1 << 20}
        command = launch._COMMANDS[kind](settings | {"seconds": 10})
        found = subprocess.run(command, capture_output=True, text=True, env={}, timeout=20)
    assert found.stdout == f"seen {sorted(['own', Path(directory).name])}\n", found.stderr
