"""The packed SFT data of a recipe: hold out, blend, prepare, pack, and the statistics that account for every row."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nano3.chat.blend import copies_of_rows, held_out, rows_per_dataset
from nano3.chat.packing import pack, write_packs
from nano3.chat.prepare import Account, NamedRow, Prepared, Spool, preparer
from nano3.chat.raw import read_rows, row_id
from nano3.chat.rows import CHOSEN, problem_of
from nano3.errors import UserError


@dataclass
class Sampled:
    """One data set of the blend: its raw directories, what is drawn from it, and what came of it."""

    name: str
    directories: list[Path]
    valid: np.ndarray  # bool [rows]: held out
    copies: np.ndarray  # int64 [rows]: times trained on
    account: Account
    train_sequences: list[tuple[int, int]] = field(default_factory=list)  # sequence in the spool, copies
    valid_sequences: list[int] = field(default_factory=list)

    def rows(self) -> Iterator[NamedRow]:
        """The rows that either split uses, with number and unique name."""
        used = self.valid | (self.copies > 0)
        for number, row in enumerate(read_rows(self.directories)):
            if used[number]:
                yield number, f"{self.name}/{row_id(row, number)}", row


def build_sft_data(
    raw: dict[str, list[Path]], tokenizer: Path, output: Path, config: dict[str, Any], *, workers: int = 1
) -> dict[str, Any]:
    """Write `output`/train and `output`/valid (see `nano3.chat.packing`); returns the statistics.

    raw: data set -> artifact directories with its chat shards; tokenizer: directory in the Hugging Face layout;
    config: the recipe's `sft.data` section as a dict, with `seed`; workers: processes, without effect on the result.
    Raises UserError for a data set without rows, and for one that loses more than `max_bad_rows` of its rows to other
    reasons than the filters that the recipe chose.
    """
    blend = _sample(raw, config)
    with tempfile.TemporaryDirectory(dir=output, prefix=".spool.") as directory:
        spool = Spool(Path(directory))
        with preparer(config, tokenizer, workers) as prepare:
            for dataset in blend:
                _spool(dataset, prepare(dataset.rows()), spool)
                _check_losses(dataset.name, dataset.account, config["max_bad_rows"])
        spool.close()
        train = [index for dataset in blend for index, copies in dataset.train_sequences for _ in range(copies)]
        valid = [index for dataset in blend for index in dataset.valid_sequences]
        splits = {"train": train, "valid": valid}
        counts = {split: _pack_split(output / split, chosen, spool, config) for split, chosen in splits.items()}
        datasets = _dataset_statistics(blend, spool, config)
    return {"splits": counts, "datasets": datasets, "totals": _totals(blend)}


def _sample(raw: dict[str, list[Path]], config: dict[str, Any]) -> list[Sampled]:
    seed, shares = config["seed"], {name: entry["share"] for name, entry in config["datasets"].items()}
    valid = {}
    for name in shares:
        problems = [problem_of(row, row_id(row, number)) for number, row in enumerate(read_rows(raw[name]))]
        valid[name] = held_out(name, problems, config["valid"] if shares[name] else 0, seed)
    pools = {name: int((~mask).sum()) for name, mask in valid.items()}
    rows = rows_per_dataset(pools, shares, config["rows"])
    return [
        Sampled(
            name,
            raw[name],
            mask,
            copies_of_rows(name, ~mask, rows[name], seed),
            Account(rows=len(mask)),
        )
        for name, mask in valid.items()
    ]


def _spool(dataset: Sampled, batches: Iterator[Prepared], spool: Spool) -> None:
    for batch in batches:
        dataset.account.add(batch.account)
        for number, tokens, mask in batch.sequences:
            sequence = spool.append(tokens, mask)
            if dataset.valid[number]:
                dataset.valid_sequences.append(sequence)
            else:
                dataset.train_sequences.append((sequence, int(dataset.copies[number])))


def _check_losses(name: str, account: Account, limit: float) -> None:
    """Too many bad rows mean a wrong field or a wrong setting, not bad luck."""
    bad = {reason: count for reason, count in account.rows_dropped.most_common() if reason not in CHOSEN}
    if sum(bad.values()) > limit * account.rows_used:
        lines = [f"  {count} {reason}, e.g. {account.samples[reason][0]}" for reason, count in bad.items()]
        raise UserError(
            f"{sum(bad.values())} of {account.rows_used} rows of {name} can't be trained on; "
            f"sft.data.max_bad_rows allows {limit:.1%}:\n"
            + "\n".join(lines)
            + "\n  Mend the rows or change the setting "
            "that drops them (longer_than_pack: sft.data.pack_length), or allow more with sft.data.max_bad_rows."
        )
    if account.rows_used and not account.rows_kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in account.rows_dropped.most_common())
        raise UserError(f"no row of {name} is left: {reasons}. Loosen the filters of sft.data, or set its share to 0.")


def _pack_split(directory: Path, chosen: list[int], spool: Spool, config: dict[str, Any]) -> dict[str, Any]:
    lengths = [spool.lengths[index] for index in chosen]
    packs = pack(lengths, config["pack_length"], config["packing"], config["seed"])
    return write_packs(directory, packs, lambda position: spool[chosen[position]], config["pack_length"])


def _dataset_statistics(blend: list[Sampled], spool: Spool, config: dict[str, Any]) -> dict[str, Any]:
    requested = {name: entry["share"] for name, entry in config["datasets"].items()}
    tokens = {
        dataset.name: sum(spool.lengths[index] * copies for index, copies in dataset.train_sequences)
        for dataset in blend
    }
    result = {}
    for dataset in blend:
        account, drawn = dataset.account, int(dataset.copies.sum())
        result[dataset.name] = {
            "requested_share_of_rows": round(requested[dataset.name] / sum(requested.values()), 6),
            "achieved_share_of_tokens": round(tokens[dataset.name] / max(1, sum(tokens.values())), 6),
            "train_tokens": tokens[dataset.name],
            "train_rows_drawn": drawn,
            "epochs": round(drawn / max(1, int((~dataset.valid).sum())), 4),
            "valid_rows": int(dataset.valid.sum()),
            **_counts(account),
            "samples_of_dropped": account.samples,
        }
    return result


def _counts(account: Account) -> dict[str, Any]:
    return {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value
        for key, value in vars(account).items()
        if key != "samples"
    }


def _totals(blend: list[Sampled]) -> dict[str, Any]:
    totals: dict[str, Any] = defaultdict(int)
    for dataset in blend:
        for key, value in _counts(dataset.account).items():
            if isinstance(value, dict):
                inner = totals.setdefault(key, {})
                for reason, count in value.items():
                    inner[reason] = inner.get(reason, 0) + count
            else:
                totals[key] += value
    return dict(totals)
