"""A results/tiny with every artifact that the report reads, made of plausible invented numbers."""

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

import fake_alignment
from nano3.artifacts import building
from nano3.recipe import load_recipe, stages

RECIPE = Path("config/recipes/tiny.yaml")
ENVIRONMENTS = ("instruction_following", "math", "mcqa", "structured_outputs")


def write_recipe(root: Path, whole: bool) -> Path:
    """A recipe like tiny with RLVR alone, or with the whole of post-training."""
    recipe = yaml.safe_load(RECIPE.read_text())
    rlvr = {
        "steps": 40,
        "prompts_per_step": 16,
        "generations_per_prompt": 8,
        "max_new_tokens": 96,
        "learning_rate": 2e-4,
        "validation": {"interval": 20, "prompts": 32, "generations": 2},
    }
    recipe["rl"] = {"prompts": recipe["rl"]["prompts"], "rlvr1": rlvr}
    recipe["rl"]["prompts"] |= {"train": ["rl_train"], "valid": ["rl_valid"]}
    if whole:
        fake_alignment.add_to_recipe(recipe, rlvr)
    file = root / "tiny.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def make_results(root: Path, *, until: str = "evaluation", every: int = 8, whole: bool = False) -> Path:
    """Write results/tiny below `root`, its recipe to `root`/tiny.yaml, and return the former. until: "pretrain", "sft",
    "rl" or "evaluation"; every: thins the training steps, so that tests stay small; whole: all of post-training rather
    than RLVR alone."""
    results = root / "results" / "tiny"
    recipe = load_recipe(write_recipe(root, whole))
    _data(results, recipe)
    before, previous = 0, None
    for phase in stages.PRETRAIN_PHASES:
        previous = _pretrain(results, recipe, phase, before, previous, every)
        before += getattr(recipe.pretrain, phase).tokens
    if until == "pretrain":
        return results
    _sft(results, recipe, every)
    if until == "sft":
        return results
    _rl(results, recipe)
    if whole:
        fake_alignment.make_stages(results, recipe, write_stage)
    if until == "evaluation" and whole:
        fake_alignment.make_evaluations(results, recipe, evaluation(1))
    elif until == "evaluation":
        for index, (name, stage) in enumerate(
            (("base", "pretrain/long_context"), ("sft", "sft/model"), ("rlvr1", "rl/rlvr1"))
        ):
            _evaluation(results, name, stage, index)
    return results


def _data(results: Path, recipe: Any) -> None:
    for name in recipe.datasets:
        with building(results / "data/raw" / name / "0", kind="raw", config={"dataset": name, "group": 0}) as made:
            made.statistics |= {"rows": 1000, "bytes": 400_000}
    raw = {name: results / "data/raw" / name / "0" for name in recipe.datasets}
    with building(
        results / "tokenizer",
        kind="tokenizer",
        config={"vocab_size": 1024},
        inputs={f"raw/{name}/0": raw[name] for name in recipe.tokenizer.datasets},
    ) as made:
        made.statistics |= {"vocab_size": 1024, "bytes_per_token": 2.9}
    text = [name for name, dataset in recipe.datasets.items() if dataset.form == "text"]
    for name in text:
        inputs = {"raw": raw[name], "tokenizer": results / "tokenizer"}
        config = {"dataset": name, "group": 0}
        with building(results / "data/tokens" / name / "0", kind="tokens", config=config, inputs=inputs) as made:
            made.statistics["tokens"] = {"train": 900_000, "valid": 9_000, "test": 9_000}
    for phase in stages.PRETRAIN_PHASES:
        categories = getattr(recipe.blends, phase).categories
        names = {dataset for category in categories.values() for dataset in category.datasets}
        inputs = {f"tokens/{name}/0": results / "data/tokens" / name / "0" for name in sorted(names)}
        config = stages.blend_config(recipe, phase)
        with building(results / "data/blend" / phase, kind="blend", config=config, inputs=inputs) as made:
            made.statistics |= {
                "tokens": config["tokens"],
                "categories": {
                    name: {
                        "asked_percent": category.share,
                        "effective_percent": category.share,
                        "released": True,
                        "tokens_available": 900_000,
                        "epochs": 0.4,
                    }
                    for name, category in categories.items()
                },
                "datasets": {},
                "unreleased_percent": 0.0,
            }
    chat = {f"{name}/0": raw[name] for name in recipe.sft.data.datasets} | {"tokenizer": results / "tokenizer"}
    with building(results / "sft/data", kind="sft/data", config=stages.sft_data_config(recipe), inputs=chat) as made:
        made.statistics["splits"] = {
            "train": {
                "packs": 1900,
                "sequences": 15_700,
                "tokens": 970_000,
                "supervised_tokens": 510_000,
                "fill": 0.997,
            }
        }
        made.statistics["datasets"] = {
            name: {
                "requested_share_of_rows": dataset.share / 100,
                "achieved_share_of_tokens": dataset.share / 100,
                "train_rows_drawn": 6400,
                "epochs": 0.8,
                "rows_dropped": {"repetition": 3},
            }
            for name, dataset in recipe.sft.data.datasets.items()
        }
    prompts = {f"{name}/0": raw[name] for name in ("rl_train", "rl_valid")} | {"tokenizer": results / "tokenizer"}
    with building(results / "rl/prompts", kind="rl/prompts", config={"seed": 3}, inputs=prompts) as made:
        made.statistics["splits"] = {
            split: {"rows": 4 * rows, "environments": dict.fromkeys(ENVIRONMENTS, rows), "longest_prompt_tokens": 181}
            for split, rows in (("train", 2000), ("valid", 250))
        }


