"""The rest of post-training in the fake results: every RL stage, the curriculum, and evaluations of all models."""

import json
import math
import random
from pathlib import Path
from typing import Any

from nano3.artifacts import building
from nano3.recipe import stages

ENVIRONMENTS = (
    "code_gen",
    "equivalence_llm_judge",
    "instruction_following",
    "math_with_judge",
    "mcqa",
    "multichallenge",
    "single_step_tool_use_with_argument_comparison",
    "structured_outputs",
    "workplace_assistant",
)
STEPS = 40
MODELS = {"base": "pretrain/long_context", "sft": "sft/model"} | {
    name: f"rl/{name}" for name in ("rlvr1", "rlhf", "rlvr2", "dpo")
}
TOOL_RATES = {"base": 0.35, "sft": 0.62, "rlvr1": 0.58, "rlhf": 0.55, "rlvr2": 0.57, "dpo": 0.04}
THINKING = {"base": 60.0, "sft": 31.0, "rlvr1": 33.0, "rlhf": 22.0, "rlvr2": 23.0, "dpo": 22.5}
START = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"


def add_to_recipe(recipe: dict[str, Any], rlvr: dict[str, Any]) -> None:
    """Sections of all stages after RLVR, and a curriculum."""
    recipe["datasets"] |= {
        "comparisons": {"kind": "tasks", "form": "preference", "families": {"comparison": {"rows": 400}}},
        "comparisons_valid": {
            "kind": "tasks",
            "form": "preference",
            "split": "valid",
            "families": {"comparison": {"rows": 40}},
        },
    }
    judge = {"judge_max_new_tokens": 48}
    recipe["rl"] |= {
        "preferences": {"train": ["comparisons"], "valid": ["comparisons_valid"], "max_prompt_tokens": 512},
        "rlvr1": rlvr | {"curriculum": {"mean": [0.8, 0.2]}},
        "genrm": rlvr,
        "rlhf": rlvr | judge,
        "rlvr2": rlvr,
        "dpo": {
            "pairs": {"max_new_tokens": 96},
            "steps": 30,
            "max_new_tokens": 96,
            "learning_rate": 1e-4,
            "validation": {"interval": 10, "prompts": 32},
        },
    }


def make_stages(results: Path, recipe: Any, write_stage: Any) -> None:
    """rl/profile/rlvr1, rl/preferences, all RL stages and rl/dpo_pairs; rl/rlvr1 again, with nine environments."""
    draw = random.Random("alignment")
    prompts, sft = results / "rl/prompts", results / "sft/model"
    config, inputs = stages.profile_config(recipe, "rlvr1"), {"model": sft, "prompts": prompts}
    with building(results / "rl/profile/rlvr1", kind="rl/profile", config=config, inputs=inputs) as made:
        rows = [
            {"index": i, "environment": name, "pass_rate": min(8, max(0, round(draw.gauss(1 + k, 2.5)))) / 8}
            for k, name in enumerate(ENVIRONMENTS)
            for i in range(100 * k, 100 * k + 100)
        ]
        _write(made.path / "profile.jsonl", rows)
    with building(results / "rl/preferences", kind="rl/preferences", config={}, inputs={}) as made:
        made.statistics["train"] = {"comparisons": 800, "prompts": 90}
    before = sft
    for name in ("rlvr1", "genrm", "rlhf", "rlvr2", "dpo"):
        inputs = {"model": sft if name == "genrm" else before}
        inputs |= {"preferences": results / "rl/preferences"} if name in ("genrm", "rlhf") else {"prompts": prompts}
        inputs |= {"profile": results / "rl/profile/rlvr1"} if name == "rlvr1" else {}
        inputs |= {"genrm": results / "rl/genrm"} if name == "rlhf" else {}
        if name == "dpo":
            _pairs(results, recipe, before)
            inputs["pairs"] = results / "rl/dpo_pairs"
        rows, timing = _rows(name, draw)
        valid = [row for row in rows if "split" in row]
        ends = {"start": valid[0], "end": valid[-1]}
        statistics = {"steps": rows[-1]["step"], "tokens": 200_000, "validation": ends, "train_loss": 0.5}
        samples = () if name == "dpo" else [row for step in (1, STEPS) for row in _group(name, step)]
        config = stages.rl_config(recipe, name)
        write_stage(results / "rl" / name, f"rl/{name}", config, inputs, rows, timing, statistics, samples)
        before = before if name == "genrm" else results / "rl" / name


