"""GRPO's functions against an independent NumPy implementation, finite differences and plain loops."""

import math

import numpy as np
import pytest
import torch

from nano3.rl.grpo import advantages, clipped_surrogate, importance_weights, k3, mismatch, outside, policy_loss

CASES = [
    {"correction": "none"},
    {"correction": "plain"},
    {"correction": "masked", "band": (0.8, 1.25)},
    {"correction": "plain", "dual_clip": 1.5},
    {"correction": "masked", "band": (0.8, 1.25), "dual_clip": 3.0, "kl_coefficient": 0.3},
]


def numpy_advantages(rewards, leave_one_out, normalise_by_std):
    result = np.zeros_like(rewards)
    for group, row in enumerate(rewards):
        for i, reward in enumerate(row):
            if len(set(row)) > 1:
                baseline = np.mean(np.delete(row, i) if leave_one_out else row)
                result[group, i] = (reward - baseline) / (np.std(row, ddof=1) if normalise_by_std else 1.0)
    return result


def numpy_loss(current, previous, generator, reference, advantage, mask, options):
    """Loss and its derivative with respect to `current`, token by token."""
    low, high = options["clip_low"], options["clip_high"]
    dual, beta = options.get("dual_clip"), options.get("kl_coefficient", 0.0)
    loss, gradient = 0.0, np.zeros_like(current)
    for index in np.argwhere(mask):
        i = tuple(index)
        a, ratio = advantage[i], math.exp(current[i] - previous[i])
        weight = 1.0 if options["correction"] == "none" else math.exp(previous[i] - generator[i])
        if options["correction"] == "masked" and not options["band"][0] <= weight <= options["band"][1]:
            weight = 0.0
        bounded = min(max(ratio, 1 - low), 1 + high)
        value, slope = -a * ratio, -a * ratio
        if -a * bounded > value:
            value, slope = -a * bounded, 0.0
        if dual is not None and a < 0 and -a * dual < value:
            value, slope = -a * dual, 0.0
        difference = reference[i] - current[i]
        kl, kl_slope = math.exp(difference) - difference - 1, 1 - math.exp(difference)
        loss += weight * (value + beta * ratio * kl)
        gradient[i] = weight * (slope + beta * ratio * kl_slope)
    return loss / options["normaliser"], gradient / options["normaliser"]


def random_batch(seed, shape=(6, 11)):
    rng = np.random.default_rng(seed)
    previous = -rng.exponential(1.0, shape)
    current = previous + rng.normal(0, 0.3, shape)
    generator = previous + rng.normal(0, 0.2, shape)
    reference = previous + rng.normal(0, 0.3, shape)
    advantage = np.repeat(rng.normal(0, 1, (shape[0], 1)), shape[1], 1)
    advantage[0] = 0.0
    mask = np.arange(shape[1])[None] < rng.integers(0, shape[1] + 1, (shape[0], 1))
    mask[1] = False  # a response that is filtered out
    mask[2] = True
    return current, previous, generator, reference, advantage, mask


def run(options, current, previous, generator, reference, advantage, mask):
    leaf = torch.tensor(current, requires_grad=True)
    loss = policy_loss(
        leaf,
        *map(torch.tensor, (previous, generator, advantage, mask)),
        reference=torch.tensor(reference),
        **options,
    )
    loss.backward()
    return loss.item(), leaf.grad.numpy()


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_equal_an_independent_float64_implementation(case, seed):
    batch = random_batch(seed)
    options = {"clip_low": 0.2, "clip_high": 0.28, "normaliser": float(batch[-1].sum()), **CASES[case]}
    loss, gradient = run(options, *batch)
    current, previous, generator, reference, advantage, mask = batch
    expected, slope = numpy_loss(current, previous, generator, reference, advantage, mask, options)
    assert loss == pytest.approx(expected, rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-12)


def test_random_batches_reach_both_clip_sides_and_both_signs():
    current, previous, _, _, advantage, mask = random_batch(0)
    ratio = np.exp(current - previous)[mask]
    sign = np.sign(advantage)[mask]
    for side in (ratio < 0.8, ratio > 1.28):
        assert {-1.0, 1.0} <= set(sign[side])


