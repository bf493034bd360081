"""Compare the speed of nano3.model with transformers' nemotron_h: same weights, same machine, same run.

Training is forward, cross-entropy, backward and a fused AdamW step, each model with its own loss: ours from hidden
states as in nano3.train, transformers' from logits. It is measured in float32, and where this machine has bfloat16
also as `precision: auto` trains there: float32 weights, products in bfloat16, for both models under the same autocast.
Generation is cached sampling at temperature 1 from prompts of equal length without stop tokens; where there
is a C++ compiler also with our compiled decoding step. All take turns, so that a busy machine slows all;
medians count, and every ratio is to transformers in float32, which is how it runs unless told otherwise.

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

BASELINE = "transformers"
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
            training_turns(ours, theirs, options), options.batch * options.length * options.steps, options.repetitions
        ),
        "generation": compare(
            generation_turns(ours, theirs, options), options.generate_batch * options.new_tokens, options.repetitions
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


def training_turns(ours, theirs, options) -> dict[str, Callable[[], None]]:
    from nano3.train.hardware import has_bfloat16

    turns = {"nano3": training_turn(ours, our_loss, "fp32", options)}
    turns |= {BASELINE: training_turn(theirs, their_loss, "fp32", options)}
    if has_bfloat16("cpu"):
        turns |= {"nano3, bf16": training_turn(ours, our_loss, "bf16", options)}
        turns |= {f"{BASELINE}, bf16": training_turn(theirs, their_loss, "bf16", options)}
    return turns


def training_turn(model, loss_of: Callable, precision: str, options) -> Callable[[], None]:
    import torch

    from nano3.train.hardware import arithmetic

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (options.batch, options.length + 1))

    def turn() -> None:
        model.train()
        for _ in range(options.steps):
            with arithmetic("cpu", precision):
                loss = loss_of(model, ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return turn


def generation_turns(ours, theirs, options) -> dict[str, Callable[[], None]]:
    from nano3.model.generate import can_compile

    prompts = random_prompts(ours, options)
    turns = {"nano3": our_generation_turn(ours, prompts, options, compiled=False)}
    turns |= {BASELINE: their_generation_turn(theirs, prompts, options)}
    if can_compile():
        turns |= {"nano3, compiled": our_generation_turn(ours, prompts, options, compiled=True)}
    return turns


def our_generation_turn(model, prompts, options, *, compiled: bool) -> Callable[[], None]:
    from nano3.model.generate import generate

    prompts = prompts.tolist()
    return lambda: generate(model, prompts, max_new_tokens=options.new_tokens, stop_ids=(), seed=0, compiled=compiled)


def their_generation_turn(model, prompts, options) -> Callable[[], None]:
    import torch

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


def compare(turns: dict[str, Callable[[], None]], tokens: int, repetitions: int) -> dict[str, dict]:
    """Tokens per second of each, a turn to warm up, then alternating; ratios to the baseline of the same round."""
    seconds = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    for _ in range(repetitions):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - start)
    results = {}
    for name, values in seconds.items():
        ratios = [theirs / own for own, theirs in zip(values, seconds[BASELINE], strict=True)]
        results[name] = {
            "tokens_per_second": tokens / statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "seconds": values,
        }
    return results


def table(results: dict) -> str:
    lines = [f"{'':<12}{'':<22}{'tokens/s':>10}{'ratio':>8}   range over turns"]
    for task, models in results.items():
        for name, result in models.items():
            low, high = result["ratio_range"]
            rate, ratio = result["tokens_per_second"], result["ratio"]
            lines.append(f"{task:<12}{name:<22}{rate:>10,.0f}{ratio:>8.2f}   {low:.2f} - {high:.2f}")
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
