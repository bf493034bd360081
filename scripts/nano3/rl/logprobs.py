"""The trainer's log-probabilities of sampled responses; a prompt is read once, however many responses follow it.

The prompts come first. What the model remembers of them (states of Mamba, keys and values of attention) is where their
responses go on from, and where the gradients of the responses gather, to go back through the prompts when all responses
were there. So the graphs of one batch of prompts and one batch of responses are all that is held. Both are batches of
like length, padded to their longest.

P prompts and R responses of a batch, T tokens of its longest response, N response tokens of a batch, D residual width.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nano3.chat.packing import PAD_ID
from nano3.model.cache import Cache, LayerState, branch
from nano3.model.generate import read
from nano3.model.nemotron_h import NemotronH
from nano3.model.padding import of_like_length

Ids = Sequence[int]
BLOCK_LOGITS = 2**26  # 256 MiB in float32


@dataclass(frozen=True)
class TokenLogprobs:
    """Of the N tokens of some responses, in a common order."""

    logprobs: Tensor  # [N] float32, differentiable
    response: Tensor  # [N] int64: index of the response that the token belongs to
    offset: Tensor  # [N] int64: its place in that response

    def where(self) -> list[tuple[int, int]]:
        """Response and offset of each token."""
        return list(zip(self.response.tolist(), self.offset.tolist(), strict=True))


def response_logprobs(
    model: NemotronH,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    *,
    micro_batch_tokens: int,
    arithmetic: AbstractContextManager,
    at_once: bool = False,
) -> Iterator[TokenLogprobs]:
    """Log-probabilities of all tokens of the responses, in micro-batches of at most `micro_batch_tokens`, padding
    included, but at least one response.

    prompts, responses: token ids, one prompt to each response; equal prompts are read once. Empty responses are left
    out. For gradients, call `backward` on a loss of each micro-batch before asking for the next one; or with `at_once`
    on a loss of all of them, whose graphs are then all held."""
    follow: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if len(response):
            follow.setdefault(tuple(prompt), []).append(i)
    for together in of_like_length(list(follow), len, micro_batch_tokens):
        with arithmetic:
            memory = Memory(*read(model, together, pad_id=PAD_ID))
        if not at_once:
            memory.cut()
        place = {i: row for row, prompt in enumerate(together) for i in follow[prompt]}
        for chosen in of_like_length(list(place), lambda i: len(responses[i]), micro_batch_tokens):
            with arithmetic:
                found = _continued(model, memory, [place[i] for i in chosen], [responses[i] for i in chosen], chosen)
            yield found
        memory.backward()


@dataclass
class Memory:
    """What the model remembers of P prompts."""

    last: Tensor  # [P, D]: states of their last tokens
    cache: Cache
    ends: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of the prompts' graph, and what stands for each

    def cut(self) -> None:
        """End the graph of the prompts here: what goes on from the memory has a graph of its own."""
        self.last = self._cut(self.last)
        for layer in self.cache.layers:
            if isinstance(layer, LayerState):
                for name in layer.rows:
                    setattr(layer, name, self._cut(getattr(layer, name)))

    def _cut(self, end: Tensor) -> Tensor:
        if not end.requires_grad:
            return end
        self.ends.append((end, end.detach().requires_grad_()))
        return self.ends[-1][1]

    def backward(self) -> None:
        """Take the gradients that have gathered at a cut memory back through the prompts."""
        reached = [(end, own.grad) for end, own in self.ends if own.grad is not None]
        if reached:
            torch.autograd.backward(*zip(*reached, strict=True))


def _continued(
    model: NemotronH, memory: Memory, places: list[int], responses: list[Ids], indices: list[int]
) -> TokenLogprobs:
    """The responses that follow the prompts in these places of the memory; indices: what to call them."""
    device = model.lm_head.weight.device
    rows, longest = torch.tensor(places, device=device), max(map(len, responses))
    targets = torch.tensor([[*ids, *[PAD_ID] * (longest - len(ids))] for ids in responses], device=device)  # [R, T]
    offset = torch.arange(longest, device=device).expand_as(targets)
    real = offset < torch.tensor([[len(ids)] for ids in responses], device=device)
    states = memory.last[rows][:, None]  # [R, 1, D]
    if longest > 1:
        after = model.hidden(targets[:, :-1], cache=branch(memory.cache, rows), real=real[:, 1:])
        states = torch.cat([states, after], 1)
    return TokenLogprobs(
        token_logprobs(states[real], model.lm_head.weight, targets[real]),
        torch.tensor(indices, device=device)[:, None].expand_as(targets)[real],
        offset[real],
    )


def token_logprobs(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """log p(target) of every state: states [N, D], head [V, D], targets [N] -> [N] float32.

    Never holds more than BLOCK_LOGITS logits: beyond that, blocks are computed again in the backward pass."""
    rows = max(1, BLOCK_LOGITS // head.shape[0])
    if len(targets) <= rows:
        return _block(states, head, targets)
    blocks = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(_block, part, head, target, use_reentrant=False) for part, target in blocks])


def _block(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(F.linear(states, head).float(), targets, reduction="none")
