r"""Multiple choice: one letter in the last \boxed{} (report section 3.2.1; NeMo-Gym mcqa)."""

import re

from nano3.environments.fields import describe, field, optional
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import brief, last_boxed, split_response
from nano3.errors import UserError

GRADING_MODES = ("strict_single_letter_boxed", "lenient_boxed", "lenient_answer_colon")

_ANSWER_COLON = re.compile(r"answer[ \t]*:[ \t]*(\S[^\n]*)", re.IGNORECASE)


def verify(row: dict, response: str) -> Reward:
    r"""1 if the chosen letter is row["expected_answer"], else 0.

    row["options"] is a list of single-key objects, [{"A": "text"}, ...]. row["grading_mode"] as in NeMo-Gym:
    strict_single_letter_boxed (default) takes one capital letter in the last \boxed{}, lenient_boxed also the
    text of an option there, lenient_answer_colon either of them after "Answer:". Raises UserError for a row
    without options or with an expected answer that is not one of them.
    """
    options = _options(row)
    expected = str(field(row, "expected_answer", str)).strip().upper()
    if expected not in options:
        raise UserError(f"{describe(row)}: expected_answer {expected!r} is none of the options {sorted(options)}")
    mode = optional(row, "grading_mode", GRADING_MODES)
    parts = split_response(response)
    if parts.fault:
        return malformed(parts.fault)
    if mode == "lenient_answer_colon":
        found = _ANSWER_COLON.findall(parts.answer)
        stated = found[-1].strip() if found else None
    else:
        stated = last_boxed(parts.answer)
    if stated is None:
        return malformed("no \\boxed{} in the answer" if mode != "lenient_answer_colon" else "no 'Answer:'")
    letter = _letter(stated, options)
    if letter is None and mode != "strict_single_letter_boxed":
        letter = _by_text(stated, options)
    if letter is None:
        return malformed(f"{brief(stated)!r} is not one of the letters {''.join(sorted(options))}")
    verdict = "is right" if letter == expected else f"is wrong, expected {expected}"
    return Reward(float(letter == expected), f"{letter} {verdict}", well_formed=True)


def _options(row: dict) -> dict[str, str]:
    """{letter: text} of the row's options."""
    options = {}
    for option in field(row, "options", list):
        for letter, text in option.items():
            if text is not None and len(letter) == 1 and letter.isalpha():  # columnar files pad with None
                options[letter.upper()] = str(text)
    if not options:
        raise UserError(
            f"{describe(row)}: options {row.get('options')!r:.80} hold no letters, expected [{{'A': 'text'}}, ...]"
        )
    return options


def _letter(stated: str, options: dict[str, str]) -> str | None:
    """The only letter in `stated`, if it is a capital and an option: "B", "(B)", "B." but not "B or C"."""
    letters = re.findall(r"[^\W\d_]", stated[:100])
    return letters[0] if len(letters) == 1 and len(stated) < 100 and letters[0] in options else None


def _by_text(stated: str, options: dict[str, str]) -> str | None:
    """The option whose text is `stated`, when it is exactly one."""
    matches = [letter for letter, text in options.items() if text.split() and _folded(text) == _folded(stated)]
    return matches[0] if len(matches) == 1 else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
