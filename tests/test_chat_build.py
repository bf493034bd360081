"""Packed SFT data as a whole: blend, held-out rows, augmentation, accounting, errors, and the script."""

import itertools
import json
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from chat_toy import ROOT, assistant, save_raw, save_tokenizer, toy_tokenizer, user
from nano3.artifacts import read_manifest, verify
from nano3.chat.blend import copies_of_rows, held_out, rows_per_dataset
from nano3.chat.build import build_sft_data
from nano3.chat.packing import PackedDataset
from nano3.chat.raw import by_dataset
from nano3.errors import UserError
from nano3.recipe.data import SftData

LONG = " ".join(map(str, range(400)))


def rows(count, reasoning=True, **fields):
    return [
        {
            "id": f"r{i}",
            "messages": [
                user(f"What is {i}?"),
                assistant(f"It is {i}.", f"Think of {i} twice." if reasoning else None),
            ],
            **fields,
        }
        for i in range(count)
    ]


def build(tmp_path, datasets, name="out", workers=1, **settings):
    """Statistics and output directory for {name: (share, rows)}."""
    tokenizer = tmp_path / "tokenizer"
    if not tokenizer.exists():
        save_tokenizer(tokenizer)
    raw = {}
    for dataset, (_, content) in datasets.items():
        directory = tmp_path / name / "raw" / dataset
        raw[dataset] = [save_raw(directory, dataset, content)]
    settings = {"pack_length": 128, "valid": 0.1, "reasoning_off": 0.0, "budget_truncation": 0.0} | settings
    section = SftData(datasets={dataset: {"share": share} for dataset, (share, _) in datasets.items()}, **settings)
    output = tmp_path / name / "data"
    output.mkdir()
    return build_sft_data(raw, tokenizer, output, section.model_dump() | {"seed": 3}, workers=workers), output


def texts(directory):
    """Text of every sequence of a split."""
    dataset = PackedDataset(directory)
    found = []
    for index in range(len(dataset)):
        bounds = [*dataset.starts(index), dataset.lengths[index]]
        for start, end in itertools.pairwise(bounds):
            ids = dataset.input_ids[index, start:end].tolist()
            found.append(toy_tokenizer().decode(ids, skip_special_tokens=False))
    return found


def test_every_row_is_trained_on_once_or_held_out(tmp_path):
    statistics, output = build(tmp_path, {"a": (1, rows(50))})
    train, valid = texts(output / "train"), texts(output / "valid")
    questions = sorted(int(text.split("What is ")[1].split("?")[0]) for text in train + valid)
    assert questions == list(range(50))
    assert len(valid) == 5 == statistics["datasets"]["a"]["valid_rows"]
    assert statistics["datasets"]["a"]["epochs"] == 1.0


def test_small_sets_repeat_until_they_have_their_share(tmp_path):
    statistics, output = build(
        tmp_path, {"big": (50, rows(100)), "small": (50, rows(5, reasoning=False))}, rows=80, valid=0.0
    )
    small = statistics["datasets"]["small"]
    assert small["train_rows_drawn"] == 40 and small["epochs"] == 8.0
    assert statistics["datasets"]["big"]["epochs"] == 0.4
    found = texts(output / "train")
    assert len(found) == 80
    assert sorted(found.count(text) for text in set(found) if "<think></think>" in text) == [8] * 5


