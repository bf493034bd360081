r"""Mathematics: the last \boxed{} against the expected answer (report section 3.2.1; NeMo-Gym math_with_judge).

Numbers and equal strings are decided exactly and at once; the rest goes to math-verify, in a child process with
a time limit. There is no judge model, as in the public recipe.
"""

import re
from fractions import Fraction

from nano3.environments import bounded
from nano3.environments.fields import field
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import brief, last_boxed, split_response

MAX_SYMBOLIC_CHARS = 500
MAX_NUMBER_CHARS = 200
SECONDS = 5.0

_FINAL_ANSWER = re.compile(r"(?:\banswer(?: is|:| =)|####)[ \t]*(\S[^\n]*)", re.IGNORECASE)
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;:]|\\q?quad(?![a-z])|\$|\\[()\[\]]")
_LOOSE_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")  # a space between two digits or letters means something
_UNWRAP = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\{([^{}]*)\}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_RATIO = re.compile(r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?\d+)/([+-]?\d+)")


def verify(row: dict, response: str) -> Reward:
    r"""1 if the answer equals row["expected_answer"], else 0.

    The answer is the last \boxed{}; without one, what follows "answer is", "answer:" or "####". Only the boxed
    form counts as well formed. Raises UserError when the row has no expected answer.
    """
    expected = str(field(row, "expected_answer", (str, int, float)))
    parts = split_response(response)
    if parts.fault:
        return malformed(parts.fault)
    candidate = last_boxed(parts.answer)
    boxed = candidate is not None
    if candidate is None:
        candidate = final_answer(parts.answer)
    if not candidate:
        return malformed("no \\boxed{} in the answer")
    equal, how = compare(expected, candidate)
    verdict = "equals" if equal else "is not"
    return Reward(float(equal), f"{brief(candidate)} {verdict} {brief(expected)} ({how})", well_formed=boxed)


def final_answer(text: str) -> str | None:
    """What the last "answer is ...", "answer: ..." or "#### ..." says; None when there is none."""
    found = _FINAL_ANSWER.findall(text)
    return found[-1].strip().rstrip(".") if found else None


def compare(expected: str, candidate: str) -> tuple[bool, str]:
    """Whether two answers are equal, and how that was decided."""
    if len(candidate) > MAX_SYMBOLIC_CHARS and len(candidate) > 2 * len(expected):
        return False, "too long"
    left, right = normalise(expected), normalise(candidate)
    if left == right:
        return True, "exact"
    left_number, right_number = number(left), number(right)
    if left_number is not None and right_number is not None:
        return left_number == right_number, "number"
    if max(len(expected), len(candidate)) > MAX_SYMBOLIC_CHARS:
        return False, "too long for symbolic comparison"
    if not _balanced(candidate) or not re.search(r"\w", candidate):
        return False, "no expression"
    try:
        equal = bounded.call("nano3.environments.symbolic:equivalent", expected, candidate, seconds=SECONDS)
        return bool(equal), "symbolic"
    except bounded.CheckFailed as failure:
        return False, str(failure)


def _balanced(text: str) -> bool:
    """Whether brackets open as often as they close; intervals such as [0, 1) may mix their kinds."""
    return sum(map(text.count, "([{")) == sum(map(text.count, ")]}"))


def normalise(text: str) -> str:
    r"""One spelling for what LaTeX writes in many: no $, spacing, \left, \text{}, thousands separators, final dot."""
    text = text.strip().replace("−", "-").replace("{,}", ",")
    text = _UNWRAP.sub(r"\1", text)
    text = _SPACING.sub("", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _LOOSE_SPACE.sub("", text).rstrip(".")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return text


def number(text: str) -> Fraction | None:
    r"""The exact value of a normalised integer, decimal, a/b or \frac{a}{b}; None for anything else."""
    if len(text) > MAX_NUMBER_CHARS or not text.isascii():
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text.rstrip("."))
    ratio = _RATIO.fullmatch(text)
    if not ratio:
        return None
    sign = -1 if ratio[1] == "-" else 1
    numerator, denominator = int(ratio[2] or ratio[4]), int(ratio[3] or ratio[5])
    return Fraction(sign * numerator, denominator) if denominator else None
