"""Blends: weights are shares of tokens, and that is what Megatron samples."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_jobs import recipe_file, script
from nano3.artifacts import building, digest_of, read_manifest
from nano3.data.blend import find_shards, make_blend, read_blend, verify_shards, warnings
from nano3.data.indexed import IndexedWriter
from nano3.data.pretrain_samples import PretrainSamples, valid_sets
from nano3.errors import UserError

VOCAB = 1000
LENGTH = 32


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """The working directory stands for the repository root."""
    monkeypatch.chdir(tmp_path)
    with building(Path("tokenizer"), kind="tokenizer", config={}) as artifact:
        (artifact.path / "tokenizer.json").write_text("{}")


def shard(dataset, group, *, train, valid=200, start=100, tokenizer="tokenizer"):
    """A token artifact; `train` and `valid` are numbers of tokens, in documents of about 50. Token ids tell where
    they come from: start, start+1, ... around."""
    path = Path(f"tokens/{dataset}/{group}")
    config = {"dataset": dataset, "group": group}
    with building(path, kind="tokens", config=config, inputs={"tokenizer": Path(tokenizer)}) as artifact:
        sizes = {"train": train, "valid": valid, "test": 0}
        for split, size in sizes.items():
            with IndexedWriter(artifact.path / split, np.uint16) as out:
                for begin in range(0, size, 50):
                    ids = [start + i % 50 for i in range(begin, min(begin + 50, size))]
                    out.add([*ids[:-1], 2])
        artifact.statistics |= {
            "tokens": sizes,
            "bytes": {split: 3 * size for split, size in sizes.items()},
            "eos_id": 2,
            "vocab_size": VOCAB,
        }
    return path


def blend_of(categories, shards, tokens=10_000):
    found, common = find_shards(shards)
    return make_blend({"tokens": tokens, "categories": categories}, found, common)


def publish(categories, shards, tokens=10_000):
    """A blend directory, made by the functions behind the script."""
    from nano3.data.blend import write_blend

    found, common = find_shards(shards)
    blend, _ = make_blend({"tokens": tokens, "categories": categories}, found, common)
    with building(Path("blend"), kind="blend", config={}) as artifact:
        write_blend(blend, artifact.path)
    return Path("blend")


CATEGORIES = {
    "code": {"share": 30.0, "datasets": ["code"]},
    "web": {"share": 60.0, "datasets": ["small", "large"]},
    "secret": {"share": 10.0, "datasets": []},
}


def three_data_sets():
    return [
        shard("code", 0, train=3000, start=100),
        shard("small", 0, train=2000, start=200),
        shard("large", 0, train=4000, start=300),
        shard("large", 1, train=10_000, start=400),
    ]


def test_a_category_spreads_its_share_over_data_sets_and_groups_by_their_tokens():
    blend, statistics = blend_of(CATEGORIES, three_data_sets())
    weights = {prefix: weight for weight, prefix in blend.splits["train"]}
    web = 60 / 90
    assert weights == pytest.approx(
        {
            "tokens/code/0/train": 30 / 90,
            "tokens/small/0/train": web * 2 / 16,
            "tokens/large/0/train": web * 4 / 16,
            "tokens/large/1/train": web * 10 / 16,
        }
    )
    assert statistics["categories"]["web"]["epochs"] == pytest.approx(10_000 * web / 16_000, abs=1e-3)


def test_the_share_of_unreleased_categories_goes_to_the_others_and_is_reported():
    _, statistics = blend_of(CATEGORIES, three_data_sets())
    secret = statistics["categories"]["secret"]
    assert (secret["asked_percent"], secret["effective_percent"], secret["released"]) == (10.0, 0.0, False)
    assert statistics["categories"]["code"]["effective_percent"] == pytest.approx(33.3333)
    assert statistics["unreleased_percent"] == 10.0
    assert any("10.0% of the mixture has no data (secret)" in line for line in warnings(statistics))


def test_many_epochs_are_warned_about():
    _, statistics = blend_of(
        {"code": {"share": 1, "datasets": ["code"]}}, [shard("code", 0, train=3000)], tokens=30_000
    )
    assert statistics["datasets"]["code"]["epochs"] == 10
    assert "code is repeated 10.0 times" in warnings(statistics)[0]


def test_empty_shards_are_left_out_and_counted():
    shards = [*three_data_sets(), shard("small", 1, train=0, valid=0)]
    blend, statistics = blend_of(CATEGORIES, shards)
    assert not [prefix for split in blend.splits.values() for _, prefix in split if "small/1" in prefix]
    assert statistics["empty_shards"] == {"train": 1, "valid": 1, "test": 5}
    assert sum(weight for weight, _ in blend.splits["train"]) == pytest.approx(1)


def test_a_missing_data_set_and_one_without_tokens_are_errors():
    with pytest.raises(UserError, match="category 'web' needs tokens of small"):
        blend_of(CATEGORIES, [path for path in three_data_sets() if "small" not in str(path)])
    with pytest.raises(UserError, match=r"'code' asks for 30.0% of the tokens, but code have no training tokens"):
        blend_of(CATEGORIES, [*three_data_sets()[1:], shard("code", 0, train=0)])


def test_missing_files_other_tokenizers_and_doubles_are_errors():
    paths = three_data_sets()
    with pytest.raises(UserError, match="holds group 0 of code more than once"):
        find_shards([paths[0], *paths])
    (paths[1] / "valid.idx").unlink()
    with pytest.raises(UserError, match=r"tokens/small/0/valid\.idx is missing"):
        find_shards(paths)
    with building(Path("other"), kind="tokenizer", config={"x": 1}):
        pass
    with pytest.raises(UserError, match="different tokenizers can't be mixed"):
        find_shards([paths[0], shard("alien", 0, train=10, tokenizer="other")])


def test_prefixes_are_relative_to_the_repository_also_for_absolute_arguments(tmp_path):
    paths = three_data_sets()
    blend, _ = blend_of(CATEGORIES, [path.absolute() for path in paths])
    assert blend == blend_of(CATEGORIES, paths)[0]
    with pytest.raises(UserError, match="lies outside"):
        from nano3.data.blend import _relative

        _relative(Path("/elsewhere/tokens"))


def test_a_blend_is_read_as_it_was_written_and_a_lost_shard_is_named():
    directory = publish(CATEGORIES, three_data_sets())
    blend, _ = blend_of(CATEGORIES, three_data_sets())
    assert read_blend(directory) == read_blend(directory / "manifest.json") == blend
    flat = json.loads((directory / "blend.json").read_text())
    assert list(flat) == ["train", "valid", "test"] and flat["train"][1] == "tokens/code/0/train"
    Path("tokens/large/1/train.bin").unlink()
    with pytest.raises(UserError, match=r"names tokens/large/1/train, but"):
        read_blend(directory)


def test_the_script_chains_digests_and_publishes_the_same_bytes_twice(tmp_path):
    recipe = recipe_file(
        tmp_path,
        "  code: {kind: files, paths: [x.jsonl]}\nblends:\n  phase1:\n    categories:\n"
        "      english: null\n      stem-sft: null\n      code: {share: 40, datasets: [code]}\n"
        "      rest: {share: 60}\n",
    )
    path, unused = shard("code", 0, train=3000), shard("other", 0, train=3000)
    for output in ("a", "b"):
        flags = f"--recipe {recipe} --phase phase1 --output results/t/{output} --tokens {path}/manifest.json {unused}"
        script("blend").main(flags.split())
    assert Path("results/t/a/manifest.json").read_bytes() == Path("results/t/b/manifest.json").read_bytes()
    manifest = read_manifest("results/t/a")
    assert manifest.inputs == {"tokens/code/0": digest_of(path)}
    verify_shards(Path("results/t/a"))
    data = bytearray((path / "train.bin").read_bytes())
    (path / "train.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(UserError, match=r"tokens/code/0/train\.bin was changed after it was made"):
        verify_shards(Path("results/t/a"))
    shard("code", 0, train=2999)
    with pytest.raises(UserError, match=r"tokens/code/0 was made anew after .*results/t/a"):
        verify_shards(Path("results/t/a"))
    assert manifest.statistics["categories"]["code"]["effective_percent"] == 100


def source_of(tokens):
    """100, 200, ... by the data set and group that a window's ids come from."""
    return int(np.bincount([int(token) // 100 * 100 for token in tokens if token != 2]).argmax())


@pytest.mark.parametrize("samples", [500, 3000])
def test_megatron_samples_the_token_mass_that_the_weights_say(samples):
    directory = publish(CATEGORIES, three_data_sets())
    data = PretrainSamples(directory, "train", LENGTH, samples, 1, Path("cache"))
    sampled = data.sampled_tokens()
    expected = {"code": 30 / 90, "small": 60 / 90 / 8, "large": 60 / 90 * 7 / 8}
    for dataset, share in expected.items():
        assert sampled[dataset] / (samples * LENGTH) == pytest.approx(share, rel=0.02)
        assert data.shares()[dataset]["asked"] == pytest.approx(share, abs=1e-5)
    # The counts are those of the windows that training gets.
    sources = [source_of(window) for window in data.batch(0, 200)]
    numbers = {0: 100, 1: 300, 2: 400, 3: 200}  # prefixes are in the order of their names
    assert sources == [numbers[int(number)] for number in data.shard_numbers[:200]]


def test_any_prefix_of_training_has_the_blends_proportions():
    data = PretrainSamples(publish(CATEGORIES, three_data_sets()), "train", LENGTH, 3000, 1, Path("cache"))
    first = data.sampled_tokens(0, 300)
    assert first["code"] / (300 * LENGTH) == pytest.approx(1 / 3, rel=0.02)
    assert sum(first.values()) == 300 * LENGTH


def test_batches_are_windows_of_input_and_target_and_the_same_every_time():
    directory = publish(CATEGORIES, three_data_sets())
    data = PretrainSamples(directory, "train", LENGTH, 400, 5, Path("cache"))
    batch = data.batch(8, 4)
    assert tuple(batch.shape) == (4, LENGTH + 1) and str(batch.dtype) == "torch.int64"
    again = PretrainSamples(directory, "train", LENGTH, 400, 5, Path("other_cache"))
    cached = PretrainSamples(directory, "train", LENGTH, 400, 5, Path("cache"))
    assert (batch == again.batch(8, 4)).all() and (batch == cached.batch(8, 4)).all()
    assert (batch[2:] == data.batch(10, 2)).all()
    other = PretrainSamples(directory, "train", LENGTH, 400, 6, Path("cache"))
    assert (data.batch(0, 400) != other.batch(0, 400)).any()
    with pytest.raises(IndexError, match="of 400"):
        data.batch(399, 2)


def test_nothing_is_written_beside_the_data():
    directory = publish(CATEGORIES, three_data_sets())
    before = sorted(Path("tokens").rglob("*"))
    PretrainSamples(directory, "train", LENGTH, 100, 1, Path("cache"))
    assert sorted(Path("tokens").rglob("*")) == before and list(Path("cache").iterdir())


def test_the_order_is_that_of_megatrons_own_blending():
    """Megatron's builder from blend.json, which needs a process group for its cache, gives the same windows."""
    import torch.distributed as dist
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    from nano3.data.pretrain_samples import _Tokenizer

    directory = publish(CATEGORIES, three_data_sets())
    flat = json.loads((directory / "blend.json").read_text())["train"]
    config = GPTDatasetConfig(
        random_seed=3,
        sequence_length=LENGTH,
        blend_per_split=[(flat[1::2], flat[::2]), None, None],
        path_to_cache="megatron_cache",
        tokenizer=_Tokenizer(2, VOCAB),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        theirs = BlendedMegatronDatasetBuilder(GPTDataset, [300, 0, 0], lambda: True, config).build()[0]
    finally:
        dist.destroy_process_group()
    ours = PretrainSamples(directory, "train", LENGTH, 300, 3, Path("cache")).batch(0, 300)
    for index in range(300):
        assert (theirs[index]["tokens"] == ours[index, :-1]).all()
        assert (theirs[index]["labels"] == ours[index, 1:]).all()


def test_a_blend_of_one_shard_and_one_smaller_than_a_window_work():
    one = publish({"code": {"share": 1, "datasets": ["code"]}}, [shard("code", 0, train=20, valid=9)])
    data = PretrainSamples(one, "train", LENGTH, 10, 1, Path("cache"))
    assert tuple(data.batch(0, 10).shape) == (10, LENGTH + 1)
    assert data.sampled_tokens() == {"code": 10 * LENGTH}
    sets = valid_sets(one, LENGTH, 4)
    assert tuple(sets["code"].tokens.shape) == (1, 9)


def test_validation_has_fixed_windows_of_every_data_set():
    large = three_data_sets()[2:]
    shards = [shard("code", 0, train=3000, valid=1000), shard("small", 0, train=2000, valid=0), *large]
    sets = valid_sets(publish(CATEGORIES, shards), LENGTH, 8)
    assert list(sets) == ["code", "large"]  # small has no held-out document
    assert tuple(sets["code"].tokens.shape) == (8, LENGTH + 1)
    assert tuple(sets["large"].tokens.shape) == (8, LENGTH + 1)
    assert sets["code"].bytes_per_token == 3.0
    assert set(np.unique(sets["code"].tokens)) <= {2, *range(100, 150)}
    sources = [source_of(window) for window in sets["large"].tokens]
    assert sources == [300] * 4 + [400] * 4  # both groups
    again = valid_sets(Path("blend"), LENGTH, 8)
    assert (sets["large"].tokens == again["large"].tokens).all()


def test_a_blend_without_held_out_documents_says_what_to_raise():
    directory = publish({"code": {"share": 1, "datasets": ["code"]}}, [shard("code", 0, train=99, valid=0)])
    with pytest.raises(UserError, match=r"no valid documents; raise tokenisation\.held_out"):
        valid_sets(directory, LENGTH, 1)
    with pytest.raises(UserError, match="has no test shards"):
        PretrainSamples(directory, "test", LENGTH, 1, 1, Path("cache"))