def _pretrain(results, recipe, phase: str, before: int, previous: Path | None, every: int) -> Path:
    draw = random.Random(phase)
    config = stages.pretrain_config(recipe, phase)
    tokens, per_step = getattr(recipe.pretrain, phase).tokens, 4096
    steps = tokens // per_step
    datasets = [name for name in recipe.datasets if name in str(config) or name.startswith(("python", "task"))][:3]
    rows, timing = [], []
    for step in range(0, steps + 1, every):
        seen = before + step * per_step
        loss = 1.9 + 5.1 * math.exp(-seen / 160_000) + 0.5 * math.exp(-seen / 700_000)
        if step:
            shares = [[max(0.02, draw.gauss(0.125, 0.03)) for _ in range(8)] for _ in range(3)]
            rows.append(
                {
                    "step": step,
                    "tokens": seen,
                    "loss": loss + draw.gauss(0, 0.03),
                    "lr": 3e-3
                    * min(1, seen / 81_920)
                    * (1 if seen < 983_040 else 0.1 + 0.9 * math.cos((seen - 983_040) / 250_000) ** 2),
                    "grad_norm": 0.5 + 2 * math.exp(-seen / 1e5) + draw.random() / 4,
                    "max_violation": 0.15 + math.exp(-seen / 2e5) + draw.random() / 10,
                    **({"expert_shares": shares} if step + every > steps else {}),
                }
            )
            timing.append({"step": step, "seconds": 0.31, "tokens_per_second": 13_200.0, "peak_memory_bytes": 1.1e9})
        if step % (every * 10) == 0 or step + every > steps:
            names = (
                datasets if phase != "long_context" else [f"{n}@{length}" for n in datasets for length in (256, 1024)]
            )
            rows.append(
                {
                    "split": "valid",
                    "step": step,
                    "tokens": seen,
                    "loss": {name: loss + 0.1 * i for i, name in enumerate(names)},
                    "bits_per_byte": {name: (loss + 0.35 * i) / 2 for i, name in enumerate(names)},
                    "bits_per_byte_margin": {name: 0.05 for name in names},
                }
            )
    inputs = {"blend": results / "data/blend" / phase, "tokenizer": results / "tokenizer"}
    inputs |= {"model": previous} if previous else {}
    statistics = {
        "steps": steps,
        "tokens": tokens,
        "train_loss": rows[-2]["loss"],
        "parameters": {"total": 1, "active": 1},
    }
    return write_stage(results / "pretrain" / phase, f"pretrain/{phase}", config, inputs, rows, timing, statistics)


