"""Packed SFT data in the layouts that other trainers load.

Parquet, as Megatron-Bridge reads it: one row per pack without padding, columns `input_ids` list<int32>, `loss_mask`
list<uint8> and `seq_start_id` list<int32>. The masks are aligned to predictions there too, so nothing is shifted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nano3.chat.packing import PackedDataset

ROW_GROUP = 1000  # packs; Bridge reads whole row groups
LEGACY_NAMES = {"train": "training", "valid": "validation", "test": "test"}


def unpadded(dataset: PackedDataset) -> Iterator[dict[str, np.ndarray]]:
    """Every pack with its padding cut off: input_ids int32 [n], loss_mask uint8 [n], seq_start_id int32 [sequences]."""
    for index, length in enumerate(dataset.lengths.tolist()):
        yield {
            "input_ids": dataset.input_ids[index, :length],
            "loss_mask": dataset.loss_mask[index, :length],
            "seq_start_id": dataset.starts(index),
        }


def write_parquet(dataset: PackedDataset, file: Path) -> None:
    """One split as a zstd-compressed Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"input_ids": pa.int32(), "loss_mask": pa.uint8(), "seq_start_id": pa.int32()}
    schema = pa.schema([(name, pa.list_(type)) for name, type in types.items()])
    packs = unpadded(dataset)
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for first in range(0, len(dataset), ROW_GROUP):
            rows = [next(packs) for _ in range(min(ROW_GROUP, len(dataset) - first))]
            columns = [_list_array([row[name] for row in rows], type) for name, type in types.items()]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROW_GROUP)


def _list_array(values: list[np.ndarray], type: Any) -> Any:
    """A list column from the rows' arrays, without a Python object per token."""
    import pyarrow as pa

    offsets = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values), type=type))


def write_legacy_npy(splits: dict[str, PackedDataset], directory: Path) -> None:
    """`training_{pack}.npy`, `validation_{pack}.npy`, ... (pickled lists of dicts) and `{pack}_metadata.jsonl`.

    Megatron-Bridge calls this layout deprecated; a whole split is in memory while it is written. The metadata file
    is one JSON list with an object per split, whatever its name says."""
    metadata = []
    for split, dataset in splits.items():
        rows = [{name: value.tolist() for name, value in pack.items()} for pack in unpadded(dataset)]
        np.save(directory / f"{LEGACY_NAMES[split]}_{dataset.pack_length}.npy", np.array(rows, dtype=object))
        metadata.append(_packing_facts(dataset))
    pack_length = next(iter(splits.values())).pack_length
    (directory / f"{pack_length}_metadata.jsonl").write_text(json.dumps(metadata, indent=2) + "\n")


def _packing_facts(dataset: PackedDataset) -> dict[str, Any]:
    counts = np.diff(dataset.seq_start_offsets)
    lengths = [
        np.diff(np.append(dataset.starts(index), length)) for index, length in enumerate(dataset.lengths.tolist())
    ]
    packs = max(1, len(dataset))
    return {
        "max_samples_per_bin": int(counts.max(initial=0)),
        "dataset_max_seqlen": max((int(part.max()) for part in lengths), default=0),
        "packing_factor": round(float(counts.sum()) / packs, 2),
        "packing_efficiency": round(100 * float(dataset.lengths.sum()) / (packs * dataset.pack_length), 2),
        "pack_size": dataset.pack_length,
        "min_packed_seqlen": int(dataset.lengths.min(initial=dataset.pack_length)) if len(dataset) else 0,
    }
