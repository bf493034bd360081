"""The trainer's log-probabilities of sampled responses, without logits for prompts and with little padding.

Prompt and response make one sequence; sequences are packed into rows, which `doc_ids` keep apart, and rows into
micro-batches. B rows, T tokens of a row, N response tokens of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nano3.chat.packing import PAD_ID, pack

ROW_TOKENS = 256  # longer rows waste time in attention between sequences, shorter ones pad more
BLOCK_LOGITS = 2**26  # 256 MiB in float32


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. The last three tensors run over its N response tokens, in a common order."""

    input_ids: Tensor  # [B, T] int64
    doc_ids: Tensor  # [B, T] int64; padding is a document of its own
    position: Tensor  # [N] int64 into B * T: the state that predicts the token
    target: Tensor  # [N] int64: the token
    response: Tensor  # [N] int64: index of the response it belongs to
    offset: Tensor  # [N] int64: its place in that response


def pack_responses(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, micro_batch_tokens: int
) -> list[PackedBatch]:
    """Pack prompt + response sequences into micro-batches of at most `micro_batch_tokens`, but at least one row.

    Empty responses have nothing to train on and are left out. Sequences longer than a row have batches of their own, so
    that a few of them don't make every row long."""
    lengths = {i: len(prompts[i]) + len(response) for i, response in enumerate(responses) if response}
    usual = min(ROW_TOKENS, micro_batch_tokens)
    batches = []
    for chosen in ([i for i in lengths if lengths[i] <= usual], [i for i in lengths if lengths[i] > usual]):
        if chosen:
            capacity = max(usual, *(lengths[i] for i in chosen))
            packed = pack([lengths[i] for i in chosen], capacity, "first_fit_decreasing")
            rows = [[chosen[place] for place in row] for row in packed]
            size = max(1, micro_batch_tokens // capacity)
            batches += [_batch(rows[i : i + size], prompts, responses) for i in range(0, len(rows), size)]
    return batches


def _batch(rows: list[list[int]], prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> PackedBatch:
    width = max(sum(len(prompts[i]) + len(responses[i]) for i in row) for row in rows)
    input_ids = torch.full((len(rows), width), PAD_ID, dtype=torch.int64)
    doc_ids = torch.empty((len(rows), width), dtype=torch.int64)
    position, target, response, offset = [], [], [], []
    for b, row in enumerate(rows):
        end = 0
        for document, i in enumerate(row):
            sequence = [*prompts[i], *responses[i]]
            start, end = end, end + len(sequence)
            input_ids[b, start:end] = torch.tensor(sequence)
            doc_ids[b, start:end] = document
            first = b * width + start + len(prompts[i]) - 1
            size = len(responses[i])
            position.append(torch.arange(first, first + size))
            target.append(torch.tensor(responses[i]))
            response.append(torch.full((size,), i))
            offset.append(torch.arange(size))
        doc_ids[b, end:] = len(row)
    tokens = (torch.cat(parts) for parts in (position, target, response, offset))
    return PackedBatch(input_ids, doc_ids, *tokens)


def response_logprobs(model, batch: PackedBatch) -> Tensor:
    """Log-probability of every response token of a micro-batch: [N] float32, differentiable."""
    device = model.lm_head.weight.device
    hidden = model.hidden(batch.input_ids.to(device), doc_ids=batch.doc_ids.to(device))
    states = hidden.flatten(0, 1)[batch.position.to(device)]  # [N, H]
    return token_logprobs(states, model.lm_head.weight, batch.target.to(device))


def token_logprobs(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """log p(target) of every state: states [N, H], head [V, H], targets [N] -> [N] float32.

    Never holds more than BLOCK_LOGITS logits: beyond that, blocks are computed again in the backward pass."""
    rows = max(1, BLOCK_LOGITS // head.shape[0])
    if len(targets) <= rows:
        return _block(states, head, targets)
    blocks = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(_block, part, head, target, use_reentrant=False) for part, target in blocks])


def _block(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(F.linear(states, head).float(), targets, reduction="none")
