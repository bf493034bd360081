"""Code with unit tests: a program passes all of them or scores nothing (report section 3.2.1; NeMo-Gym code_gen).

The program runs in the sandbox, which sees the inputs; what it should have written is compared here.
"""

import json
from decimal import Decimal, InvalidOperation

from nano3 import sandbox
from nano3.environments.fields import describe, field
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import brief, last_code_block, split_response
from nano3.errors import UserError

LIMITS = sandbox.Limits(seconds=10.0, total_seconds=60.0)
MAX_NUMBER_CHARS = 100


def verify(row: dict, response: str) -> Reward:
    """1 if the last code block of the answer passes every test of row["verifier_metadata"]["unit_tests"], else 0.

    unit_tests: {"inputs": [text], "outputs": [text]}: the program reads an input and writes the output. With
    "fn_name", inputs hold one JSON argument a line for that function, outputs JSON of its result. Raises UserError for
    a row whose tests can't be read or would pass an empty program, and where nothing can hold a program.
    """
    function, inputs, outputs = _tests(row)
    parts = split_response(response)
    if parts.fault:
        return malformed(parts.fault)
    code = last_code_block(parts.answer)
    if not code:
        return malformed("no closed code block in the answer")
    outcomes = sandbox.run(code, inputs, function=function, limits=LIMITS)
    for number, (outcome, expected) in enumerate(zip(outcomes, outputs, strict=False), 1):
        if outcome.fault:
            return Reward(0.0, f"test {number} of {len(inputs)}: {outcome.fault}", well_formed=True)
        if not (same_text if function is None else same_json)(outcome.output, expected):
            reason = f"test {number} of {len(inputs)}: {brief(outcome.output)!r}, expected {brief(expected)!r}"
            return Reward(0.0, reason, well_formed=True)
    passed = len(outcomes) == len(inputs)
    return Reward(float(passed), f"{len(outcomes)} of {len(inputs)} tests passed", well_formed=True)


def same_text(output: str, expected: str) -> bool:
    """Equal line by line without surrounding blanks; a line of numbers may write them differently (1.50 for 1.5)."""
    ours, theirs = ([line.split() for line in text.strip().splitlines()] for text in (output, expected))
    if len(ours) != len(theirs):
        return False
    return all(_same_words(left, right) for left, right in zip(ours, theirs, strict=True))


def _same_words(left: list[str], right: list[str]) -> bool:
    return len(left) == len(right) and all(
        one == other or (_decimal(one) is not None and _decimal(one) == _decimal(other))
        for one, other in zip(left, right, strict=True)
    )


def _decimal(word: str) -> Decimal | None:
    if len(word) > MAX_NUMBER_CHARS:
        return None
    try:
        value = Decimal(word)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def same_json(output: str, expected: str) -> bool:
    """Equal as JSON values; numbers by value, but true is not 1."""
    try:
        return _same_value(json.loads(output), json.loads(expected))
    except (ValueError, RecursionError):
        return False


def _same_value(ours: object, theirs: object) -> bool:
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same_value, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same_value(ours[key], theirs[key]) for key in ours)
    return ours == theirs


def _tests(row: dict) -> tuple[str | None, list, list[str]]:
    """(function or None, inputs as the sandbox takes them, expected outputs), checked."""
    tests = field(row, "unit_tests", (dict, str))
    try:
        tests = json.loads(tests) if isinstance(tests, str) else tests
        inputs, outputs, function = tests["inputs"], tests["outputs"], tests.get("fn_name") or None
        if not all(isinstance(text, str) for text in [*inputs, *outputs, function or ""]):
            raise TypeError("inputs, outputs and fn_name must be texts")
        if not inputs or len(inputs) != len(outputs):
            raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs, expected the same number, at least one")
        if function is not None:
            inputs = [[json.loads(line) for line in text.splitlines() if line.strip()] for text in inputs]
            for text in outputs:
                json.loads(text)
        elif not any(text.strip() for text in outputs):
            raise ValueError("every expected output is empty, so a program that does nothing would pass")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{describe(row)}: unit_tests {brief(tests, 80)!r} can't be used ({type(error).__name__}: {error}); "
            'expected {"inputs": [...], "outputs": [...], "fn_name": name or null}'
        ) from error
    return function, inputs, outputs