def _rows(name: str, draw: random.Random) -> tuple[list[dict], list[dict]]:
    rows, timing = [], []
    for step in range(STEPS + 1):
        if step:
            row = {"step": step, "tokens": step * 5000, "loss": 0.01, "lr": 3e-4, "grad_norm": 0.5}
            drawn = {"pass_rate": 0.75 - 0.5 * step / STEPS + draw.gauss(0, 0.03)} if name == "rlvr1" else {}
            rows.append(row | {"zero_variance_groups": 0.3} | drawn | _measures(name, step, draw, 0.06, held_out=False))
            timing.append({"step": step, "seconds": 2.4, "tokens_per_second": 2100.0, "peak_memory_bytes": 1.4e9})
        if step % 10 == 0:
            found = _measures(name, step, draw, 0.01, held_out=True)
            rows.append({"split": "valid", "step": step, "tokens": step * 5000, **found, "n": 256})
    return rows, timing


def _measures(name: str, step: int, draw: random.Random, noise: float, *, held_out: bool) -> dict[str, float]:
    done = 1 - math.exp(-step / 15)
    rising = {
        f"reward/{e}": min(1.0, max(0.0, 0.15 + 0.08 * i + 0.25 * done + draw.gauss(0, noise)))
        for i, e in enumerate(ENVIRONMENTS)
    }
    common = {
        "finished_share": 0.9 + step / 500,
        "well_formed_share": 0.85 + step / 400,
        "response_tokens": 44 - 14 * done if name == "rlhf" else 40 + step / 8,
        "entropy": 0.6 - step / 100,
    }
    if name == "genrm":
        reward = -6 + 4 * done + draw.gauss(0, 10 * noise)
        more = {
            "ranking_accuracy": min(1.0, 0.5 + 0.35 * done + draw.gauss(0, noise)),
            "broken_share": 0.3 * (1 - done),
        }
        return {"reward": reward, "reward/genrm_compare": reward, **common, **more}
    if name == "rlhf":
        more = {"judge_score": 3 + 0.3 * done, "judge_broken_share": 0.05, "judge_calls": 128.0}
        more |= {"thinking_tokens": 33 - 11 * done + draw.gauss(0, 10 * noise), "answer_tokens": 11 - 3 * done}
        reward = 3.1 + 0.4 * done + draw.gauss(0, noise)
        return {"reward": reward, "reward/genrm": reward, **common, **more}
    if name == "dpo":
        pairs = {
            "loss": 0.9 - 0.5 * done,
            "preference_loss": math.log(2) - 0.5 * done,
            "margin": 2 * done,
            "accuracy": 0.5 + 0.45 * done,
        }
        if not held_out:
            return pairs
        rate = 0.6 - 0.55 * done
        probe = {"rate": rate, "low": rate * 0.8, "high": min(1.0, rate * 1.2), "n": 256}
        return pairs | rising | common | {"reward": 0.6} | {f"hallucinated_tools/{k}": v for k, v in probe.items()}
    return {"reward": sum(rising.values()) / len(rising), **rising, **common}


def _group(name: str, step: int) -> list[dict]:
    """Best and worst of one group of every environment; the workplace's are conversations of several turns."""
    environments = {"genrm": ["genrm_compare"], "rlhf": ["genrm"]}.get(name, ENVIRONMENTS)
    rows = []
    for environment in environments:
        for good in (True, False):
            row = {
                "step": step,
                "id": f"{environment}-1",
                "environment": environment,
                "prompt": f"{START}Problem of {name} for {environment}.<|im_end|>\n<|im_start|>assistant\n<think>\n",
                "response": f"Let me see.</think>{'Right' if good else 'Wrong'} answer of step {step}.<|im_end|>",
                "reward": 3.25 if name == "rlhf" else float(good),
                "reason": "as expected" if good else "another value",
                "finished": True,
                "well_formed": True,
            }
            if environment == "workplace_assistant" and good:
                row["response"] = (
                    "I need the calendar.</think><tool_call>\n<function=find_event>\n</function>\n</tool_call>"
                    "<|im_end|>\n<|im_start|>user\n<tool_response>\nevent 7\n</tool_response><|im_end|>\n"
                    "<|im_start|>assistant\n<think>\nIt is event 7.</think>Your event is number 7.<|im_end|>"
                )
            rows.append(row)
    return rows


def _pairs(results: Path, recipe: Any, before: Path) -> None:
    inputs = {"model": before, "prompts": results / "rl/prompts"}
    with building(results / "rl/dpo_pairs", kind="rl/dpo_pairs", config={}, inputs=inputs) as made:
        rows = [
            {
                "context": [{"role": "user", "content": f"Pair {number} of {group}: what is the weather?"}],
                "completions": [
                    {"rank": 0, "completion": [{"role": "assistant", "content": "<think>\nNo tool.</think>I can't."}]},
                    {"rank": 1, "completion": [{"role": "assistant", "content": "<think></think><tool_call>weather"}]},
                ],
                "group": group,
                "rewards": [1.0, 0.0],
                "environment": "mcqa",
            }
            for number in (1, 2, 3)
            for group in ("hallucination", "no_tools")
        ]
        _write(made.path / "train.jsonl", rows)
        made.statistics |= {"pairs": {"hallucination": 3, "no_tools": 3}}


