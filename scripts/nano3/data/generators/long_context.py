r"""Long context: facts scattered in distracting text, and a question about one of them at the end."""

import random

from nano3.data.generators.problem import MATH, Problem, assistant, user
from nano3.data.generators.words import ANIMALS, CITIES, COLORS, DAYS, ITEMS, NAMES, PLACES, plural
from nano3.errors import UserError

LEVELS = (1, 1000)  # hundreds of words
WORDS_PER_LEVEL = 100

_DISTRACTORS = (
    "{name} walked to the {place} on {day}.",
    "The {animal} slept near the {place}.",
    "{name} bought a {color} {item} in {city}.",
    "On {day} the {place} was closed.",
    "{name} and {other} met at the {place}.",
    "A {color} {animal} ran past the {item}.",
    "It rained in {city} on {day}.",
    "{name} likes {items} and the {place}.",
)
_SHORTEST_DISTRACTOR = 6  # words


def draw(rng: random.Random, level: int, facts: int = 4) -> Problem:
    """A text of about 100 * `level` words with `facts` codes in it, one of which is asked for."""
    if not 1 <= facts <= len(NAMES):
        raise UserError(f"long_context: {facts} facts, expected 1 to {len(NAMES)}")
    holders = rng.sample(NAMES, facts)
    codes = [str(rng.randrange(1000, 10_000)) for _ in holders]
    needles = [f"The code of {name} is {code}." for name, code in zip(holders, codes, strict=True)]
    sentences, words = [], sum(len(needle.split()) for needle in needles)
    while words + _SHORTEST_DISTRACTOR <= level * WORDS_PER_LEVEL:
        sentences.append(distractor(rng))
        words += len(sentences[-1].split())
    # Every fact goes to a place of its own, spread evenly, so that questions reach the whole text.
    for index, needle in enumerate(needles):
        lowest, highest = index * len(sentences) // facts, (index + 1) * len(sentences) // facts
        sentences.insert(rng.randint(lowest, highest) + index, needle)
    asked = rng.randrange(facts)
    question = f"What is the code of {holders[asked]}?"
    prompt = f"{' '.join(sentences)}\n{question}"
    messages = [user(prompt), assistant(f"\\boxed{{{codes[asked]}}}", needles[asked])]
    key = f"{holders[asked]}:{codes[asked]}"
    return Problem(key, messages, MATH, {"question": question, "expected_answer": codes[asked]})


def distractor(rng: random.Random) -> str:
    """A sentence about nothing that is asked."""
    name, other = rng.sample(NAMES, 2)
    return rng.choice(_DISTRACTORS).format(
        name=name,
        other=other,
        place=rng.choice(PLACES),
        day=rng.choice(DAYS),
        animal=rng.choice(ANIMALS),
        color=rng.choice(COLORS),
        item=rng.choice(ITEMS),
        items=plural(rng.choice(ITEMS)),
        city=rng.choice(CITIES),
    )