def test_statistics_add_up(tmp_path):
    broken = [{"id": "x1", "messages": []}, {"id": "x2", "messages": [user("?")]}]
    long = [{"id": "long", "messages": [user("?"), assistant("word " * 500)]}]
    partly = [
        {"id": "partly", "messages": [user("1"), assistant("one", "a"), user("2"), assistant("two", "word " * 400)]}
    ]
    twice = [{"id": "twice", "messages": [user("?"), assistant("over and over again " * 30)]}]
    words = [{"id": "words", "messages": [user("?"), assistant("Our great nation.")]}]
    content = rows(40) + broken + long + partly + twice + words
    statistics, output = build(
        tmp_path,
        {"a": (1, content), "b": (1, rows(30))},
        max_bad_rows=0.5,
        forbidden_words=["great nation"],
        repetition={"ngram": 4, "window": 50, "max_in_window": 3, "max_in_trace": 5},
    )
    for counts in statistics["datasets"].values():
        assert counts["rows_used"] == counts["rows_kept"] + sum(counts["rows_dropped"].values())
        assert set(counts["samples_of_dropped"]) == set(counts["rows_dropped"]) | set(counts["sequences_dropped"])
    assert sum(c["train_tokens"] for c in statistics["datasets"].values()) == statistics["splits"]["train"]["tokens"]
    assert sum(c["achieved_share_of_tokens"] for c in statistics["datasets"].values()) == pytest.approx(1, abs=1e-5)
    totals = statistics["totals"]
    assert totals["rows"] == len(content) + 30
    assert totals["rows_used"] == totals["rows_kept"] + sum(totals["rows_dropped"].values())
    splits = statistics["splits"]
    assert totals["sequences_kept"] == splits["train"]["sequences"] + splits["valid"]["sequences"]
    assert len(texts(output / "train")) == splits["train"]["sequences"]


def test_each_kind_of_loss_is_counted_under_its_name(tmp_path):
    content = [
        *rows(20),
        {"id": "none", "messages": []},
        {"id": "late", "messages": [assistant("x", "hm"), user("?")]},
        {"id": "long", "messages": [user("?"), assistant(LONG)]},
        {"id": "partly", "messages": [user("1"), assistant("one", "a"), user("2"), assistant("two", LONG)]},
        {"id": "great", "messages": [user("?"), assistant("A Great Nation.")]},
    ]
    statistics, output = build(
        tmp_path, {"a": (1, content)}, valid=0.0, max_bad_rows=0.5, forbidden_words=["great nation"]
    )
    counts = statistics["datasets"]["a"]
    assert counts["rows_dropped"] == {
        "no_messages": 1,
        "no_answered_turn": 1,
        "longer_than_pack": 1,
        "forbidden_word": 1,
    }
    assert counts["sequences_dropped"] == {"longer_than_pack": 2}
    assert counts["rows_kept"] == 21 and counts["sequences_kept"] == 21
    assert [sample["id"] for sample in counts["samples_of_dropped"]["longer_than_pack"]] == ["a/long", "a/partly"]
    assert not any("300 301" in text for text in texts(output / "train"))


def test_too_many_bad_rows_are_an_error_that_shows_them(tmp_path):
    content = rows(10) + [{"id": f"b{i}", "messages": []} for i in range(5)]
    with pytest.raises(UserError, match=r"5 of 15 rows of a can't.*max_bad_rows allows 5\.0%.*\n.*5 no_messages.*a/b0"):
        build(tmp_path, {"a": (1, content)}, valid=0.0)


def test_rows_that_the_recipe_filters_out_are_no_bad_rows(tmp_path):
    content = rows(4, used_in=["nano_v3"]) + rows(6, used_in=["other"])
    statistics, _ = build(tmp_path, {"a": (1, content)}, used_in="nano_v3", valid=0.0, max_bad_rows=0.0)
    assert statistics["datasets"]["a"]["rows_dropped"] == {"not_used_in": 6}


def test_a_filter_that_leaves_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no row of a is left: 10 not_used_in"):
        build(tmp_path, {"a": (1, rows(10))}, used_in="nano_v3")


def test_the_augmentation_has_its_rates_and_reaches_the_text(tmp_path):
    statistics, output = build(
        tmp_path, {"a": (1, rows(600))}, reasoning_off=0.10, budget_truncation=0.20, valid=0.0, pack_length=512
    )
    counts = statistics["datasets"]["a"]
    found = texts(output / "train")
    off = [text for text in found if "<think></think>" in text]
    cut = [text for text in found if "{thinking token budget: " in text]
    assert len(off) == counts["rows_reasoning_off"] and len(cut) == counts["turns_budget_cut"]
    assert 0.07 < len(off) / 600 < 0.13
    assert 0.15 < len(cut) / counts["turns_with_reasoning"] < 0.25
    assert counts["rows_with_reasoning"] == 600 == counts["turns_with_reasoning"] + len(off)
    assert not any("Think of" in text for text in off)
    assert all("It is " in text and " twice.\n</think>" not in text for text in cut)


