"""What supervised fine-tuning trains on: packed conversations, in a new seeded order every epoch."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from nano3.chat.packing import PackedDataset
from nano3.data import tokenizer as tokenizers
from nano3.errors import UserError
from nano3.recipe import Recipe
from nano3.train.loop import Task
from nano3.train.schedule import fine_tuning
from nano3.train.validation import Batch, ValidationSet, bytes_of_tokens


def sft_task(recipe: Recipe, data: Path, tokenizer: Path) -> tuple[Task, dict]:
    """The task of SFT on a packed data artifact; and how often it sees the data."""
    sft = recipe.sft
    packs, held_out = PackedDataset(data / "train"), PackedDataset(data / "valid")
    for split, dataset in (("train", packs), ("valid", held_out)):
        if not len(dataset):
            raise UserError(f"{data}/{split} holds no packs; raise sft.data.rows or sft.data.valid")
    rows = sft.global_batch_size
    order = epochs(len(packs), recipe.seed)

    def batch(step: int, first: int, count: int) -> Batch:
        start = step * rows + first
        return packs.batch([order(position) for position in range(start, start + count)])

    task = Task(
        stage="sft",
        steps=sft.steps,
        rows=lambda step: rows,
        batch=batch,
        learning_rate=lambda step: fine_tuning(sft, step),
        balance=sft.balance,
        gradient_clip=sft.optimizer.gradient_clip,
        validation=[
            ValidationSet(
                "sft",
                min(len(held_out), sft.validation.sequences),
                lambda first, count: held_out.batch(range(first, first + count)),
            )
        ],
        validation_interval=sft.validation.interval,
        token_bytes=bytes_of_tokens(tokenizers.load(tokenizer), recipe.model.vocab_size),
    )
    return task, {"packs": len(packs), "epochs": round(sft.steps * rows / len(packs), 4)}


def epochs(count: int, seed: int):
    """position -> index: every epoch visits all of 0 ... count - 1 once, in its own order."""

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(count)

    return lambda position: int(permutation(position // count)[position % count])
