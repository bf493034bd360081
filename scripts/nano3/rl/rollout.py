"""Rollouts: prompts in, sampled and scored responses out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano3.chat.request import messages_of
from nano3.chat.template import render, template_of
from nano3.data.tokenizer import END_OF_TEXT, IM_END
from nano3.data.tokenizer import load as load_tokenizer
from nano3.environments import Reward, verify
from nano3.errors import UserError
from nano3.rl.order import derived_seed

STOP_TOKENS = (IM_END, END_OF_TEXT)
BATCH_ROWS = 256  # responses generated at once


@dataclass(frozen=True)
class Rollout:
    """One response to one prompt, scored."""

    prompt_id: str
    environment: str
    prompt: list[int]  # token ids, the opened assistant turn included
    response: list[int]  # token ids, with the stop token when finished
    logprobs: list[float]  # of the response's tokens, by the generator, at temperature 1
    text: str  # the response, special tokens readable
    reward: float  # in [0, 1], unless a judge gave it
    reason: str
    finished: bool  # ended with a stop token rather than cut at the longest length
    well_formed: bool


@dataclass(frozen=True)
class ChatTokenizer:
    """Tokenizer and chat template of a model directory."""

    tokenizer: Any  # tokenizers.Tokenizer
    template: str  # Jinja source
    stop_ids: tuple[int, ...]

    def prompt_ids(self, row: dict[str, Any]) -> list[int]:
        """Token ids of an RL row's conversation, with the assistant's turn opened."""
        return self.tokenizer.encode(self.prompt_text(row), add_special_tokens=False).ids

    def prompt_text(self, row: dict[str, Any]) -> str:
        """The same as text."""
        messages, tools = messages_of(row["responses_create_params"])
        return render(messages, tools, add_generation_prompt=True, template=self.template)

    def text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens readable."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)


def load_chat_tokenizer(model: Path) -> ChatTokenizer:
    """Tokenizer and template of a Hugging Face model directory. Raises UserError if it lacks what chats need."""
    tokenizer = load_tokenizer(model)
    stops = [tokenizer.token_to_id(token) for token in STOP_TOKENS]
    if None in stops:
        raise UserError(f"the tokenizer in {model} lacks one of the stop tokens {', '.join(STOP_TOKENS)}")
    return ChatTokenizer(tokenizer, template_of(Path(model)), tuple(stops))


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """The rows of a prompt file (JSONL, one NeMo-Gym example a line). Raises UserError for an empty or broken one."""
    try:
        with Path(file).open() as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; expected the prompts that scripts/rl_prompts.py wrote") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSONL: {error}. Make the prompts again.") from None
    if not rows:
        raise UserError(f"{file} holds no prompts; give rl.prompts more data")
    return rows


def environment_of(row: dict[str, Any]) -> str:
    """Name of a row's environment for ratios, metrics and tables: its agent without the suffix, e.g. "mcqa"."""
    return row["agent_ref"]["name"].removesuffix("_agent").removesuffix("_simple")


def by_environment(rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Indices of the rows of every environment, names sorted."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(environment_of(row), []).append(index)
    return dict(sorted(found.items()))


def first_of_each(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first `count` rows of every environment: the fixed prompts of validations and evaluations."""
    return [rows[i] for indices in by_environment(rows).values() for i in indices[:count]]


def rollouts(
    model,
    chat: ChatTokenizer,
    rows: Sequence[dict[str, Any]],
    *,
    generations: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_rows: int = BATCH_ROWS,
    score: Callable[[dict[str, Any], str], Reward] | None = None,
) -> list[Rollout]:
    """`generations` scored responses to every row, row by row: result[i * generations + g].

    Equal model, rows and seed give equal bits. Prompts of like length are generated together, at most
    `batch_rows` responses at once. score: what scores a response to a row; None: the row's environment."""
    from nano3.model.generate import generate

    prompts = [chat.prompt_ids(row) for row in rows for _ in range(generations)]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    completions: dict[int, Any] = {}
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        written = generate(
            model,
            [prompts[i] for i in chosen],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop_ids=chat.stop_ids,
            seed=derived_seed(seed, "batch", start),
        )
        completions.update(zip(chosen, written, strict=True))
    return [
        _scored(rows[i // generations], prompt, completions[i], chat, score or verify)
        for i, prompt in enumerate(prompts)
    ]


def _scored(row: dict[str, Any], prompt: list[int], completion: Any, chat: ChatTokenizer, score) -> Rollout:
    text = chat.text(completion.tokens)
    reward = score(row, text)
    return Rollout(
        prompt_id=str(row.get("id", "")),
        environment=environment_of(row),
        prompt=prompt,
        response=completion.tokens,
        logprobs=completion.logprobs,
        text=text,
        reward=reward.value,
        reason=reward.reason,
        finished=completion.finished,
        well_formed=reward.well_formed,
    )


def readable(rollout: Rollout, chat: ChatTokenizer, **more: Any) -> dict[str, Any]:
    """A rollout as one JSON object for people: texts and score, and what `more` adds."""
    return {
        **more,
        "id": rollout.prompt_id,
        "environment": rollout.environment,
        "prompt": chat.text(rollout.prompt),
        "response": rollout.text,
        "reward": rollout.reward,
        "reason": rollout.reason,
        "finished": rollout.finished,
        "well_formed": rollout.well_formed,
    }
