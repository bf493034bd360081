"""Token shards: Megatron's format, EOS, held-out documents, duplicates, statistics."""

from pathlib import Path

import numpy as np
import pytest

from data_jobs import recipe_file, script
from nano3.artifacts import building, read_manifest, verify
from nano3.data import tokenizer as tokenizers
from nano3.data.indexed import IndexedWriter, read_indexed, token_dtype
from nano3.data.raw import write_shards
from nano3.data.tokens import SPLITS, side_of, text_hash, tokenise
from nano3.errors import UserError
from nano3.recipe.data import HeldOut, Tokenisation

ROOT = Path(__file__).parent.parent
EOS = 2
TEXTS = [f"Document number {i}: {'word ' * (i % 13)}und Größe {i * i}." for i in range(400)]
TOKENIZER = tokenizers.train(TEXTS, vocab_size=300, reserved=20)


def run(texts, folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    statistics = tokenise(texts, TOKENIZER, Tokenisation(**config), folder)
    return statistics, {split: read_indexed(folder / split) for split in SPLITS}


def texts_of(indexed):
    return {TOKENIZER.decode(indexed[i][:-1].tolist(), skip_special_tokens=False) for i in range(len(indexed))}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_megatron_reads_what_is_written_here_byte_for_byte(tmp_path, dtype):
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 60_000, size=size) for size in (5, 1, 300, 2)]
    with IndexedWriter(tmp_path / "ours", dtype) as out:
        for document in documents:
            out.add(document)
    theirs = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for document in documents:
        theirs.add_document(torch.tensor(document), [len(document)])
    theirs.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()
    read = IndexedDataset(str(tmp_path / "ours"))
    own = read_indexed(tmp_path / "ours")
    for i, document in enumerate(documents):
        assert (read[i] == document).all() and (own[i] == document).all()


def test_small_vocabularies_take_two_bytes_a_token():
    assert [token_dtype(size) for size in (1024, 65_535, 65_536, 131_072)] == [
        np.uint16, np.uint16, np.int32, np.int32,
    ]  # fmt: skip


def test_an_index_that_does_not_fit_its_data_is_an_error(tmp_path):
    with IndexedWriter(tmp_path / "x", np.uint16) as out:
        out.add([1, 2, 3])
    (tmp_path / "x.bin").write_bytes(b"\0" * 4)
    with pytest.raises(UserError, match=r"x\.bin has 4 bytes, but .*x\.idx describes 6"):
        read_indexed(tmp_path / "x")
    (tmp_path / "x.idx").write_bytes(b"something else that is long enough to be an index")
    with pytest.raises(UserError, match="is not a Megatron index"):
        read_indexed(tmp_path / "x")


def test_every_document_ends_with_one_eos_also_when_it_was_cut(tmp_path):
    statistics, found = run(TEXTS, tmp_path, max_document_tokens=24)
    assert 0 < statistics.truncated < len(TEXTS)
    for indexed in found.values():
        assert indexed.lengths.max() == 24
        for i in range(len(indexed)):
            assert indexed[i][-1] == EOS and EOS not in indexed[i][:-1]


def test_a_document_of_exactly_the_limit_is_not_cut(tmp_path):
    length = len(TOKENIZER.encode(TEXTS[0]).ids) + 1
    assert run(TEXTS[:1], tmp_path / "a", max_document_tokens=length)[0].truncated == 0
    assert run(TEXTS[:1], tmp_path / "b", max_document_tokens=length - 1)[0].truncated == 1


def test_text_that_spells_a_control_token_does_not_become_one(tmp_path):
    text = "before <|endoftext|> after <|im_end|>"
    _, found = run([text], tmp_path)
    assert found["train"][0].tolist().count(EOS) == 1 and 11 not in found["train"][0]
    assert texts_of(found["train"]) == {text}


def test_a_document_is_on_the_same_side_in_every_group_and_data_set(tmp_path):
    held_out = {"valid": 0.2, "test": 0.2}
    _, first = run(TEXTS, tmp_path / "a", held_out=held_out)
    _, second = run([*reversed(TEXTS[100:]), *(f"new {i}" for i in range(300))], tmp_path / "b", held_out=held_out)
    for split in SPLITS:
        for other in set(SPLITS) - {split}:
            assert not texts_of(first[split]) & texts_of(second[other])
    assert sum(len(texts_of(first[split])) for split in SPLITS) == len(TEXTS)


