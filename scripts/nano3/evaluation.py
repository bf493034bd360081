"""Held-out measurements of a finished model: rewards of sampled answers, and bits per byte of text.

Every model of a recipe gets the same prompts, the same sampling seed and the same documents, so differences between
two models are differences of their weights.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano3.artifacts import read_manifest
from nano3.data.indexed import Indexed, read_indexed
from nano3.errors import UserError
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.training import Evaluation
from nano3.rl.logprobs import response_logprobs
from nano3.rl.order import derived_seed
from nano3.rl.rollout import ChatTokenizer, Rollout, first_of_each, readable, rollouts
from nano3.train.validation import bits_per_byte

Z95 = 1.959964  # of a two-sided 95% normal interval
HELD_OUT = ("test", "valid")  # the splits that no stage trains on
COUNTED_TOKENS = 20_000_000  # of every data set's training split, at most, for the unigram model


# answers to prompts


def answer(
    model: NemotronH, chat: ChatTokenizer, rows: Sequence[dict[str, Any]], settings: Evaluation, *, seed: int
) -> list[Rollout]:
    """`settings.generations` answers to the first `settings.prompts` rows of every environment, row by row."""
    return rollouts(
        model,
        chat,
        first_of_each(rows, settings.prompts),
        generations=settings.generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=derived_seed(seed, "evaluation"),
    )


def scores(rolled: Sequence[Rollout], generations: int) -> dict[str, Any]:
    """Environment -> prompts, generations, mean reward with its interval (low, high), finished and well_formed shares,
    mean_length in tokens, of all turns. rolled: answers, `generations` to each prompt in a row."""
    found: dict[str, Any] = {}
    for name in sorted({rollout.environment for rollout in rolled}):
        mine = [rollout for rollout in rolled if rollout.environment == name]
        rewards = _by_prompt([rollout.reward for rollout in mine], generations)
        found[name] = {
            "prompts": len(rewards),
            "generations": generations,
            **interval(rewards),
            "finished": _mean([rollout.finished for rollout in mine]),
            "well_formed": _mean([rollout.well_formed for rollout in mine]),
            "mean_length": _mean([rollout.tokens for rollout in mine]),
        }
    return found


def chats(rolled: Sequence[Rollout], generations: int) -> dict[str, Any]:
    """Share of all answers that are a whole turn of a chat: ended by the model itself, and well formed."""
    whole = _by_prompt([float(rollout.finished and rollout.well_formed) for rollout in rolled], generations)
    return {"prompts": len(whole), "generations": generations, **interval(whole)}


def samples(rolled: Sequence[Rollout], generations: int, each: int, chat: ChatTokenizer) -> list[dict[str, Any]]:
    """The first answer to the first `each` prompts of every environment, as texts."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for rollout in rolled[::generations]:
        mine = shown.setdefault(rollout.environment, [])
        if len(mine) < each:
            mine.append(readable(rollout, chat))
    return [sample for name in sorted(shown) for sample in shown[name]]


