"""From a conversation to training sequences: text chunks, each supervised or context.

The model learns what the assistant writes and nothing else. A chunk of context ends with the generation prompt, exactly
the text that precedes the model's first token at inference; the supervised chunk after it runs through the closing
`<|im_end|>` and its newline. Chunks are tokenised one by one, so that a token boundary falls where generation begins.
"""

from __future__ import annotations

from typing import Any

from nano3.chat.reasoning import Message, has_reasoning
from nano3.chat.rows import Dropped
from nano3.chat.template import render

Chunk = tuple[str, bool]  # text, supervised
Turn = tuple[list[Message], int]  # messages of one training sequence, index of the first that may be supervised


def training_turns(messages: list[Message]) -> list[Turn]:
    """Cut a conversation into the parts that become one training sequence each.

    With reasoning anywhere: one part per user turn, its chain of answers supervised, since the template drops the
    reasoning of earlier turns. Without: one part, every answer supervised. Messages after the last answer are left
    out; a user turn without an answer makes no part.
    """
    if not any(has_reasoning(message) for message in messages):
        parts = [(messages, 0)]
    else:
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        ends = [*users[1:], len(messages)]
        parts = [(messages[:end], user + 1) for user, end in zip(users, ends, strict=True)]
    trimmed = [(messages[: _last_answer(messages) + 1], first) for messages, first in parts]
    return [(messages, first) for messages, first in trimmed if len(messages) > first]


def _last_answer(messages: list[Message]) -> int:
    return max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)


def chunks_of(
    turn: Turn,
    tools: list[dict[str, Any]] | None = None,
    *,
    reasoning_budget: int | None = None,
    template: str | None = None,
) -> list[Chunk]:
    """Render one training sequence as chunks whose concatenation is the template's text of the messages.

    Each answer's context ends with the generation prompt for thinking on or off, whichever the answer follows.
    Raises `Dropped("prefix_mismatch")` where the text up to an answer isn't a prefix of the whole.
    """
    messages, first = turn
    switches: dict[str, Any] = {"template": template}
    if reasoning_budget is not None:
        switches["reasoning_budget"] = reasoning_budget
    whole = render(messages, tools, **switches)
    chunks: list[Chunk] = []
    done = 0
    for i in range(first, len(messages)):
        if messages[i]["role"] != "assistant":
            continue
        prompt = render(
            messages[:i],
            tools,
            add_generation_prompt=True,
            enable_thinking=has_reasoning(messages[i]),
            **switches,
        )
        through = whole if i == len(messages) - 1 else render(messages[: i + 1], tools, **switches)
        for text, supervised in ((prompt, False), (through, True)):
            if len(text) <= done or not whole.startswith(text):
                raise Dropped("prefix_mismatch", _first_difference(whole, text))
            chunks.append((text[done:], supervised))
            done = len(text)
    return chunks


def _first_difference(whole: str, text: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(whole, text, strict=False)) if a != b), min(len(whole), len(text)))
    return f"at character {at}: {whole[at : at + 40]!r} in the whole, {text[at : at + 40]!r} in the prefix"
