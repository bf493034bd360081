"""Packing: every sequence exactly once, no pack over its length, boundaries and masks where they belong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano3.chat.packing import PACKERS, PackedDataset, align_mask, pack, write_packs
from nano3.errors import UserError

LENGTHS = st.lists(st.integers(1, 20), max_size=60)


def naive_first_fit(lengths, order, pack_length):
    packs, room = [], []
    for index in order:
        p = next((p for p, left in enumerate(room) if lengths[index] <= left), len(packs))
        if p == len(packs):
            packs.append([])
            room.append(pack_length)
        packs[p].append(index)
        room[p] -= lengths[index]
    return packs


@pytest.mark.parametrize("method", PACKERS)
@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_every_sequence_is_in_exactly_one_pack_and_no_pack_is_too_long(method, lengths, seed):
    packs = pack(lengths, 20, method, seed)
    assert sorted(index for members in packs for index in members) == list(range(len(lengths)))
    assert all(members and sum(lengths[index] for index in members) <= 20 for members in packs)
    assert packs == pack(lengths, 20, method, seed)


@given(lengths=LENGTHS)
def test_the_tree_finds_the_first_pack_that_fits(lengths):
    decreasing = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    assert pack(lengths, 20, "first_fit_decreasing") == naive_first_fit(lengths, decreasing, 20)
    shuffled = np.random.default_rng(3).permutation(len(lengths)).tolist()
    assert pack(lengths, 20, "first_fit_shuffle", 3) == naive_first_fit(lengths, shuffled, 20)


def test_concatenative_keeps_the_order():
    assert pack([3, 4, 5, 2, 8], 10, "concatenative") == [[0, 1], [2, 3], [4]]


def test_packing_is_shuffled_by_the_seed():
    lengths = [1 + i % 7 for i in range(50)]
    assert pack(lengths, 20, seed=1) != pack(lengths, 20, seed=2)


@pytest.mark.parametrize("lengths", [[5, 21], [5, 0]])
def test_a_sequence_that_can_not_be_packed_is_an_error(lengths):
    with pytest.raises(UserError, match=r"sequence 1 has .* a pack takes 1 to 20"):
        pack(lengths, 20)


def test_an_unknown_packer_is_an_error_that_names_the_known_ones():
    with pytest.raises(UserError, match="first_fit_shuffle"):
        pack([1], 20, "best_fit")


def test_the_mask_moves_to_the_position_that_predicts():
    assert align_mask(np.array([0, 0, 1, 1, 0, 1], np.uint8)).tolist() == [0, 1, 1, 0, 1, 0]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_reader_gives_back_every_sequence_with_its_boundaries(tmp_path_factory, data):
    sequences = data.draw(
        st.lists(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 1)), min_size=1, max_size=9), max_size=12)
    )
    tokens = [np.array([token for token, _ in s], np.int32) for s in sequences]
    masks = [np.array([bit for _, bit in s], np.uint8) for s in sequences]
    directory = tmp_path_factory.mktemp("packs")
    packs = pack([len(s) for s in tokens], 12, "first_fit_shuffle", 0)
    counts = write_packs(directory, packs, lambda i: (tokens[i], masks[i]), 12)
    dataset = PackedDataset(directory)
    assert counts["sequences"] == len(sequences) and counts["tokens"] == sum(map(len, tokens))
    assert len(dataset) == counts["packs"] == len(packs)
    if not packs:
        return
    batch = dataset.batch(range(len(packs)))
    assert {name: str(value.dtype) for name, value in batch.items()} == {
        "input_ids": "torch.int64",
        "targets": "torch.int64",
        "loss_mask": "torch.float32",
        "doc_ids": "torch.int64",
    }
    assert all(value.shape == (len(packs), 12) for value in batch.values())
    assert int(batch["loss_mask"].sum()) == counts["supervised_tokens"] == sum(int(m[1:].sum()) for m in masks)
    for row, members in enumerate(packs):
        for document, index in enumerate(members):
            inside = batch["doc_ids"][row] == document
            ids = batch["input_ids"][row][inside].tolist()
            assert ids == tokens[index].tolist()
            assert batch["targets"][row][inside].tolist()[:-1] == ids[1:]
            assert batch["loss_mask"][row][inside].tolist() == [*masks[index][1:].tolist(), 0]
        padding = batch["doc_ids"][row] == len(members)
        assert int(padding.sum()) == 12 - dataset.lengths[row]
        assert not batch["loss_mask"][row][padding].any() and not batch["input_ids"][row][padding].any()
        assert (batch["doc_ids"][row].diff() >= 0).all()


def test_a_batch_may_repeat_and_reorder_packs(tmp_path):
    sequences = [np.full(5, i + 1, np.int32) for i in range(4)]
    write_packs(tmp_path, [[0], [1], [2], [3]], lambda i: (sequences[i], np.ones(5, np.uint8)), 6)
    assert PackedDataset(tmp_path).batch([3, 0, 3])["input_ids"][:, 0].tolist() == [4, 1, 4]


def test_arrays_are_mapped_and_hold_no_pickle(tmp_path):
    write_packs(tmp_path, [[0]], lambda i: (np.ones(3, np.int32), np.ones(3, np.uint8)), 4)
    assert isinstance(PackedDataset(tmp_path).input_ids, np.memmap)
    dtypes = {file.stem: str(np.load(file, allow_pickle=False).dtype) for file in tmp_path.glob("*.npy")}
    assert dtypes == {
        "input_ids": "int32",
        "loss_mask": "uint8",
        "seq_start_id": "int32",
        "seq_start_offsets": "int64",
        "lengths": "int32",
    }


def test_a_directory_without_packs_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"input_ids\.npy is missing"):
        PackedDataset(tmp_path)


def test_arrays_of_different_data_are_refused(tmp_path):
    write_packs(tmp_path, [[0]], lambda i: (np.ones(3, np.int32), np.ones(3, np.uint8)), 4)
    np.save(tmp_path / "lengths.npy", np.array([3, 3], np.int32))
    with pytest.raises(UserError, match="do not belong together"):
        PackedDataset(tmp_path)


def test_packing_many_sequences_is_fast():
    import time

    lengths = np.random.default_rng(0).integers(1, 500, 100_000)
    start = time.process_time()
    packs = pack(lengths, 4096)
    assert time.process_time() - start < 10
    assert lengths.sum() / (len(packs) * 4096) > 0.97