def interval(values: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean of values in [0, 1] and its 95% interval: {"mean", "low", "high"}. values: [prompts][generations].

    Answers to one prompt go together, so prompts are the independent units: the spread of their means gives the
    effective number of trials, and that gives Wilson's interval, which stays within [0, 1] and keeps a width when
    all values are equal. With one answer per prompt that is right or wrong, this is exactly Wilson's interval."""
    means = np.array([_mean(group) for group in values])
    if not len(means):
        raise ValueError("an interval needs at least one value")
    mean, variance = float(means.mean()), float(means.var()) / len(means)
    answers = sum(map(len, values))
    if mean in (0.0, 1.0):  # nothing tells how much answers to one prompt go together
        trials = len(means)
    else:
        trials = min(mean * (1 - mean) / variance, answers) if variance > 0 else answers
    centre = (mean + Z95**2 / (2 * trials)) / (1 + Z95**2 / trials)
    half = Z95 / (1 + Z95**2 / trials) * math.sqrt(mean * (1 - mean) / trials + Z95**2 / (4 * trials**2))
    return {"mean": mean, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def _by_prompt(values: list[float], generations: int) -> list[list[float]]:
    return [values[start : start + generations] for start in range(0, len(values), generations)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# text


def by_dataset(tokens: Sequence[Path]) -> dict[str, list[Path]]:
    """Data set -> directories of its token artifacts, both in sorted order."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for directory in tokens:
        config = read_manifest(directory).config
        if not isinstance(config, dict) or "dataset" not in config:
            raise UserError(f"{directory} is not a token artifact; give the directories of scripts/tokenize_shards.py")
        found.setdefault(config["dataset"], []).append((config.get("group", 0), directory))
    return {name: [directory for _, directory in sorted(groups)] for name, groups in sorted(found.items())}


def text_measures(
    model: NemotronH,
    directories: Sequence[Path],
    token_bytes: Tensor,
    *,
    most: int,
    arithmetic: AbstractContextManager,
    micro_batch_tokens: int,
) -> dict[str, float] | None:
    """Bits per byte of one data set's held-out documents by the model and by a unigram model; None if it has none.

    model, unigram: bits per byte; margin, unigram_margin: half of the 95% intervals over documents, left out where
    there is one document only; documents, bytes: how much was measured. A document's first token is context and is not
    measured. Longer documents than the model's context are read in pieces. The unigram model is the token frequencies
    of the training split, every token seen once more. most: tokens to measure, to the end of the document that reaches
    it; token_bytes [V], see `nano3.train.validation.bytes_of_tokens`."""
    pieces, owner = held_out(directories, most=most, window=model.config.max_position_embeddings)
    if not pieces:
        return None
    owners = torch.tensor(owner)
    nats = model_nats(model, pieces, arithmetic=arithmetic, micro_batch_tokens=micro_batch_tokens)
    log_frequency = unigram(directories, model.config.vocab_size).log()
    simple = torch.stack([-log_frequency[torch.from_numpy(piece[1:])].sum() for piece in pieces])
    sizes = torch.stack([token_bytes[torch.from_numpy(piece[1:])].sum() for piece in pieces]).double()
    if not sizes.sum():
        return None
    documents = torch.zeros(3, owner[-1] + 1, dtype=torch.float64)
    documents.index_add_(1, owners, torch.stack([nats, simple, sizes]))
    ours, theirs = (bits_per_byte(row, documents[2]) for row in documents[:2])
    found = {"model": ours["bits_per_byte"], "unigram": theirs["bits_per_byte"]}
    if documents.shape[1] > 1:
        found |= {"margin": ours["bits_per_byte_margin"], "unigram_margin": theirs["bits_per_byte_margin"]}
    return found | {"documents": documents.shape[1], "bytes": ours["bytes"]}


def held_out(directories: Sequence[Path], *, most: int, window: int) -> tuple[list[np.ndarray], list[int]]:
    """Pieces of the held-out documents, at most `window` + 1 tokens each, and the document every piece belongs to.

    Pieces overlap by one token, which is only context in the later one. Documents come in the order of the shards until
    there are `most` tokens."""
    pieces: list[np.ndarray] = []
    owner: list[int] = []
    taken = document = 0
    for shard in (read_indexed(directory / split) for split in HELD_OUT for directory in directories):
        for index in range(len(shard)):
            ids = np.asarray(shard[index], dtype=np.int64)
            if len(ids) < 2:
                continue
            if taken >= most:
                return pieces, owner
            for start in range(0, len(ids) - 1, window):
                pieces.append(ids[start : start + window + 1])
                owner.append(document)
            taken, document = taken + len(ids), document + 1
    return pieces, owner


@torch.no_grad()
def model_nats(
    model: NemotronH, pieces: Sequence[np.ndarray], *, arithmetic: AbstractContextManager, micro_batch_tokens: int
) -> Tensor:
    """-log p of every piece's tokens after its first, summed: float64 [pieces]."""
    nats = torch.zeros(len(pieces), dtype=torch.float64)
    model.eval()
    first, following = [piece[:1].tolist() for piece in pieces], [piece[1:].tolist() for piece in pieces]
    for found in response_logprobs(
        model, first, following, micro_batch_tokens=micro_batch_tokens, arithmetic=arithmetic
    ):
        nats.index_add_(0, found.response.cpu(), -found.logprobs.double().cpu())
    return nats


def unigram(directories: Sequence[Path], vocab_size: int) -> Tensor:
    """Frequencies of tokens in the training split, every token seen once more: float64 [V], summing to 1.

    Of a large data set the first COUNTED_TOKENS tokens, spread over its groups."""
    counts = np.ones(vocab_size, dtype=np.int64)
    quota = COUNTED_TOKENS // len(directories)
    for directory in directories:
        shard: Indexed = read_indexed(directory / "train")
        counts += np.bincount(shard.tokens[:quota], minlength=vocab_size)
    return torch.from_numpy(counts / counts.sum())
