"""DPO: loss and gradient against NumPy, the pair file, micro-batches, and that it learns."""

import json
import math

import numpy as np
import pytest
import torch

from nano3.errors import UserError
from nano3.recipe.execution import Execution
from nano3.recipe.training import Dpo
from nano3.rl import dpo
from nano3.rl.preferences import Pair, pair_row, read_pairs
from nano3.train import hardware
from nano3.train.loop import Machine
from nano3.train.optimizer import adamw, flat_gradients
from rl_toy import toy_model, toy_rows

WEIGHTS = {"beta": 0.05, "sft_weight": 0.2, "weight": 1.0}


@pytest.fixture
def machine():
    return Machine(Execution(micro_batch_tokens=64, checkpoint_interval=2), "cpu", hardware.arithmetic("cpu", "fp32"))


def numpy_dpo(policy, reference, mask, beta, sft_weight, weight):
    """Mean loss over pairs and its gradient; arrays [pairs, 2, T], side 0 chosen, padding where mask is 0."""
    loss, gradient = 0.0, np.zeros_like(policy)
    for p in range(len(policy)):
        gains = [(np.where(mask[p, s], policy[p, s] - reference[p, s], 0)).sum() for s in (0, 1)]
        margin = beta * (gains[0] - gains[1])
        length = mask[p, 0].sum()
        loss += weight * np.log1p(np.exp(-margin)) - sft_weight * policy[p, 0][mask[p, 0]].sum() / length
        slope = -weight * beta / (1 + np.exp(margin))
        gradient[p, 0] = mask[p, 0] * (slope - sft_weight / length)
        gradient[p, 1] = mask[p, 1] * -slope
    return loss / len(policy), gradient / len(policy)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weights", [WEIGHTS, {"beta": 1.3, "sft_weight": 0.0, "weight": 0.7}])
def test_loss_and_gradient_equal_an_independent_float64_implementation(seed, weights):
    rng = np.random.default_rng(seed)
    pairs, longest = 5, 9
    policy, reference = (-rng.exponential(1.0, (pairs, 2, longest)) for _ in range(2))
    mask = np.arange(longest) < rng.integers(1, longest + 1, (pairs, 2, 1))
    mask &= rng.random(mask.shape) < 0.9  # holes, as masked tokens inside a response leave them
    mask[:, :, 0] = True
    expected, slope = numpy_dpo(policy, reference, mask, weights["beta"], weights["sft_weight"], weights["weight"])
    leaf = torch.tensor(policy, requires_grad=True)
    flat = torch.tensor(mask)
    response = torch.arange(2 * pairs).view(pairs, 2, 1).expand(-1, -1, longest)[flat]
    order = torch.randperm(len(response), generator=torch.Generator().manual_seed(seed))  # packing mixes responses
    losses, _, _ = dpo.pair_losses(
        leaf[flat][order], torch.tensor(reference)[flat][order], response[order], pairs, **weights
    )
    losses.mean().backward()
    assert losses.mean().item() == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-10, atol=1e-12)


def test_the_first_preference_loss_is_ln_2(chat, machine):
    task = toy_task(chat)
    found = dpo.batch_measures(task.reference, task.train, task, machine, learn=False)
    assert abs(found["preference_loss"] - math.log(2)) < 1e-6
    assert found["margin"] == 0
    assert found["loss"] > found["preference_loss"]  # the supervised term


def toy_task(chat, count=6, **changes):
    """Pairs that prefer an answer of e's of one length to an answer of x's of another."""
    rows = toy_rows(count)
    pairs = []
    for index, row in enumerate(rows):
        prompt = chat.prompt_ids(row)
        good, bad = (chat.tokenizer.encode(letter * size).ids for letter, size in (("e", 3 + index), ("x", 9 - index)))
        pairs.append(Pair(prompt, [*good, chat.stop_ids[0]], [*bad, chat.stop_ids[0]], "toy"))
    section = {
        "pairs": {"max_new_tokens": 8},
        "steps": 20,
        "global_batch_size": 4,
        "max_new_tokens": 8,
        "learning_rate": 3e-3,
        "beta": 0.1,
        "validation": {"interval": 100, "prompts": 2, "generations": 2},
    }
    reference = toy_model().eval().requires_grad_(False)
    return dpo.Task(Dpo(**section | changes), 3, pairs[:-1], pairs[-1:], toy_rows(4, "valid"), chat, reference)


