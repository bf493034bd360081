"""What a pretraining stage trains on: sequences of a blend, and validation sequences of every data set in it."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nano3.artifacts import digest_of, read_manifest
from nano3.data import tokenizer as tokenizers
from nano3.data.blend import read_blend
from nano3.data.pretrain_samples import PretrainSamples, valid_sets
from nano3.errors import UserError, to_make
from nano3.recipe import Recipe
from nano3.recipe.training import Pretrain, Validation
from nano3.train.loop import Task
from nano3.train.schedule import warmup_stable_decay
from nano3.train.validation import Batch, ValidationSet, bytes_of_tokens


@dataclass(frozen=True)
class Data:
    """Where a pretraining stage's tokens come from. cache: directory for sample indices, in the work directory."""

    blend: Path
    tokenizer: Path
    cache: Path


def phase_task(recipe: Recipe, phase: str, data: Data) -> tuple[Task, dict]:
    """The task of "phase1" or "phase2", which share one schedule; and the tokens it samples of each data set."""
    pretrain = recipe.pretrain
    rows, length = pretrain.global_batch_size, pretrain.sequence_length
    steps = phase_steps(pretrain, phase)
    before = 0 if phase == "phase1" else phase_steps(pretrain, "phase1") * rows * length
    samples = PretrainSamples(data.blend, "train", length, steps * rows, derived_seed(recipe.seed, phase), data.cache)
    eos = read_blend(data.blend).eos_id

    def batch(step: int, first: int, count: int) -> Batch:
        return next_token_batch(read(samples, step * rows + first, count), eos, pretrain.isolate_documents)

    def learning_rate(step: int) -> float:
        return warmup_stable_decay(pretrain.schedule, before + (step + 1) * rows * length)

    task = Task(
        stage=f"pretrain/{phase}",
        steps=steps,
        rows=lambda step: rows,
        batch=batch,
        learning_rate=learning_rate,
        balance=pretrain.balance,
        gradient_clip=pretrain.optimizer.gradient_clip,
        validation=validation_sets(recipe, data.blend, [length], pretrain.validation),
        validation_interval=pretrain.validation.interval,
        token_bytes=bytes_of_tokens(tokenizers.load(data.tokenizer), recipe.model.vocab_size),
        tokens_before=before,
    )
    return task, samples.sampled_tokens()


def long_context_task(recipe: Recipe, data: Data) -> tuple[Task, dict]:
    """The long-context task, in which every step has one length; and the tokens of each length by data set."""
    pretrain, stage = recipe.pretrain, recipe.pretrain.long_context
    steps_before = phase_steps(pretrain, "phase1") + phase_steps(pretrain, "phase2")
    plan = plan_lengths(stage.lengths, stage.tokens, max(stage.lengths) * stage.global_batch_size)
    eos = read_blend(data.blend).eos_id
    samples = {
        length: PretrainSamples(
            data.blend,
            "train",
            length,
            sum(step.rows for step in plan if step.length == length),
            derived_seed(recipe.seed, "long_context", length),
            data.cache,
        )
        for length in {step.length for step in plan}
    }

    def batch(step: int, first: int, count: int) -> Batch:
        here = plan[step]
        tokens = read(samples[here.length], here.first + first, count)
        return next_token_batch(tokens, eos, pretrain.isolate_documents)

    task = Task(
        stage="pretrain/long_context",
        steps=len(plan),
        rows=lambda step: plan[step].rows,
        batch=batch,
        learning_rate=lambda step: stage.learning_rate,
        balance=pretrain.balance,
        gradient_clip=pretrain.optimizer.gradient_clip,
        validation=validation_sets(recipe, data.blend, sorted(stage.lengths), stage.validation),
        validation_interval=stage.validation.interval,
        token_bytes=bytes_of_tokens(tokenizers.load(data.tokenizer), recipe.model.vocab_size),
        tokens_before=steps_before * pretrain.global_batch_size * pretrain.sequence_length,
    )
    return task, {str(length): samples[length].sampled_tokens() for length in sorted(samples)}


def phase_steps(pretrain: Pretrain, phase: str) -> int:
    """Steps of "phase1" or "phase2": whole batches, so the last one may exceed the phase's tokens."""
    return math.ceil(getattr(pretrain, phase).tokens / (pretrain.global_batch_size * pretrain.sequence_length))


@dataclass(frozen=True)
class LengthStep:
    """One step of a stage with mixed lengths: `rows` sequences of `length`, from sample `first` of that length on."""

    length: int
    rows: int
    first: int


def plan_lengths(lengths: Mapping[int, float], tokens: int, tokens_per_step: int) -> list[LengthStep]:
    """The lengths of all steps until `tokens` are reached; their shares of the tokens follow `lengths` throughout.

    Every step goes to the length that is furthest behind its share; among equals to the longest."""
    total = sum(lengths.values())
    shares = {length: lengths[length] / total for length in sorted(lengths, reverse=True) if lengths[length]}
    used = dict.fromkeys(shares, 0)
    taken = dict.fromkeys(shares, 0)
    plan: list[LengthStep] = []
    planned = 0
    while planned < tokens:
        length = max(shares, key=lambda one: shares[one] * (planned + tokens_per_step) - used[one])
        rows = tokens_per_step // length
        plan.append(LengthStep(length, rows, taken[length]))
        taken[length] += rows
        used[length] += rows * length
        planned += rows * length
    return plan


def validation_sets(recipe: Recipe, blend: Path, lengths: list[int], validation: Validation) -> list[ValidationSet]:
    """Held-out sequences of every data set of a blend, at every length; with several, names end in @length."""
    eos, isolate = read_blend(blend).eos_id, recipe.pretrain.isolate_documents

    def as_set(name: str, tokens: Tensor) -> ValidationSet:
        return ValidationSet(
            name, len(tokens), lambda first, count: next_token_batch(tokens[first : first + count], eos, isolate)
        )

    return [
        as_set(name if len(lengths) == 1 else f"{name}@{length}", data.tokens)
        for length in lengths
        for name, data in valid_sets(blend, length, validation.sequences).items()
    ]


def read(samples: PretrainSamples, first: int, count: int) -> Tensor:
    """Samples first ... first + count - 1, int64 [count, T + 1]; none is fine."""
    if not count:
        return torch.empty(0, samples.sequence_length + 1, dtype=torch.int64)
    return samples.batch(first, count)


def token_shards(blend: Path) -> list[Path]:
    """The artifacts that a blend samples from. Raises UserError if one was rebuilt since the blend was made."""
    recorded = set(read_manifest(blend).inputs.values())
    shards = [Path(shard.path) for shard in read_blend(blend).shards]
    for shard in shards:
        if digest_of(shard) not in recorded:
            raise UserError(
                f"{shard} was made anew after the blend {blend}, which still describes the old tokens."
                f"\n  Make the blend again:  {to_make(blend, force=True)}"
            )
    return shards


def next_token_batch(tokens: Tensor, eos: int, isolate_documents: bool) -> Batch:
    """A batch of B rows from tokens int64 [B, T + 1]; every position is supervised.

    isolate_documents: number the documents of a row by the EOS tokens before a position."""
    inputs = tokens[:, :-1].contiguous()
    is_end = (inputs == eos).long()
    return {
        "input_ids": inputs,
        "targets": tokens[:, 1:].contiguous(),
        "loss_mask": torch.ones(inputs.shape),
        "doc_ids": is_end.cumsum(-1) - is_end if isolate_documents else None,
    }


def derived_seed(*parts: int | str) -> int:
    """A seed below 2**31 of its own for every purpose: phases must not draw the same documents in the same order."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
