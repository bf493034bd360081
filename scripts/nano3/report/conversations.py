"""Rendered conversations, taken apart for readers: who said what, thinking apart from the answer."""

from typing import Any

from nano3.environments.text import CLOSE, OPEN

START, ENDS = "<|im_start|>", ("<|im_end|>", "<|endoftext|>")


def shown(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A sampled response (`nano3.rl.rollout.readable`) for the template, under a name: whose it is, or which."""
    return {
        "name": name,
        "parts": turns_of(row["response"], after=row["prompt"]),
        "reward": row.get("reward"),
        "reason": row.get("reason", ""),
        "finished": row.get("finished", True),
    }


def turns_of(text: str, *, after: str | None = None) -> list[dict[str, str]]:
    """The turns of a rendered text: role, thinking, text, each without empty ones.

    after: the prompt that the text continues; the text then begins inside the assistant's turn, and may go on with what
    tools or the user said to it. Of a prompt, the opened turn of the assistant at its end is left out."""
    found = []
    pieces = text.split(START)
    if after is not None:
        opened = after.rstrip().endswith(OPEN)
        found.append(_turn("assistant", pieces[0], opened=opened))
    elif not pieces[1:]:
        found.append(_turn("user", text))
    for piece in pieces[1:]:
        role, _, said = piece.partition("\n")
        ended = any(end in said for end in ENDS)
        if after is None and role == "assistant" and not ended:
            continue
        found.append(_turn(role.strip(), said))
    kept = [turn for turn in found if turn["text"] or turn["thinking"]]
    return kept or found[:1]


def split_answer(response: str, *, opened: bool = False) -> tuple[str, str]:
    """(thinking, answer) of a response. opened: the prompt ended inside a think block.

    A response that never closed its think block is all thinking."""
    text = response
    for end in ENDS:
        text = text.replace(end, "")
    before, closed, after = text.partition(CLOSE)
    if closed or opened or OPEN in text:
        return before.replace(OPEN, "").strip(), after.strip()
    return "", text.strip()


def _turn(role: str, text: str, *, opened: bool = False) -> dict[str, str]:
    thinking, answer = split_answer(text, opened=opened) if role == "assistant" else ("", text)
    for end in ENDS:
        answer = answer.replace(end, "")
    return {"role": role, "thinking": thinking, "text": answer.strip()}
