"""The tokenizer: a byte-level BPE trained on the recipe's data, or an existing one, checked for what the recipe needs.

Special tokens have the ids of Nemotron's tokenizer, so that models, chat template and checkpoints agree with it."""

import json
import shutil
from collections.abc import Iterable, Iterator
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from nano3.data import hub
from nano3.data.raw import artifact_directory
from nano3.errors import UserError, to_make

UNKNOWN, BOS, END_OF_TEXT = "<unk>", "<s>", "<|endoftext|>"
PAD = UNKNOWN
IM_START, IM_END, THINK, END_THINK = "<|im_start|>", "<|im_end|>", "<think>", "</think>"
# id -> token; the ids between are <SPECIAL_n>.
NAMED = {
    0: UNKNOWN,
    1: BOS,
    2: END_OF_TEXT,
    10: IM_START,
    11: IM_END,
    12: THINK,
    13: END_THINK,
    14: "<tool_call>",
    15: "</tool_call>",
    16: "<tool_response>",
    17: "</tool_response>",
}
# Markup that a reader of the answer needs to see, so `skip_special_tokens` keeps it.
MARKUP = {token for id, token in NAMED.items() if id >= 12}
# What a tokenizer's directory may consist of; not weights, not code.
TOKENIZER_FILES = [
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.jinja",
]
NEEDED = (END_OF_TEXT, IM_START, IM_END, THINK, END_THINK)

# Words with one leading space; single digits, so that numbers are read and written place by place; runs of other
# signs; white space, of which the last blank belongs to the next word, so a line's indentation is one token.
PIECES = r" ?\p{L}[\p{L}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BATCH = 256


def special_tokens(reserved: int) -> list[str]:
    """The tokens of ids 0 ... reserved-1."""
    return [NAMED.get(id, f"<SPECIAL_{id}>") for id in range(max(reserved, max(NAMED) + 1))]


def train(texts: Iterable[str], *, vocab_size: int, reserved: int) -> Tokenizer:
    """Train byte-level BPE; the same texts in the same order give the same tokenizer.

    vocab_size: tokens, special ones included. Raises UserError if it leaves no room for the 256 bytes or if the
    texts are too few to fill it."""
    special = special_tokens(reserved)
    smallest = len(special) + 256
    if vocab_size < smallest:
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size}, but {len(special)} special tokens and 256 bytes need {smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise UserError(
            f"the training text gives {tokenizer.get_vocab_size()} tokens, but tokenizer.vocab_size is {vocab_size}."
            "\n  Give tokenizer.datasets more bytes, or lower tokenizer.vocab_size."
        )
    return _with_visible_markup(tokenizer)


def _with_visible_markup(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer makes every reserved token special; markup stays one token each but is ordinary text."""
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in MARKUP
    return Tokenizer.from_str(json.dumps(content))


def save_trained(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the directory that `transformers.AutoTokenizer.from_pretrained` loads, chat template included."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    roles = {"bos_token": BOS, "eos_token": END_OF_TEXT, "pad_token": PAD, "unk_token": UNKNOWN}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **roles,
        "chat_template": _template(),
    }
    _write_json(directory / "tokenizer_config.json", config)
    _write_json(directory / "special_tokens_map.json", roles)


def copy_existing(path: str, revision: str, directory: Path) -> dict[str, str]:
    """Copy a tokenizer from a local directory or the hub; returns facts for the manifest (hub commit, template).

    Weights and code are not copied. Without a chat template of its own it gets the recipe's. Raises UserError if
    there is no fast tokenizer."""
    source, facts = Path(path), {}
    if not source.is_dir():
        source, commit = hub.download_matching(path, revision, TOKENIZER_FILES)
        facts["commit"] = commit
    files = sorted({file for name in TOKENIZER_FILES for file in source.glob(name) if file.is_file()})
    if not any(file.name == "tokenizer.json" for file in files):
        raise UserError(
            f"{path} has no tokenizer.json; found {', '.join(f.name for f in files) or 'no tokenizer files'}.\n"
            "  Convert it: AutoTokenizer.from_pretrained(...).save_pretrained(directory) writes a fast tokenizer."
        )
    for file in files:
        shutil.copyfile(file, directory / file.name)
    facts["chat_template"] = "its own"
    if not _has_template(directory):
        (directory / "chat_template.jinja").write_text(_template(), encoding="utf-8")
        facts["chat_template"] = "the recipe's"
    return facts


def check(directory: Path, *, model_vocab_size: int) -> dict[str, Any]:
    """Check that a tokenizer directory has what the recipe needs; returns facts for the manifest.

    Raises UserError that names the missing tokens, or if the model's vocabulary is too small."""
    tokenizer = load(directory)
    missing = [token for token in NEEDED if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(
            f"the tokenizer has no {', '.join(missing)}.\n"
            "  Documents end with <|endoftext|> and chats use the other four, each as one token. Use a tokenizer of"
            " the Nemotron 3 family, or train one:  tokenizer: {kind: train, ...}"
        )
    size = vocab_size(tokenizer)
    if size > model_vocab_size:
        raise UserError(
            f"the tokenizer has {size} tokens, but model.vocab_size is {model_vocab_size}."
            f"\n  Set model.vocab_size to at least {size} (a multiple of 128 is fastest)."
        )
    return {"vocab_size": size, "special_tokens": {token: tokenizer.token_to_id(token) for token in NEEDED}}


def load(directory: Path) -> Tokenizer:
    """The tokenizer of a directory, without transformers. UserError if it is missing or can't be read."""
    directory = artifact_directory(directory)
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{file} does not exist; make the tokenizer first:  {to_make(directory)}")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise UserError(f"{file} is not a tokenizer that the `tokenizers` library reads: {error}") from None


def vocab_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def training_texts(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Whole texts until they have max_bytes."""
    taken = 0
    for text in texts:
        if taken >= max_bytes:
            return
        taken += len(text.encode())
        yield text


def _template() -> str:
    return resources.files("nano3.chat").joinpath("template.jinja").read_text(encoding="utf-8")


def _has_template(directory: Path) -> bool:
    config = directory / "tokenizer_config.json"
    return (directory / "chat_template.jinja").is_file() or (
        config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while batch := list(islice(texts, _BATCH)):
        yield batch


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
