r"""Multiple choice whose answer can be computed from the question; the reply is the letter in \boxed{}."""

import random
from collections.abc import Sequence

from nano3.data.generators.arithmetic import addition_trace, distinct_numbers, maximum_trace
from nano3.data.generators.problem import MCQA, Problem, assistant, user
from nano3.errors import UserError

LEVELS = (1, 6)  # digits of the numbers; words are two letters longer
KINDS = ("largest", "sum", "reverse", "length", "even")
LETTERS = "ABCDEFGH"

_CONSONANTS, _VOWELS = "bdfgklmnprst", "aeiou"


def draw(rng: random.Random, level: int, kinds: Sequence[str] = KINDS, options: int = 4) -> Problem:
    """A question with `options` options (2 to 8), one of them right."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise UserError(f"multiple_choice: unknown kinds {unknown}, expected some of {', '.join(KINDS)}")
    if not 2 <= options <= len(LETTERS):
        raise UserError(f"multiple_choice: {options} options, expected 2 to {len(LETTERS)}")
    kind = rng.choice(kinds)
    key, question, choices, right, working = _QUESTIONS[kind](rng, level, options)
    letter = LETTERS[choices.index(right)]
    listed = "\n".join(f"{name}) {choice}" for name, choice in zip(LETTERS, choices, strict=False))
    asked, reply = user(f"{question}\n{listed}"), f"\\boxed{{{letter}}}"
    offered = [{name: choice} for name, choice in zip(LETTERS, choices, strict=False)]
    verifier = {"options": offered, "expected_answer": letter, "grading_mode": "strict_single_letter_boxed"}
    return Problem(
        key,
        [asked, assistant(reply, f"{working}\n{right} is {letter}")],
        MCQA,
        verifier,
        hasty=[asked, assistant(reply, "I know this.")],
    )


def _largest(rng: random.Random, level: int, count: int):
    numbers = distinct_numbers(rng, count, level)
    key = f"maximum:{','.join(map(str, sorted(numbers)))}"  # as in arithmetic, whose splits it shares
    return key, "Which is the largest?", [*map(str, numbers)], str(max(numbers)), maximum_trace(numbers)


def _sum(rng: random.Random, level: int, count: int):
    a, b = (rng.randrange(10 ** (level - 1) if level > 1 else 0, 10**level) for _ in range(2))
    choices = _with_near_misses(rng, a + b, count)
    key = f"add:{min(a, b)},{max(a, b)}"
    return key, f"Which equals {a}+{b}?", choices, str(a + b), addition_trace(a, b)


def _reverse(rng: random.Random, level: int, count: int):
    word = _made_up_word(rng, level + 2)
    right = word[::-1]
    choices = {right: None}
    while len(choices) < count:
        letters = list(right)
        i, j = rng.sample(range(len(letters)), 2)
        letters[i], letters[j] = letters[j], letters[i]
        if rng.random() < 0.5:
            letters[rng.randrange(len(letters))] = rng.choice(_CONSONANTS)
        choices["".join(letters)] = None
    working = f"{' '.join(word)}\n{' '.join(right)}"
    return f"reverse:{word}", f"Which is {word} backwards?", _shuffled(rng, choices), right, working


def _length(rng: random.Random, level: int, count: int):
    word = _made_up_word(rng, rng.randint(3, level + 3))
    working = " ".join(f"{letter}{position}" for position, letter in enumerate(word, 1))
    choices = _with_near_misses(rng, len(word), count)
    return f"length:{word}", f"How many letters are in {word}?", choices, str(len(word)), working


def _even(rng: random.Random, level: int, count: int):
    digits = level if count <= 5 else max(2, level)  # there are five odd digits
    lowest = 10 ** (digits - 1) if digits > 1 else 0
    wrong = rng.sample(range(lowest + 1, 10**digits, 2), count - 1)
    right = rng.randrange(lowest, 10**digits, 2)
    numbers = [*wrong, right]
    rng.shuffle(numbers)
    working = "last digits " + " ".join(str(number)[-1] for number in numbers)
    key = f"even:{','.join(map(str, sorted(numbers)))}"
    return key, "Which number is even?", [*map(str, numbers)], str(right), working


def _with_near_misses(rng: random.Random, right: int, count: int) -> list[str]:
    """The right number among others that differ a little, in random order."""
    steps = [-3, -2, -1, 1, 2, 3, 10, -10, 11, 9, 20, 5]
    near = [right + step for step in steps if right + step >= 0]
    return _shuffled(rng, [str(number) for number in (right, *rng.sample(near, count - 1))])


def _shuffled(rng: random.Random, choices) -> list[str]:
    choices = list(choices)
    rng.shuffle(choices)
    return choices


def _made_up_word(rng: random.Random, letters: int) -> str:
    start = rng.random() < 0.5
    return "".join(rng.choice(_VOWELS if (position % 2 == 0) == start else _CONSONANTS) for position in range(letters))


_QUESTIONS = {"largest": _largest, "sum": _sum, "reverse": _reverse, "length": _length, "even": _even}
