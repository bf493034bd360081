"""Rollouts: prompts in, sampled and scored responses out. Rows of several turns are played as whole conversations."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from nano3.chat.request import messages_of
from nano3.chat.template import render, template_of
from nano3.data.tokenizer import END_OF_TEXT, IM_END
from nano3.data.tokenizer import load as load_tokenizer
from nano3.environments import Episode, Reward, opened, short_name, side_by_side, verify
from nano3.errors import UserError
from nano3.rl.conversation import Conversation, Message, Turn, go_on
from nano3.rl.order import derived_seed

ASSISTANT = "<|im_start|>assistant\n"
STOP_TOKENS = (IM_END, END_OF_TEXT)


@dataclass(frozen=True)
class Rollout:
    """One response to one prompt, scored; of a conversation its last turn, and the turns before."""

    prompt_id: str
    environment: str
    prompt: list[int]  # token ids, the opened assistant turn included
    response: list[int]  # token ids, with the stop token when finished
    logprobs: list[float]  # of the response's tokens, by the generator, at temperature 1
    text: str  # the response, special tokens readable
    reward: float  # in [0, 1], unless a judge gave it
    reason: str
    finished: bool  # ended with a stop token rather than cut; of a conversation: nothing cut it short
    well_formed: bool
    context: tuple[Message, ...] = ()  # of a conversation: the messages that the last turn's prompt shows
    earlier: tuple[Turn, ...] = ()  # of a conversation: the turns before the last

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns, in order: one for a row that is no conversation."""
        return *self.earlier, Turn(self.prompt, self.response, self.logprobs, self.text, self.context)

    @property
    def tokens(self) -> int:
        """Sampled tokens, of all turns."""
        return sum(len(turn.response) for turn in self.turns)


@dataclass(frozen=True)
class ChatTokenizer:
    """Tokenizer and chat template of a model directory."""

    tokenizer: Any  # tokenizers.Tokenizer
    template: str  # Jinja source
    stop_ids: tuple[int, ...]

    def prompt_ids(self, row: dict[str, Any]) -> list[int]:
        """Token ids of an RL row's conversation, with the assistant's turn opened."""
        return self.ids(*messages_of(row["responses_create_params"]))

    def ids(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> list[int]:
        """Token ids of a conversation, with the assistant's turn opened."""
        text = render(messages, tools, add_generation_prompt=True, template=self.template)
        return self.tokenizer.encode(text, add_special_tokens=False).ids

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
    """Name of a row's environment for ratios, metrics and tables."""
    return short_name(row["agent_ref"]["name"])


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
    score: Callable[[dict[str, Any], str], Reward] | None = None,
    converse: Callable[[dict[str, Any]], Episode | None] = opened,
) -> list[Rollout]:
    """`generations` scored responses to every row, row by row: result[i * generations + g].

    Equal model, rows and seed give equal bits. score: what scores a response of one turn; None: the row's environment.
    converse: opens the conversation of a row, None for a row of one turn; conversations score themselves."""
    from nano3.model.generate import generate

    write = partial(
        generate,
        model,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop_ids=chat.stop_ids,
    )
    asked = [row for row in rows for _ in range(generations)]
    episodes = {i: converse(row) for i, row in enumerate(asked)}
    playing = {i: Conversation(episode, chat) for i, episode in episodes.items() if episode is not None}
    prompts = [ids for row in rows for ids in [chat.prompt_ids(row)] * generations]
    first = write(prompts, seed=derived_seed(seed, "turn", 1))
    if playing:
        side_by_side(lambda i: playing[i].take(prompts[i], first[i]), playing)
        longest = model.config.max_position_embeddings - max_new_tokens
        go_on(playing, write, longest=longest, seed=seed)
    alone = {i: chat.text(first[i].tokens) for i in range(len(asked)) if i not in playing}
    rewards = iter(side_by_side(score or verify, [asked[i] for i in alone], alone.values()))
    return [
        _played(row, playing[i])
        if i in playing
        else _rollout(row, [_turn(prompts[i], first[i], alone[i])], next(rewards), first[i].finished)
        for i, row in enumerate(asked)
    ]


def _played(row: dict[str, Any], conversation: Conversation) -> Rollout:
    return _rollout(row, conversation.turns, conversation.episode.reward(), conversation.finished)


def _turn(prompt: list[int], completion: Any, text: str) -> Turn:
    return Turn(prompt, completion.tokens, completion.logprobs, text)


def _rollout(row: dict[str, Any], turns: Sequence[Turn], reward: Reward, finished: bool) -> Rollout:
    *earlier, last = turns
    return Rollout(
        prompt_id=str(row.get("id", "")),
        environment=environment_of(row),
        prompt=last.prompt,
        response=last.response,
        logprobs=last.logprobs,
        text=last.text,
        reward=reward.value,
        reason=reward.reason,
        finished=finished,
        well_formed=reward.well_formed,
        context=last.context,
        earlier=tuple(earlier),
    )


def readable(rollout: Rollout, chat: ChatTokenizer, **more: Any) -> dict[str, Any]:
    """A rollout as one JSON object for people: texts and score, and what `more` adds.

    The response of a conversation is all that follows its first prompt, tools and user included."""
    if rollout.context:
        more |= {"turns": len(rollout.turns)}
    return {
        **more,
        "id": rollout.prompt_id,
        "environment": rollout.environment,
        "prompt": chat.text(rollout.turns[0].prompt),
        "response": _whole_text(rollout, chat),
        "reward": rollout.reward,
        "reason": rollout.reason,
        "finished": rollout.finished,
        "well_formed": rollout.well_formed,
    }


def _whole_text(rollout: Rollout, chat: ChatTokenizer) -> str:
    parts = []
    for turn, after in pairwise(rollout.turns):
        replies = after.context[len(turn.context) + 1 :]  # what came after the assistant's own message
        parts += [turn.text.rstrip("\n"), "\n"]
        parts += [f"<|im_start|>{reply['role']}\n{reply['content']}<|im_end|>\n" for reply in replies]
        parts += [ASSISTANT, chat.text(after.prompt).rpartition(ASSISTANT)[2]]
    return "".join([*parts, rollout.text])