def test_augmentation_does_not_depend_on_the_order_of_rows(tmp_path):
    content = rows(100)
    settings = {"reasoning_off": 0.3, "budget_truncation": 0.3}
    _, one = build(tmp_path, {"a": (1, content)}, "one", **settings)
    _, two = build(tmp_path, {"a": (1, content[::-1])}, "two", **settings)
    for split in ("train", "valid"):
        assert sorted(texts(one / split)) == sorted(texts(two / split))


def test_equal_inputs_give_equal_bytes(tmp_path):
    files = []
    for name in ("one", "two"):
        _, output = build(tmp_path, {"a": (1, rows(60)), "b": (2, rows(20))}, name, rows=50)
        files.append({p.relative_to(output): p.read_bytes() for p in output.rglob("*.npy")})
    assert files[0] == files[1] and len(files[0]) == 10


def test_several_processes_give_the_same_bytes_and_counts(tmp_path):
    content = [*rows(700), *({"id": f"b{i}", "messages": []} for i in range(9))]
    datasets = {"a": (1, content), "b": (2, rows(20))}
    one, alone = build(tmp_path, datasets, "one", rows=600, reasoning_off=0.2, budget_truncation=0.1)
    two, together = build(tmp_path, datasets, "two", 2, rows=600, reasoning_off=0.2, budget_truncation=0.1)
    assert json.dumps(one) == json.dumps(two)
    for file in alone.rglob("*.npy"):
        assert file.read_bytes() == (together / file.relative_to(alone)).read_bytes()


def test_rows_that_ask_the_same_are_on_the_same_side():
    problems = [f"p{i % 20}" for i in range(200)]
    valid = held_out("a", problems, 0.25, 0)
    assert 0 < valid.sum() <= 50
    assert {p for p, v in zip(problems, valid, strict=True) if v}.isdisjoint(
        p for p, v in zip(problems, valid, strict=True) if not v
    )


def test_a_set_with_one_problem_is_not_held_out():
    assert held_out("a", ["p"] * 10, 0.5, 0).sum() == 0
    assert held_out("a", ["p", "q"], 0.01, 0).sum() == 1


def test_rows_are_dealt_by_share():
    assert rows_per_dataset({"a": 10, "b": 10}, {"a": 2, "b": 1}, 10) == {"a": 7, "b": 3}
    assert rows_per_dataset({"a": 100, "b": 10}, {"a": 1, "b": 1}, None) == {"a": 10, "b": 10}
    assert rows_per_dataset({"a": 100, "b": 10, "c": 5}, {"a": 30, "b": 10, "c": 0}, None) == {"a": 30, "b": 10, "c": 0}
    with pytest.raises(UserError, match="gives a share to b"):
        rows_per_dataset({"a": 10, "b": 0}, {"a": 1, "b": 1}, 10)


def test_repetition_is_whole_epochs_and_a_random_rest():
    trainable = np.array([True, False, True, True])
    copies = copies_of_rows("a", trainable, 8, seed=0)
    assert copies[1] == 0 and sorted(copies[trainable].tolist()) == [2, 3, 3]
    assert copies_of_rows("a", trainable, 0, seed=0).sum() == 0


