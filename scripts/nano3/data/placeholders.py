"""Rows of the public RL blend that only point to a row of another data set, filled from that data set.

Such a row has `_hf_placeholder` = {"row": number, "question_template": ...}: its question may not be redistributed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano3.artifacts.manifest import sha256
from nano3.data import files, hub
from nano3.errors import UserError

Row = dict[str, Any]


class Unresolved(Exception):
    """A placeholder that can't be filled: `reason` for the counts, `detail` for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def _dapo(source: Row, template: Any) -> Row:
    """The published prompt is an instruction, the question and a reminder: the blend has its own wording of the outer
    two. Its parts are separated by blank lines."""
    parts = _question(source).split("\n\n")
    if len(parts) < 3:
        raise Unresolved("placeholder question has no frame", "expected instruction, question and reminder")
    if not isinstance(template, dict):
        raise Unresolved("placeholder template", f"expected prefix and suffix, found {template!r:.80}")
    question = "\n\n".join(parts[1:-1])
    text = f"{template.get('prefix', '')}{question}{template.get('suffix', '')}".rstrip()
    return _filled(text, text, str(_answer(source)))


def _skywork(source: Row, template: Any) -> Row:
    """The answer is JSON text: a list or an object of answers, the first one counts."""
    question = _question(source)
    if not isinstance(template, str) or "{question}" not in template:
        raise Unresolved("placeholder template", f"expected a text with {{question}}, found {template!r:.80}")
    answer = _answer(source)
    try:
        answers = json.loads(answer) if isinstance(answer, str) else answer
    except ValueError:
        answers = [answer]
    if isinstance(answers, dict):
        answers = list(answers.values())
    first = answers[0] if isinstance(answers, list) and answers else answers
    if first in (None, [], {}):
        raise Unresolved("placeholder without answer", f"ground truth is {answer!r:.80}")
    return _filled(template.replace("{question}", question), question, str(first))


@dataclass(frozen=True)
class External:
    """Where the rows of one part of the blend come from, and how a row is made of them."""

    repository: str
    split: str
    fill: Callable[[Row, Any], Row]


EXTERNAL = {
    "nano_v3_sft_profiled_dapo17k": External("BytedTsinghua-SIA/DAPO-Math-17k", "train", _dapo),
    "nano_v3_sft_profiled_skywork_no_omni": External("Skywork/Skywork-OR1-RL-Data", "math", _skywork),
}


def is_placeholder(row: Row) -> bool:
    """Whether a row waits to be filled. A null `_hf_placeholder` (a column that all rows share) is none."""
    return row.get("_hf_placeholder") is not None


def wanted(row: Row) -> tuple[str, int]:
    """Repository and row number that a placeholder points to. Raises Unresolved if it does not say."""
    external = EXTERNAL.get(str(row.get("dataset")))
    if external is None:
        raise Unresolved("placeholder of unknown data set", f"`dataset` is {row.get('dataset')!r}")
    placeholder = row["_hf_placeholder"]
    number = placeholder.get("row") if isinstance(placeholder, dict) else None
    if not isinstance(number, int) or number < 0:
        raise Unresolved("placeholder without row number", f"{placeholder!r:.80}")
    return external.repository, number


def resolve(row: Row, tables: dict[str, dict[int, Row]]) -> Row:
    """The row with question, answer and prompt filled in; its other fields stay. Raises Unresolved.

    tables: repository -> row number -> row, see `read_rows`."""
    repository, number = wanted(row)
    if repository not in tables:
        raise Unresolved("placeholder table not given", f"add {repository} to rl.prompts.placeholder_tables")
    if number not in tables[repository]:
        raise Unresolved("placeholder row out of range", f"{repository} has no row {number}")
    template = row["_hf_placeholder"].get("question_template")
    filled = EXTERNAL[row["dataset"]].fill(tables[repository][number], template)
    request = {**(row.get("responses_create_params") or {}), **filled.pop("responses_create_params")}
    rest = {key: value for key, value in row.items() if key != "_hf_placeholder"}
    return {**rest, **filled, "responses_create_params": request}


def read_rows(repository: str, location: str, numbers: set[int]) -> tuple[dict[int, Row], dict[str, Any]]:
    """The rows with these numbers, and facts about the table for the manifest.

    location: a file, a directory or a glob pattern of JSON lines or Parquet, else a hub repository (owner/name)."""
    split = next(external.split for external in EXTERNAL.values() if external.repository == repository)
    facts: dict[str, Any] = {}
    if Path(location).exists() or location.endswith(files.SUFFIXES) or any(sign in location for sign in "*?["):
        paths = [Path(file.name) for file in _of_split(_local(location), split)]
        facts["sha256"] = [sha256(path) for path in paths]
    else:
        listing = hub.list_repository(location, "main")
        facts["commit"] = listing.commit
        paths = [hub.download(location, file.name, listing.commit) for file in _of_split(listing.files, split)]
    rows: dict[int, Row] = {}
    total = 0
    for total, row in enumerate(_rows(paths), 1):
        if total - 1 in numbers:
            rows[total - 1] = row
    return rows, {"rows": total, "rows_used": len(rows), **facts}


def _local(location: str) -> list[files.SourceFile]:
    root = Path(location)
    if not root.is_dir():
        return files.find_files([location])
    found = [path for path in sorted(root.rglob("*")) if path.name.endswith(files.SUFFIXES)]
    if not found:
        raise UserError(f"{root} holds no table; expected files that end with {', '.join(files.SUFFIXES)}")
    return [files.SourceFile(str(path), path.stat().st_size) for path in found]


def _of_split(found: list[files.SourceFile], split: str) -> list[files.SourceFile]:
    """Files whose name or folder names the split; all of them where none does."""
    named = [
        file
        for file in found
        if Path(file.name).name.startswith((f"{split}-", f"{split}.")) or split in Path(file.name).parts[:-1]
    ]
    return named or found


def _rows(paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        yield from files.read_table(path, columns=["prompt", "reward_model"], bad=None)


def _question(source: Row) -> str:
    try:
        question = source["prompt"][0]["content"]
    except (KeyError, IndexError, TypeError):
        question = None
    if not isinstance(question, str) or not question.strip():
        raise Unresolved("placeholder without question", "the source row has no prompt[0].content")
    return question


def _answer(source: Row) -> Any:
    answer = (source.get("reward_model") or {}).get("ground_truth")
    if answer in (None, ""):
        raise Unresolved("placeholder without answer", "the source row has no reward_model.ground_truth")
    return answer


def _filled(text: str, question: str, answer: str) -> Row:
    return {
        "question": question,
        "expected_answer": answer,
        "responses_create_params": {"input": [{"role": "user", "content": text}]},
    }