def gradient(task, pairs, machine):
    model = toy_model().train()
    model.freeze_router(True)
    gradients = flat_gradients(adamw(model, task.settings.optimizer))
    dpo.batch_measures(model, pairs, task, machine, learn=True)
    return gradients.clone()


def test_micro_batches_of_any_size_give_one_gradient(chat, machine):
    task = toy_task(chat)
    whole = Machine(Execution(micro_batch_tokens=10_000, checkpoint_interval=2), "cpu", machine.arithmetic)
    assert len(dpo._micro_batches(task.train, 64)) > 1
    torch.testing.assert_close(gradient(task, task.train, machine), gradient(task, task.train, whole))


def test_training_raises_the_margin_and_the_accuracy_on_held_out_pairs(chat, machine):
    task = toy_task(chat)
    model = toy_model().train()
    model.freeze_router(True)
    optimizer = adamw(model, task.settings.optimizer)
    gradients = flat_gradients(optimizer)
    before = dpo.batch_measures(model.eval(), task.valid, task, machine, learn=False)
    model.train()
    for step in range(20):
        dpo.update(model, optimizer, gradients, task.train[:4], task, step, machine)
    after = dpo.batch_measures(model.eval(), task.valid, task, machine, learn=False)
    assert before["margin"] == 0
    assert after["margin"] > 0.1
    assert after["accuracy"] == 1
    assert after["preference_loss"] < 0.65


CONTEXT = [{"role": "user", "content": "2+2?"}]


def write(tmp_path, *rows):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def said(content, **more):
    return {"role": "assistant", "content": content, **more}


def test_both_pair_formats_give_the_same_tokens_and_end_the_turn(tmp_path, chat):
    good, bad = said("4", reasoning_content="sum"), said("<think>\nhm\n</think>\n5")
    file = write(
        tmp_path,
        pair_row(CONTEXT, None, good, bad, group="no_tools"),
        {"prompt": "2+2?", "chosen": good, "rejected": [bad]},
    )
    (first, second), too_long = read_pairs(file, chat)
    assert (first.prompt, first.chosen, first.rejected) == (second.prompt, second.chosen, second.rejected)
    assert too_long == 0
    assert chat.text(first.prompt).endswith("2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert chat.text(first.chosen) == "sum\n</think>\n4<|im_end|>"
    assert chat.text(first.rejected) == "hm\n</think>\n5<|im_end|>"
    assert (first.group, second.group) == ("no_tools", "pairs")


def test_answers_without_thinking_and_tool_calls_are_pairs_too(tmp_path, chat):
    call = said("", tool_calls=[{"function": {"name": "add", "arguments": {"a": 2}}}])
    (pair,), _ = read_pairs(write(tmp_path, pair_row(CONTEXT, None, said("4"), call)), chat)
    assert chat.text(pair.prompt).endswith("assistant\n<think></think>")
    assert chat.text(pair.chosen) == "4<|im_end|>"
    assert "<function=add>" in chat.text(pair.rejected)


def test_longer_pairs_are_left_out_and_counted(tmp_path, chat):
    rows = [pair_row(CONTEXT, None, said("4"), said("5" * size)) for size in (1, 200)]
    pairs, too_long = read_pairs(write(tmp_path, *rows), chat, max_tokens=150)
    assert (len(pairs), too_long) == (1, 1)
    with pytest.raises(UserError, match="no pairs of at most 10"):
        read_pairs(write(tmp_path, *rows), chat, max_tokens=10)


@pytest.mark.parametrize(
    "row",
    [
        {"context": CONTEXT, "completions": [{"rank": 0, "completion": [said("4")]}]},
        {"prompt": "2+2?", "chosen": {"role": "user", "content": "4"}, "rejected": "5"},
        {"text": "4"},
        {"prompt": "2+2?", "chosen": said("4"), "rejected": said("5", reasoning_content="hm")},
    ],
)
def test_a_row_that_is_no_pair_is_an_error_that_names_the_line(tmp_path, chat, row):
    good = pair_row(CONTEXT, None, said("4"), said("5"))
    with pytest.raises(UserError, match="line 2 is no preference pair"):
        read_pairs(write(tmp_path, good, row), chat)
