"""Preference pairs: a JSONL file, one pair a line, and their tokens.

    {"context": [messages], "tools": [...], "completions": [{"rank": 0, "completion": [{"role": "assistant", ...}]},
                                                            {"rank": 1, "completion": [...]}]}

Rank 0 is preferred; the tools are optional, and further keys are kept for readers. This is NeMo-RL's preference format.
The shorter {"prompt": [messages], "chosen": message, "rejected": message} is read as well; a text in the place of
messages is one message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano3.chat.template import render
from nano3.data.jsonl import read_jsonl
from nano3.errors import UserError
from nano3.rl.rollout import ChatTokenizer

Message = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A pair as token ids. The prompt ends with the opened assistant turn, the responses with its end."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    group: str  # what kind of pair it is, for metrics

    @property
    def tokens(self) -> int:
        """Tokens that the model reads for this pair."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


def pair_row(
    context: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    chosen: Message,
    rejected: Message,
    **more: Any,
) -> dict[str, Any]:
    """One line of a pair file."""
    completions = [{"rank": rank, "completion": [message]} for rank, message in enumerate((chosen, rejected))]
    row = {"context": list(context), "completions": completions, **more}
    return row | {"tools": list(tools)} if tools else row


def read_pairs(file: Path, chat: ChatTokenizer, *, max_tokens: int | None = None) -> tuple[list[Pair], int]:
    """The pairs of a file, and how many were left out because prompt and response exceed `max_tokens`.

    Raises UserError for a row that is no pair, and for a file without pairs."""
    pairs, too_long = [], 0
    for number, row in enumerate(read_jsonl(Path(file)), start=1):
        try:
            pair = _tokens(row, chat)
        except (UserError, KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
            raise UserError(
                f"{file}, line {number} is no preference pair ({type(error).__name__}: {error}).\n"
                "  Expected context and two completions with ranks 0 and 1, each a list of one assistant message."
            ) from None
        if max_tokens and len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) > max_tokens:
            too_long += 1
        else:
            pairs.append(pair)
    if not pairs:
        raise UserError(f"{file} holds no pairs of at most {max_tokens} tokens ({too_long} longer ones)")
    return pairs, too_long


def _tokens(row: dict[str, Any], chat: ChatTokenizer) -> Pair:
    context, chosen, rejected = _parts(row)
    tools = row.get("tools") or None
    ids = [_response(context, tools, message, chat) for message in (chosen, rejected)]
    if ids[0][0] != ids[1][0]:
        raise UserError("one side thinks and the other one does not, so that their prompts differ")
    prompt, *sides = (
        chat.tokenizer.encode(text, add_special_tokens=False).ids for text in (ids[0][0], ids[0][1], ids[1][1])
    )
    return Pair(prompt, *sides, group=str(row.get("group", "pairs")))


def _parts(row: dict[str, Any]) -> tuple[list[Message], Message, Message]:
    if "context" in row:
        ranked = {entry["rank"]: entry["completion"] for entry in row["completions"]}
        return _messages(row["context"], "user"), _single(ranked[0]), _single(ranked[1])
    return _messages(row["prompt"], "user"), _single(row["chosen"]), _single(row["rejected"])


def _messages(value: Any, role: str) -> list[Message]:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _single(value: Any) -> Message:
    messages = [value] if isinstance(value, dict) else _messages(value, "assistant")
    if len(messages) != 1 or messages[0].get("role") != "assistant":
        raise UserError(f"a completion must be one assistant message, found {len(messages)} messages")
    return messages[0]


def _response(
    context: list[Message], tools: list[dict[str, Any]] | None, message: Message, chat: ChatTokenizer
) -> tuple[str, str]:
    """Text of the prompt, the assistant's turn opened as this message needs it, and of the response with its end."""
    whole = render([*context, message], tools, template=chat.template).rstrip("\n")
    for thinking in (True, False):
        prompt = render(context, tools, add_generation_prompt=True, template=chat.template, enable_thinking=thinking)
        if whole.startswith(prompt):
            return prompt, whole[len(prompt) :]
    raise UserError("the completion does not continue its context in the chat template")
