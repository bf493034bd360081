"""Conversations of several turns: the model writes, tools run or a user replies, and the next prompt shows it all.

All conversations that are not over write their next turn together. Every turn keeps the prompt that it was sampled
from: a chat template may show earlier turns in another way than they were written (it drops old thinking), so that
the turns of a conversation are samples of their own and not pieces of one long text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nano3.chat.request import messages_of
from nano3.environments import Episode, side_by_side
from nano3.rl.order import derived_seed

if TYPE_CHECKING:
    from nano3.rl.rollout import ChatTokenizer

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One response as it was sampled."""

    prompt: list[int]  # token ids, the opened assistant turn included
    response: list[int]  # token ids, with the stop token when finished
    logprobs: list[float]  # of the response's tokens, by the generator, at temperature 1
    text: str  # the response, special tokens readable
    context: tuple[Message, ...] = ()  # of a conversation: the messages that the prompt shows


class Conversation:
    """One conversation being played: its episode, and its turns so far.

    finished: False once a turn was cut at the longest length, or the prompt outgrew the model's context."""

    def __init__(self, episode: Episode, chat: "ChatTokenizer"):
        self.episode = episode
        self.turns: list[Turn] = []
        self.finished = True
        self._chat = chat
        self._opening, self._tools = messages_of(episode.row["responses_create_params"])
        self._given = len(episode.messages)

    def messages(self) -> list[Message]:
        """The row's messages and all that came since."""
        return [*self._opening, *self.episode.messages[self._given :]]

    def prompt(self, longest: int) -> list[int] | None:
        """Token ids of the next turn's prompt; None when there is no next turn.

        A prompt of more than `longest` tokens ends the conversation."""
        if self.episode.over:
            return None
        ids = self._chat.ids(self.messages(), self._tools)
        if len(ids) <= longest:
            return ids
        self.finished = False
        turn = f"turn {len(self.turns) + 1}"
        self.episode.stop(f"the prompt of {turn} has {len(ids)} tokens, the model's context leaves {longest} for it")
        return None

    def take(self, prompt: list[int], completion: Any) -> None:
        """Append the turn that the model wrote after `prompt`; tools run, or the user replies.

        A turn that was cut ends the conversation: who reads it can't know what it would have said."""
        text = self._chat.text(completion.tokens)
        self.turns.append(Turn(prompt, completion.tokens, completion.logprobs, text, tuple(self.messages())))
        if completion.finished:
            self.episode.step(text)
        else:
            self.finished = False
            self.episode.stop(f"turn {len(self.turns)} was cut at {len(completion.tokens)} tokens")


def go_on(
    conversations: Mapping[int, Conversation],
    write: Callable[..., list[Any]],
    *,
    longest: int,
    seed: int,
) -> None:
    """Play conversations whose first turn is there to their ends.

    conversations: by their place among all responses of the rollout; write(prompts, seed=, streams=) is
    `nano3.model.generate.generate`. A turn's random numbers depend on the seed, on its number and on the
    conversation's place: not on which other conversations still go on."""
    number = 1
    while prompts := _prompts(conversations, longest):
        number += 1
        asked = list(prompts.values())
        written = write(asked, seed=derived_seed(seed, "turn", number), streams=list(prompts))
        side_by_side(Conversation.take, [conversations[i] for i in prompts], asked, written)


def _prompts(conversations: Mapping[int, Conversation], longest: int) -> dict[int, list[int]]:
    found = {i: conversation.prompt(longest) for i, conversation in conversations.items()}
    return {i: ids for i, ids in found.items() if ids is not None}
