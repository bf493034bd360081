"""Packing: many short training sequences into rows of one length, and reading the rows back as batches.

A split directory holds five memory-mappable arrays (no pickle); P packs of L tokens, S sequences:

    input_ids.npy          int32 [P, L]   tokens, padded with 0
    loss_mask.npy          uint8 [P, L]   1 where predicting the *next* token counts
    seq_start_id.npy       int32 [S]      starts of the sequences in their packs, all packs one after the other
    seq_start_offsets.npy  int64 [P + 1]  pack p owns seq_start_id[offsets[p] : offsets[p + 1]]
    lengths.npy            int32 [P]      tokens before the padding

Masks are aligned to predictions: position j speaks for token j + 1 of the same sequence, so the last position of
every sequence is 0 and no sequence is trained to predict the first token of its neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nano3.errors import UserError

PAD_ID = 0
PACKERS = ("first_fit_decreasing", "first_fit_shuffle", "concatenative")


def pack(lengths: Sequence[int], pack_length: int, method: str = "first_fit_shuffle", seed: int = 0) -> list[list[int]]:
    """Assign sequences to packs: a list of packs, each a list of indices into `lengths`.

    first_fit_decreasing: longest first, into the first pack with room; the fewest packs, but packs of like lengths
    first_fit_shuffle: the same in a random order (`seed`); nearly as few packs, lengths mixed
    concatenative: in the order given, a new pack where the next sequence does not fit

    Raises UserError for a sequence that is longer than a pack or empty, and for an unknown method.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.size and (lengths.max() > pack_length or lengths.min() < 1):
        worst = int(np.argmax(lengths) if lengths.max() > pack_length else np.argmin(lengths))
        raise UserError(
            f"sequence {worst} has {lengths[worst]} tokens, but a pack takes 1 to {pack_length}. "
            "Drop it before packing or raise pack_length."
        )
    if method == "first_fit_decreasing":
        return _first_fit(lengths, np.argsort(-lengths, kind="stable"), pack_length)
    if method == "first_fit_shuffle":
        return _first_fit(lengths, np.random.default_rng(seed).permutation(len(lengths)), pack_length)
    if method == "concatenative":
        return _next_fit(lengths, pack_length)
    raise UserError(f"unknown packing {method!r}; choose one of {', '.join(PACKERS)}")


def _first_fit(lengths: np.ndarray, order: np.ndarray, pack_length: int) -> list[list[int]]:
    """First fit in O(n log n): a tree over the packs holds the most room below each node, root at 1, leaves last."""
    leaves = 1 << max(0, len(lengths) - 1).bit_length()
    room = [pack_length] * (2 * leaves)
    packs: list[list[int]] = []
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < length:
                node += 1
        if node - leaves == len(packs):
            packs.append([])
        packs[node - leaves].append(index)
        room[node] -= length
        while node > 1:
            node //= 2
            most = max(room[2 * node], room[2 * node + 1])
            if most == room[node]:
                break
            room[node] = most
    return packs


def _next_fit(lengths: np.ndarray, pack_length: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths.tolist()):
        if length > room:
            packs.append([])
            room = pack_length
        packs[-1].append(index)
        room -= length
    return packs


def align_mask(mask: np.ndarray) -> np.ndarray:
    """Mask of a sequence's tokens -> mask of its predictions: aligned[j] = mask[j + 1], last 0."""
    aligned = np.zeros_like(mask)
    aligned[:-1] = mask[1:]
    return aligned


