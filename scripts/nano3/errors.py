"""The two exceptions that a script turns into an exit status instead of a traceback."""


class UserError(Exception):
    """Something the user can mend. The message says what was found, what was expected and what to change."""


class Preempted(Exception):
    """The job was asked to stop and has saved its state; the same command goes on from there (exit 75)."""
