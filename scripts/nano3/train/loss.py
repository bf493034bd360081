"""Cross-entropy from hidden states, without ever holding the logits of all positions.

Logits of B x T positions over a vocabulary of 131,072 are by far the largest tensor of a training step. Here only the
positions that count are projected, a block at a time, and the block's gradient is taken while its logits are
there, so the backward pass neither keeps nor recomputes them. N positions count, H hidden size, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd import Function

BLOCK_LOGITS = {"cpu": 2**20, "cuda": 2**27}  # logits held at once: 4 MiB, which caches hold, and 512 MiB


def summed_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum of -log p(target) over positions with loss_mask > 0, in nats; a differentiable float32 scalar.

    hidden [B, T, H], head [V, H] (the language-model head), targets int64 [B, T], loss_mask [B, T]."""
    counted = loss_mask > 0
    return _SummedCrossEntropy.apply(hidden[counted].to(_arithmetic(hidden)), head, targets[counted])


@torch.no_grad()
def cross_entropies(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of every position in nats, float32 [N], without gradient. hidden [N, H], targets [N]."""
    hidden = hidden.to(_arithmetic(hidden))
    weight = head.to(hidden.dtype)
    result = torch.empty(len(targets), device=hidden.device)
    for part in _blocks(hidden, head):
        logits = (hidden[part] @ weight.T).float()
        result[part] = logits.logsumexp(-1) - logits.gather(-1, targets[part, None]).squeeze(-1)
    return result


class _SummedCrossEntropy(Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return _SummedCrossEntropy._loss_and_gradients(ctx, hidden, head, targets)

    @staticmethod
    def _loss_and_gradients(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        weight = head.to(hidden.dtype)
        loss = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros_like(head)
        for part in _blocks(hidden, head):
            logits = (hidden[part] @ weight.T).float()
            own = targets[part, None]
            largest = logits.amax(-1, keepdim=True)
            own_logits = logits.gather(-1, own) - largest
            # d loss / d logits = softmax - one_hot, built where the logits were
            gradient = logits.sub_(largest).exp_()
            total = gradient.sum(-1, keepdim=True)
            loss += (total.log() - own_logits).sum()
            gradient.div_(total)
            gradient.scatter_(-1, own, gradient.gather(-1, own) - 1)
            gradient = gradient.to(hidden.dtype)
            torch.matmul(gradient, weight, out=hidden_gradient[part])
            if head_gradient.dtype == gradient.dtype:
                head_gradient.addmm_(gradient.T, hidden[part])
            else:
                head_gradient += gradient.T @ hidden[part]
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return loss

    @staticmethod
    def backward(ctx, outer: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * outer.to(hidden_gradient.dtype), head_gradient * outer, None


def _arithmetic(hidden: Tensor) -> torch.dtype:
    """The type that matrix products are computed in: autocast's where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _blocks(hidden: Tensor, head: Tensor) -> list[slice]:
    rows = max(1, BLOCK_LOGITS.get(hidden.device.type, 2**24) // head.shape[0])
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]