def test_gradient_equals_finite_differences():
    batch = random_batch(7)
    options = {"clip_low": 0.2, "clip_high": 0.28, "normaliser": 20.0, "correction": "plain"}
    _, gradient = run(options, *batch)
    step = 1e-6
    for i in [(2, 0), (2, 5), (3, 1), (4, 2), (5, 0)]:
        moved = [batch[0].copy(), batch[0].copy()]
        moved[0][i] += step
        moved[1][i] -= step
        up, down = (run(options, each, *batch[1:])[0] for each in moved)
        assert gradient[i] == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_micro_batches_add_up_to_the_global_batch():
    batch = random_batch(3)
    options = {"clip_low": 0.2, "clip_high": 0.28, "normaliser": float(batch[-1].sum())}
    whole, gradient = run(options, *batch)
    halves = [run(options, *(part[rows] for part in batch)) for rows in (slice(0, 2), slice(2, 6))]
    assert whole == pytest.approx(sum(loss for loss, _ in halves), abs=1e-14)
    np.testing.assert_allclose(gradient, np.concatenate([slope for _, slope in halves]), atol=1e-15)


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_advantages_equal_a_plain_loop(leave_one_out, normalise):
    rng = np.random.default_rng(1)
    rewards = np.concatenate([rng.integers(0, 2, (20, 8)).astype(float), rng.random((5, 8))])
    found = advantages(torch.tensor(rewards), leave_one_out=leave_one_out, normalise_by_std=normalise)
    np.testing.assert_allclose(found.numpy(), numpy_advantages(rewards, leave_one_out, normalise), atol=1e-12)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_equal_rewards_give_exactly_zero_advantage_and_gradient(reward, leave_one_out):
    rewards = torch.full((3, 7), reward)
    found = advantages(rewards, leave_one_out=leave_one_out, normalise_by_std=True)
    assert (found == 0).all()
    current, previous, generator, reference, advantage, mask = random_batch(0)
    _, gradient = run(
        {"clip_low": 0.2, "clip_high": 0.28, "normaliser": 9.0, "dual_clip": 3.0},
        *(current, previous, generator, reference, 0 * advantage, mask),
    )
    assert (gradient == 0).all()


def test_undivided_leave_one_out_advantages_are_g_over_g_minus_1_times_the_centred_reward():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.5]])
    found = advantages(rewards, leave_one_out=True, normalise_by_std=False)
    torch.testing.assert_close(found, (rewards - rewards.mean()).double() * 4 / 3)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_advantages_of_a_group_sum_to_zero(normalise):
    rewards = torch.eye(8, dtype=torch.float64)  # one success among eight, in every place
    found = advantages(rewards, leave_one_out=True, normalise_by_std=normalise)
    torch.testing.assert_close(found.sum(-1), torch.zeros(8, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        advantages(torch.ones(3, 1), leave_one_out=True, normalise_by_std=True)


def test_masked_correction_drops_tokens_outside_the_band_and_keeps_its_ends():
    ratios = torch.tensor([0.49, 0.5, 1.0, 2.0, 2.01], dtype=torch.float64)
    generator = torch.full_like(ratios, -1.0)
    previous = generator + ratios.log()
    band = (0.5 - 1e-12, 2.0 + 1e-12)
    assert importance_weights(previous, generator, "masked", band).tolist() == pytest.approx([0, 0.5, 1, 2, 0])
    assert importance_weights(previous, generator, "plain").tolist() == pytest.approx(ratios.tolist())
    assert importance_weights(previous, generator, "none").tolist() == [1] * 5


def test_correction_weights_carry_no_gradient():
    current = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss = policy_loss(
        *(current, current.detach(), torch.tensor([-1.5]), torch.tensor([2.0]), torch.ones(1)),
        normaliser=1.0,
        clip_low=0.2,
        clip_high=0.28,
        correction="plain",
    )
    loss.backward()
    assert current.grad.item() == pytest.approx(-2.0 * math.exp(0.5))


def test_on_policy_gradient_is_that_of_the_advantage_weighted_log_probability():
    current, _, _, reference, advantage, mask = random_batch(2)
    options = {"clip_low": 0.2, "clip_high": 0.28, "normaliser": float(mask.sum())}
    _, gradient = run(options, current, current, current, reference, advantage, mask)
    np.testing.assert_allclose(gradient, -advantage * mask / mask.sum(), atol=1e-15)


def test_dual_clip_bounds_only_negative_advantages():
    far = torch.tensor(math.log(50.0))
    options = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    assert clipped_surrogate(far, torch.tensor(-1.0), **options).item() == pytest.approx(3.0)
    assert clipped_surrogate(far, torch.tensor(1.0), **options).item() == pytest.approx(-1.28)


def test_k3_is_zero_at_equality_and_positive_elsewhere():
    current = torch.tensor([-1.0, -1.0, -1.0])
    values = k3(current, torch.tensor([-1.0, -3.0, -0.2]))
    assert values[0] == 0
    assert (values[1:] > 0).all()


def test_masked_tokens_may_hold_anything_finite_without_touching_loss_or_mismatch():
    current, previous, generator, reference, advantage, mask = random_batch(5)
    options = {"clip_low": 0.2, "clip_high": 0.28, "normaliser": 10.0, "correction": "plain"}
    before = run(options, current, previous, generator, reference, advantage, mask)
    generator[~mask] += 100.0
    after = run(options, current, previous, generator, reference, advantage, mask)
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    largest, _ = mismatch(*map(torch.tensor, (previous, generator, mask)))
    assert largest < 2


def test_mismatch_of_no_tokens_is_zero():
    nothing = torch.zeros(3)
    assert mismatch(nothing, nothing, nothing) == (0.0, 0.0)


def test_tokens_outside_the_band_are_counted_only_where_the_mask_is_set():
    previous = torch.tensor([0.49, 0.51, 1.0, 1.99, 2.01, 9.0], dtype=torch.float64).log()
    mask = torch.tensor([1, 1, 1, 1, 1, 0])
    assert outside(previous, torch.zeros(6, dtype=torch.float64), mask, (0.5, 2.0)) == 2
