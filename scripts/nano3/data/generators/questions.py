"""Open questions with a short answer in words: what comes next, the opposite, the plural, what is where."""

# ruff: noqa: SIM905 (words in a row read better than a list of quoted words)

import random
from collections.abc import Sequence

from nano3.data.generators.problem import OPEN_QA, Problem, assistant, user
from nano3.data.generators.words import ANIMALS, DAYS, ITEMS, plural
from nano3.errors import UserError

LEVELS = (1, 3)  # steps along a row; of "reading": one thing more is told of than that

_MONTHS = "January February March April May June July August September October November December".split()
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")
_ONES = "zero one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = [*_ONES, *_TEENS, *(f"{ten} {one}" if one != "zero" else ten for ten in _TENS for one in _ONES)]
_ROWS = {"day": DAYS, "month": _MONTHS, "letter": _LETTERS, "number": _NUMBERS}
_OPPOSITES = (
    "hot:cold big:small up:down left:right day:night wet:dry old:new fast:slow hard:soft light:dark open:closed "
    "full:empty early:late long:short high:low happy:sad rich:poor strong:weak clean:dirty near:far"
).split()
KINDS = ("next", "opposite", "plural", "reading")


def draw(rng: random.Random, level: int, kinds: Sequence[str] = KINDS) -> Problem:
    """A question whose answer is one or two words."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise UserError(f"questions: unknown kinds {unknown}, expected some of {', '.join(KINDS)}")
    kind = rng.choice(list(kinds))
    key, question, answer, working = _QUESTIONS[kind](rng, level)
    messages = [user(question), assistant(f"The answer is {answer}.", working)]
    hasty = [user(question), assistant(f"It is {answer}, I think.", "I know this.")]
    return Problem(key, messages, OPEN_QA, {"question": question, "expected_answer": answer}, hasty=hasty)


def _next(rng: random.Random, level: int) -> tuple[str, str, str, str]:
    name = rng.choice(list(_ROWS))
    row, steps, forward = _ROWS[name], rng.randint(1, level), rng.random() < 0.5
    place = rng.randrange(steps, len(row) - steps)
    sign = 1 if forward else -1
    passed = [row[place + sign * step] for step in range(steps + 1)]
    where = ("after" if forward else "before") if steps == 1 else f"{_ONES[steps]} {'after' if forward else 'before'}"
    question = rng.choice(("Which {0} comes {1} {2}?", "What {0} is {1} {2}?")).format(name, where, row[place])
    return f"next:{row[place]}:{sign * steps}", question, passed[-1], " ".join(passed)


def _opposite(rng: random.Random, level: int) -> tuple[str, str, str, str]:
    pair = rng.choice(_OPPOSITES).split(":")
    if rng.random() < 0.5:
        pair.reverse()
    question = rng.choice(("What is the opposite of {}?", "Which word is the opposite of {}?")).format(pair[0])
    return f"opposite:{pair[0]}", question, pair[1], f"{pair[0]} or {pair[1]}"


def _plural(rng: random.Random, level: int) -> tuple[str, str, str, str]:
    noun = rng.choice([*ITEMS, *ANIMALS])
    question = rng.choice(("What is the plural of {}?", "One {}, two what?")).format(noun)
    return f"plural:{noun}", question, plural(noun), f"one {noun}, two {plural(noun)}"


def _reading(rng: random.Random, level: int) -> tuple[str, str, str, str]:
    boxes, things = rng.sample(range(10, 100), level + 1), rng.sample(ITEMS, level + 1)
    told = [f"The {thing} is in box {box}." for box, thing in zip(boxes, things, strict=True)]
    asked = rng.randrange(len(told))
    question = f"{' '.join(told)} Where is the {things[asked]}?"
    return f"reading:{boxes}:{things[asked]}", question, f"box {boxes[asked]}", told[asked]


_QUESTIONS = {"next": _next, "opposite": _opposite, "plural": _plural, "reading": _reading}
