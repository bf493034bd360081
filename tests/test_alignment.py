"""What alignment changes: lengths against hand numbers, probes for tools, and comparisons by a reward model."""

import importlib
import json
import statistics
from pathlib import Path

import pytest
import yaml

from nano3 import alignment
from nano3.artifacts import building, verify
from nano3.chat.verdict import Verdict
from nano3.errors import UserError
from nano3.recipe import load_recipe, stages
from nano3.recipe.training import Evaluation
from nano3.rl.rollout import Rollout, load_chat_tokenizer
from rl_toy import toy_rows, toy_tokenizer, toy_world

SETTINGS = Evaluation(prompts=2, generations=2, max_new_tokens=6)
TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def chat(tmp_path):
    toy_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return load_chat_tokenizer(tmp_path)


def rolled(text, chat, environment="math", prompt="0"):
    ids = chat.tokenizer.encode(text, add_special_tokens=False).ids
    return Rollout(prompt, environment, [1], ids, [-1.0] * len(ids), text, 0.0, "", True, True)


def test_lengths_are_means_over_prompts_of_both_parts_and_of_the_whole(chat):
    answers = [rolled(text, chat) for text in ("aaa</think>bb", "a</think>", "aaaa</think>b", "never closed")]
    found = alignment.lengths(answers, 2, chat)
    assert found["thinking"]["mean"] == (4 + 2 + 5 + 12) / 4
    assert found["answer"]["mean"] == (2 + 0 + 1 + 0) / 4
    assert found["response"]["mean"] == found["thinking"]["mean"] + found["answer"]["mean"]
    by_prompt = [(6 + 2) / 2, (6 + 12) / 2]
    assert found["response"]["margin"] == pytest.approx(1.959964 * statistics.stdev(by_prompt) / 2**0.5)


def test_one_prompt_has_no_margin_and_environments_are_apart(chat):
    answers = [rolled("aaa", chat, "math"), rolled("b</think>a", chat, "mcqa")]
    found = alignment.lengths_by_environment(answers, 1, chat)
    assert list(found) == ["math", "mcqa"]
    assert found["math"] == {name: {"mean": mean} for name, mean in (("thinking", 3), ("answer", 0), ("response", 3))}


def with_tools(row):
    return {**row, "responses_create_params": row["responses_create_params"] | {"tools": [TOOL]}}


def probe(monkeypatch, chat, rows, answers):
    """`tools_not_offered` with a model that calls a tool in every second response; and the prompts that it saw."""
    asked = []

    def rollouts(model, chat, rows, *, generations, **options):
        asked.extend(rows)
        return [rolled("<tool_call>" * (g % 2), chat) for _ in rows for g in range(generations)]

    monkeypatch.setattr(alignment, "rollouts", rollouts)
    return alignment.tools_not_offered(None, chat, rows, answers, SETTINGS, seed=1), asked


def test_only_requests_that_lost_their_tools_are_asked_anew(monkeypatch, chat):
    rows = [with_tools(row) if "options" in row else row for row in toy_rows(8)]
    answers = [rolled("fine", chat) for _ in range(8)]  # 2 prompts of each of 2 environments, 2 generations
    found, asked = probe(monkeypatch, chat, rows, answers)
    assert len(asked) == 2 and not any(map(alignment.offers_tools, asked))
    assert (found["tools_taken_away"]["rate"], found["tools_taken_away"]["n"]) == (0.5, 4)
    assert (found["never_offered"]["rate"], found["never_offered"]["n"]) == (0.0, 4)
    assert (found["all"]["rate"], found["all"]["n"]) == (0.25, 8)
    assert found["all"]["low"] < 0.25 < found["all"]["high"]


def test_without_tool_prompts_the_evaluations_own_answers_are_the_probes(monkeypatch, chat):
    answers = [rolled("<tool_call>" if i == 0 else "fine", chat) for i in range(8)]
    found, asked = probe(monkeypatch, chat, toy_rows(8), answers)
    assert not asked and set(found) == {"all"}
    assert (found["all"]["rate"], found["all"]["n"]) == (1 / 8, 8)
    with pytest.raises(ValueError, match="expected 2 to each"):
        probe(monkeypatch, chat, toy_rows(8), answers[:-1])


def longer(comparisons, seed):
    """A judge that scores equally and ranks the longer response higher."""
    return [Verdict(3, 3, 1 + 5 * (len(each.second) > len(each.first))) for each in comparisons]


