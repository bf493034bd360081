"""What every script shares: the common flags, one print helper, and exit statuses that tell failure from preemption."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from nano3.errors import Preempted, UserError

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try the same command again

# Threads of OpenMP wait for each other at a few hundred places of a step. By default they spin for milliseconds, which
# makes training several times slower on a machine that does something else as well. Read when torch is imported.
SPINS = "2000"

_log: TextIO | None = None


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that all scripts take: --recipe, --output, --log, --trust-inputs."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--recipe", type=Path, required=True, help="recipe file, e.g. config/recipes/tiny.yaml")
    result.add_argument("--output", type=Path, required=True, help="the artifact to make")
    result.add_argument("--log", type=Path, help="also write every message to this file")
    result.add_argument("--trust-inputs", action="store_true", help="check sizes of input files but not their hashes")
    return result


def parse(arguments: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv` and open the log file that `say` writes to.

    Rules hand artifacts over by their manifest; a path to a `manifest.json` is turned into its directory."""
    global _log
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    parsed = arguments.parse_args(argv)
    for name, value in vars(parsed).items():
        if isinstance(value, list):
            setattr(parsed, name, [_artifact(entry) for entry in value])
        else:
            setattr(parsed, name, _artifact(value))
    if getattr(parsed, "log", None):
        parsed.log.parent.mkdir(parents=True, exist_ok=True)
        _log = parsed.log.open("w", buffering=1)
    return parsed


def _artifact(value: Any) -> Any:
    is_manifest = isinstance(value, Path) and value.name == "manifest.json"
    return value.parent if is_manifest else value


def say(message: str = "") -> None:
    """Print one message to standard output and to the log file.

    A reader that went away (a closed pipe, after Ctrl-C on a pipeline) must not stop a job that is about to
    save a checkpoint, so a broken pipe is ignored."""
    if _log is not None:
        _log.write(message + "\n")
    try:
        print(message, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _fail(message: str) -> NoReturn:
    """Exit with status 1 and a message on the error stream, and in the log if there is one."""
    if _log is not None:
        _log.write(f"error: {message}\n")
    sys.exit(f"error: {message}")


def run(main: Callable[[], object]) -> None:
    """Run a script's `main` and exit: 0 done, 1 an error, 75 preempted and saved, 130 interrupted."""
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except Preempted as reason:
        say(f"stopped: {reason}")
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(128 + signal.SIGINT)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "nano3":
            raise
        _fail(
            f"{sys.executable} has no package {error.name!r}.\n"
            "  Activate the environment that has it (. .venv/bin/activate), or set one up as the README says."
        )
    except Exception:
        if _log is not None:
            _log.write(traceback.format_exc())
        raise
