"""The GRPO stage: it learns, it skips only what has no gradient, and it resumes exactly."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nano3.artifacts import verify
from nano3.errors import Preempted, UserError
from nano3.model import hf
from nano3.recipe.execution import Execution
from nano3.recipe.training import Grpo
from nano3.rl import draw, rlvr, rollout
from nano3.rl.rollout import Rollout, load_chat_tokenizer, rollouts
from nano3.train.optimizer import adamw, flat_gradients
from nano3.train.tracking import read_rows
from rl_toy import letter_reward, toy_model, toy_rows, toy_world

TOY = Path(__file__).with_name("rl_toy.py")


def settings(**changes):
    base = {
        "steps": 12,
        "prompts_per_step": 4,
        "generations_per_prompt": 4,
        "max_new_tokens": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "overlong_filtering": False,
        "validation": {"interval": 100, "prompts": 4},
    }
    return Grpo(**base | changes)


def task(chat, **changes):
    return draw.Task("rl/test", settings(**changes), 5, toy_rows(8), toy_rows(4, "valid"), chat)


def responses(lengths, finished, prompt=(10, 20, 30)):
    """Rollouts with given lengths, as a generator with slightly wrong log-probabilities would give them."""
    torch.manual_seed(1)
    return [
        Rollout(
            prompt_id=str(i),
            environment="toy",
            prompt=list(prompt),
            response=torch.randint(20, 288, (length,)).tolist(),
            logprobs=[-5.6] * length,
            text="",
            reward=0.0,
            reason="",
            finished=done,
            well_formed=True,
        )
        for i, (length, done) in enumerate(zip(lengths, finished, strict=True))
    ]


def gradient_of(chat, machine, rolled, scores, **changes):
    model = toy_model().train()
    model.freeze_router(True)
    optimizer = adamw(model, settings().optimizer)
    gradients = flat_gradients(optimizer)
    measured = rlvr.update(
        model,
        optimizer,
        gradients,
        rolled,
        torch.tensor(scores, dtype=torch.float64),
        task(chat, **{"optimizer": {"gradient_clip": 1e9}, **changes}),
        0,
        machine,
    )
    return gradients.clone(), measured


def test_grpo_raises_the_probability_of_a_rewarded_token(chat, machine, monkeypatch):
    torch.use_deterministic_algorithms(True)
    letter = chat.tokenizer.encode("e").ids[0]
    monkeypatch.setattr(rollout, "verify", letter_reward)
    model = toy_model().train()
    model.freeze_router(True)
    job = task(chat, generations_per_prompt=16, steps=25)
    optimizer = adamw(model, job.settings.optimizer)
    gradients = flat_gradients(optimizer)
    before = probability_of(model, chat, letter)
    for step in range(job.settings.steps):
        rolled = draw.roll(model, job, step, machine)
        rlvr.update(model, optimizer, gradients, rolled, draw.score(rolled, job.settings), job, step, machine)
    after = probability_of(model, chat, letter)
    assert before < 0.02
    assert after > 5 * before


@torch.no_grad()
def probability_of(model, chat, letter):
    prompt = chat.prompt_ids(toy_rows(1, "valid")[0])
    return model.eval()(torch.tensor([prompt]))[0, -1].softmax(-1)[letter].item()


def test_overlong_filtering_takes_unfinished_responses_out_of_loss_and_mean(chat, machine):
    lengths, scores = [3, 8, 5, 8], [1.0, -2.0, 0.5, 3.0]
    rolled = responses(lengths, [True, False, True, False])
    filtered, measured = gradient_of(chat, machine, rolled, scores, overlong_filtering=True)
    alone, _ = gradient_of(chat, machine, [rolled[0], rolled[2]], [1.0, 0.5])
    every, whole = gradient_of(chat, machine, rolled, scores)
    torch.testing.assert_close(filtered, alone)
    assert not torch.allclose(filtered, every)
    assert (measured["supervised_tokens"], whole["supervised_tokens"]) == (8, 24)


def test_skipping_responses_without_advantage_changes_nothing(chat, machine):
    rolled = responses([3, 8, 5, 4], [True] * 4)
    skipped, measured = gradient_of(chat, machine, rolled, [1.0, 0.0, -0.5, 0.0])
    computed, full = gradient_of(chat, machine, rolled, [1.0, 1e-30, -0.5, 1e-30])
    assert (measured["trained_responses"], full["trained_responses"]) == (2, 4)
    torch.testing.assert_close(skipped, computed)


def test_equal_rewards_move_no_weight(chat, machine):
    gradients, measured = gradient_of(chat, machine, responses([3, 4], [True, True]), [0.0, 0.0])
    assert (gradients == 0).all()
    assert measured["grad_norm"] == measured["loss"] == 0
    assert measured["supervised_tokens"] == 7


def test_micro_batches_of_any_size_give_one_gradient(chat, machine):
    rolled, scores = responses([3, 8, 5, 8, 1, 7], [True] * 6), [1.0, -2.0, 0.5, 3.0, -1.0, 0.1]
    small = dataclasses.replace(machine, execution=Execution(micro_batch_tokens=12, checkpoint_interval=1))
    torch.testing.assert_close(
        gradient_of(chat, machine, rolled, scores)[0], gradient_of(chat, small, rolled, scores)[0]
    )


def test_router_weights_stay_and_the_expert_bias_moves(chat, machine):
    model = toy_model().train()
    model.freeze_router(True)
    optimizer = adamw(model, settings().optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rolled = responses([8, 8], [True, True])
    scores = torch.tensor([1.0, -1.0], dtype=torch.float64)
    rlvr.update(model, optimizer, flat_gradients(optimizer), rolled, scores, task(chat), 0, machine)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("gate.weight" in name for name in moved)
    assert any("e_score_correction_bias" in name for name in moved)
    assert "lm_head.weight" in moved


def test_a_kl_term_pulls_towards_the_reference(chat, machine):
    rolled = responses([6, 6], [True, True])
    job = dataclasses.replace(task(chat, kl_coefficient=0.5), reference=toy_model(seed=9).eval())
    model = toy_model().train()
    optimizer = adamw(model, settings().optimizer)
    measured = rlvr.update(
        *(model, optimizer, flat_gradients(optimizer), rolled, torch.zeros(2, dtype=torch.float64), job, 0, machine)
    )
    assert measured["trained_responses"] == 2
    assert measured["loss"] > 0
    assert measured["grad_norm"] > 0


def test_learning_rate_warms_up_and_stays(chat, machine):
    model = toy_model().train()
    optimizer = adamw(model, settings().optimizer)
    gradients = flat_gradients(optimizer)
    rates = [
        rlvr.update(
            *(model, optimizer, gradients, responses([2, 2], [True, True])),
            torch.tensor([1.0, -1.0]).double(),
            *(task(chat, warmup_steps=4, learning_rate=4e-3), step, machine),
        )["lr"]
        for step in range(6)
    ]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3, 4e-3])


def test_on_policy_rollouts_agree_with_the_trainer(chat, machine):
    model = toy_model().train()
    model.freeze_router(True)
    optimizer = adamw(model, settings().optimizer)
    rolled = rollouts(*(model, chat, toy_rows(6)), generations=4, max_new_tokens=20, temperature=1.0, top_p=1.0, seed=0)
    measured = rlvr.update(
        model, optimizer, flat_gradients(optimizer), rolled, torch.ones(24).double(), task(chat), 0, machine
    )
    assert measured["ratio_max"] < 1.001
    assert measured["trained_responses"] == 24


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"top_p": 0.9}])
def test_sampling_from_another_distribution_than_the_trained_one_is_refused(chat, machine, change):
    with pytest.raises(UserError, match="another distribution"):
        rlvr._check(task(chat, **change), machine)


def test_samples_hold_the_best_and_the_worst_of_a_group(tmp_path, chat):
    rolled = [
        dataclasses.replace(each, reward=reward)
        for each, reward in zip(responses([2] * 8, [True] * 8), [0, 0.5, 1, 0.2, 0, 0, 0, 0.9], strict=True)
    ]
    logs = {name: rlvr.JsonLines(tmp_path / name) for name in (rlvr.TRAJECTORIES, rlvr.SAMPLES)}
    job = task(chat)
    rlvr._record(logs, rolled, torch.zeros(8), job, 0)
    rlvr._record(logs, rolled, torch.zeros(8), job, 1)
    for log in logs.values():
        log.close()
    assert [row["reward"] for row in read_rows(tmp_path / rlvr.SAMPLES)] == [1, 0, 0.9, 0]
    assert len(read_rows(tmp_path / rlvr.TRAJECTORIES)) == 16


def payload(output):
    """Digests of what a run published, by name; timing.jsonl is not part of them."""
    return verify(output).files


def run_script(arguments, monkeypatch):
    monkeypatch.setattr(rollout, "verify", letter_reward)
    monkeypatch.syspath_prepend("scripts")
    importlib.import_module("rlvr1").main(arguments)
    return Path(arguments[arguments.index("--output") + 1])


def test_the_stage_publishes_a_model_that_loads_with_metrics_and_samples(tmp_path, monkeypatch):
    output = run_script(toy_world(tmp_path), monkeypatch)
    model = hf.load(output)
    tokenizer = load_chat_tokenizer(output)
    assert model(torch.tensor([tokenizer.prompt_ids(toy_rows(1)[0])])).isfinite().all()
    rows = read_rows(output / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("split") == "valid"] == [0, 4, 6]
    steps = [row for row in rows if "split" not in row]
    assert [row["step"] for row in steps] == list(range(1, 7))
    expected = {"reward", "reward/mcqa", "reward/math_with_judge", "zero_variance_groups", "response_tokens", "lr"}
    expected |= {"finished_share", "well_formed_share", "entropy", "ratio_max", "log_ratio_mean", "grad_norm"}
    assert expected <= set(steps[0])
    assert steps[-1]["tokens"] == verify(output).statistics["tokens"]
    assert len(read_rows(output / "samples.jsonl")) == 12
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == 11


def interrupted(step, how, monkeypatch):
    """Make the update of a step (0 is the first) end the process's work in some way, once."""
    update = rlvr.update

    def once(*arguments):
        result = update(*arguments)
        if arguments[-2] == step:
            monkeypatch.setattr(rlvr, "update", update)
            how()
        return result

    monkeypatch.setattr(rlvr, "update", once)


