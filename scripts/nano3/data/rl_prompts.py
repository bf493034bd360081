"""RL prompt files: one NeMo-Gym example a line, every field of the source kept.

Rows pass through unchanged; only placeholders (see `nano3.data.placeholders`) are filled. What can't be used is counted
by reason, and too much of it is an error.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from nano3.chat.request import messages_of
from nano3.chat.template import render, template_of
from nano3.data import placeholders
from nano3.data.bad_rows import BadRows
from nano3.data.jsonl import JsonlWriter
from nano3.data.raw import read_shards
from nano3.data.tokenizer import load
from nano3.environments import stop_unless_scorable, workplace_assistant
from nano3.errors import UserError

Row = dict[str, Any]
BATCH_ROWS = 1000
WORKPLACE_TABLES = "workplace_tables"  # folder of the artifact, where the recipe names some


@dataclass
class Counts:
    """What became of the rows of one data set: rows = written + bad + too long."""

    rows: int = 0
    written: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    too_long: int = 0
    resolved: Counter[str] = field(default_factory=Counter)  # by external repository
    bad: BadRows = field(default_factory=BadRows)

    def statistics(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "rows": self.rows,
            "written": self.written,
            "longer_than_max_prompt_tokens": self.too_long,
            "placeholders_resolved": dict(sorted(self.resolved.items())),
            "bad": self.bad.statistics(),
        }


@dataclass
class Split:
    """One prompt file being written, and its numbers for the manifest."""

    writer: JsonlWriter
    rows: int = 0
    prompt_tokens: int = 0
    longest_prompt: int = 0
    environments: Counter[str] = field(default_factory=Counter)

    def write(self, row: Row, tokens: int) -> None:
        """Append a row whose prompt has this many tokens."""
        self.writer.write(row)
        self.rows += 1
        self.prompt_tokens += tokens
        self.longest_prompt = max(self.longest_prompt, tokens)
        self.environments[row["agent_ref"]["name"]] += 1

    def statistics(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "rows": self.rows,
            "mean_prompt_tokens": round(self.prompt_tokens / max(1, self.rows), 1),
            "longest_prompt_tokens": self.longest_prompt,
            "environments": dict(sorted(self.environments.items())),
        }


def write_prompts(raw: dict[str, list[Path]], tokenizer: Path, output: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write `output`/train.jsonl and valid.jsonl, and workplace_tables/ if the recipe has any; returns the statistics.

    raw: data set -> raw artifact directories; tokenizer: directory in the Hugging Face layout; config: the recipe's
    `rl.prompts` section as a dict, and its judge if it has one. With `valid` data sets, those are the validation; else
    the last `held_out_rows` usable rows, each data set giving its part. Raises UserError for too many bad rows, for an
    empty split, and for a row whose responses could not be scored without a judge or tables that the recipe lacks.
    """
    tables, facts = _read_tables(raw, config["placeholder_tables"])
    if directory := config.get("workplace_tables"):
        workplace_assistant.write_tables(workplace_assistant.read_tables(Path(directory)), output / WORKPLACE_TABLES)
    given = {"judge": "judge" in config, "tables": bool(directory)}
    prompt_tokens = _PromptLength(tokenizer)
    names = list(dict.fromkeys([*config["train"], *config["valid"]]))
    counts = {name: Counts() for name in names}
    parts = _held_out_parts(raw, config)
    with JsonlWriter(output / "train.jsonl") as train, JsonlWriter(output / "valid.jsonl") as valid:
        splits = {"train": Split(train), "valid": Split(valid)}
        for name in names:
            usable = _usable(raw[name], tables, prompt_tokens, config["max_prompt_tokens"], counts[name])
            for split, row, tokens in _divided(usable, name, config, parts):
                stop_unless_scorable([row], **given)
                splits[split].write(row, tokens)
                counts[name].written[split] += 1
            good = counts[name].rows - counts[name].bad.total
            counts[name].bad.check(good, config["max_bad_rows"], where=name, key="rl.prompts.max_bad_rows")
    _check_splits(splits, config)
    return {
        "splits": {name: split.statistics() for name, split in splits.items()},
        "datasets": {name: count.statistics() for name, count in counts.items()},
        "placeholder_tables": facts,
    }


