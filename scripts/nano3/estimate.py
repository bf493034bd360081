"""What a recipe costs before it runs: tokens, operations, device hours, wall time, price and disk of every stage.

Everything follows from the recipe and from `execution.assumptions`, which the page repeats. Rates at other lengths
than pretraining's are scaled by their operations per token.
"""

import math
from dataclasses import dataclass

from nano3.model.size import forward_flops_per_token, parameters, train_flops_per_token
from nano3.recipe.execution import Assumptions, Job
from nano3.recipe.schema import Recipe
from nano3.recipe.stages import compared, rl_chain, rl_section

# A checkpoint: bf16 weights, fp32 weights and two fp32 moments of AdamW.
CHECKPOINT_BYTES_PER_PARAMETER = 2 + 4 + 8
# The newest checkpoint, the one before, and the one being written.
CHECKPOINTS = 3
H100_FLOPS = 989e12  # dense bf16, NVIDIA's data sheet


@dataclass(frozen=True)
class Cost:
    """One stage. hours: of one device (a GPU, or a process without one); None if no rate is stated."""

    stage: str
    job: Job
    tokens: int
    flops: float
    hours: float | None

    @property
    def devices(self) -> int:
        return self.job.nodes * max(1, self.job.gpus_per_node)

    @property
    def days(self) -> float | None:
        """Wall time on the recipe's nodes."""
        return None if self.hours is None else self.hours / self.devices / 24

    @property
    def starts(self) -> int | None:
        """Jobs in the chain, of the recipe's wall time each."""
        return None if self.days is None else math.ceil(self.days * 24 * 60 / self.job.runtime_minutes)


def costs(recipe: Recipe) -> list[Cost]:
    """The cost of every training stage, in the order of the recipe."""
    pretrain, execution, model = recipe.pretrain, recipe.execution, recipe.model
    base = train_flops_per_token(model, pretrain.sequence_length)

    def trained(stage: str, job: Job, tokens: int, flops_per_token: float) -> Cost:
        rate = execution.assumptions.train_tokens_per_second
        hours = tokens / (rate * base / flops_per_token) / 3600 if rate else None
        return Cost(stage, job, tokens, tokens * flops_per_token, hours)

    lengths = pretrain.long_context.lengths
    mixed = sum(share * train_flops_per_token(model, length) for length, share in lengths.items()) / sum(
        lengths.values()
    )
    packed = recipe.sft.data.pack_length
    stages = [
        trained("pretrain/phase1", execution.pretrain, pretrain.phase1.tokens, base),
        trained("pretrain/phase2", execution.pretrain, pretrain.phase2.tokens, base),
        trained("pretrain/long_context", execution.long_context, pretrain.long_context.tokens, mixed),
        trained(
            "sft",
            execution.sft,
            recipe.sft.steps * recipe.sft.global_batch_size * packed,
            train_flops_per_token(model, packed),
        ),
    ]
    return [*stages, *(_rl(recipe, stage, trained) for stage in rl_stages(recipe))]


def rl_stages(recipe: Recipe) -> list[str]:
    """The RL stages of the recipe that train a model, in the order in which they can run."""
    chain = rl_chain(recipe)
    beside = [*compared(recipe), *(["genrm"] if recipe.rl.genrm is not None else [])]
    return [chain[0], *beside, *chain[1:]]


def _rl(recipe: Recipe, name: str, trained) -> Cost:
    """Rollouts and updates, if every response were as long as allowed: an upper bound. RLHF adds a verdict of the
    reward model on every response, DPO a pass of the reference model over every pair."""
    stage, assumed = rl_section(recipe, name), recipe.execution.assumptions
    if name == "dpo":
        trains = 2 * stage.steps * stage.global_batch_size * stage.max_new_tokens
        writes = 0
    else:
        responses = stage.steps * stage.prompts_per_step * stage.generations_per_prompt
        trains = responses * stage.max_new_tokens
        writes = trains + responses * getattr(stage, "judge_max_new_tokens", 0)
    update = trained(
        f"rl/{name}", recipe.execution.rl, trains, train_flops_per_token(recipe.model, stage.max_new_tokens)
    )
    reads = writes or trains
    more_flops = reads * forward_flops_per_token(recipe.model, stage.max_new_tokens)
    known = update.hours is not None and (assumed.generate_tokens_per_second or not writes)
    hours = update.hours + (writes and writes / assumed.generate_tokens_per_second / 3600) if known else None
    return Cost(update.stage, update.job, trains, update.flops + more_flops, hours)


