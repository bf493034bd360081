"""Evaluation: intervals against hand numbers, bits per byte against plain sums, and the artifact."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nano3 import evaluation
from nano3.artifacts import building, verify
from nano3.data.indexed import IndexedWriter
from nano3.errors import UserError
from nano3.recipe.training import Evaluation
from nano3.rl.rollout import Rollout, load_chat_tokenizer
from nano3.train import hardware
from nano3.train.validation import bytes_of_tokens
from rl_toy import toy_model, toy_rows, toy_tokenizer, toy_world

EOS = 2


def rolled(environment, reward, finished=True, well_formed=True, length=3):
    ids = [5] * length
    return Rollout("0", environment, [1], ids, [-1.0] * length, "text", reward, "why", finished, well_formed)


def test_one_answer_per_prompt_gives_wilsons_interval():
    found = evaluation.interval([[1.0]] * 5 + [[0.0]] * 5)
    assert found["mean"] == 0.5
    assert (found["low"], found["high"]) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    one_of_twenty = evaluation.interval([[1.0]] + [[0.0]] * 19)
    assert (one_of_twenty["low"], one_of_twenty["high"]) == pytest.approx((0.00888, 0.23613), abs=1e-5)


def test_answers_to_one_prompt_do_not_count_as_independent():
    same = evaluation.interval([[1.0] * 8] * 5 + [[0.0] * 8] * 5)
    assert same == pytest.approx(evaluation.interval([[1.0]] * 5 + [[0.0]] * 5))
    mixed = evaluation.interval([[1.0, 0.0] * 4] * 10)
    assert mixed["high"] - mixed["low"] < same["high"] - same["low"]


def test_equal_values_keep_an_interval_of_their_number_of_prompts():
    none = evaluation.interval([[0.0, 0.0]] * 30)
    assert none["low"] == 0
    assert none["high"] == pytest.approx(1.959964**2 / (30 + 1.959964**2))
    assert evaluation.interval([[1.0]] * 30)["high"] == 1


def test_intervals_hold_the_true_mean_about_19_times_of_20():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        skill = rng.beta(1, 2, 60)  # prompts differ, so their answers go together
        found = evaluation.interval((rng.random((60, 4)) < skill[:, None]).astype(float).tolist())
        held += found["low"] <= 1 / 3 <= found["high"]
    assert 0.925 <= held / 400 <= 0.98


def test_scores_are_means_by_environment():
    answers = [
        *(rolled("math", 1.0), rolled("math", 0.0, finished=False, length=9)),
        *(rolled("mcqa", 0.5), rolled("mcqa", 0.5, well_formed=False)),
    ]
    found = evaluation.scores(answers, 2)
    assert list(found) == ["math", "mcqa"]
    assert (found["math"]["prompts"], found["math"]["generations"]) == (1, 2)
    assert (found["math"]["mean"], found["math"]["finished"], found["math"]["mean_length"]) == (0.5, 0.5, 6)
    assert found["mcqa"]["well_formed"] == 0.5


def test_a_whole_chat_is_finished_and_well_formed():
    answers = [
        *(rolled("a", 0.0), rolled("a", 0.0, finished=False)),
        *(rolled("b", 1.0, well_formed=False), rolled("b", 1.0)),
    ]
    assert evaluation.chats(answers, 2)["mean"] == 0.5


def write_tokens(directory, dataset, splits, group=0):
    with building(directory, kind="tokens", config={"dataset": dataset, "group": group}) as artifact:
        for split in ("train", "valid", "test"):
            with IndexedWriter(artifact.path / split, np.dtype(np.uint16)) as writer:
                for document in splits.get(split, []):
                    writer.add(document)
    return directory


@pytest.fixture
def text(tmp_path):
    tokenizer = toy_tokenizer()
    splits = {
        "train": [[*tokenizer.encode("aab").ids, EOS]],
        "test": [[*tokenizer.encode(words).ids, EOS] for words in ("abba", "b" * 30, "a")],
    }
    return write_tokens(tmp_path / "tokens", "letters", splits), tokenizer, splits


def measures(directories, tokenizer, model):
    return evaluation.text_measures(
        model,
        directories,
        bytes_of_tokens(tokenizer, 288),
        most=100_000,
        arithmetic=hardware.arithmetic("cpu", "fp32"),
        micro_batch_tokens=64,
    )


def test_bits_per_byte_equal_a_plain_sum_over_held_out_documents(text):
    directory, tokenizer, splits = text
    model = toy_model().eval()
    found = measures([directory], tokenizer, model)
    nats = size = 0.0
    for document in splits["test"]:
        with torch.no_grad():
            logprobs = model(torch.tensor([document[:-1]]))[0].log_softmax(-1)
        nats -= sum(logprobs[i, token].item() for i, token in enumerate(document[1:]))
        size += len(document) - 2  # neither the first token nor the end of the document counts
    assert found["model"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert (found["documents"], found["bytes"]) == (3, size)


def test_the_unigram_baseline_is_the_cross_entropy_of_the_training_frequencies(text):
    directory, tokenizer, splits = text
    a, b = (tokenizer.encode(letter).ids[0] for letter in "ab")
    frequency = {a: 3 / 292, b: 2 / 292, EOS: 2 / 292}  # counts 2, 1, 1 of 4 tokens, each of 288 seen once more
    bits = -sum(math.log2(frequency[token]) for document in splits["test"] for token in document[1:])
    assert measures([directory], tokenizer, toy_model())["unigram"] == pytest.approx(bits / 32)


def test_long_documents_are_read_in_pieces_that_lose_no_token(text):
    directory, tokenizer, _ = text
    whole = measures([directory], tokenizer, toy_model())
    pieces, owner = evaluation.held_out([directory], most=100_000, window=7)
    assert max(map(len, pieces)) == 8
    assert owner == [0, 1, 1, 1, 1, 1, 2]
    cut = measures([directory], tokenizer, toy_model(max_position_embeddings=7))
    assert (cut["bytes"], cut["documents"]) == (whole["bytes"], whole["documents"])
    assert cut["unigram"] == pytest.approx(whole["unigram"])


def test_text_is_measured_to_the_end_of_the_document_that_reaches_the_bound(text):
    directory, _, _ = text  # documents of 5, 31 and 2 tokens
    for most, documents in ((1, 1), (5, 1), (6, 2), (36, 2), (37, 3)):
        pieces, owner = evaluation.held_out([directory], most=most, window=100)
        assert len(pieces) == len(owner) == documents


def test_a_data_set_without_held_out_text_has_no_measures(tmp_path):
    directory = write_tokens(tmp_path / "tokens", "letters", {"train": [[20, EOS]]})
    assert measures([directory], toy_tokenizer(), toy_model()) is None


def test_one_document_has_no_margin_and_both_held_out_splits_are_read(tmp_path):
    tokenizer = toy_tokenizer()
    document = [*tokenizer.encode("abba").ids, EOS]
    one = write_tokens(tmp_path / "one", "letters", {"test": [document]})
    assert "margin" not in measures([one], tokenizer, toy_model())
    two = write_tokens(tmp_path / "two", "letters", {"test": [document], "valid": [document[1:]]})
    found = measures([two], tokenizer, toy_model())
    assert found["documents"] == 2
    assert found["margin"] > 0


def test_groups_of_a_data_set_are_measured_together(tmp_path):
    paths = [
        write_tokens(tmp_path / f"t{group}", "letters", {"test": [[20 + group, 30, EOS]]}, group) for group in (1, 0)
    ]
    assert evaluation.by_dataset(paths) == {"letters": [paths[1], paths[0]]}
    with building(tmp_path / "other", kind="tokenizer", config={}) as artifact:
        (artifact.path / "x").touch()
    with pytest.raises(UserError, match="not a token artifact"):
        evaluation.by_dataset([tmp_path / "other"])


def test_two_models_answer_the_same_prompts_and_greedy_answers_repeat(tmp_path):
    toy_tokenizer().save(str(tmp_path / "tokenizer.json"))
    chat = load_chat_tokenizer(tmp_path)
    settings = Evaluation(prompts=2, generations=2, max_new_tokens=6, temperature=0.0)
    rows = toy_rows(8)
    first, again, other = (evaluation.answer(toy_model(seed), chat, rows, settings, seed=1) for seed in (0, 0, 1))
    assert first == again
    assert [each.prompt for each in first] == [each.prompt for each in other]
    assert [each.response for each in first] != [each.response for each in other]
    assert first[0].response == first[1].response


def test_the_script_publishes_the_same_evaluation_every_time(tmp_path, monkeypatch, text):
    monkeypatch.syspath_prepend("scripts")
    arguments = dict(zip(*[iter(toy_world(tmp_path))] * 2, strict=True))
    outputs = [tmp_path / "results" / "toy" / "evaluation" / name for name in ("sft", "again")]
    for output in outputs:
        arguments |= {"--output": str(output), "--tokens": str(text[0])}
        importlib.import_module("evaluate").main([part for pair in arguments.items() for part in pair])
    manifest = verify(outputs[0])
    assert manifest.text() == verify(outputs[1]).text()
    measured = json.loads((Path(outputs[0]) / "evaluation.json").read_text())
    assert set(measured["environments"]) == {"math_with_judge", "mcqa"}
    entry = measured["environments"]["mcqa"]
    assert entry["low"] <= entry["mean"] <= entry["high"]
    assert measured["bits_per_byte"]["letters"]["model"] > 0
    assert measured["chats"]["prompts"] == 4
    assert {sample["environment"] for sample in measured["samples"]} == {"math_with_judge", "mcqa"}
    assert measured["samples"][0]["prompt"].startswith("<|im_start|>system")