def test_shards_of_an_unknown_or_missing_data_set_are_an_error(tmp_path):
    known = save_raw(tmp_path / "a", "a", rows(3))
    other = save_raw(tmp_path / "b", "b", rows(3))
    assert by_dataset([known / "manifest.json"], ["a"]) == {"a": [known]}
    with pytest.raises(UserError, match="holds data set 'b'"):
        by_dataset([known, other], ["a"])
    with pytest.raises(UserError, match="no raw shards of b"):
        by_dataset([known], ["a", "b"])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A recipe with two chat data sets, one in two groups, and their raw shards."""
    path = tmp_path_factory.mktemp("sft")
    recipe = yaml.safe_load((ROOT / "config/recipes/tiny.yaml").read_text())
    datasets = {name: {"share": 1} for name in ("chat_reasoning", "chat_tools")}
    recipe["sft"]["data"] = {"datasets": datasets, "pack_length": 128, "valid": 0.1}
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    save_tokenizer(path / "tokenizer")
    for group in (0, 1):
        content = [row | {"id": f"{group}/{row['id']}"} for row in rows(30)]
        save_raw(path / f"chat_reasoning/{group}", "chat_reasoning", content, group)
    save_raw(path / "chat_tools/0", "chat_tools", rows(40, reasoning=False))
    return path


def run_script(workspace, output):
    from sft_data import main

    raw = [str(path / "manifest.json") for path in sorted(workspace.glob("chat_*/*"))]
    arguments = ["--recipe", str(workspace / "recipe.yaml"), "--output", str(output), "--raw", *raw]
    main([*arguments, "--tokenizer", str(workspace / "tokenizer/manifest.json")])


def test_the_script_publishes_a_verified_artifact_that_names_its_inputs(workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    run_script(workspace, tmp_path / "data")
    manifest = verify(tmp_path / "data")
    assert set(manifest.inputs) == {"tokenizer", "raw/chat_reasoning/0", "raw/chat_reasoning/1", "raw/chat_tools/0"}
    assert {name.split("/")[0] for name in manifest.files} == {"train", "valid"} and len(manifest.files) == 10
    assert manifest.statistics["totals"]["rows"] == 100
    assert "chat_tools: " in capsys.readouterr().out
    run_script(workspace, tmp_path / "again")
    assert read_manifest(tmp_path / "again").text() == manifest.text()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_export_holds_the_same_packs_without_padding(workspace, tmp_path, legacy, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from export_packed_sft import main

    run_script(workspace, tmp_path / "data")
    main([str(tmp_path / "data"), "--output", str(tmp_path / "out"), *(["--legacy-npy"] if legacy else [])])
    verify(tmp_path / "out")
    for split, legacy_name in (("train", "training"), ("valid", "validation")):
        dataset = PackedDataset(tmp_path / "data" / split)
        table = pq.read_table(tmp_path / "out" / split / "packs.parquet")
        types = {field.name: str(field.type.value_type) for field in table.schema}
        assert types == {"input_ids": "int32", "loss_mask": "uint8", "seq_start_id": "int32"}
        packs = table.to_pylist()
        if legacy:
            stored = np.load(tmp_path / "out" / f"{legacy_name}_128.npy", allow_pickle=True).tolist()
            assert stored == packs
        assert len(packs) == len(dataset)
        for index, row in enumerate(packs):
            length = dataset.lengths[index]
            assert row["input_ids"] == dataset.input_ids[index, :length].tolist()
            assert row["loss_mask"] == dataset.loss_mask[index, :length].tolist()
            assert row["seq_start_id"] == dataset.starts(index).tolist()
            assert row["seq_start_id"][0] == 0 and max(row["seq_start_id"]) < length
    if legacy:
        train, valid = json.loads((tmp_path / "out/128_metadata.jsonl").read_text())
        assert train["pack_size"] == 128 and 0 < valid["max_samples_per_bin"] <= train["max_samples_per_bin"]


@pytest.mark.slow
def test_twenty_thousand_short_rows_take_seconds(tmp_path):
    content = rows(20_000)
    save_tokenizer(tmp_path / "tokenizer")
    start = time.process_time()
    statistics, _ = build(tmp_path, {"a": (1, content)}, pack_length=512, reasoning_off=0.1, budget_truncation=0.03)
    assert statistics["totals"]["rows_kept"] == 20_000
    assert time.process_time() - start < 20
