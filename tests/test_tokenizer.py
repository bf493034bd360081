"""The tokenizer: fixed ids, exact round trips, and directories that transformers loads."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nano3.data import tokenizer as tokenizers
from nano3.errors import UserError

ROOT = Path(__file__).parent.parent
TEXTS = [path.read_text() for path in sorted((ROOT / "scripts/nano3/recipe").glob("*.py"))]
TEXTS.append("Der Löwe ist 1234 Jahre alt; 老虎也是。 " * 20)
SIZE = 400


def trained(size=SIZE):
    return tokenizers.train(TEXTS, vocab_size=size, reserved=20)


TOKENIZER = trained()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers.save_trained(TOKENIZER, folder)
    return folder


def test_special_tokens_have_the_ids_of_nemotrons_tokenizer():
    expected = {"<unk>": 0, "<s>": 1, "<|endoftext|>": 2, "<SPECIAL_3>": 3, "<SPECIAL_9>": 9, "<|im_start|>": 10}
    expected |= {"<|im_end|>": 11, "<think>": 12, "</think>": 13, "<tool_call>": 14, "</tool_response>": 17}
    assert {token: TOKENIZER.token_to_id(token) for token in expected} == expected
    assert TOKENIZER.token_to_id("<SPECIAL_19>") == 19
    assert TOKENIZER.get_vocab_size() == SIZE


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_encoding_and_decoding(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_code_survives_encoding_and_indentation_is_cheap():
    code = "def f(x):\n        if x:\n\t\treturn  {'a': 12}\r\n\n\n    # 中文\n"
    assert TOKENIZER.decode(TOKENIZER.encode(code).ids, skip_special_tokens=False) == code
    pieces = [piece for piece, _ in TOKENIZER.pre_tokenizer.pre_tokenize_str("x:\n        return 1")]
    assert pieces[2:4] == ["ĊĠĠĠĠĠĠĠ", "Ġreturn"]


def test_every_digit_is_a_token_of_its_own():
    assert TOKENIZER.encode("x = 98765").tokens[-5:] == list("98765")
    assert not [
        token
        for token in TOKENIZER.get_vocab()
        if len(token) > 1 and any(c.isdigit() for c in token) and "SPECIAL" not in token
    ]


def test_training_twice_gives_the_same_bytes():
    assert trained().to_str() == TOKENIZER.to_str()


def test_too_small_a_vocabulary_and_too_little_text_are_explained():
    with pytest.raises(UserError, match="20 special tokens and 256 bytes need 276"):
        trained(200)
    with pytest.raises(UserError, match=r"the training text gives 27\d tokens.*\n.*more bytes"):
        tokenizers.train(["ab ab"], vocab_size=300, reserved=20)


def test_transformers_loads_the_directory_and_agrees_with_the_library(directory):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(directory)
    text = "def f():\n    return '<think>' + \"x\" . , ?\n"
    assert loaded(text, add_special_tokens=True)["input_ids"] == TOKENIZER.encode(text).ids
    assert loaded.decode(loaded(text)["input_ids"]) == text  # no blank is cleaned away
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 0)
    rendered = loaded.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n")
    ids = loaded(rendered, add_special_tokens=False)["input_ids"]
    assert [ids.count(i) for i in (10, 11, 12)] == [3, 2, 1]
    shown = loaded.decode([11, 12, 13, 14], skip_special_tokens=True)
    assert shown == "<think></think><tool_call>"


def test_an_existing_directory_is_copied_without_weights_and_checked(directory, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(directory, source)
    (source / "model.safetensors").write_bytes(b"heavy")
    copy = tmp_path / "copy"
    copy.mkdir()
    assert tokenizers.copy_existing(str(source), "main", copy) == {"chat_template": "its own"}
    assert not (copy / "model.safetensors").exists()
    facts = tokenizers.check(copy, model_vocab_size=SIZE)
    assert facts["vocab_size"] == SIZE and facts["special_tokens"]["<|im_end|>"] == 11


def test_an_existing_tokenizer_without_a_chat_template_gets_the_recipes(directory, tmp_path):
    from nano3.chat.template import chat_template, template_of

    source, copy = tmp_path / "source", tmp_path / "copy"
    for folder in (source, copy):
        folder.mkdir()
    shutil.copy(directory / "tokenizer.json", source)
    assert tokenizers.copy_existing(str(source), "main", copy) == {"chat_template": "the recipe's"}
    assert template_of(copy) == chat_template()


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused(directory):
    with pytest.raises(UserError, match=f"has {SIZE} tokens, but model.vocab_size is 300"):
        tokenizers.check(directory, model_vocab_size=300)


def test_a_tokenizer_without_the_chat_tokens_is_refused_by_name(directory, tmp_path):
    content = (directory / "tokenizer.json").read_text().replace("<|im_end|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"has no <\|im_end\|>\.\n.*Nemotron"):
        tokenizers.check(tmp_path, model_vocab_size=SIZE)


def test_a_directory_without_a_fast_tokenizer_is_explained(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(UserError, match=r"has no tokenizer\.json; found tokenizer\.model"):
        tokenizers.copy_existing(str(tmp_path), "main", tmp_path / "out")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"nothing": 1}))
    with pytest.raises(UserError, match="is not a tokenizer that the `tokenizers` library reads"):
        tokenizers.load(tmp_path)


def test_training_texts_stop_after_their_bytes():
    assert list(tokenizers.training_texts(["aaaa", "bbbb", "cccc"], 5)) == ["aaaa", "bbbb"]


def test_the_saved_file_is_what_was_trained(directory):
    assert Tokenizer.from_file(str(directory / "tokenizer.json")).to_str() == TOKENIZER.to_str()
