"""A conversation with a finished model in a terminal: history, streaming text, and where the thinking ends."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano3.chat.template import render
from nano3.errors import UserError, to_make

THINK_END = "</think>"
LONGEST_CHARACTER = 4  # bytes of a UTF-8 character, so at most this many byte-level tokens


@dataclass
class Sampling:
    """How the model's next token is drawn."""

    temperature: float = 0.6
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0


@dataclass
class Chat:
    """A loaded model with its tokenizer and the conversation so far.

    model: anything with `config.max_position_embeddings` that `nano3.model.generate.stream` takes
    tokenizer: a `tokenizers.Tokenizer`; template: Jinja source of the chat template"""

    model: Any
    tokenizer: Any
    template: str
    stop_ids: list[int]
    sampling: Sampling
    think: bool = True
    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.messages = []

    def ask(self, question: str) -> Iterator[tuple[str, bool]]:
        """Put a question and yield pieces of the answer as they come: (text, is it thinking).

        The turn enters the history when the answer ends, also when the caller stops it half-way.
        Raises UserError when the conversation no longer fits the model's context."""
        turn = {"role": "user", "content": question}
        prompt = self._prompt([*self.messages, turn])
        room = self.model.config.max_position_embeddings - len(prompt)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt)} tokens and the model's context"
                f" {self.model.config.max_position_embeddings}; start a new one with /reset"
            )
        answer = {True: "", False: ""}
        try:
            for piece, thinking in split_thinking(self._pieces(prompt, room), starts_inside=self.think):
                answer[thinking] += piece
                yield piece, thinking
        finally:
            reply = {"role": "assistant", "content": answer[False].strip()}
            if answer[True].strip():
                reply["reasoning_content"] = answer[True].strip()
            self.messages += [turn, reply]

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        if self.system is not None:
            messages = [{"role": "system", "content": self.system}, *messages]
        text = render(messages, add_generation_prompt=True, template=self.template, enable_thinking=self.think)
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _pieces(self, prompt: list[int], room: int) -> Iterator[str]:
        from nano3.model.generate import stream

        options = self.sampling
        tokens = stream(
            self.model,
            prompt,
            max_new_tokens=min(options.max_new_tokens, room),
            temperature=options.temperature,
            top_p=options.top_p,
            stop_ids=self.stop_ids,
            seed=options.seed + len(self.messages),
        )
        return decode(self.tokenizer, (token for token in tokens if token not in self.stop_ids))


def decode(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """Text of a stream of tokens, in pieces that never break a character.

    Byte-level tokens can be parts of a character: they are held back until it is whole, or can't become one."""
    pending: list[int] = []
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=False)
        if not text.endswith("\ufffd") or len(pending) >= LONGEST_CHARACTER:
            pending.clear()
            yield text
    if pending:
        yield tokenizer.decode(pending, skip_special_tokens=False)


def split_thinking(pieces: Iterable[str], *, starts_inside: bool) -> Iterator[tuple[str, bool]]:
    """Mark each piece as thinking or not; `</think>` may arrive in several pieces and is itself left out."""
    held, thinking = "", starts_inside
    for piece in pieces:
        held += piece
        while thinking and THINK_END in held:
            before, _, held = held.partition(THINK_END)
            if before:
                yield before, True
            thinking = False
        keep = _open_tag(held) if thinking else 0
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready, thinking
    if held:
        yield held, thinking


def _open_tag(text: str) -> int:
    """How many last characters of `text` may be the beginning of `</think>`."""
    return next((n for n in range(len(THINK_END) - 1, 0, -1) if text.endswith(THINK_END[:n])), 0)


def open_chat(directory: Path, sampling: Sampling, *, think: bool = True, system: str | None = None) -> Chat:
    """Load a Hugging Face directory of this recipe: results/{recipe}/rl/final, or any stage's model with a tokenizer.

    Raises UserError that names what is missing."""
    needed = ("config.json", "tokenizer.json")
    missing = [name for name in needed if not (directory / name).is_file()]
    if missing:
        raise UserError(
            f"{directory} is not a model to chat with: it has no {' and no '.join(missing)}.\n"
            f"  Expected a Hugging Face directory, e.g.  {to_make('results/tiny/rl/final')}"
            " && python scripts/chat.py results/tiny/rl/final"
        )
    from tokenizers import Tokenizer

    from nano3.model import hf

    return Chat(
        model=hf.load(directory),
        tokenizer=Tokenizer.from_file(str(directory / "tokenizer.json")),
        template=_template(directory),
        stop_ids=_stop_ids(directory),
        sampling=sampling,
        think=think,
        system=system,
    )


def _template(directory: Path) -> str:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    template = json.loads(config.read_text()).get("chat_template") if config.is_file() else None
    if not template:
        raise UserError(
            f"{directory} has no chat template: expected chat_template.jinja, or a `chat_template` in"
            " tokenizer_config.json"
        )
    return template


def _stop_ids(directory: Path) -> list[int]:
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        eos = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        found += eos if isinstance(eos, list) else [eos] if eos is not None else []
    return sorted(set(found))
