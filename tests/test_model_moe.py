"""The mixture of experts: routing, balancing, and the two ways of computing it."""

import pytest
import torch

from nano3.model import moe
from nano3.model.generate import generate
from nano3.model.moe import Experts, Router, dense_experts
from test_model_parity import CONFIG, trained_looking


def layer(kind, seed: int = 0):
    torch.manual_seed(seed)
    made = kind(CONFIG)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_the_bias_decides_who_is_chosen_but_not_with_what_weight():
    router = layer(Router)
    x = torch.randn(20, CONFIG.hidden_size)
    router.e_score_correction_bias[3] = 10.0
    scores, weights, experts = router(x)
    assert (experts == 3).any(1).all()
    expected = scores.gather(1, experts)
    expected = 2.5 * expected / expected.sum(1, keepdim=True)
    assert torch.allclose(weights, expected)
    assert torch.allclose(weights.sum(1), torch.full((20,), 2.5))


def test_sorted_and_dense_experts_agree(monkeypatch):
    router, experts = layer(Router), layer(Experts, 1)
    x = torch.randn(40, CONFIG.hidden_size)
    _, weights, chosen = router(x)
    routed = experts(x, weights, chosen)
    dense = dense_experts(x, weights, chosen, experts.up_proj, experts.down_proj)
    assert (routed - dense).abs().max() < 1e-4 * dense.abs().max()
    with torch.no_grad():
        assert torch.equal(experts(x, weights, chosen), dense)
        monkeypatch.setattr(moe, "DENSE_BELOW", 0)
        assert torch.equal(experts(x, weights, chosen), routed)


@pytest.mark.parametrize("multiple", [1, 4])
def test_gradients_of_the_sorted_experts_are_right_also_for_an_expert_without_tokens(multiple, monkeypatch):
    monkeypatch.setitem(moe.ROWS_OF, ("cpu", torch.float64), multiple)
    torch.manual_seed(0)
    n, d, e, f, k = 6, 4, 5, 3, 2
    x, up, down = torch.randn(n, d), torch.randn(e, f, d), torch.randn(e, f, d)
    weights, experts = torch.rand(n, k), torch.stack([torch.randperm(e - 1)[:k] for _ in range(n)])
    inputs = [v.double().requires_grad_() for v in (x, weights)], [v.double().requires_grad_() for v in (up, down)]
    (x, weights), (up, down) = inputs
    assert torch.autograd.gradcheck(
        lambda *v: moe._SortedExperts.apply(v[0], v[1], experts, *v[2:]), (x, weights, up, down)
    )


