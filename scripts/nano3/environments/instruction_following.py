"""Instruction following: code checks every constraint of the row (report section 3.2.1).

Row format of NeMo-Gym's instruction_following:
row["instruction_id_list"] names the constraints, row["kwargs"] holds one object of arguments (or null) for each.
"""

from nano3.environments import ifbench, ifbench_forms, ifeval, iftrain
from nano3.environments.fields import describe, field, optional
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import split_response
from nano3.errors import UserError

KINDS = ifeval.KINDS | iftrain.KINDS | ifbench.KINDS | ifbench_forms.KINDS
GRADING_MODES = ("binary", "fraction")


def verify(row: dict, response: str) -> Reward:
    """binary: 1 if the answer follows all constraints, else 0. fraction: the share that it follows.

    Raises UserError for an unknown constraint, a missing argument or an unknown row["grading_mode"].
    """
    constraints = _constraints(row)
    mode = optional(row, "grading_mode", GRADING_MODES)
    parts = split_response(response)
    if parts.fault:
        return malformed(parts.fault)
    broken = [kind for kind, arguments in constraints if not follows(row, kind, parts.answer, arguments)]
    followed = len(constraints) - len(broken)
    value = followed / len(constraints) if mode == "fraction" else float(not broken)
    reason = f"follows {followed} of {len(constraints)}" + (f", not {', '.join(broken)}" if broken else "")
    return Reward(value, reason, well_formed=True)


def _constraints(row: dict) -> list[tuple[str, dict]]:
    """[(kind, arguments)] of a row, checked against what the kinds take."""
    kinds = field(row, "instruction_id_list", list)
    arguments = field(row, "kwargs", list)
    if not kinds or len(kinds) != len(arguments):
        raise UserError(
            f"{describe(row)}: {len(kinds)} instruction ids and {len(arguments)} kwargs, "
            "expected the same number, at least one"
        )
    result = []
    for kind, given in zip(kinds, arguments, strict=True):
        # Columnar files give every row the union of all arguments, with null for those it does not use.
        used = {name: value for name, value in (given or {}).items() if value is not None}
        follows(row, kind, "", used)  # a wrong argument shows before there is an answer
        result.append((kind, used))
    return result


def follows(row: dict, kind: str, answer: str, arguments: dict) -> bool:
    """Whether an answer follows one constraint. Raises UserError for an unknown kind and arguments it can't use."""
    if kind not in KINDS:
        raise UserError(f"{describe(row)}: instruction {kind!r} is unknown. Known: {', '.join(sorted(KINDS))}")
    try:
        return KINDS[kind](answer, **arguments)
    except (TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{describe(row)}: {kind} can't use kwargs {arguments!r:.80}: {error}") from error
