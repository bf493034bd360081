"""Code with unit tests: "Write f(a, b): the sum of a and b." and a function of one line as the answer.

Kinds are what the line computes; names and wording change from row to row, so both have to be read.
"""

import json
import random
from collections.abc import Sequence

from nano3.data.generators.problem import CODE, Problem, assistant, user
from nano3.errors import UserError

LEVELS = (1, 3)
TESTS = 4

# kind -> (level, what it computes in words, expression, kinds of its arguments, the same in Python)
_KINDS = {
    "add": (1, ("the sum of {a} and {b}", "{a} plus {b}"), "{a}+{b}", "nn", lambda a, b: a + b),
    "subtract": (1, ("{a} minus {b}", "{a} less {b}"), "{a}-{b}", "nn", lambda a, b: a - b),
    "multiply": (1, ("{a} times {b}", "the product of {a} and {b}"), "{a}*{b}", "nn", lambda a, b: a * b),
    "double": (1, ("twice {a}", "the double of {a}"), "2*{a}", "n", lambda a: 2 * a),
    "square": (1, ("the square of {a}", "{a} squared"), "{a}*{a}", "n", lambda a: a * a),
    "larger": (1, ("the larger of {a} and {b}",), "max({a},{b})", "nn", lambda a, b: max(a, b)),
    "smaller": (1, ("the smaller of {a} and {b}",), "min({a},{b})", "nn", lambda a, b: min(a, b)),
    "length": (2, ("the length of the text {a}", "how long the text {a} is"), "len({a})", "t", len),
    "first": (2, ("the first letter of {a}", "the first letter in {a}"), "{a}[0]", "t", lambda a: a[0]),
    "last": (2, ("the last letter of {a}", "the last letter in {a}"), "{a}[-1]", "t", lambda a: a[-1]),
    "reverse": (2, ("the text {a} backwards", "the text {a} in reverse"), "{a}[::-1]", "t", lambda a: a[::-1]),
    "upper": (2, ("the text {a} in capitals",), "{a}.upper()", "t", str.upper),
    "join": (2, ("the text {a}, then the text {b}",), "{a}+{b}", "tt", lambda a, b: a + b),
    "total": (2, ("the sum of the list {a}",), "sum({a})", "l", sum),
    "largest": (2, ("the largest of the list {a}",), "max({a})", "l", max),
    "smallest": (2, ("the smallest of the list {a}",), "min({a})", "l", min),
    "sorted": (2, ("the list {a} in order", "the list {a} sorted"), "sorted({a})", "l", sorted),
    "even": (3, ("whether {a} is even",), "{a}%2==0", "n", lambda a: a % 2 == 0),
    "count": (3, ("how often {b} is in the list {a}",), "{a}.count({b})", "ld", lambda a, b: a.count(b)),
    "repeat": (3, ("the text {a}, {b} times",), "{a}*{b}", "td", lambda a, b: a * b),
    "evens": (3, ("the number of even numbers in {a}",), "sum(x%2==0 for x in {a})", "l",
                lambda a: sum(x % 2 == 0 for x in a)),
    "squares": (3, ("the squares of the list {a}",), "[x*x for x in {a}]", "l", lambda a: [x * x for x in a]),
}  # fmt: skip
KINDS = tuple(_KINDS)
_ASK = (
    "Write {call}: {what}.", "Python: {call} returns {what}.", "Define {call}. It returns {what}.",
    "Code {call} for {what}.",
)  # fmt: skip
_NAMES = "f g h run go solve work make".split()  # noqa: SIM905
_ARGUMENTS = "a b c d m n p q u v".split()  # noqa: SIM905
_LETTERS = "abcdeilmnorst"


def draw(rng: random.Random, level: int, kinds: Sequence[str] = KINDS) -> Problem:
    """A function of a kind up to `level`: 1 numbers, 2 texts and lists, 3 conditions and comprehensions."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UserError(f"code: unknown kinds {unknown}, expected some of {', '.join(KINDS)}")
    possible = [kind for kind in kinds if _KINDS[kind][0] <= level]
    if not possible:
        raise UserError(
            f"code: none of the kinds {list(kinds)} is as easy as level {level}; add one or raise the level"
        )
    kind = rng.choice(possible)
    _, wordings, expression, shapes, function = _KINDS[kind]
    name, arguments = rng.choice(_NAMES), rng.sample(_ARGUMENTS, len(shapes))
    names = dict(zip("ab", arguments, strict=False))
    call = f"{name}({', '.join(arguments)})"
    prompt = rng.choice(_ASK).format(call=call, what=rng.choice(wordings).format(**names))
    line = expression.format(**names)
    code = f"```python\ndef {call}:\n    return {line}\n```"
    cases = [[_value(rng, shape) for shape in shapes] for _ in range(TESTS)]
    tests = {
        "inputs": ["\n".join(json.dumps(value) for value in case) for case in cases],
        "outputs": [json.dumps(function(*case)) for case in cases],
        "fn_name": name,
    }
    return Problem(
        f"{kind}:{call}",
        [user(prompt), assistant(code, line)],
        CODE,
        {"verifier_metadata": {"unit_tests": tests}},
        hasty=[user(prompt), assistant(f"```python\n{line}\n```", "Only the line.")],
    )


def _value(rng: random.Random, shape: str) -> int | str | list[int]:
    """A value of a shape: number, small digit, text or list."""
    match shape:
        case "n":
            return rng.randint(-20, 99)
        case "d":
            return rng.randint(1, 5)
        case "t":
            return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 8)))
        case _:
            return [rng.randint(1, 9) for _ in range(rng.randint(3, 6))]