def one_kernel_and_one_at_a_time(sizes, device, monkeypatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and gradients of four experts with so many slots each, in bfloat16, computed in both ways."""
    torch.manual_seed(0)
    chosen = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))[torch.randperm(sum(sizes))]
    chosen, weights = chosen.view(-1, 2).to(device), torch.rand(sum(sizes) // 2, 2, device=device)
    x, up, down = (
        torch.randn(shape, device=device).bfloat16() for shape in ((len(chosen), 64), (4, 32, 64), (4, 32, 64))
    )
    dy, results = torch.randn_like(x), []
    for grouped in (True, False):
        monkeypatch.setattr(moe, "can_group", lambda up, grouped=grouped: grouped)
        leaves = [value.clone().requires_grad_() for value in (x, weights, up, down)]
        y = moe._SortedExperts.apply(leaves[0], leaves[1], chosen, *leaves[2:])
        y.backward(dy)
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    return results


@pytest.mark.parametrize("sizes", [[5, 0, 40, 3], [0, 0, 0, 48], [12, 12, 12, 12], [1, 46, 1, 0]])
def test_experts_in_one_kernel_equal_one_at_a_time(sizes, monkeypatch):
    grouped, single = one_kernel_and_one_at_a_time(sizes, "cpu", monkeypatch)
    for ours, expected in zip(grouped, single, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-2)
    assert grouped[3].flatten(1).any(1).tolist() == [size > 0 for size in sizes]


def test_decoding_casts_the_sorted_experts_once_and_not_in_every_step(monkeypatch):
    model, prompts = trained_looking().eval(), [[1, 2, 3], [4]]
    monkeypatch.setattr(moe, "DENSE_BELOW", 0)
    assert model.layers[1].mixer.decoding_weights(2) is None
    with torch.autocast("cpu", torch.bfloat16):
        prepared = model.layers[1].mixer.decoding_weights(2)
        assert prepared.up.dtype == torch.bfloat16 and not prepared.joined
        once = generate(model, prompts, max_new_tokens=12)
        monkeypatch.setattr(moe.MoE, "decoding_weights", lambda self, rows: None)
        assert generate(model, prompts, max_new_tokens=12) == once


def test_counts_are_of_training_forwards_and_start_anew_after_the_update():
    model = trained_looking()
    ids = torch.randint(0, CONFIG.vocab_size, (2, 10))
    model.eval()
    model(ids)
    model.train()
    with torch.no_grad():
        model(ids)
    assert model.expert_counts().sum() == 0
    model(ids), model(ids)
    assert model.expert_counts().shape == (2, CONFIG.n_routed_experts)
    assert model.expert_counts().sum(1).tolist() == [2 * 20 * CONFIG.num_experts_per_tok] * 2
    model.update_expert_bias(0.001)
    assert model.expert_counts().sum() == 0


def test_the_bias_moves_by_the_rate_towards_an_even_load():
    model = trained_looking()
    gate = model.layers[1].mixer
    before = gate.gate.e_score_correction_bias.clone()
    gate.counts.copy_(torch.tensor([9, 1, 5, 5, 5, 5, 10, 0]))
    model.update_expert_bias(0.01)
    moved = gate.gate.e_score_correction_bias - before
    assert torch.allclose(moved, 0.01 * torch.tensor([-1.0, 1, 0, 0, 0, 0, -1, 1]))


def test_balancing_evens_out_the_load():
    model = trained_looking().train()
    ids = torch.randint(0, CONFIG.vocab_size, (8, 40))

    def unevenness() -> float:
        model(ids)
        counts = model.expert_counts().double()
        return (counts.amax(1) / counts.mean(1)).max().item()

    before = unevenness()
    for _ in range(60):
        model.update_expert_bias(0.01)
        model(ids)
    model.update_expert_bias(0.0)
    assert before > 1.4
    assert unevenness() < 1.15


def test_the_balance_loss_is_one_per_layer_when_even_and_more_when_not():
    mixer = trained_looking().layers[1].mixer
    e, k = CONFIG.n_routed_experts, CONFIG.num_experts_per_tok
    even = torch.full((1, e, e), 0.5)
    for t in range(e):
        for j in range(k):
            even[0, t, (t + j) % e] += 1e-4
    mixer.scores = even
    assert mixer.balance_loss().item() == pytest.approx(1, abs=1e-3)
    uneven = torch.full((1, e, e), 0.1)
    uneven[:, :, :k] = 0.9
    mixer.scores = uneven
    assert mixer.balance_loss().item() > 1.5


def test_the_balance_loss_teaches_the_router_and_a_frozen_router_learns_nothing():
    model = trained_looking().train()
    ids = torch.randint(0, CONFIG.vocab_size, (2, 10))
    gate = model.layers[1].mixer.gate
    model(ids)
    model.balance_loss().backward()
    assert gate.weight.grad.abs().max() > 0
    model.zero_grad(set_to_none=True)
    model.freeze_router(True)
    model(ids).logsumexp(-1).mean().backward()
    assert gate.weight.grad is None
    assert model.layers[1].mixer.experts.up_proj.grad is not None
    assert model.expert_counts().sum() > 0
    model.freeze_router(False)
    assert gate.weight.requires_grad
