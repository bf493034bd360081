"""AdamW, gradient buffers and clipping.

Weights are float32 whatever the precision of the arithmetic: autocast rounds copies of them to bfloat16, so these
are the master weights. All gradients live in one flat buffer, which makes zeroing, the global norm, clipping and the
sum over processes one operation each, and leaves no parameter without a gradient when no token visits an expert.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from nano3.errors import UserError
from nano3.recipe.training import Optimizer


def adamw(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW over the parameters that need gradients, in two groups: matrices decay, vectors do not.

    Vectors are norms, biases, A_log, D and dt_bias. The learning rate is 0 until `set_learning_rate`."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [(name, p) for name, p in trained if p.ndim >= 2]
    others = [(name, p) for name, p in trained if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def flat_gradients(optimizer: torch.optim.Optimizer) -> Tensor:
    """Make every parameter's gradient a view into one zeroed buffer, and return the buffer.

    Use `buffer.zero_()` between steps; `optimizer.zero_grad()` would drop the views."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    buffer = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    offset = 0
    for parameter in parameters:
        parameter.grad = buffer[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return buffer


def clip(gradients: Tensor, largest: float) -> float:
    """Scale the flat gradients so that their norm is at most `largest`; returns the norm before."""
    norm = torch.linalg.vector_norm(gradients).item()
    if norm > largest:
        gradients.mul_(largest / norm)
    return norm


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    gradients: Tensor,
    *,
    largest: float,
    rate: float,
    stage: str,
    step: int,
    loss: float,
) -> float:
    """Clip the flat gradients to norm `largest` and update with this learning rate; returns the norm before.

    Raises UserError, with the weights as they were, when a gradient is not finite. stage, step (0 is the first) and
    loss are for its text."""
    norm = clip(gradients, largest)
    if not math.isfinite(norm):
        raise UserError(
            f"{stage}: the gradient of step {step + 1} is not finite (loss {loss}).\n"
            "  Training diverged: lower the learning rate or lengthen the warmup. The last checkpoint is kept."
        )
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return norm


def save_state(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Write the optimizer's tensors as safetensors: `{parameter}.exp_avg`, `.exp_avg_sq` and `.step`."""
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in _named(optimizer)
        for key, value in optimizer.state[parameter].items()
    }
    save_file(tensors, file)


def load_state(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Read what `save_state` wrote. Hyperparameters stay as they are. Raises UserError if it doesn't fit."""
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"{file} does not exist; expected the optimizer state of the stage before")
    saved = load_file(file)  # maps the file; the copies below outlive it
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(_named(optimizer)):
        try:
            state[index] = {key: saved.pop(f"{name}.{key}").clone() for key in ("step", "exp_avg", "exp_avg_sq")}
        except KeyError as missing:
            raise UserError(f"{file} has no {missing}: it belongs to another model") from None
        if state[index]["exp_avg"].shape != parameter.shape:
            found, expected = tuple(state[index]["exp_avg"].shape), tuple(parameter.shape)
            raise UserError(f"{file}: {name} has shape {found}, the model's is {expected}")
    if saved:
        raise UserError(f"{file} has {len(saved)} tensors that the model lacks, e.g. {min(saved)}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [
        pair for group in optimizer.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
    ]
