"""Taking a response apart: thinking, answer, \\boxed{}, code fences. Every function is linear in its input."""

import re
from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"
STOPS = ("<|im_end|>", "<|endoftext|>")

# A 49,152-token response is about 200,000 characters; no answer apart from its thinking comes near.
MAX_ANSWER_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class Parts:
    """A response split at its thinking. `fault` is empty when the thinking is closed exactly once."""

    thinking: str
    answer: str
    fault: str


def split_response(response: str) -> Parts:
    """Split what the model wrote after the prompt into thinking and answer.

    The generation prompt usually opened the thinking, so a leading <think> is optional. Whoever samples with
    thinking off passes "<think></think>" plus the text, since that is what the prompt ended with. Text after
    the first stop token is not part of the turn.
    """
    ends = [position for stop in STOPS if (position := response.find(stop)) >= 0]
    turn = response[: min(ends)] if ends else response
    inside = turn.lstrip().removeprefix(OPEN)
    closes = inside.count(CLOSE)
    if closes != 1:
        return Parts(inside.strip(), "", "thinking never closed" if closes == 0 else "thinking closed twice")
    thinking, _, answer = inside.partition(CLOSE)
    thinking, answer = thinking.strip(), answer.strip()
    fault = ""
    if OPEN in thinking or OPEN in answer:
        fault = "thinking opened twice"
    elif not answer:
        fault = "empty answer"
    elif len(answer) > MAX_ANSWER_CHARS:
        fault = f"answer longer than {MAX_ANSWER_CHARS} characters"
    return Parts(thinking, answer, fault)


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, braces balanced; None when there is none or it is never closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start : start + match.start()].strip()
    return None


def without_fence(text: str) -> str:
    """The inside of a Markdown code fence when the whole text is one, otherwise the text, both stripped."""
    text = text.strip()
    if len(text) < 6 or not (text.startswith("```") and text.endswith("```")):
        return text
    first_line, _, rest = text[3:-3].partition("\n")
    if rest and re.fullmatch(r"\w*\s*", first_line):
        return rest.strip()
    return re.sub(r"^json\b", "", text[3:-3], flags=re.IGNORECASE).strip()


def last_code_block(text: str) -> str | None:
    """The inside of the last closed Markdown code fence, whatever its language; None when there is none."""
    blocks, inside = [], None
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            if inside is not None:
                blocks.append("\n".join(inside))
            inside = [] if inside is None else None
        elif inside is not None:
            inside.append(line)
    return blocks[-1] if blocks else None


def brief(value: object, limit: int = 60) -> str:
    """A value for a reason line: one line, at most `limit` characters."""
    text = " ".join(str(value)[: 4 * limit].split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