def text(recipe: Recipe, name: str) -> str:
    """The estimate as a page of text."""
    stages = costs(recipe)
    size, assumed = parameters(recipe.model), recipe.execution.assumptions
    rows = [("stage", "tokens", "FLOPs", "device hours", "devices", "wall time", "jobs", "price")]
    for cost in [*stages, _total(stages)]:
        chain = cost.stage != "total"
        rows.append(
            (
                cost.stage,
                f"{cost.tokens:,}",
                f"{cost.flops:.3g}",
                _number(cost.hours),
                f"{cost.devices:,}" if chain else "",
                _wall(sum(filter(None, (stage.days for stage in stages))) if not chain else cost.days),
                "" if not chain else _number(cost.starts),
                _number(cost.hours and assumed.price_per_hour and cost.hours * assumed.price_per_hour, "$"),
            )
        )
    lines = [
        f"{name}: {recipe.title}",
        "",
        f"parameters   {size.total:,} in total, {size.active:,} active for a token"
        f" ({size.active_with_embeddings:,} with the embedding table)",
        "",
        *_table(rows),
        "",
        *_disk(recipe),
        "",
        *_assumptions(recipe, assumed),
    ]
    return "\n".join(lines) + "\n"


def _total(stages: list[Cost]) -> Cost:
    hours = None if any(stage.hours is None for stage in stages) else sum(stage.hours for stage in stages)
    tokens, flops = sum(stage.tokens for stage in stages), sum(stage.flops for stage in stages)
    return Cost("total", stages[0].job, tokens, flops, hours)


def disk(recipe: Recipe) -> dict[str, int]:
    """Bytes on disk, by what they hold. Tokens: if none were seen twice, so an upper bound."""
    pretrain, size = recipe.pretrain, parameters(recipe.model)
    tokens = pretrain.phase1.tokens + pretrain.phase2.tokens + pretrain.long_context.tokens
    return {
        "tokenised data, at most": tokens * (4 if recipe.model.vocab_size > 65_535 else 2),
        "packed SFT data, one epoch at most": recipe.sft.steps
        * recipe.sft.global_batch_size
        * recipe.sft.data.pack_length
        * 5,
        "rolling checkpoints of a stage": CHECKPOINTS * CHECKPOINT_BYTES_PER_PARAMETER * size.total,
        "published models": len(costs(recipe)) * 4 * size.total,
    }


def _disk(recipe: Recipe) -> list[str]:
    return ["disk", *(f"  {name:<36}{_bytes(size):>10}" for name, size in disk(recipe).items())]


def _assumptions(recipe: Recipe, assumed: Assumptions) -> list[str]:
    context = recipe.pretrain.sequence_length
    flops = train_flops_per_token(recipe.model, context)
    lines = ["assumed (execution.assumptions in the recipe)"]
    if assumed.train_tokens_per_second is None:
        lines.append("  train_tokens_per_second is not stated, so neither are device hours")
    else:
        reached = assumed.train_tokens_per_second * flops
        lines.append(
            f"  training      {assumed.train_tokens_per_second:,.0f} tokens a second and device at {context:,} tokens"
            f" of context: {reached / 1e12:,.3g} TFLOP/s, {reached / H100_FLOPS:.1%} of an H100's dense bf16"
        )
    if assumed.generate_tokens_per_second:
        lines.append(
            f"  generation    {assumed.generate_tokens_per_second:,.0f} tokens a second and device in rollouts"
        )
    if assumed.price_per_hour:
        lines.append(f"  price         ${assumed.price_per_hour:g} for a device hour")
    return [
        *lines,
        f"  checkpoint    {CHECKPOINT_BYTES_PER_PARAMETER} bytes a parameter, {CHECKPOINTS} at a time;"
        " published models 4 bytes a parameter",
        "  RL            every response, verdict and pair as long as allowed: an upper bound",
        "  left out      data jobs, profiling, mining of pairs, evaluation, restarts and idle time",
    ]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    return f"{unit}{value:,.0f}" if value >= 10 else f"{unit}{value:.3g}"


def _wall(days: float | None) -> str:
    if days is None or days == 0:
        return "-"
    hours = days * 24
    return f"{days:,.1f} days" if days >= 2 else f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"