def test_the_win_rate_counts_both_orders_and_reads_ties_by_ranking():
    rows = toy_rows(10)
    found = alignment.win_rate(longer, rows, ["long one"] * 10, ["short"] * 10, seed=0)
    assert (found["mean"], found["prompts"], found["n"]) == (1.0, 10, 20)
    assert alignment.win_rate(longer, rows, ["short"] * 10, ["long one"] * 10, seed=0)["mean"] == 0.0


def test_a_judge_that_looks_at_the_position_alone_finds_no_winner():
    found = alignment.win_rate(lambda pairs, seed: [Verdict(5, 1, 1) for _ in pairs], toy_rows(10), *[["x"] * 10] * 2,
                               seed=0)  # fmt: skip
    assert found["mean"] == 0.5 and found["low"] < 0.5 < found["high"]


def test_broken_verdicts_are_half_a_win_and_are_counted():
    found = alignment.win_rate(lambda pairs, seed: [None for _ in pairs], toy_rows(4), *[["x"] * 4] * 2, seed=0)
    assert (found["mean"], found["broken_share"]) == (0.5, 1.0)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """toy_world with RLHF and DPO: the arguments of scripts/evaluate.py."""
    monkeypatch.syspath_prepend("scripts")
    arguments = dict(zip(*[iter(toy_world(tmp_path))] * 2, strict=True))
    results = tmp_path / "results" / "toy"
    file = Path(arguments["--recipe"])
    recipe = yaml.safe_load(file.read_text())
    comparisons = {"kind": "tasks", "form": "preference", "families": {"comparison": {"rows": 4}}}
    recipe["datasets"] |= {"toy_pairs": comparisons}
    stage = {**recipe["rl"]["rlvr1"]}
    recipe["rl"] |= {
        "preferences": {"train": ["toy_pairs"], "valid": ["toy_pairs"], "max_prompt_tokens": 99},
        "genrm": stage,
        "rlhf": stage | {"judge_max_new_tokens": 4},
        "dpo": {
            "pairs": {"max_new_tokens": 4},
            "max_new_tokens": 4,
            "learning_rate": 1e-3,
            "validation": {"interval": 1, "prompts": 1},
        },
    }
    recipe["evaluation"] = {"prompts": 2, "generations": 2, "max_new_tokens": 6}
    file.write_text(yaml.safe_dump(recipe))
    with building(results / "rl/preferences", kind="rl/preferences", config={}) as made:
        rows = [{**row, "agent_ref": {"name": "genrm_simple_agent"}} for row in toy_rows(3, "valid")]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (made.path / "prompts_valid.jsonl").write_text(lines)
    return arguments | {"--preferences": str(results / "rl/preferences")}


def evaluate(arguments, name, **more):
    output = Path(arguments["--output"]).parent.parent / "evaluation" / name
    given = arguments | {"--output": str(output)} | {f"--{key}": str(value) for key, value in more.items()}
    importlib.import_module("evaluate").main([part for pair in given.items() for part in pair])
    return output, json.loads((output / "evaluation.json").read_text())


def test_the_script_measures_probes_lengths_and_conversations_and_compares_with_sft(world):
    sft, before = evaluate(world, "sft")
    assert before["tools_not_offered"]["all"]["n"] == 8
    assert set(before["lengths"]) == {"math_with_judge", "mcqa"}
    assert before["conversations"]["prompts"] == 2 and "win_rate" not in before["conversations"]
    assert before["conversations"]["lengths"]["response"]["mean"] <= 6
    assert all("reward" not in sample for sample in before["conversations"]["samples"])
    later, after = evaluate(world, "rlvr1", genrm=world["--model"], sft=world["--model"])
    won = after["conversations"]["win_rate"]
    assert (won["n"], won["prompts"], won["broken_share"]) == (4, 2, 1.0)
    assert {"genrm", "sft", "preferences"} <= set(verify(later).inputs)
    assert verify(later).config["comparison"]["max_new_tokens"] == 4 and verify(sft).config["comparison"] is None


def test_a_model_that_is_compared_needs_the_reward_model_and_the_sft_model(world):
    with pytest.raises(UserError, match="--genrm --sft"):
        evaluate(world, "rlvr1")


def test_a_change_of_the_judge_concerns_only_the_models_that_are_compared(world):
    recipe = load_recipe(world["--recipe"])
    text = Path(world["--recipe"]).read_text().replace("judge_max_new_tokens: 4", "judge_max_new_tokens: 5")
    other = Path(world["--recipe"]).with_name("other.yaml")
    other.write_text(text)
    changed = load_recipe(other)
    for name, same in (("base", True), ("sft", True), ("rlvr1", False), ("dpo", False)):
        configs = [stages.evaluation_config(each, name) for each in (recipe, changed)]
        assert (configs[0] == configs[1]) == same
