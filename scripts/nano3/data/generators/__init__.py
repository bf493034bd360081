"""Generated tasks with verifiable answers: the tiny recipe's stand-in for the report's synthetic STEM, SFT and RL sets.

One file per family, each with draw(rng, level, **options) -> Problem and LEVELS, the levels it accepts. A problem has
three forms: a document for pretraining, a chat for SFT, a NeMo-Gym row for RL.
"""

import inspect
import random
from collections.abc import Iterable, Iterator

from nano3.data.generators import (
    arithmetic,
    banking,
    code,
    comparison,
    documents,
    instruction_following,
    long_context,
    multi_turn,
    multiple_choice,
    open_chat,
    questions,
    structured_output,
    tool_calls,
    workplace,
)
from nano3.data.generators.problem import FORMS, SPLITS, Problem, row, split_of
from nano3.errors import UserError

FAMILIES = {
    "arithmetic": arithmetic,
    "multiple_choice": multiple_choice,
    "structured_output": structured_output,
    "instruction_following": instruction_following,
    "tool_calls": tool_calls,
    "code": code,
    "questions": questions,
    "documents": documents,
    "multi_turn": multi_turn,
    "workplace": workplace,
    "banking": banking,
    "long_context": long_context,
    "open_chat": open_chat,
    "comparison": comparison,
}
MAX_DRAWS = 5_000  # a split holds one key of 20, so a space without a hit in this many draws holds none


def generate(
    family: str,
    *,
    rows: int,
    seed: int,
    difficulty: tuple[int, int] | dict = (1, 3),
    split: str = "train",
    form: str = "chat",
    hasty: float = 0.0,
    wordy: float = 0.0,
) -> Iterator[dict]:
    """Yield `rows` rows of one family, each with its problem's `key`.

    difficulty: (easiest, hardest) level, drawn evenly, or {"level": (easiest, hardest), option: value} with the
    options of the family's draw. hasty: share of chats whose answer a hasty writer gave; wordy: share of
    chats whose thinking is padded with words that say nothing. Row i depends on seed,
    split, difficulty and i alone, and is the same problem in every form. Different splits never share a key; keys
    repeat within a split where the space is small, see `duplicates`. Raises UserError for an unknown family, form,
    split, option or level, at the call.
    """
    if family not in FAMILIES:
        raise UserError(f"unknown task family {family!r}, expected one of {', '.join(FAMILIES)}")
    if form not in (*FORMS, "preference"):
        raise UserError(f"unknown form {form!r} for {family}, expected one of {', '.join(FORMS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} for {family}, expected one of {', '.join(SPLITS)}")
    levels, options = _difficulty(family, difficulty)

    def rows_in_order() -> Iterator[dict]:
        for index in range(rows):
            name = f"{family}/{split}/{seed}/{index}"
            problem = _draw(family, random.Random(name), levels, options, split)
            in_haste = random.Random(f"{name}/hasty").random() < hasty
            many_words = random.Random(f"{name}/wordy").random() < wordy
            yield row(problem, form=form, source=f"tasks/{family}", name=name, hasty=in_haste, wordy=many_words)

    return rows_in_order()


def duplicates(rows: Iterable[dict]) -> int:
    """How many rows repeat the key of an earlier row."""
    keys = [each["key"] for each in rows]
    return len(keys) - len(set(keys))


def _draw(family: str, rng: random.Random, levels: tuple[int, int], options: dict, split: str) -> Problem:
    """The first problem of the row's own random stream that falls into `split`."""
    for _ in range(MAX_DRAWS):
        problem = FAMILIES[family].draw(rng, rng.randint(*levels), **options)
        if split_of(problem.key) == split:
            return problem
    raise UserError(f"{family} at levels {levels} has no problem in the {split} split: widen its difficulty")


def _difficulty(family: str, difficulty: tuple[int, int] | dict) -> tuple[tuple[int, int], dict]:
    """Levels and options of a family, checked."""
    options = dict(difficulty) if isinstance(difficulty, dict) else {"level": difficulty}
    lowest, highest = FAMILIES[family].LEVELS
    levels = tuple(options.pop("level", (lowest, min(3, highest))))
    if len(levels) != 2 or not lowest <= levels[0] <= levels[1] <= highest:
        raise UserError(
            f"{family}: difficulty {levels} is not a range of levels, expected (easiest, hardest) "
            f"within {lowest} to {highest}"
        )
    known = list(inspect.signature(FAMILIES[family].draw).parameters)[2:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{family}: unknown difficulty options {unknown}, expected {['level', *known]}")
    return levels, options


__all__ = ["FAMILIES", "FORMS", "SPLITS", "Problem", "duplicates", "generate", "split_of"]
