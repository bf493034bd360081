"""Training and validation sequences of a blend, on megatron-core's index builder (CPU, no process group needed).

Megatron builds, for each shard, as many epochs of shuffled documents as the blend needs, cuts them into windows of
`sequence_length + 1` tokens that overlap by one, shuffles the windows, and interleaves the shards so that any prefix
has their weights. The order depends on blend, sequence length, number of samples and seed alone."""

import logging
import math
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nano3.data.blend import SPLITS, BlendData, read_blend
from nano3.data.indexed import read_indexed
from nano3.errors import UserError

NO_PAD = -1  # no id: Megatron overwrites tokens that equal the pad id


@dataclass(frozen=True)
class _Tokenizer:
    """What Megatron's datasets ask of a tokenizer."""

    eod: int
    vocab_size: int
    pad: int = NO_PAD

    @property
    def eos(self) -> int:
        return self.eod

    @property
    def unique_identifiers(self) -> OrderedDict[str, Any]:
        return OrderedDict(eod=self.eod, vocab_size=self.vocab_size)


class PretrainSamples:
    """The sequences of one split of a blend, in the order in which they are trained on.

    samples: sequences that training will ask for in all (a part of what determines the order);
    cache_dir: where Megatron keeps its index files, below the stage's work directory."""

    def __init__(self, blend_dir: Path, split: str, sequence_length: int, samples: int, seed: int, cache_dir: Path):
        self.blend = read_blend(blend_dir)
        entries = self.blend.splits[split]
        if not entries:
            raise UserError(f"{blend_dir} has no {split} shards; raise tokenisation.held_out or add data")
        self.sequence_length = sequence_length
        self.samples = samples
        self._weights = [weight for weight, _ in entries]
        self._datasets = [self.blend.shard_of(prefix).dataset for _, prefix in entries]
        with _quiet():
            self._dataset = _build(self.blend, entries, split, sequence_length, samples, seed, Path(cache_dir))

    def __len__(self) -> int:
        return self.samples

    def batch(self, first: int, count: int) -> torch.Tensor:
        """Sequences first ... first+count-1 as int64 [count, sequence_length + 1]: input and target in one window."""
        if first < 0 or first + count > self.samples:
            raise IndexError(f"sequences {first} ... {first + count - 1} of {self.samples}")
        windows = []
        for index in range(first, first + count):
            sample = self._dataset[index]
            windows.append(torch.cat([sample["tokens"], sample["labels"][-1:]]))
        return torch.stack(windows)

    @cached_property
    def shard_numbers(self) -> np.ndarray:
        """Number of the shard (in the blend's order) that each sequence comes from [samples]."""
        numbers = getattr(self._dataset, "dataset_index", None)
        if numbers is None:  # a blend of one shard
            return np.zeros(self.samples, dtype=np.int64)
        return np.asarray(numbers[: self.samples])

    def sampled_tokens(self, first: int = 0, count: int | None = None) -> dict[str, int]:
        """Tokens per data set in the sequences first ... first+count-1, as they are sampled."""
        last = self.samples if count is None else first + count
        counts = np.bincount(self.shard_numbers[first:last], minlength=len(self._datasets))
        tokens: dict[str, int] = defaultdict(int)
        for dataset, number in zip(self._datasets, counts, strict=True):
            tokens[dataset] += int(number) * self.sequence_length
        return dict(sorted(tokens.items()))

    def shares(self) -> dict[str, dict[str, float]]:
        """For each data set the fraction of tokens that the blend asks for, the fraction sampled, and the tokens."""
        asked: dict[str, float] = defaultdict(float)
        for dataset, weight in zip(self._datasets, self._weights, strict=True):
            asked[dataset] += weight
        tokens = self.sampled_tokens()
        return {
            dataset: {
                "asked": round(asked[dataset], 6),
                "sampled": round(number / (self.samples * self.sequence_length), 6),
                "tokens": number,
            }
            for dataset, number in tokens.items()
        }


@dataclass(frozen=True)
class ValidSet:
    """Fixed sequences of one data set's held-out documents.

    tokens: int64 [n, sequence_length + 1]; shorter in the second dimension when no shard holds a full window, never
    padded. bytes_per_token: mean UTF-8 bytes of a token of the split, EOS counted as a
    token, so that bits per byte = loss per token / ln 2 / bytes_per_token."""

    dataset: str
    tokens: torch.Tensor
    bytes_per_token: float