def write_packs(
    directory: Path,
    packs: list[list[int]],
    sequence: Callable[[int], tuple[np.ndarray, np.ndarray]],
    pack_length: int,
) -> dict[str, int | float]:
    """Write a split directory; `sequence(i)` gives tokens int32 [n] and mask uint8 [n] of sequence i (not aligned).

    Returns counts: packs, sequences, tokens, supervised_tokens (aligned), fill (share of positions with a token).
    """
    directory.mkdir(parents=True, exist_ok=True)
    shape = (len(packs), pack_length)
    input_ids = _create(directory / "input_ids.npy", np.int32, shape)
    loss_mask = _create(directory / "loss_mask.npy", np.uint8, shape)
    lengths = np.zeros(len(packs), np.int32)
    starts: list[int] = []
    offsets = np.zeros(len(packs) + 1, np.int64)
    supervised = 0
    for row, members in enumerate(packs):
        end = 0
        for index in members:
            tokens, mask = sequence(index)
            start, end = end, end + len(tokens)
            starts.append(start)
            input_ids[row, start:end] = tokens
            loss_mask[row, start:end] = align_mask(mask)
        lengths[row] = end
        offsets[row + 1] = len(starts)
        supervised += int(loss_mask[row].sum())
    for array in (input_ids, loss_mask):
        if isinstance(array, np.memmap):
            array.flush()
    np.save(directory / "seq_start_id.npy", np.asarray(starts, np.int32))
    np.save(directory / "seq_start_offsets.npy", offsets)
    np.save(directory / "lengths.npy", lengths)
    tokens = int(lengths.sum())
    return {
        "packs": len(packs),
        "sequences": len(starts),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "fill": round(tokens / max(1, len(packs) * pack_length), 6),
    }


def _create(path: Path, dtype: type, shape: tuple[int, int]) -> np.ndarray:
    """An .npy file of zeros to fill in place (an empty array can't be mapped, so it is written at once)."""
    if not shape[0]:
        np.save(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


class PackedDataset:
    """The packs of one split directory, read through memory maps.

    `len(dataset)` is the number of packs, `dataset.pack_length` their length L.
    """

    def __init__(self, directory: Path | str):
        directory = Path(directory)
        try:
            arrays = {
                name: np.load(directory / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
                for name, mode in (
                    ("input_ids", "r"),
                    ("loss_mask", "r"),
                    ("seq_start_id", None),
                    ("seq_start_offsets", None),
                    ("lengths", None),
                )
            }
        except FileNotFoundError as error:
            raise UserError(
                f"{directory} holds no packed sequences: {Path(error.filename).name} is missing. Expected a split "
                "directory (train/ or valid/) that scripts/sft_data.py wrote."
            ) from None
        except ValueError as error:
            raise UserError(f"{directory} holds a damaged array: {error}. Build the packed data again.") from None
        self.directory = directory
        self.input_ids: np.ndarray = arrays["input_ids"]
        self.loss_mask: np.ndarray = arrays["loss_mask"]
        self.seq_start_id: np.ndarray = arrays["seq_start_id"]
        self.seq_start_offsets: np.ndarray = arrays["seq_start_offsets"]
        self.lengths: np.ndarray = arrays["lengths"]
        self.pack_length: int = self.input_ids.shape[1]
        if not (
            self.input_ids.shape == self.loss_mask.shape
            and len(self.lengths) == len(self) == len(self.seq_start_offsets) - 1
            and self.seq_start_offsets[-1] == len(self.seq_start_id)
        ):
            raise UserError(f"the arrays in {directory} do not belong together. Build the packed data again.")

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def starts(self, index: int) -> np.ndarray:
        """Where the sequences of pack `index` start: int32, first 0."""
        return self.seq_start_id[self.seq_start_offsets[index] : self.seq_start_offsets[index + 1]]

    def batch(self, indices: Sequence[int]) -> dict:
        """Packs as torch tensors of shape [B, L].

        input_ids int64; targets int64, the next token (its value is meaningless where loss_mask is 0);
        loss_mask float32, 1 where the target counts; doc_ids int64, 0, 1, ... per sequence of the pack, the padding
        being a last document of its own.
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        input_ids = self.input_ids[rows].astype(np.int64)
        targets = np.full_like(input_ids, PAD_ID)
        targets[:, :-1] = input_ids[:, 1:]
        boundary = np.zeros((len(rows), self.pack_length + 1), np.int64)
        for b, row in enumerate(rows.tolist()):
            boundary[b, self.starts(row)] = 1
            boundary[b, self.lengths[row]] = 1
        doc_ids = boundary[:, :-1].cumsum(axis=1) - 1
        return {
            "input_ids": torch.from_numpy(input_ids),
            "targets": torch.from_numpy(targets),
            "loss_mask": torch.from_numpy(self.loss_mask[rows].astype(np.float32)),
            "doc_ids": torch.from_numpy(doc_ids),
        }
