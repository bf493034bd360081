"""Log-probabilities of given tokens, straight from the final hidden states.

Cross-entropy, GRPO, DPO and evaluation all need log p(target) and nothing else of the logits. Computing it here saves what
composed operations spend on a [tokens, vocabulary] matrix: three more copies and four more passes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_logprobs(hidden: Tensor, head: Tensor, targets: Tensor, *, keep: bool = True) -> Tensor:
    """log softmax(hidden @ head^T)[target], float32 and differentiable.

    hidden [.., D] (of `NemotronH.hidden`), head [V, D] (`model.lm_head.weight`), targets [..] int64 -> [..].
    `keep=False` computes the probabilities again in the backward pass instead of keeping [.., V] of them.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, head = hidden.to(dtype), head.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        return _TokenLogprobs.apply(hidden.flatten(0, -2), head, targets.flatten(), keep).view(targets.shape)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, targets, keep):
        probs, logprobs = _softmax(hidden, head, targets)
        keep = keep and any(ctx.needs_input_grad)
        ctx.save_for_backward(hidden, head, targets, probs if keep else None)
        return logprobs

    @staticmethod
    def backward(ctx, grad):
        hidden, head, targets, probs = ctx.saved_tensors
        if probs is None:
            probs, _ = _softmax(hidden, head, targets)
        dlogits = probs * -grad[:, None]  # d log p_t / d logits = onehot(t) - p
        rows = torch.arange(targets.shape[0], device=targets.device)
        dlogits[rows, targets] += grad
        dlogits = dlogits.to(hidden.dtype)
        return dlogits @ head, dlogits.T @ hidden, None, None


def _softmax(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [N, V] and the targets' log-probabilities [N], float32."""
    logits = F.linear(hidden, head).float()
    logits.sub_(logits.amax(-1, keepdim=True))
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    total = logits.exp_().sum(-1)
    return logits.div_(total[:, None]), chosen - total.log()
