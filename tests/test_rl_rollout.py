"""Rollouts: prompts, sampling and scores."""

import dataclasses
import json

import pytest

from nano3.errors import UserError
from nano3.rl import rollout
from nano3.rl.rollout import environment_of, first_of_each, read_prompts, rollouts
from rl_toy import letter_reward, toy_model, toy_rows

SETTINGS = {"generations": 3, "max_new_tokens": 10, "temperature": 1.0, "top_p": 1.0}


@pytest.fixture(scope="module")
def model():
    return toy_model().eval()


@pytest.fixture(scope="module")
def rolled(model, chat):
    return rollouts(model, chat, toy_rows(5), seed=1, **SETTINGS)


def test_a_prompt_is_the_chat_template_with_the_assistants_turn_opened(chat):
    row = toy_rows(1)[0]
    text = chat.text(chat.prompt_ids(row))
    assert text.endswith("<|im_start|>user\ntrain 0?<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert chat.prompt_ids(row)[0] == 10


def test_rollouts_come_prompt_by_prompt_with_as_many_logprobs_as_tokens(rolled, chat):
    assert [each.prompt_id for each in rolled] == [str(i // 3) for i in range(15)]
    for each in rolled:
        assert len(each.response) == len(each.logprobs) <= 10
        assert each.finished == (each.response[-1] in chat.stop_ids)
        assert each.finished or len(each.response) == 10


def test_the_same_seed_replays_a_step_bit_for_bit_and_another_does_not(model, chat, rolled):
    assert rollouts(model, chat, toy_rows(5), seed=1, **SETTINGS) == rolled
    assert rollouts(model, chat, toy_rows(5), seed=2, **SETTINGS) != rolled


def test_rewards_come_from_the_rows_environment(model, chat, monkeypatch):
    seen = []
    monkeypatch.setattr(rollout, "verify", lambda row, text: seen.append((row["id"], text)) or letter_reward(row, text))
    rolled = rollouts(model, chat, toy_rows(2), seed=1, **SETTINGS)
    assert sorted(seen) == sorted((int(each.prompt_id), each.text) for each in rolled)
    assert [each.reward for each in rolled] == [letter_reward(None, each.text).value for each in rolled]
    assert {each.environment for each in rolled} == {"mcqa", "math_with_judge"}


def test_an_environment_is_named_after_its_agent():
    names = {
        "single_step_tool_use_with_argument_comparison_agent": "single_step_tool_use_with_argument_comparison",
        "mcqa_simple_agent": "mcqa",
    }
    for agent, name in names.items():
        assert environment_of({"agent_ref": {"name": agent}}) == name


def test_validation_takes_the_first_rows_of_every_environment():
    chosen = first_of_each(toy_rows(10), 2)
    assert [row["id"] for row in chosen] == [1, 3, 0, 2]


def test_prompt_files_that_are_missing_empty_or_broken_are_errors_that_name_them(tmp_path):
    file = tmp_path / "train.jsonl"
    with pytest.raises(UserError, match="does not exist"):
        read_prompts(file)
    file.write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(file)
    file.write_text("{")
    with pytest.raises(UserError, match=r"train.jsonl is not JSONL"):
        read_prompts(file)
    file.write_text(json.dumps({"id": 1}) + "\n")
    assert read_prompts(file) == [{"id": 1}]


def test_a_rollout_keeps_its_text_for_people(rolled, chat):
    record = rollout.readable(rolled[0], chat, step=3)
    assert record["step"] == 3
    assert record["prompt"] == chat.text(rolled[0].prompt)
    assert record["response"] == rolled[0].text
    assert set(record) >= {"reward", "reason", "finished", "well_formed", "environment", "id"}
    assert dataclasses.is_dataclass(rolled[0])
