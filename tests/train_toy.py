"""A toy world for training tests: a tiny model, a byte tokenizer, two data sets, blends and packed chats.

As a program it runs a training script with slow steps, so that signals find it at work:

    python tests/train_toy.py SECONDS_PER_STEP pretrain_phase1 --recipe ...
"""

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
EOS = 2
SHAPE = {
    "vocab_size": 288,
    "hidden_size": 32,
    "pattern": "ME*E",
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "mamba_num_heads": 2,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "initializer_range": 0.1,
    "max_position_embeddings": 1024,
}
OUTPUTS = {
    "pretrain_phase1": "pretrain/phase1",
    "pretrain_phase2": "pretrain/phase2",
    "pretrain_long_context": "pretrain/long_context",
    "sft": "sft/model",
}
BEFORE = dict(zip(list(OUTPUTS)[1:], OUTPUTS.values(), strict=False))


def toy_tokenizer():
    """Every byte is a token, after the special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    from nano3.data.tokenizer import MARKUP, special_tokens

    special = special_tokens(20)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, special=t not in MARKUP, normalized=False) for t in special])
    return tokenizer


def documents(name, count, seed):
    """Sums ("12+30=42") or counting ("7 8 9 10"): learnable, and of different difficulty."""
    draw = np.random.default_rng(seed)
    for first, second in draw.integers(0, 50, (count, 2)).tolist():
        if name == "sums":
            yield f"{first}+{second}={first + second}. " * 2
        else:
            yield " ".join(str(number) for number in range(first, first + 8 + second % 5))


def toy_recipe():
    """The tiny recipe with the toy model, two data sets, and stages of twelve steps."""
    recipe = yaml.safe_load((ROOT / "config/recipes/tiny.yaml").read_text())
    files = {"kind": "files", "paths": ["-"]}
    recipe["datasets"] |= {"sums": files, "counting": files}
    recipe["model"] = SHAPE
    recipe["tokenizer"]["vocab_size"] = 276
    categories = {"maths": {"share": 75, "datasets": ["sums"]}, "code": {"share": 25, "datasets": ["counting"]}}
    recipe["blends"] = {phase: {"categories": categories} for phase in ("phase1", "phase2", "long_context")}
    validation = {"interval": 5, "sequences": 6}
    recipe["pretrain"] |= {
        "sequence_length": 64,
        "global_batch_size": 4,
        "schedule": {
            "peak": 1e-2,
            "final": 1e-3,
            "warmup_tokens": 512,
            "stable_tokens": 2048,
            "decay_tokens": 4096,
        },
        "validation": validation,
        "phase1": {"tokens": 3072},
        "phase2": {"tokens": 3072},
        "long_context": {
            "tokens": 3072,
            "learning_rate": 1e-3,
            "lengths": {128: 60, 32: 40},
            "global_batch_size": 2,
            "validation": validation,
        },
    }
    recipe["sft"] |= {"steps": 12, "global_batch_size": 2, "warmup_steps": 2, "validation": validation}
    recipe["sft"]["data"]["pack_length"] = 64
    recipe["execution"] |= {"checkpoint_interval": 3, "micro_batch_tokens": 128, "log_interval": 4}
    recipe["execution"] |= {job: {"threads": 1} for job in ("pretrain", "long_context", "sft")}
    return recipe


def toy_world(root: Path):
    """Write recipe, tokenizer, tokens, blends and packed chats below `root`, which becomes the repository root."""
    from nano3.artifacts import building
    from nano3.chat.packing import pack, write_packs
    from nano3.data.blend import find_shards, make_blend, write_blend
    from nano3.recipe import load_recipe, stages

    results = root / "results" / "toy"
    (root / "toy.yaml").write_text(yaml.safe_dump(toy_recipe()))
    recipe = load_recipe(root / "toy.yaml")
    tokenizer = toy_tokenizer()
    with building(results / "tokenizer", kind="tokenizer", config={}) as artifact:
        tokenizer.save(str(artifact.path / "tokenizer.json"))
        (artifact.path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "-"}))
    for name in ("sums", "counting"):
        _write_tokens(results, name, tokenizer)
    with contextlib.chdir(root):
        shards = [Path("results/toy/data/tokens", name, "0") for name in ("sums", "counting")]
        for phase in ("phase1", "phase2", "long_context"):
            config = stages.blend_config(recipe, phase)
            found, common = find_shards(shards)
            inputs = {f"tokens/{shard.dataset}/0": Path(shard.path) for shard in found}
            target = Path("results/toy/data/blend", phase)
            with building(target, kind="blend", config=config, inputs=inputs) as artifact:
                write_blend(make_blend(config, found, common)[0], artifact.path)
    rows = [tokenizer.encode(text).ids for text in documents("sums", 120, 5)]
    sequences = [(np.array(ids, np.int32), np.array([0] * 4 + [1] * (len(ids) - 4), np.uint8)) for ids in rows]
    packs = pack([len(ids) for ids in rows], 64)
    with building(results / "sft" / "data", kind="sft/data", config={}) as artifact:
        for split, part in (("train", packs[:-6]), ("valid", packs[-6:])):
            write_packs(artifact.path / split, part, lambda index: sequences[index], 64)


def _write_tokens(results, name, tokenizer):
    from nano3.artifacts import building
    from nano3.data.indexed import IndexedWriter

    inputs = {"tokenizer": results / "tokenizer"}
    config = {"dataset": name, "group": 0}
    with building(results / "data/tokens" / name / "0", kind="tokens", config=config, inputs=inputs) as artifact:
        counts = {"tokens": {}, "bytes": {}}
        for seed, (split, count) in enumerate({"train": 200, "valid": 30, "test": 2}.items()):
            rows = [[*tokenizer.encode(text).ids, EOS] for text in documents(name, count, seed)]
            with IndexedWriter(artifact.path / split, np.uint16) as writer:
                for row in rows:
                    writer.add(row)
            counts["tokens"][split] = sum(map(len, rows))
            counts["bytes"][split] = counts["tokens"][split] - len(rows)
        artifact.statistics |= counts | {"eos_id": EOS, "vocab_size": 276}


def arguments(script):
    """Arguments of a training script, to be run from the world's root."""
    base = Path("results/toy")
    paths = {"--recipe": "toy.yaml", "--output": base / OUTPUTS[script]}
    if script in BEFORE:
        paths["--model"] = base / BEFORE[script] / "manifest.json"
    if script == "sft":
        paths["--data"] = base / "sft/data"
    else:
        phase = script.removeprefix("pretrain_")
        paths |= {"--blend": base / "data/blend" / phase / "manifest.json", "--tokenizer": base / "tokenizer"}
    return [str(part) for pair in paths.items() for part in pair]


def script_main(script):
    """The `main` of scripts/{script}.py."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    return importlib.import_module(script).main


if __name__ == "__main__":
    from nano3 import cli
    from nano3.train import loop

    seconds, name, *rest = sys.argv[1:]
    fast_step = loop.optimizer_step

    def slow_step(*args):
        time.sleep(float(seconds))
        return fast_step(*args)

    loop.optimizer_step = slow_step
    cli.run(lambda: script_main(name)(rest))