def _sft(results, recipe, every: int) -> None:
    draw = random.Random("sft")
    rows, timing = [], []
    for step in range(0, recipe.sft.steps + 1, max(1, every // 2)):
        loss = 0.35 + 1.6 * math.exp(-step / 30)
        if step:
            row = {
                "step": step,
                "tokens": step * 4096,
                "loss": loss + draw.gauss(0, 0.03),
                "lr": 2e-3 * (1 - step / 400),
                "grad_norm": 1.0,
            }
            rows.append(row)
            timing.append({"step": step, "seconds": 0.3, "tokens_per_second": 13_000.0, "peak_memory_bytes": 1.2e9})
        if step % 80 == 0:
            rows.append({"split": "valid", "step": step, "tokens": step * 4096, "loss": {"valid": loss + 0.02}})
    inputs = {"model": results / "pretrain/long_context", "data": results / "sft/data"}
    statistics = {"steps": recipe.sft.steps, "tokens": 983_040, "train_loss": 0.36, "supervised_tokens": 500_000}
    statistics["epochs"] = 0.49
    write_stage(results / "sft/model", "sft", stages.sft_config(recipe), inputs, rows, timing, statistics)


def _rl(results, recipe) -> None:
    draw = random.Random("rl")
    rows, timing = [], []

    def measures(step: int, noise: float) -> dict[str, float]:
        reward = {
            f"reward/{name}": min(
                1, max(0, 0.25 + 0.12 * i + (0.3 - 0.05 * i) * (1 - math.exp(-step / 15)) + draw.gauss(0, noise))
            )
            for i, name in enumerate(ENVIRONMENTS)
        }
        shares = {"finished_share": 0.9 + step / 500, "well_formed_share": 0.85 + step / 400}
        return {
            "reward": sum(reward.values()) / 4,
            **reward,
            **shares,
            "response_tokens": 40 + step / 4,
            "entropy": 0.6 - step / 100,
        }

    for step in range(0, recipe.rl.rlvr1.steps + 1):
        if step:
            row = {"step": step, "tokens": step * 5000, "loss": 0.01, "lr": 3e-4, "grad_norm": 0.5}
            rows.append(row | measures(step, 0.06))
            timing.append({"step": step, "seconds": 2.4, "tokens_per_second": 2100.0, "peak_memory_bytes": 1.4e9})
        if step % 20 == 0:
            rows.append({"split": "valid", "step": step, "tokens": step * 5000, **measures(step, 0.01), "n": 256})
    inputs = {"model": results / "sft/model", "prompts": results / "rl/prompts"}
    statistics = {"steps": recipe.rl.rlvr1.steps, "tokens": 200_000, "validation": {"end": {"reward": 0.7}}}
    write_stage(results / "rl/rlvr1", "rl/rlvr1", stages.rl_config(recipe, "rlvr1"), inputs, rows, timing, statistics)


def write_stage(output: Path, kind: str, config, inputs, rows, timing, statistics, samples=()) -> Path:
    with building(output, kind=kind, config=config, inputs=inputs) as made:
        if kind in ("rl/rlvr1", "rl/dpo"):
            save_toy_model(made.path)
        for name, lines in (("metrics.jsonl", rows), ("timing.jsonl", timing), ("samples.jsonl", samples)):
            (made.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        made.statistics |= statistics
    return output


def save_toy_model(directory: Path) -> None:
    """A Hugging Face directory with a byte tokenizer and chat template, as training stages publish it."""
    from nano3.data.tokenizer import save_trained
    from nano3.model import hf
    from rl_toy import toy_model, toy_tokenizer

    hf.save(toy_model(), directory)
    save_trained(toy_tokenizer(), directory)


def evaluation(index: int) -> dict[str, Any]:
    """An evaluation.json; index 0 base, 1 SFT, 2 RLVR."""
    environments = {}
    for i, name in enumerate(ENVIRONMENTS):
        mean = (0.02 + 0.01 * i, 0.35 + 0.12 * i, (0.55 + 0.1 * i) if i < 3 else 0.72)[index]
        environments[name] = {
            "prompts": 250,
            "generations": 2,
            "mean": mean,
            "low": max(0.0, mean - 0.045),
            "high": min(1.0, mean + 0.045),
            "finished": (0.2, 0.93, 0.99)[index],
            "well_formed": (0.05, 0.9, 0.98)[index],
            "mean_length": (88.0, 43.5, 47.2)[index],
        }
    texts = (
        "def f(x):\n    return x</think>",
        "12 + 7 = 19.\n</think>\nThe answer is \\boxed{19}.<|im_end|>",
        "First 12 + 7.\n12 + 7 = 19\n</think>\nThe answer is \\boxed{19}.<|im_end|>",
    )
    samples = [
        {
            "id": f"{name}-{number}",
            "environment": name,
            "prompt": "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
            f"Problem {number}: what is 12 + 7? Give the result in \\boxed{{}}."
            "<|im_end|>\n<|im_start|>assistant\n<think>\n",
            "response": texts[index],
            "reward": float(index > 0),
            "reason": "correct" if index else "no answer",
            "finished": index > 0,
            "well_formed": index > 0,
        }
        for name in ENVIRONMENTS
        for number in (1, 2, 3)
    ]
    bits = {
        name: {"model": value + 0.05 * index, "unigram": value + 2.1, "margin": 0.04, "documents": 90, "bytes": 1000}
        for name, value in (("python_code", 1.52), ("python_docs", 1.91), ("task_text", 0.48))
    }
    whole = (0.01, 0.88, 0.97)[index]
    chats = {"prompts": 1000, "generations": 2, "mean": whole, "low": max(0, whole - 0.01), "high": whole + 0.01}
    return {"environments": environments, "chats": chats, "bits_per_byte": bits, "samples": samples}


def _evaluation(results: Path, name: str, stage: str, index: int) -> None:
    inputs = {"model": results / stage, "prompts": results / "rl/prompts"}
    with building(results / "evaluation" / name, kind="evaluation", config={"prompts": 250}, inputs=inputs) as made:
        (made.path / "evaluation.json").write_text(json.dumps(evaluation(index)))
