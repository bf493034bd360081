"""Arithmetic with the working written out, least significant digit first.

A column line says what is added or multiplied, the carry that goes on, and the digits so far:

    47+85
    7+5+0=12 carry 1: 2
    4+8+1=13 carry 1: 32
    carry 1: 132
"""

import random
from collections.abc import Sequence

from nano3.data.generators.problem import MATH, Problem, assistant, user
from nano3.data.generators.words import ITEMS, NAMES, plural
from nano3.errors import UserError

LEVELS = (1, 12)  # digits of the larger operand
OPERATIONS = ("add", "subtract", "multiply", "maximum", "word")

_ASK = {
    "add": ("What is {a}+{b}?", "{a}+{b}=?", "Add {a} and {b}."),
    "subtract": ("What is {a}-{b}?", "{a}-{b}=?", "Subtract {b} from {a}."),
    "multiply": ("What is {a}*{b}?", "{a}*{b}=?", "Multiply {a} by {b}."),
    "maximum": ("What is the largest of {list}?", "Find the maximum: {list}", "Which is largest: {list}?"),
}
_STORIES = {
    "add": (
        "{name} has {a} {items} and gets {b} more. How many {items} now?",
        "{name} finds {a} {items}. {other} finds {b}. How many in all?",
        "A box holds {a} {items}. Another holds {b}. How many together?",
    ),
    "subtract": (
        "{name} has {a} {items} and gives {b} to {other}. How many are left?",
        "There were {a} {items}. {name} took {b}. How many remain?",
        "{name} has {a} {items}. {other} has {b}. How many more has {name}?",
    ),
    "multiply": (
        "{name} has {b} bags with {a} {items} each. How many {items}?",
        "A {item} costs {a} coins. {name} buys {b}. How many coins?",
    ),
}


def draw(rng: random.Random, level: int, operations: Sequence[str] = OPERATIONS, multiplier_digits: int = 1) -> Problem:
    """A problem with operands of up to `level` digits. multiplier_digits: digits of the second factor."""
    unknown = sorted(set(operations) - set(OPERATIONS))
    if unknown or not operations:
        raise UserError(f"arithmetic: unknown operations {unknown}, expected some of {', '.join(OPERATIONS)}")
    operation = rng.choice(operations)
    if operation == "maximum":
        numbers = distinct_numbers(rng, rng.randint(3, 4), level)
        question = rng.choice(_ASK["maximum"]).format(list=", ".join(map(str, numbers)))
        key = f"maximum:{','.join(map(str, sorted(numbers)))}"
        return _problem(key, question, maximum_trace(numbers), max(numbers))
    templates = _ASK
    if operation == "word":
        operation, templates = rng.choice(("add", "subtract", "multiply")), _STORIES
    a, b = _operands(rng, operation, level, multiplier_digits)
    name, other = rng.sample(NAMES, 2)
    item = rng.choice(ITEMS)
    question = rng.choice(templates[operation]).format(a=a, b=b, name=name, other=other, item=item, items=plural(item))
    # Stories share the key of the bare calculation, so that a held-out sum is new in every wording.
    match operation:
        case "add":
            return _problem(f"add:{min(a, b)},{max(a, b)}", question, addition_trace(a, b), a + b)
        case "subtract":
            return _problem(f"subtract:{a},{b}", question, subtraction_trace(a, b), a - b)
        case _:
            return _problem(f"multiply:{min(a, b)},{max(a, b)}", question, multiplication_trace(a, b), a * b)


def addition_trace(a: int, b: int) -> str:
    """a+b by columns."""
    return "\n".join([f"{a}+{b}", *_columns(_digits(a, b), lambda x, y, carry: (f"{x}+{y}+{carry}", x + y + carry))])


def subtraction_trace(a: int, b: int) -> str:
    """a-b by columns, a >= b; a borrowed ten is written in front of the digit. "drop zeros" where the result begins
    with zeros."""
    lines, borrow, done = [f"{a}-{b}"], 0, ""
    for x, y in _digits(a, b):
        top = x + 10 if x < y + borrow else x
        digit = top - y - borrow
        done = f"{digit}{done}"
        borrow_next = int(top > x)
        lines.append(f"{top}-{y}-{borrow}={digit} borrow {borrow_next}: {done}")
        borrow = borrow_next
    if len(done) > len(str(a - b)):
        lines.append(f"drop zeros: {a - b}")
    return "\n".join(lines)


def multiplication_trace(a: int, b: int) -> str:
    """a*b: one column block per digit of b, shifted, then their sum."""
    blocks, total = [], 0
    for place, digit in enumerate(reversed(str(b))):
        pairs = [(int(x), int(digit)) for x in reversed(str(a))]
        lines = _columns(pairs, lambda x, y, carry: (f"{x}*{y}+{carry}", x * y + carry))
        product = a * int(digit) * 10**place
        blocks.append("\n".join([f"{a}*{digit}", *lines]))
        if place:
            blocks.append(f"shift {place}: {product}")
            blocks.append(addition_trace(total, product))
        total += product
    return "\n".join(blocks)


def maximum_trace(numbers: Sequence[int]) -> str:
    """The largest so far, against each next number."""
    lines, best = [], numbers[0]
    for each in numbers[1:]:
        larger = max(best, each)
        lines.append(f"{best}{'<' if best < each else '>'}{each}: {larger}")
        best = larger
    return "\n".join(lines)


def distinct_numbers(rng: random.Random, count: int, digits: int) -> list[int]:
    """Different numbers of at most `digits` digits, most of them of exactly that many."""
    lowest = 10 ** (digits - 1) if digits > 1 and rng.random() < 0.75 else 0
    return rng.sample(range(lowest, 10**digits), count)


def _columns(pairs: list[tuple[int, int]], step) -> list[str]:
    """Column lines for digit pairs, least significant first; step -> (what is computed, its value)."""
    lines, carry, done = [], 0, ""
    for x, y in pairs:
        text, value = step(x, y, carry)
        carry, done = value // 10, f"{value % 10}{done}"
        lines.append(f"{text}={value} carry {carry}: {done}")
    if carry:
        lines.append(f"carry {carry}: {carry}{done}")
    return lines


def _digits(a: int, b: int) -> list[tuple[int, int]]:
    """Pairs of digits of two numbers, least significant first, the shorter one padded with zeros."""
    width = max(len(str(a)), len(str(b)))
    return [(int(x), int(y)) for x, y in zip(f"{a:0{width}}"[::-1], f"{b:0{width}}"[::-1], strict=True)]


def _operands(rng: random.Random, operation: str, level: int, multiplier_digits: int) -> tuple[int, int]:
    a = rng.randrange(10 ** (level - 1) if level > 1 else 0, 10**level)
    if operation == "multiply":
        return a, rng.randrange(2, 10**multiplier_digits)
    b = rng.randrange(0, 10 ** rng.randint(max(1, level - 1), level))
    if operation == "subtract":
        return max(a, b), min(a, b)
    return (a, b) if rng.random() < 0.5 else (b, a)


def _problem(key: str, question: str, trace: str, answer: int) -> Problem:
    reply = f"\\boxed{{{answer}}}"
    return Problem(
        key,
        [user(question), assistant(reply, trace)],
        MATH,
        {"question": question, "expected_answer": str(answer)},
        hasty=[user(question), assistant(reply, "I know this.")],
    )
