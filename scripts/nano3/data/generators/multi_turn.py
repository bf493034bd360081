"""Instructions that hold for the whole conversation: given in the first turn, tested in the last."""

import random
from collections.abc import Callable

from nano3.data.generators.open_chat import small_talk
from nano3.data.generators.problem import MULTI_TURN, Problem, assistant, user
from nano3.data.generators.words import ANIMALS, COLORS

LEVELS = (1, 3)  # turns between the instruction and the test

Wish = tuple[str, str, dict, Callable[[str], str]]  # request, constraint, its arguments, what a reply becomes


def draw(rng: random.Random, level: int) -> Problem:
    """A wish, `level` - 1 turns of small talk that heed it, and one more question."""
    request, kind, arguments, heeded = rng.choice(_WISHES)(rng)
    messages = [user(request), assistant(heeded("Yes, I will do that."), "A rule for all replies.")]
    words = [request]
    for _ in range(level):
        question, reply, _ = small_talk(rng)
        messages += [user(question), assistant(heeded(reply), f"The rule: {request}")]
        words.append(question)
    hasty = [*messages[:-1], assistant(reply, "An easy one.")]
    rubric = [{"instruction_id": kind, "kwargs": arguments}]
    return Problem(" | ".join(words), messages, MULTI_TURN, {"rubric": rubric}, hasty=hasty)


def _no_comma(rng: random.Random) -> Wish:
    request = rng.choice(("Never use commas.", "No commas from now on.", "Always write without commas."))
    return request, "punctuation:no_comma", {}, lambda reply: reply.replace(",", "")


def _ending(rng: random.Random) -> Wish:
    word = rng.choice([*ANIMALS, *COLORS])
    request = rng.choice(("Always end with the word {}.", "End every reply with {}.")).format(word)
    return request, "startend:end_checker", {"end_phrase": word}, lambda reply: f"{reply} {word}"


def _quotes(rng: random.Random) -> Wish:
    request = rng.choice(("Put every reply in double quotes.", "Always answer in double quotes."))
    return request, "startend:quotation", {}, lambda reply: f'"{reply}"'


def _keyword(rng: random.Random) -> Wish:
    word = rng.choice([*ANIMALS, *COLORS])
    request = rng.choice(("Say {} in every reply.", "Use the word {} in every reply.")).format(word)
    return request, "keywords:existence", {"keywords": [word]}, lambda reply: f"{word}! {reply}"


_WISHES = (_no_comma, _ending, _quotes, _keyword)
