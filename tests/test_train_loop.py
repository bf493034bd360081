"""One optimizer step: the loss, its gradient, the expert bias, and that a model learns."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch

from nano3.errors import UserError
from nano3.model.config import ModelConfig
from nano3.model.nemotron_h import NemotronH
from nano3.recipe import load_recipe
from nano3.recipe.training import Balance, Optimizer
from nano3.train.loop import Machine, Task, expert_load, optimizer_step
from nano3.train.loss import BLOCK_LOGITS, cross_entropies, summed_cross_entropy
from nano3.train.optimizer import adamw, clip, flat_gradients, load_state, save_state, set_learning_rate
from nano3.train.pretrain import next_token_batch, plan_lengths
from train_toy import SHAPE

VOCAB = SHAPE["vocab_size"]


def toy_model(**changes):
    torch.manual_seed(0)
    return NemotronH(ModelConfig(**SHAPE | changes))


def toy_task(batch, **changes):
    """A task whose every step is the given batch."""

    def part(step, first, count):
        return {name: None if value is None else value[first : first + count] for name, value in batch.items()}

    task = Task(
        stage="toy",
        steps=1,
        rows=lambda step: len(batch["input_ids"]),
        batch=part,
        learning_rate=lambda step: 1e-2,
        balance=Balance(),
        gradient_clip=1e9,
        validation=[],
        validation_interval=1,
        token_bytes=torch.ones(VOCAB, dtype=torch.int64),
    )
    return replace(task, **changes)


def toy_batch(rows=6, length=32, seed=1):
    draw = torch.Generator().manual_seed(seed)
    batch = next_token_batch(torch.randint(2, VOCAB, (rows, length + 1), generator=draw), 2, True)
    batch["loss_mask"] = (torch.rand(rows, length, generator=draw) < 0.6).float()
    return batch


def machine(micro_batch_tokens=10_000):
    execution = load_recipe("config/recipes/tiny.yaml").execution
    return Machine(
        execution.model_copy(update={"micro_batch_tokens": micro_batch_tokens}), "cpu", contextlib.nullcontext()
    )


def gradients_of(batch, micro_batch_tokens, **changes):
    model = toy_model()
    optimizer = adamw(model, Optimizer())
    gradients = flat_gradients(optimizer)
    metrics, tokens = optimizer_step(
        model, optimizer, gradients, toy_task(batch, **changes), 0, machine(micro_batch_tokens)
    )
    return gradients.clone(), metrics, tokens


@pytest.mark.parametrize("micro_batch_tokens", [1, 64, 100])
def test_micro_batches_do_not_change_the_gradient(micro_batch_tokens):
    balance = Balance(loss_coefficient=0.1)
    whole, metrics, tokens = gradients_of(toy_batch(), 10_000, balance=balance)
    parts, same, same_tokens = gradients_of(toy_batch(), micro_batch_tokens, balance=balance)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert same["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert same["balance_loss"] == pytest.approx(metrics["balance_loss"], rel=1e-6)
    assert tokens == same_tokens == 6 * 32


def test_the_gradient_is_that_of_the_mean_loss_over_supervised_tokens():
    batch = toy_batch()
    found, metrics, _ = gradients_of(batch, 64, balance=Balance(loss_coefficient=0))
    model = toy_model()
    expected = flat_gradients(adamw(model, Optimizer()))
    logits = model(batch["input_ids"], doc_ids=batch["doc_ids"])
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="none")
    loss = (nats * batch["loss_mask"].flatten()).sum() / batch["loss_mask"].sum()
    loss.backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert metrics["supervised_tokens"] == int(batch["loss_mask"].sum())
    assert metrics["grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-5)


def test_masked_targets_change_nothing():
    batch, other = toy_batch(), toy_batch()
    other["targets"] = torch.where(other["loss_mask"] > 0, other["targets"], 7)
    assert (other["targets"] != batch["targets"]).any()
    assert torch.equal(gradients_of(batch, 64)[0], gradients_of(other, 64)[0])


def test_a_step_without_supervised_tokens_is_an_error():
    batch = toy_batch() | {"loss_mask": torch.zeros(6, 32)}
    with pytest.raises(UserError, match="no token of step 1 is supervised"):
        gradients_of(batch, 64)


def test_a_gradient_that_is_not_finite_stops_the_training():
    model = toy_model()
    optimizer = adamw(model, Optimizer())
    gradients = flat_gradients(optimizer)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.inf
    with pytest.raises(UserError, match="not finite"):
        optimizer_step(model, optimizer, gradients, toy_task(toy_batch()), 0, machine())


@pytest.mark.parametrize("block", [1, VOCAB * 5, 10**9])
def test_the_blockwise_loss_and_its_gradients_are_those_of_cross_entropy(block, monkeypatch):
    monkeypatch.setitem(BLOCK_LOGITS, "cpu", block)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 8, 16, generator=draw, requires_grad=True)
    head = torch.randn(VOCAB, 16, generator=draw, requires_grad=True)
    targets = torch.randint(0, VOCAB, (3, 8), generator=draw)
    mask = (torch.rand(3, 8, generator=draw) < 0.5).float()
    nats = torch.nn.functional.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), reduction="none")
    expected = (nats.view(3, 8) * mask).sum()
    wanted = torch.autograd.grad(2 * expected, (hidden, head))
    found = summed_cross_entropy(hidden, head, targets, mask)
    torch.testing.assert_close(found, expected)
    for gradient, right in zip(torch.autograd.grad(2 * found, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cross_entropies(hidden.flatten(0, 1), head, targets.flatten()), nats.detach())


def test_the_loss_in_bfloat16_is_close_and_its_head_gradient_is_float32():
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 64, 16, generator=draw, requires_grad=True)
    head = torch.randn(VOCAB, 16, generator=draw, requires_grad=True)
    targets, mask = torch.randint(0, VOCAB, (1, 64), generator=draw), torch.ones(1, 64)
    exact = summed_cross_entropy(hidden, head, targets, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = summed_cross_entropy(hidden, head, targets, mask)
    assert rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    right = torch.autograd.grad(exact, (hidden, head))
    for gradient, wanted in zip(torch.autograd.grad(rounded, (hidden, head)), right, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - wanted).norm() < 0.03 * wanted.norm()


def test_weight_decay_spares_vectors():
    model = toy_model()
    decays = {
        name: group["weight_decay"]
        for group in adamw(model, Optimizer(weight_decay=0.1)).param_groups
        for name in group["param_names"]
    }
    assert decays.keys() == dict(model.named_parameters()).keys()
    spared = {name for name, decay in decays.items() if decay == 0}
    assert all(
        name.endswith(("norm.weight", "norm_f.weight", "A_log", ".D", "dt_bias", "conv1d.bias")) for name in spared
    )
    assert {name.rsplit(".", 1)[-1] for name in spared} == {"weight", "A_log", "D", "dt_bias", "bias"}


def test_clipping_keeps_the_direction_and_bounds_the_norm():
    gradients = torch.tensor([3.0, 4.0])
    assert clip(gradients, 10.0) == 5.0 and gradients.tolist() == [3.0, 4.0]
    assert clip(gradients, 1.0) == 5.0
    torch.testing.assert_close(gradients, torch.tensor([0.6, 0.8]))


def test_the_optimizers_state_survives_a_file(tmp_path):
    batch = toy_batch()

    def steps(model, optimizer, count):
        gradients = flat_gradients(optimizer)
        for _ in range(count):
            optimizer_step(model, optimizer, gradients, toy_task(batch), 0, machine())

    model = toy_model()
    optimizer = adamw(model, Optimizer())
    steps(model, optimizer, 2)
    save_state(optimizer, tmp_path / "state.safetensors")
    copy = toy_model()
    copy.load_state_dict(model.state_dict())
    loaded = adamw(copy, Optimizer())
    load_state(loaded, tmp_path / "state.safetensors")
    steps(model, optimizer, 2)
    steps(copy, loaded, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name
    other = adamw(toy_model(hidden_size=16), Optimizer())
    with pytest.raises(UserError, match="has shape"):
        load_state(other, tmp_path / "state.safetensors")
    with pytest.raises(UserError, match="belongs to another model"):
        load_state(adamw(toy_model(pattern="ME*EM"), Optimizer()), tmp_path / "state.safetensors")


def test_the_expert_bias_moves_against_the_load():
    model = toy_model().train()
    model.hidden(toy_batch()["input_ids"]).sum().backward()
    counts = model.expert_counts().clone()
    load = expert_load(model, 0.5, machine().world, shares=True)
    assert load["max_violation_by_layer"] == pytest.approx((counts.amax(-1) / counts.double().mean(-1) - 1).tolist())
    assert load["max_violation"] == max(load["max_violation_by_layer"])
    assert sum(load["expert_shares"][0]) == pytest.approx(1)
    biases = [value for name, value in model.state_dict().items() if name.endswith("e_score_correction_bias")]
    for bias, count in zip(biases, counts.double(), strict=True):
        torch.testing.assert_close(bias.double(), 0.5 * (count.mean() - count).sign())
    assert not model.expert_counts().any()


def test_training_evens_out_the_load_of_experts():
    model = toy_model(n_routed_experts=8)
    optimizer = adamw(model, Optimizer())
    gradients = flat_gradients(optimizer)
    batch = toy_batch(rows=8)
    task = toy_task(batch, learning_rate=lambda step: 0.0)
    violations = []
    for _ in range(30):
        optimizer_step(model, optimizer, gradients, task, 0, machine())
        violations.append(expert_load(model, 0.01, machine().world, shares=False)["max_violation"])
    assert violations[-1] < 0.5 * violations[0]


def test_a_toy_model_learns_what_follows_what():
    """Every token but a document's first is fixed by the one before: loss must fall far below that of frequencies."""
    torch.manual_seed(3)
    follows = torch.randperm(VOCAB - 3) + 3
    tokens = torch.randint(3, VOCAB, (8, 1))
    for _ in range(32):
        tokens = torch.cat([tokens, follows[tokens[:, -1:] - 3]], dim=1)
    model = toy_model()
    optimizer = adamw(model, Optimizer())
    gradients = flat_gradients(optimizer)
    task = toy_task(next_token_batch(tokens, 2, False), gradient_clip=1.0)
    _, counts = tokens[:, 1:].unique(return_counts=True)
    share = counts / counts.sum()
    unigram_entropy = -(share * share.log()).sum().item()
    for _ in range(60):
        metrics, _ = optimizer_step(model, optimizer, gradients, task, 0, machine())
    assert metrics["loss"] < 0.25 * unigram_entropy


