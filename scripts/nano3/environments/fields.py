"""Reading the verifier fields of a NeMo-Gym row, with errors that name what is missing."""

from nano3.errors import UserError


def field(row: dict, name: str, kind: type | tuple[type, ...]) -> object:
    """The verifier field `name`: at the top level of the row, or in `verifier_metadata` as newer Gym rows have it.

    Raises UserError when it is missing or of another type.
    """
    value = row.get(name)
    if value is None:
        value = (row.get("verifier_metadata") or {}).get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(each.__name__ for each in kinds)
        raise UserError(
            f"{describe(row)}: field {name!r} is {value!r:.80}, expected {expected}. "
            "Was the row stripped of its verifier fields, or sent to the wrong environment?"
        )
    return value


def optional(row: dict, name: str, choices: tuple[str, ...]) -> str:
    """A mode field: its value, or the first choice when absent. Raises UserError for a value not offered."""
    value = row.get(name) or (row.get("verifier_metadata") or {}).get(name) or choices[0]
    if value not in choices:
        raise UserError(f"{describe(row)}: {name} {value!r} is unknown, expected one of {', '.join(choices)}")
    return value


def describe(row: dict) -> str:
    """Which row this is, for error messages."""
    agent = (row.get("agent_ref") or {}).get("name", "no agent_ref")
    return f"row {row.get('id', '?')} of {row.get('dataset', 'unnamed data')} ({agent})"
