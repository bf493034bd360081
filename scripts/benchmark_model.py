"""Compare the speed of nano3.model with transformers' nemotron_h: same weights, same machine, same run.

Training is forward, cross-entropy, backward and a fused AdamW step, each model with its own loss: ours from hidden
states as in nano3.train, transformers' from logits. Generation is cached sampling at temperature 1 from
prompts of equal length without stop tokens. The two take turns, so that a busy machine slows both; medians count.

    python scripts/benchmark_model.py --repetitions 5 --output benchmark.json
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SHAPE = dict(
    vocab_size=1024,
    hidden_size=128,
    pattern="MEM*EME",
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    mamba_num_heads=8,
    mamba_head_dim=32,
    ssm_state_size=32,
    n_groups=2,
    chunk_size=64,
    n_routed_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=192,
    moe_shared_expert_intermediate_size=384,
    max_position_embeddings=1024,
)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--recipe", type=Path, help="use this recipe's model instead of the built-in small shape")
    arguments.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    arguments.add_argument("--repetitions", type=int, default=5, help="timed turns of each model (default 5)")
    arguments.add_argument("--batch", type=int, default=16, help="training rows (default 16)")
    arguments.add_argument("--length", type=int, default=256, help="training tokens per row (default 256)")
    arguments.add_argument("--steps", type=int, default=3, help="training steps per turn (default 3)")
    arguments.add_argument("--generate-batch", type=int, default=32, help="prompts generated together (default 32)")
    arguments.add_argument("--prompt", type=int, default=64, help="tokens per prompt (default 64)")
    arguments.add_argument("--new-tokens", type=int, default=64, help="tokens generated per prompt (default 64)")
    arguments.add_argument("--output", type=Path, help="write the figures as JSON")
    return arguments


def main(argv: list[str] | None = None) -> dict:
    options = parser().parse_args(argv)
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours, theirs = both_models(options.recipe)
    results = {
        "training": compare(
            training_turn(ours, our_loss, options),
            training_turn(theirs, their_loss, options),
            tokens=options.batch * options.length * options.steps,
            repetitions=options.repetitions,
        ),
        "generation": compare(
            our_generation_turn(ours, options),
            their_generation_turn(theirs, options),
            tokens=options.generate_batch * options.new_tokens,
            repetitions=options.repetitions,
        ),
    }
    print(table(results))
    report = {"options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}}
    report |= {"model": ours.config.model_dump(), "machine": machine(), "results": results}
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return report


def both_models(recipe: Path | None):
    """The same weights in our model and in transformers' (float32)."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from nano3.model import hf
    from nano3.model.config import ModelConfig
    from nano3.model.nemotron_h import NemotronH

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if recipe is None:
        config = ModelConfig(**SHAPE)
    else:
        from nano3.recipe import load_recipe

        config = load_recipe(recipe).model
    ours = NemotronH(config)
    with tempfile.TemporaryDirectory() as directory:
        hf.save(ours, directory)
        theirs = AutoModelForCausalLM.from_pretrained(directory)
    return ours, theirs


def our_loss(model, ids):
    from nano3.train.loss import summed_cross_entropy

    targets = ids[:, 1:]
    mask = targets.new_ones(targets.shape)
    return summed_cross_entropy(model.hidden(ids[:, :-1]), model.lm_head.weight, targets, mask) / targets.numel()


def their_loss(model, ids):
    import torch.nn.functional as F

    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def training_turn(model, loss_of: Callable, options) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (options.batch, options.length + 1))

    def turn() -> None:
        model.train()
        for _ in range(options.steps):
            loss_of(model, ids).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return turn


def our_generation_turn(model, options) -> Callable[[], None]:
    from nano3.model.generate import generate

    prompts = random_prompts(model, options).tolist()
    return lambda: generate(model, prompts, max_new_tokens=options.new_tokens, stop_ids=(), seed=0)


def their_generation_turn(model, options) -> Callable[[], None]:
    import torch

    prompts = random_prompts(model, options)
    mask = torch.ones_like(prompts)

    def turn() -> None:
        model.eval()
        with torch.no_grad():
            model.generate(
                prompts,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                min_new_tokens=options.new_tokens,
                max_new_tokens=options.new_tokens,
                pad_token_id=0,
            )

    return turn


def random_prompts(model, options):
    import torch

    return torch.randint(0, model.config.vocab_size, (options.generate_batch, options.prompt))


def compare(ours: Callable, theirs: Callable, *, tokens: int, repetitions: int) -> dict:
    """Tokens per second of both, one turn each to warm up, then alternating turns."""
    seconds = {"ours": [], "transformers": []}
    ours(), theirs()
    for _ in range(repetitions):
        for name, turn in (("ours", ours), ("transformers", theirs)):
            start = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: [tokens / s for s in values] for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(rates["ours"], rates["transformers"], strict=True)]
    return {
        "tokens_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "seconds": seconds,
    }


def table(results: dict) -> str:
    lines = [f"{'tokens per second':<18}{'nano3':>10}{'transformers':>14}{'ratio':>8}   range over turns"]
    for name, result in results.items():
        rate, (low, high) = result["tokens_per_second"], result["ratio_range"]
        lines.append(
            f"{name:<18}{rate['ours']:>10,.0f}{rate['transformers']:>14,.0f}{result['ratio']:>8.2f}   "
            f"{low:.2f} - {high:.2f}"
        )
    return "\n".join(lines)


def machine() -> dict:
    import torch
    import transformers

    return {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    main()
