"""A judge on this machine: a Hugging Face directory, asked through our own generation."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano3.data.tokenizer import END_THINK
from nano3.environments.judge import JudgeFailed, Message
from nano3.errors import UserError
from nano3.rl.order import derived_seed
from nano3.rl.rollout import ChatTokenizer, load_chat_tokenizer


@dataclass(frozen=True)
class LocalJudge:
    """Any number of threads may ask; one is answered after the other. What it says depends on the question alone."""

    model: Any  # NemotronH
    chat: ChatTokenizer
    max_new_tokens: int
    temperature: float
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, messages: Sequence[Message]) -> str:
        """The reply, special tokens left out. Raises JudgeFailed where it has none within its limits."""
        from nano3.model.generate import generate

        prompt = self.chat.ids(list(messages), None)
        room = self.model.config.max_position_embeddings - self.max_new_tokens
        if len(prompt) > room:
            raise JudgeFailed(f"the judge has room for a question of {room} tokens, this one has {len(prompt)}")
        with self._lock:
            (reply,) = generate(
                self.model,
                [prompt],
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                stop_ids=self.chat.stop_ids,
                seed=derived_seed("judge", prompt),
            )
        if not reply.finished:
            raise JudgeFailed(f"the judge did not end within {self.max_new_tokens} tokens")
        _, closed, answer = self.chat.text(reply.tokens[:-1]).rpartition(END_THINK)
        if not closed:
            raise JudgeFailed("the judge never closed its thinking")
        return answer.strip()


def load(directory: Path, *, max_new_tokens: int, temperature: float, device: str) -> LocalJudge:
    """The judge in a directory that recipe key rl.judge.path names. Raises UserError where there is none."""
    from nano3.model import hf

    if not (directory / "config.json").is_file():
        raise UserError(
            f"rl.judge.path is {directory}, but {directory / 'config.json'} does not exist.\n"
            "  Give the directory of a nemotron_h model in the Hugging Face layout, with its tokenizer."
        )
    model = hf.load(directory, device=device).eval().requires_grad_(False)
    return LocalJudge(model, load_chat_tokenizer(directory), max_new_tokens, temperature)