def test_documents_are_numbered_by_the_ends_before_them():
    batch = next_token_batch(torch.tensor([[5, 2, 6, 7, 2, 2, 8]]), 2, True)
    assert batch["doc_ids"].tolist() == [[0, 0, 1, 1, 1, 2]]
    assert batch["input_ids"].tolist() == [[5, 2, 6, 7, 2, 2]]
    assert batch["targets"].tolist() == [[2, 6, 7, 2, 2, 8]]
    assert next_token_batch(torch.tensor([[5, 2, 6]]), 2, False)["doc_ids"] is None


def test_lengths_are_mixed_by_their_share_of_the_tokens_all_along():
    plan = plan_lengths({512: 50, 128: 25, 64: 25}, tokens=512 * 4 * 40, tokens_per_step=512 * 4)
    assert len(plan) == 40
    assert all(step.rows * step.length == 2048 for step in plan)
    for end in range(4, 41, 4):
        used = [step.length for step in plan[:end]]
        assert [used.count(length) for length in (512, 128, 64)] == [end // 2, end // 4, end // 4]
    for length in (512, 128, 64):
        steps = [step for step in plan if step.length == length]
        assert [step.first for step in steps] == [index * steps[0].rows for index in range(len(steps))]


def test_a_length_without_a_share_is_never_trained_on():
    assert {step.length for step in plan_lengths({64: 0, 32: 1}, 1000, 128)} == {32}


def test_the_learning_rate_is_set_in_every_group():
    optimizer = adamw(toy_model(), Optimizer())
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
