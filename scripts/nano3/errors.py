"""The two exceptions that a script turns into an exit status instead of a traceback, and what their messages share."""

from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message says what was found, what was expected and what to change."""


class Preempted(Exception):
    """The job was asked to stop and has saved its state; the same command goes on from there (exit 75)."""


def to_make(target: Path | str, *, force: bool = False) -> str:
    """The command that makes a target on this machine, for messages; force: although it is there."""
    return f"snakemake --profile profiles/local {'--force ' * force}{target}"
