"""Our model against transformers' nemotron_h with the same weights: logits, loss and every gradient.

Each fault of FAULTS, injected into our model, must make the comparison fail; otherwise passing it would mean little.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from nano3.model import hf, mamba2, moe, scan
from nano3.model.config import ModelConfig
from nano3.model.nemotron_h import NemotronH

transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=48,
    pattern="MEM*EM",
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    mamba_num_heads=6,
    mamba_head_dim=16,
    ssm_state_size=16,
    n_groups=2,
    chunk_size=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=24,
    moe_shared_expert_intermediate_size=40,
    initializer_range=0.1,
    max_position_embeddings=512,
)
LOGITS, GRADIENTS = 5e-6, 2e-5  # tolerances: absolute, and relative to the largest entry of a gradient


def trained_looking(config: ModelConfig = CONFIG, seed: int = 0) -> NemotronH:
    """A model in which nothing has a value that hides a mistake: no zero bias, no norm weight of one."""
    torch.manual_seed(seed)
    model = NemotronH(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith(".D"):
                parameter.normal_(1, 0.2)
        for name, buffer in model.named_buffers():
            if "correction_bias" in name:
                buffer.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """transformers' model, its inputs and what it computes from them, for the weights of `trained_looking()`."""
    directory = tmp_path_factory.mktemp("checkpoint")
    hf.save(trained_looking(), directory)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    torch.manual_seed(1)
    ids = torch.randint(0, CONFIG.vocab_size, (3, 50))
    logits = theirs(input_ids=ids[:, :-1], use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    holder = copy.deepcopy(theirs)  # saved under the names on disk, gradients become comparable with ours
    with torch.no_grad():
        for place, parameter in zip(holder.parameters(), theirs.parameters(), strict=True):
            place.copy_(parameter.grad)
    holder.save_pretrained(directory / "gradients")
    from safetensors.torch import load_file

    gradients = load_file(directory / "gradients" / "model.safetensors")
    return ids, logits.detach(), loss.detach(), {k: v for k, v in gradients.items() if "correction_bias" not in k}


def gradients_on_disk(model: NemotronH) -> dict[str, torch.Tensor]:
    holder = copy.deepcopy(model)
    with torch.no_grad():
        for place, parameter in zip(holder.parameters(), model.parameters(), strict=True):
            place.copy_(parameter.grad)
    return hf.export_state(holder)


def differences(oracle) -> tuple[float, float, dict[str, float]]:
    """Of logits and loss (absolute) and of every gradient (relative to its largest entry)."""
    ids, logits, loss, gradients = oracle
    model = trained_looking()
    ours = model(ids[:, :-1])
    our_loss = F.cross_entropy(ours.flatten(0, 1), ids[:, 1:].flatten())
    our_loss.backward()
    mine = gradients_on_disk(model)
    relative = {name: ((mine[name] - g).abs().max() / g.abs().max()).item() for name, g in gradients.items()}
    return (ours - logits).abs().max().item(), (our_loss - loss).abs().item(), relative


def test_logits_loss_and_every_gradient_equal_those_of_transformers(oracle):
    logits, loss, gradients = differences(oracle)
    assert logits <= LOGITS
    assert loss <= 1e-6
    assert {name: difference for name, difference in gradients.items() if not difference <= GRADIENTS} == {}
    assert len(gradients) == 3 + 6 + 3 * 8 + 4 + 2 * (2 * 8 + 3)


def ignore_expert_bias(patch):
    forward = moe.Router.forward

    def without_bias(self, x):
        kept, self.e_score_correction_bias = self.e_score_correction_bias, torch.zeros(1)
        result = forward(self, x)
        self.e_score_correction_bias = kept
        return result

    patch.setattr(moe.Router, "forward", without_bias)


def swap_b_and_c(patch):
    def swapped(x, dt, A, B, C, *rest):
        return scan.scan_forward(x, dt, A, C, B, *rest)

    patch.setattr(mamba2, "scan_forward", swapped)


def drop_the_scaling_factor(patch):
    edit_router(patch, scale=1.0)


def choose_one_expert_less(patch):
    edit_router(patch, k=CONFIG.num_experts_per_tok - 1)


def edit_router(patch, **attributes):
    create = moe.Router.__init__

    def edited(self, config):
        create(self, config)
        for name, value in attributes.items():
            setattr(self, name, value)

    patch.setattr(moe.Router, "__init__", edited)


def norm_before_the_gate(patch):
    def swapped(y, z, weight, groups, eps):
        normed = y.unflatten(-1, (groups, -1))
        normed = normed * torch.rsqrt(normed.square().mean(-1, keepdim=True) + eps)
        return normed.flatten(-2) * weight * F.silu(z), None

    patch.setattr(mamba2, "gated_norm", swapped)
    patch.setattr(mamba2, "gated_norm_backward", lambda dout, weight, saved: (dout, dout, weight))


def clamp_the_time_step(patch):
    def clamped(x, dt, *rest):
        return scan.scan_forward(x, dt.clamp(min=0.01), *rest)

    patch.setattr(mamba2, "scan_forward", clamped)


def forget_the_convolution_bias(patch):
    convolve = mamba2.convolve
    patch.setattr(mamba2, "convolve", lambda x, taps, bias, *rest: convolve(x, taps, 0 * bias, *rest))


FAULTS = [
    ignore_expert_bias,
    swap_b_and_c,
    drop_the_scaling_factor,
    choose_one_expert_less,
    norm_before_the_gate,
    clamp_the_time_step,
    forget_the_convolution_bias,
]


@pytest.mark.parametrize("inject", FAULTS, ids=lambda fault: fault.__name__)
def test_the_comparison_notices(inject, oracle, monkeypatch):
    inject(monkeypatch)
    logits, _, _ = differences(oracle)
    assert not logits <= 4 * LOGITS


def test_a_wrong_gradient_alone_is_noticed(oracle, monkeypatch):
    backward = mamba2.scan_backward

    def without_carried_state(dy, A, D, bounds, saved, dfinal):
        saved.carry = torch.zeros_like(saved.carry)
        return backward(dy, A, D, bounds, saved, dfinal)

    monkeypatch.setattr(mamba2, "scan_backward", without_carried_state)
    logits, _, gradients = differences(oracle)
    assert logits <= LOGITS
    assert not max(gradients.values()) <= GRADIENTS