def make_evaluations(results: Path, recipe: Any, like: dict[str, Any]) -> None:
    """Evaluations of all models; `like`: one whose bits per byte and chats are taken over."""
    for index, (name, stage) in enumerate(MODELS.items()):
        write_evaluation(results, name, stage, measured(name, index, like))


def write_evaluation(results: Path, name: str, stage: str, content: dict[str, Any]) -> None:
    inputs = {"model": results / stage, "prompts": results / "rl/prompts"}
    config = {"name": name}
    with building(results / "evaluation" / name, kind="evaluation", config=config, inputs=inputs) as made:
        (made.path / "evaluation.json").write_text(json.dumps(content))


def measured(name: str, index: int, like: dict[str, Any]) -> dict[str, Any]:
    """An evaluation.json."""
    gain = (0.0, 0.18, 0.36, 0.355, 0.40, 0.40)[index]
    environments = {
        environment: {
            "prompts": 250,
            "generations": 2,
            "mean": (mean := round(0.03 + 0.03 * i + gain * (1 + 0.1 * i), 4)),
            "low": max(0.0, mean - 0.04),
            "high": min(1.0, mean + 0.04),
            "finished": (0.2, 0.93, 0.99, 0.99, 0.99, 0.99)[index],
            "well_formed": (0.05, 0.9, 0.98, 0.98, 0.98, 0.98)[index],
            "mean_length": THINKING[name] + 10,
        }
        for i, environment in enumerate(ENVIRONMENTS)
    }
    rate, thinking = TOOL_RATES[name], THINKING[name]
    parts = {
        "thinking": {"mean": thinking, "margin": 0.9},
        "answer": {"mean": 10.0, "margin": 0.4},
        "response": {"mean": thinking + 10.0, "margin": 1.0},
    }
    long = {key: {"mean": 2 * entry["mean"], "margin": entry["margin"]} for key, entry in parts.items()}
    probes = {
        key: {"rate": value, "low": max(0, value - 0.05), "high": min(1, value + 0.05), "n": n}
        for key, value, n in (("all", rate / 9, 4500), ("tools_taken_away", rate, 500), ("never_offered", 0.0, 4000))
    }
    prompt = f"{START}How do I boil an egg?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    response = f"{name} thinks of eggs.</think>{name} says: in water.<|im_end|>"
    conversations = {
        "prompts": 90,
        "generations": 2,
        "finished": 0.97,
        "well_formed": 0.95,
        "lengths": long,
        "samples": [{"id": "c", "environment": "genrm", "prompt": prompt, "response": response, "finished": True}],
    }
    if index > 1:
        won = {"mean": 0.41 + 0.1 * index, "low": 0.31 + 0.1 * index, "high": 0.5 + 0.1 * index}
        conversations["win_rate"] = won | {"prompts": 50, "n": 100, "broken_share": 0.03}
    return like | {
        "environments": environments,
        "lengths": dict.fromkeys(ENVIRONMENTS, parts),
        "tools_not_offered": probes,
        "conversations": conversations,
        "samples": [
            {
                "id": f"{environment}-{number}",
                "environment": environment,
                "prompt": f"{START}Question {number} of {environment}?<|im_end|>\n<|im_start|>assistant\n"
                "<think></think>An earlier answer.<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n"
                "<|im_start|>assistant\n<think>\n",
                "response": f"{name} thinks.</think>{name} answers {number}.<|im_end|>",
                "reward": float(index > 0),
                "reason": "correct" if index else "no answer",
                "finished": index > 0,
                "well_formed": index > 0,
            }
            for environment in ENVIRONMENTS
            for number in (1, 2, 3)
        ],
    }


def make_random_order(results: Path, recipe: Any, write_stage: Any, like: dict[str, Any]) -> None:
    """A run like rlvr1 without the curriculum, and its evaluation."""
    rows, timing = _rows("rlvr1", random.Random("random order"))
    inputs = {"model": results / "sft/model", "prompts": results / "rl/prompts"}
    statistics = {"steps": STEPS}
    write_stage(results / "rl/rlvr1_random", "rl/rlvr1_random", {}, inputs, rows, timing, statistics)
    content = measured("rlvr1", 2, like)
    for place, entry in enumerate(content["environments"].values()):
        less = 0.1 if place == 0 else 0.01
        entry |= {key: entry[key] - less for key in ("mean", "low", "high")}
    write_evaluation(results, "rlvr1_random", "rl/rlvr1_random", content)


def _write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
