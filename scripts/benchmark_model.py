"""Compare the speed of nano3.model with transformers' nemotron_h: same weights, same machine, same run.

Training is forward, cross-entropy, backward and a fused AdamW step, each model with its own loss: ours from hidden
states as in nano3.train, transformers' from logits. It is measured in float32, and where this machine has bfloat16
also as `precision: auto` trains there: float32 weights, products in bfloat16, for both models under the same autocast.
Generation is cached sampling at temperature 1 from prompts of equal length without stop tokens; where there
is a C++ compiler also with our compiled decoding step. All take turns, so that a busy machine slows all;
medians count, and every ratio is to transformers in float32, which is how it runs unless told otherwise.

    python scripts/benchmark_model.py --repetitions 5 --output benchmark.json

On a GPU, of a slice of the 31.6B model, with what the GPU spends its time on:

    python scripts/benchmark_model.py --device cuda --precisions bf16 --recipe config/recipes/nano3.yaml \
        --pattern "MEM*E" --vocabulary 16384 --batch 2 --length 1024 --generate-batch 32 256 --profile

There transformers runs its own torch code, unless the packages with its fused Mamba kernels are installed.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

OURS, BASELINE = "nano3", "transformers"
TINY = Path("config/recipes/tiny.yaml")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--recipe", type=Path, default=TINY, help=f"whose model is measured (default {TINY})")
    arguments.add_argument("--pattern", help="other layers, e.g. MEM*E")
    arguments.add_argument("--vocabulary", type=int, help="another size of the vocabulary")
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default cpu)")
    arguments.add_argument("--only", help="time only what has this in its name, e.g. nano3; the ratios are then to it")
    arguments.add_argument("--eager", action="store_true", help="leave out the compiled decoding step")
    arguments.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), help="default: all this device has")
    arguments.add_argument(
        "--profile", action="store_true", help="also list the operations that our model spends time in"
    )
    arguments.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    arguments.add_argument("--repetitions", type=int, default=5, help="timed turns of each model (default 5)")
    arguments.add_argument(
        "--batch", type=int, nargs="+", default=[16, 64], help="training rows of a step (default 16 and 64)"
    )
    arguments.add_argument("--length", type=int, default=256, help="training tokens per row (default 256)")
    arguments.add_argument("--steps", type=int, default=3, help="training steps per turn (default 3)")
    arguments.add_argument(
        "--generate-batch", type=int, nargs="+", default=[32], help="prompts generated together (default 32)"
    )
    arguments.add_argument("--prompt", type=int, default=64, help="tokens per prompt (default 64)")
    arguments.add_argument("--new-tokens", type=int, default=64, help="tokens generated per prompt (default 64)")
    arguments.add_argument("--output", type=Path, help="write the figures as JSON")
    return arguments


def main(argv: list[str] | None = None) -> dict:
    options = parser().parse_args(argv)
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours, theirs = both_models(options)
    results = {}
    for rows in options.batch:
        turns, tokens = training_turns(ours, theirs, rows, options), rows * options.length
        results[f"training on {tokens:,}"] = compare(turns, tokens * options.steps, options)
    for rows in options.generate_batch:
        turns = generation_turns(ours, theirs, rows, options)
        results[f"generation of {rows}"] = compare(turns, rows * options.new_tokens, options)
    print(table(results))
    if options.profile:
        profile(ours, options)
    report = {"options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}}
    report |= {"model": ours.config.model_dump(), "machine": machine(), "results": results}
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return report


def both_models(options):
    """The same weights in our model and in transformers' (float32)."""
    import torch
    from transformers import AutoModelForCausalLM, NemotronHConfig
    from transformers.initialization import no_init_weights
    from transformers.utils import logging

    from nano3.model import hf
    from nano3.model.nemotron_h import NemotronH
    from nano3.recipe import load_recipe

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = load_recipe(options.recipe).model
    changes = {"pattern": options.pattern, "vocab_size": options.vocabulary}
    config = config.model_copy(update={key: value for key, value in changes.items() if value})
    with torch.device(options.device):
        ours = NemotronH(config)
        if options.only == OURS:
            return ours, None
        with no_init_weights():
            theirs = AutoModelForCausalLM.from_config(NemotronHConfig(**hf.export_config(config)), dtype=torch.float32)
    weights = ours.state_dict()
    with torch.no_grad():  # by way of files it would take minutes for a large model
        for name, value in theirs.state_dict().items():
            own = weights.pop(name.removeprefix("model."))
            value.copy_(own.transpose(1, 2) if name.endswith("experts.down_proj") else own)
    assert not weights, f"transformers' model has no {', '.join(weights)}"
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


def training_turns(ours, theirs, rows: int, options) -> dict[str, Callable[[], None]]:
    turns = {}
    for precision in precisions(options):
        suffix = "" if precision == "fp32" else f", {precision}"
        turns[OURS + suffix] = training_turn(ours, our_loss, rows, precision, options)
        turns[BASELINE + suffix] = training_turn(theirs, their_loss, rows, precision, options)
    return turns


def precisions(options) -> list[str]:
    from nano3.train.hardware import has_bfloat16

    return options.precisions or (["fp32", "bf16"] if has_bfloat16(options.device) else ["fp32"])