def _read_tables(
    raw: dict[str, list[Path]], locations: dict[str, str]
) -> tuple[dict[str, dict[int, Row]], dict[str, Any]]:
    """The rows of external data sets that some placeholder wants, and facts about these tables."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for row in chain.from_iterable(_rows(directories) for directories in raw.values()):
        if placeholders.is_placeholder(row):
            try:
                repository, number = placeholders.wanted(row)
            except placeholders.Unresolved:
                continue  # counted when the row's turn comes
            numbers[repository].add(number)
    tables, facts = {}, {}
    for repository in sorted(numbers.keys() & locations.keys()):
        tables[repository], facts[repository] = placeholders.read_rows(
            repository, locations[repository], numbers[repository]
        )
    return tables, facts


def _rows(directories: list[Path]) -> Iterator[Row]:
    return chain.from_iterable(read_shards(directory) for directory in directories)


def _held_out_parts(raw: dict[str, list[Path]], config: dict[str, Any]) -> dict[str, int]:
    """How many last rows of each training data set are validation, in proportion to its rows."""
    if config["valid"]:
        return dict.fromkeys(config["train"], 0)
    sizes = [sum(1 for _ in _rows(raw[name])) for name in config["train"]]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    bounds = [0, *(config["held_out_rows"] * end // max(1, ends[-1]) for end in ends)]
    return {name: bounds[i + 1] - bounds[i] for i, name in enumerate(config["train"])}


class _PromptLength:
    """Tokens of a row's prompt: the conversation with the assistant's turn opened."""

    def __init__(self, tokenizer: Path):
        self._tokenizer = load(tokenizer)
        self._template = template_of(tokenizer)

    def text(self, row: Row) -> str:
        """The prompt; UserError where the row has none that the template can render."""
        messages, tools = messages_of(row["responses_create_params"])
        if not messages:
            raise UserError("responses_create_params.input is empty")
        return render(messages, tools, add_generation_prompt=True, template=self._template)

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]


def _usable(
    directories: list[Path],
    tables: dict[str, dict[int, Row]],
    prompt_tokens: _PromptLength,
    max_tokens: int,
    counts: Counts,
) -> Iterator[tuple[Row, int]]:
    """Rows that can be trained on, with the tokens of their prompts; counts the others."""
    rows = _with_prompts(_rows(directories), tables, prompt_tokens, counts)
    while batch := list(islice(rows, BATCH_ROWS)):
        lengths = prompt_tokens.count([text for _, text in batch])
        for (row, _), tokens in zip(batch, lengths, strict=True):
            if tokens > max_tokens:
                counts.too_long += 1
            else:
                yield row, tokens


def _with_prompts(
    rows: Iterable[Row], tables: dict[str, dict[int, Row]], prompt_tokens: _PromptLength, counts: Counts
) -> Iterator[tuple[Row, str]]:
    for number, row in enumerate(rows):
        counts.rows += 1
        where = f"row {number} (id {row.get('id')})"
        agent = row.get("agent_ref")
        if not (isinstance(agent, dict) and isinstance(agent.get("name"), str)):
            counts.bad.count("no agent_ref", where=where, sample="rewards need the environment's name")
            continue
        try:
            if placeholders.is_placeholder(row):
                row = placeholders.resolve(row, tables)
                counts.resolved[placeholders.EXTERNAL[row["dataset"]].repository] += 1
            text = prompt_tokens.text(row)
        except placeholders.Unresolved as problem:
            counts.bad.count(problem.reason, where=where, sample=problem.detail)
        except (UserError, KeyError, TypeError, AttributeError) as problem:
            counts.bad.count("no usable prompt", where=where, sample=f"{type(problem).__name__}: {problem}")
        else:
            yield row, text


def _divided(
    usable: Iterable[tuple[Row, int]], name: str, config: dict[str, Any], parts: dict[str, int]
) -> Iterator[tuple[str, Row, int]]:
    """Rows with the split they belong to; the last rows wait in a queue until it is known that they are the last."""
    if name not in config["train"]:
        yield from (("valid", row, tokens) for row, tokens in usable)
        return
    waiting: deque[tuple[Row, int]] = deque()
    for item in usable:
        waiting.append(item)
        if len(waiting) > parts[name]:
            yield "train", *waiting.popleft()
    yield from (("valid", row, tokens) for row, tokens in waiting)


def _check_splits(splits: dict[str, Split], config: dict[str, Any]) -> None:
    empty = [name for name, split in splits.items() if not split.rows]
    if empty:
        raise UserError(
            f"no prompts are left for {' and '.join(empty)}. Check rl.prompts: max_prompt_tokens is "
            f"{config['max_prompt_tokens']}, held_out_rows is {config['held_out_rows']}."
        )