def test_held_out_shares_are_what_the_recipe_asks(tmp_path):
    sides = [side_of(text_hash(f"text {i}"), HeldOut(valid=0.1, test=0.05)) for i in range(20_000)]
    assert sides.count("valid") / 20_000 == pytest.approx(0.1, abs=0.01)
    assert sides.count("test") / 20_000 == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("number", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (6, (4, 1, 1))])
def test_a_data_set_of_a_few_documents_still_holds_one_out(tmp_path, number, expected):
    statistics, found = run(TEXTS[:number], tmp_path, held_out={"valid": 1e-9, "test": 1e-9})
    assert tuple(len(found[split]) for split in SPLITS) == expected
    assert set.union(*(texts_of(found[split]) for split in SPLITS)) == set(TEXTS[:number])
    assert sum(statistics.moved_to_held_out.values()) == sum(expected[1:])


def test_nothing_is_held_out_when_the_recipe_says_so(tmp_path):
    statistics, _ = run(TEXTS[:9], tmp_path, held_out={"valid": 0, "test": 0})
    assert statistics.documents == {"train": 9, "valid": 0, "test": 0}


def test_duplicates_and_short_documents_are_dropped_and_counted(tmp_path):
    statistics, found = run([*TEXTS, *TEXTS[:7], "x", ""], tmp_path, min_document_chars=2)
    assert statistics.dropped == {"duplicate": 7, "too short": 2}
    assert sum(statistics.documents.values()) == sum(map(len, found.values())) == len(TEXTS)


def test_statistics_count_tokens_and_bytes_of_each_split(tmp_path):
    statistics, found = run(TEXTS, tmp_path, held_out={"valid": 0.2, "test": 0.1})
    for split in SPLITS:
        assert statistics.tokens[split] == len(found[split].tokens) > 0
        assert statistics.bytes[split] == sum(len(text.encode()) for text in texts_of(found[split]))


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A recipe, raw shards and a tokenizer as artifacts below tmp_path, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    recipe = recipe_file(tmp_path, "  mine: {kind: files, paths: [x.jsonl]}\n")
    with building(Path("results/t/raw"), kind="raw", config={"dataset": "mine", "group": 0}) as raw:
        write_shards(({"id": str(i), "text": text} for i, text in enumerate(TEXTS)), raw.path)
    with building(Path("results/t/tokenizer"), kind="tokenizer", config={}) as tokenizer:
        tokenizers.save_trained(TOKENIZER, tokenizer.path)
    return [
        "--recipe",
        str(recipe),
        "--dataset",
        "mine",
        "--raw",
        "results/t/raw",
        "--tokenizer",
        "results/t/tokenizer",
    ]


def test_the_script_publishes_the_same_bytes_twice(inputs):
    for output in ("a", "b"):
        script("tokenize_shards").main([*inputs, "--output", f"results/t/{output}"])
    first, second = (Path(f"results/t/{output}/manifest.json").read_bytes() for output in ("a", "b"))
    assert first == second
    statistics = read_manifest("results/t/a").statistics
    assert statistics["eos_id"] == EOS and statistics["vocab_size"] == 300
    assert set(read_manifest("results/t/a").inputs) == {"raw", "tokenizer"}


def test_the_script_takes_manifests_for_directories(inputs):
    inputs = [f"{value}/manifest.json" if value.startswith("results/") else value for value in inputs]
    script("tokenize_shards").main([*inputs, "--output", "results/t/a"])
    verify("results/t/a")


@pytest.mark.parametrize("name", ["train.bin", "valid.idx"])
def test_a_changed_byte_is_found_and_the_file_named(inputs, name):
    script("tokenize_shards").main([*inputs, "--output", "results/t/a"])
    file = Path("results/t/a") / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} was changed after it was made"):
        verify("results/t/a")


def test_damaged_raw_shards_are_not_tokenised(inputs):
    shard = Path("results/t/raw/shard_00000.jsonl.zst")
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"shard_00000\.jsonl\.zst has \d+ bytes, expected"):
        script("tokenize_shards").main([*inputs, "--output", "results/t/a"])
    assert not Path("results/t/a").exists()


def test_raw_shards_of_another_group_are_refused(inputs):
    with pytest.raises(UserError, match="holds mine, group 0, but mine, group 1 was asked for"):
        script("tokenize_shards").main([*inputs, "--group", "1", "--output", "results/t/a"])