def valid_sets(blend_dir: Path, sequence_length: int, sequences: int, *, split: str = "valid") -> dict[str, ValidSet]:
    """For each data set of the blend, up to `sequences` windows spread evenly over its held-out documents in order.

    Data sets without held-out tokens are left out. Raises UserError if all are."""
    blend = read_blend(blend_dir)
    prefixes: dict[str, list[str]] = defaultdict(list)
    for _, prefix in blend.splits[split]:
        prefixes[blend.shard_of(prefix).dataset].append(prefix)
    if not prefixes:
        raise UserError(f"{blend_dir} has no {split} documents; raise tokenisation.held_out or add data")
    sets = {}
    for dataset, names in sorted(prefixes.items()):
        streams = [read_indexed(name).tokens for name in names]
        shards = [blend.shard_of(name) for name in names]
        size = sum(shard.bytes[split] for shard in shards) / sum(shard.tokens[split] for shard in shards)
        sets[dataset] = ValidSet(dataset, _windows(streams, sequence_length, sequences), size)
    return sets


def _windows(streams: list[np.ndarray], sequence_length: int, sequences: int) -> torch.Tensor:
    """Windows int64 [n, sequence_length + 1] spread evenly over token streams, none across two of them.

    One short window of all tokens if no stream holds a full one. Reads only what it returns (memory maps)."""
    ends = np.cumsum([(len(stream) - 1) // sequence_length for stream in streams])
    possible = int(ends[-1])
    if not possible:
        whole = np.concatenate(streams)[: sequence_length + 1]
        return torch.from_numpy(whole.astype(np.int64))[None]
    windows = []
    for index in range(min(sequences, possible)):
        number = index * possible // min(sequences, possible)
        stream = int(np.searchsorted(ends, number, side="right"))
        start = (number - int(ends[stream - 1] if stream else 0)) * sequence_length
        windows.append(streams[stream][start : start + sequence_length + 1].astype(np.int64))
    return torch.from_numpy(np.stack(windows))


def _build(
    blend: BlendData,
    entries: list[tuple[float, str]],
    split: str,
    sequence_length: int,
    samples: int,
    seed: int,
    cache_dir: Path,
) -> Any:
    """Megatron's dataset of a blend.

    Each shard's GPTDataset is built by the builder, with its cache. They are blended here, with the builder's sizes:
    its own way to a cached blend needs a process group, and without a cache path it writes into the data directory."""
    BlendedDataset, Builder, GPTDataset, GPTDatasetConfig = _megatron()
    position = SPLITS.index(split)

    def config(prefixes: list[str], cache: Path | None) -> Any:
        per_split: list[Any] = [None] * len(SPLITS)
        per_split[position] = (prefixes, None)
        return GPTDatasetConfig(
            random_seed=seed,
            sequence_length=sequence_length,
            blend_per_split=per_split,
            path_to_cache=str(cache) if cache else None,
            tokenizer=_Tokenizer(blend.eos_id, blend.vocab_size),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )

    def shard(prefix: str, number: int) -> Any:
        sizes = [0] * len(SPLITS)
        sizes[position] = number
        return Builder(GPTDataset, sizes, lambda: True, config([prefix], cache_dir)).build()[position]

    weights = [weight for weight, _ in entries]
    prefixes = [prefix for _, prefix in entries]
    if len(prefixes) == 1:
        return shard(prefixes[0], samples)
    blended = config(prefixes, None)
    asked = [math.ceil(samples * weight / sum(weights)) for weight in weights]
    surplus = [math.ceil(number * (1 + blended.mid_level_dataset_surplus)) for number in asked]
    parts = [shard(prefix, number) for prefix, number in zip(prefixes, surplus, strict=True)]
    return BlendedDataset(parts, weights, sum(asked), blended)


def _megatron() -> tuple[Any, Any, Any, Any]:
    """megatron-core's dataset classes, imported late because that takes seconds."""
    from megatron.core.datasets.blended_dataset import BlendedDataset
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    return BlendedDataset, BlendedMegatronDatasetBuilder, GPTDataset, GPTDatasetConfig


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Megatron's notes on missing GPU packages and on the cache that isn't wanted."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
