"""A toy world for RL tests: a tiny model, a byte tokenizer, and prompts whose reward is a matter of letters."""

import json
import sys
from pathlib import Path

import torch
import yaml

from nano3.artifacts import building
from nano3.environments import Reward
from nano3.model import hf
from nano3.model.config import ModelConfig
from nano3.model.nemotron_h import NemotronH

SHAPE = {
    "vocab_size": 288,
    "hidden_size": 32,
    "pattern": "ME*",
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
    "max_position_embeddings": 4096,
}

torch.set_num_threads(1)  # more cost more than they give at this size


def toy_model(seed=0, **changes):
    torch.manual_seed(seed)
    return NemotronH(ModelConfig(**SHAPE | {"initializer_range": 0.1} | changes))


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
    tokenizer.add_special_tokens([AddedToken(t, special=t not in MARKUP, normalized=False) for t in special])
    return tokenizer


def toy_rows(count, split="train"):
    """Prompts of two environments in equal numbers, with the fields that their verifiers need."""
    rows = []
    for index in range(count):
        name = "math_with_judge_simple_agent" if index % 2 else "mcqa_simple_agent"
        options = {"options": [{"A": "yes"}, {"B": "no"}]} if index % 2 == 0 else {}
        turn = {"role": "user", "content": f"{split} {index}?"}
        rows.append(
            {
                "id": index,
                "agent_ref": {"type": "responses_api_agents", "name": name},
                "responses_create_params": {"input": [turn]},
                "expected_answer": "A",
                **options,
            }
        )
    return rows


def letter_reward(row, response):
    """Share of the letter e: something that a random policy does now and then, and can learn in a few steps."""
    value = min(1.0, 4 * response.count("e") / max(1, len(response)))
    return Reward(value, f"{response.count('e')} times e", well_formed=True)


def toy_world(root: Path, *, steps=6, **grpo):
    """Model, prompts and recipe below `root`; returns the arguments of scripts/rlvr1.py."""
    results = root / "results" / "toy"
    with building(results / "sft" / "model", kind="sft", config={}) as artifact:
        hf.save(toy_model(), artifact.path)
        toy_tokenizer().save(str(artifact.path / "tokenizer.json"))
    with building(results / "rl" / "prompts", kind="rl/prompts", config={}) as artifact:
        for split, count in (("train", 12), ("valid", 4)):
            lines = "".join(json.dumps(row) + "\n" for row in toy_rows(count, split))
            (artifact.path / f"{split}.jsonl").write_text(lines)
    recipe = yaml.safe_load(Path("config/recipes/tiny.yaml").read_text())
    recipe["model"] = SHAPE | {"initializer_range": 0.1}
    recipe["tokenizer"]["vocab_size"] = 276
    recipe["pretrain"]["sequence_length"] = recipe["sft"]["data"]["pack_length"] = 64
    recipe["rl"]["rlvr1"] = {
        "steps": steps,
        "prompts_per_step": 4,
        "generations_per_prompt": 4,
        "max_new_tokens": 12,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "overlong_filtering": False,
        "validation": {"interval": 4, "prompts": 2, "generations": 2},
        **grpo,
    }
    recipe["execution"] |= {"checkpoint_interval": 2, "micro_batch_tokens": 512, "log_interval": 1}
    recipe["execution"]["rl"] = recipe["execution"]["evaluation"] = {"threads": 1}
    file = root / "toy.yaml"
    file.write_text(yaml.safe_dump(recipe))
    paths = {
        "--recipe": file,
        "--model": results / "sft" / "model",
        "--prompts": results / "rl" / "prompts",
        "--output": results / "rl" / "rlvr1",
    }
    return [str(part) for pair in paths.items() for part in pair]


def main(argv):
    """scripts/rlvr1.py with the letter reward, slowed down so that signals find it at work."""
    import importlib
    import time

    from nano3 import cli
    from nano3.rl import rlvr, rollout

    sys.path.insert(0, "scripts")
    rollout.verify = letter_reward
    step = rlvr.update

    def slow(*arguments):
        time.sleep(0.3)
        return step(*arguments)

    rlvr.update = slow
    cli.run(lambda: importlib.import_module("rlvr1").main(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