def training_turn(model, loss_of: Callable, rows: int, precision: str, options) -> Callable[[], None]:
    import torch

    from nano3.train.hardware import arithmetic

    def turn() -> None:
        model.train()
        # made anew each turn, so that a GPU holds the moments of one model at a time
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        ids = random_ids(model, rows, options.length + 1, options)
        for _ in range(options.steps):
            with arithmetic(options.device, precision):
                loss = loss_of(model, ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return turn


def random_ids(model, rows: int, length: int, options):
    import torch

    return torch.randint(0, model.config.vocab_size, (rows, length), device=options.device)


def generation_turns(ours, theirs, rows: int, options) -> dict[str, Callable[[], None]]:
    from nano3.model.generate import can_compile

    prompts = random_ids(ours, rows, options.prompt, options)
    turns = {}
    for precision in precisions(options) if options.device == "cuda" else ["fp32"]:
        suffix = "" if precision == "fp32" else f", {precision}"
        turns[OURS + suffix] = our_generation_turn(ours, prompts, precision, options)
        turns[BASELINE + suffix] = their_generation_turn(theirs, prompts, precision, options)
        if can_compile() and not options.eager:
            turns[f"{OURS}, compiled{suffix}"] = our_generation_turn(ours, prompts, precision, options, compiled=True)
    return turns


def our_generation_turn(model, prompts, precision: str, options, *, compiled: bool = False) -> Callable[[], None]:
    from nano3.model.generate import generate
    from nano3.train.hardware import arithmetic

    prompts = prompts.tolist()

    def turn() -> None:
        with arithmetic(options.device, precision):
            generate(model, prompts, max_new_tokens=options.new_tokens, stop_ids=(), seed=0, compiled=compiled)

    return turn


def their_generation_turn(model, prompts, precision: str, options) -> Callable[[], None]:
    import torch

    from nano3.train.hardware import arithmetic

    mask = torch.ones_like(prompts)

    def turn() -> None:
        model.eval()
        with torch.no_grad(), arithmetic(options.device, precision):
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


def compare(turns: dict[str, Callable[[], None]], tokens: int, options) -> dict[str, dict]:
    """Tokens per second of each, a turn to warm up, then alternating; ratios to the baseline of the same round.

    On a GPU one after the other, and what does not fit its memory is left out, with a line that says so."""
    turns = {name: turn for name, turn in turns.items() if options.only in (None, name.split(",")[0])}
    if options.device == "cuda":  # where one model at a time keeps its memory, and nobody else's work interferes
        seconds = {name: repeated(name, turn, options.repetitions) for name, turn in turns.items()}
        seconds = {name: values for name, values in seconds.items() if values}
    else:
        seconds = {name: [] for name in turns}
        for turn in turns.values():
            turn()
        for _ in range(options.repetitions):
            for name, turn in turns.items():
                seconds[name].append(timed(turn))
    baseline = next((name for name in seconds if name.startswith(BASELINE)), next(iter(seconds), None))
    results = {}
    for name, values in seconds.items():
        ratios = [theirs / own for own, theirs in zip(values, seconds[baseline], strict=True)]
        results[name] = {
            "tokens_per_second": tokens / statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "seconds": values,
        }
    return results


def repeated(name: str, turn: Callable[[], None], repetitions: int) -> list[float]:
    """Seconds of each turn after one to warm up; none where the GPU has not the memory for it."""
    import torch

    try:
        turn()
        return [timed(turn) for _ in range(repetitions)]
    except torch.OutOfMemoryError as error:
        print(f"{name} does not fit: {str(error).split('. GPU')[0]}")
        return []
    finally:
        torch.cuda.empty_cache()


def timed(turn: Callable[[], None]) -> float:
    """Seconds of a turn, to the end of what it gave the GPU to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def profile(model, options) -> None:
    """Print the operations in which a step of our training and a batch of our generation spend most time."""
    import torch
    from torch.profiler import ProfilerActivity

    precision, rows = precisions(options)[-1], options.generate_batch[-1]
    prompts = random_ids(model, rows, options.prompt, options)
    for title, turn in (
        ("training", training_turn(model, our_loss, options.batch[-1], precision, options)),
        (f"generation of {rows}", our_generation_turn(model, prompts, precision, options)),
    ):
        turn()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (options.device == "cuda")
        with torch.profiler.profile(activities=activities) as profiler:
            timed(turn)
        print(f"{title}, {precision}:")
        order = f"self_{'device' if options.device == 'cuda' else 'cpu'}_time_total"
        print(profiler.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=70))


def table(results: dict) -> str:
    lines = [f"{'':<20}{'':<22}{'tokens/s':>10}{'ratio':>8}   range over turns"]
    for task, models in results.items():
        for name, result in models.items():
            low, high = result["ratio_range"]
            rate, ratio = result["tokens_per_second"], result["ratio"]
            lines.append(f"{task:<20}{name:<22}{rate:>10,.0f}{ratio:>8.2f}   {low:.2f} - {high:.2f}")
    return "\n".join(lines)


def machine() -> dict:
    import torch
    import transformers

    return {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    main()