def crash():
    raise RuntimeError("power cut")


def test_crashed_and_preempted_runs_end_like_an_undisturbed_one_bit_for_bit(tmp_path, monkeypatch):
    undisturbed = payload(run_script(toy_world(tmp_path / "calm"), monkeypatch))
    arguments = toy_world(tmp_path / "rough")
    interrupted(2, crash, monkeypatch)
    with pytest.raises(RuntimeError, match="power cut"):
        run_script(arguments, monkeypatch)
    interrupted(4, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Preempted, match="saved step 5 of 6"):
        run_script(arguments, monkeypatch)
    assert payload(run_script(arguments, monkeypatch)) == undisturbed


def start(arguments):
    environment = os.environ | {"PYTHONPATH": "scripts:tests", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(TOY), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(work, name, process):
    deadline = time.monotonic() + 60
    while not list(work.glob(f"*/checkpoints/{name}/digests.json")):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_and_preempted_runs_end_like_an_undisturbed_one_bit_for_bit(tmp_path, monkeypatch):
    undisturbed = payload(run_script(toy_world(tmp_path / "calm"), monkeypatch))
    arguments = toy_world(tmp_path / "rough")
    work = tmp_path / "rough" / "results" / "toy" / ".work" / "rl" / "rlvr1"

    killed = start(arguments)
    wait_for(work, "step_2", killed)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    preempted = start(arguments)
    wait_for(work, "step_4", preempted)
    preempted.terminate()
    told = preempted.communicate()[0].decode()
    assert preempted.returncode == 75, told
    assert "resuming from step 2" in told

    last = start(arguments)
    told = last.communicate()[0].decode()
    assert last.returncode == 0, told
    assert payload(Path(arguments[-1])) == undisturbed
