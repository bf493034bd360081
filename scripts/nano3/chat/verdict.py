"""Comparisons of two responses, as a reward model reads and answers them (report, section 3.3.1).

The verdict, after any reasoning, is one JSON object:

    {"score_1": 1 to 5, "score_2": 1 to 5, "ranking": 1 to 6}      ranking 1: the first is far better, 6: the second
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nano3.environments.text import split_response

TIE = 3.5  # a ranking that prefers neither


@dataclass(frozen=True)
class Verdict:
    """Helpfulness of both responses, 1 to 5, and their ranking, 1 to 6."""

    score_1: float
    score_2: float
    ranking: float

    def text(self) -> str:
        """As the reward model writes it."""
        return json.dumps({"score_1": self.score_1, "score_2": self.score_2, "ranking": self.ranking})


def comparison_prompt(context: Sequence[dict[str, Any]], first: str, second: str) -> str:
    """The user turn that asks for a verdict."""
    turns = "\n".join(f"{message['role']}: {_inert(str(message.get('content') or ''))}" for message in context)
    return (
        f"Compare two responses.\n<conversation>\n{turns}\n</conversation>\n"
        f"<response_1>\n{_inert(first)}\n</response_1>\n<response_2>\n{_inert(second)}\n</response_2>\n"
        'Reply with {"score_1": 1-5, "score_2": 1-5, "ranking": 1-6}.'
    )


def _inert(text: str) -> str:
    """Text that can't close the tags it stands in."""
    return re.sub(r"<(/?)(conversation|response_[12])>", r"(\1\2)", text)


def parse_verdict(response: str) -> Verdict | None:
    """The verdict of a response; None where its form is broken: unclosed thinking, no object, values out of range."""
    parts = split_response(response)
    if parts.fault:
        return None
    try:
        found = json.loads(parts.answer)
        values = [found[name] for name in ("score_1", "score_2", "ranking")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if len(found) != 3 or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    verdict = Verdict(*map(float, values))
    return verdict if all(1 <= s <= 5 for s in values[:2]) and 1 <= verdict.ranking <= 6 else None
