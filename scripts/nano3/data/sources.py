"""The rows of one shard group of a data set, whatever its source."""

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from nano3.data import files, hub, python_text
from nano3.data.bad_rows import BadRows
from nano3.errors import UserError
from nano3.recipe.data import AnyDataset, Files, Hub, Tasks

Row = dict[str, Any]


@dataclass
class Source:
    """One shard group of a data set, and what reading it finds out.

    seed: the recipe's; bad: the rows that were unusable so far; facts: what the manifest says about the source
    (the hub commit, the number of files, the version of Python)."""

    name: str
    dataset: AnyDataset
    group: int
    seed: int = 0
    bad: BadRows = field(default_factory=BadRows)
    facts: dict[str, Any] = field(default_factory=dict)


def read_rows(source: Source) -> Iterator[Row]:
    """Rows of the group in a fixed order: {"id", "source", "text"}, or chat and RL rows with id and source added.

    Rows that can't be used go to `source.bad`. Raises UserError for missing files, columns and subsets."""
    dataset = source.dataset
    if not 0 <= source.group < dataset.groups:
        raise UserError(
            f"{source.name} has shard groups 0 ... {dataset.groups - 1}, but group {source.group} was asked for;"
            f" see datasets.{source.name}.groups"
        )
    if isinstance(dataset, Tasks):
        rows = _task_rows(source, dataset)
    elif isinstance(dataset, Files):
        found = files.find_files(dataset.paths)
        rows = _table_rows(source, dataset, found, lambda name: Path(name))
    elif isinstance(dataset, Hub):
        listing = hub.list_repository(dataset.repo, dataset.revision)
        source.facts["commit"] = listing.commit
        chosen = hub.select_files(listing, dataset.subset, dataset.split)
        rows = _table_rows(source, dataset, chosen, lambda name: hub.download(dataset.repo, name, listing.commit))
    else:
        source.facts["python"] = python_text.python_version()
        read = {"python_code": python_text.python_code, "python_docs": python_text.python_docs}[dataset.kind]
        rows = read(max_bytes=dataset.max_bytes, groups=dataset.groups, group=source.group, bad=source.bad)
    return (_named(row, source) for row in rows)


def _named(row: Row, source: Source) -> Row:
    """The row with `id` and `source` first; those that it has are kept. NeMo-Gym's RL rows keep their integer ids."""
    if source.dataset.form == "text":
        return {"id": str(row["id"]), "source": source.name, "text": row["text"]}
    name = row["id"] if source.dataset.form == "rl" else str(row["id"])
    return {"id": name, "source": row.get("source") or source.name} | {
        key: value for key, value in row.items() if key not in ("id", "source")
    }


def _task_rows(source: Source, dataset: Tasks) -> Iterator[Row]:
    """Generated tasks of all families, mixed evenly; groups take turns, so their number changes no task.

    The seed depends on the data set's name: two data sets of one family hold different problems."""
    from nano3.data import generators

    digest = hashlib.sha256(f"{source.seed}/{source.name}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    families = [
        _placed(
            generators.generate(
                name,
                rows=family.rows,
                seed=seed,
                difficulty={"level": family.difficulty, **family.options},
                split=dataset.split,
                form=dataset.form,
                hasty=family.hasty,
                wordy=family.wordy,
            ),
            name,
            family.rows,
        )
        for name, family in sorted(dataset.families.items())
    ]
    merged = heapq.merge(*families, key=lambda placed: placed[:2])
    return (row for _, _, row in islice(merged, source.group, None, dataset.groups))


def _placed(rows: Iterator[Row], name: str, count: int) -> Iterator[tuple[float, str, Row]]:
    """Rows with their place between 0 and 1, so that merging spreads every family over the whole."""
    return (((index + 0.5) / count, name, row) for index, row in enumerate(rows))


def _table_rows(source: Source, dataset: Files | Hub, found: list[files.SourceFile], fetch: Any) -> Iterator[Row]:
    """Rows of tables as the recipe describes them. fetch: file name -> local path."""
    plan = files.plan(found, groups=dataset.groups, group=source.group, max_rows=dataset.max_rows)
    source.facts["files"] = len(found)
    source.facts["files_of_group"] = len(plan.shares)
    return _planned_rows(source, dataset, plan, fetch)


def _planned_rows(source: Source, dataset: Files | Hub, plan: files.Plan, fetch: Any) -> Iterator[Row]:
    columns = ["id", dataset.text_field] if dataset.form == "text" else None
    number = -1  # of the row in the data set, when rows are dealt out by number
    for share in plan.shares:
        table = files.read_table(fetch(share.file.name), columns=columns, bad=source.bad)
        for index, row in enumerate(islice(table, share.limit)):
            number += 1
            if plan.by_row and number % dataset.groups != source.group:
                continue
            where = f"{share.file.name}, row {index + 1}"
            converted = _convert(row, dataset, where, source.bad)
            if converted is not None:
                yield converted | {"id": row.get("id") or f"{share.file.name}:{index}"}


def _convert(row: Row, dataset: Files | Hub, where: str, bad: BadRows) -> Row | None:
    """A row in the form that the recipe says it has; None, and counted in `bad`, if it hasn't."""
    if dataset.form == "text":
        text = row.get(dataset.text_field)
        if isinstance(text, str) and _encodable(text):
            return {"text": text}
        _count_bad(row, dataset.text_field, "text", where, bad)
        return None
    question_field = getattr(dataset, "question_field", None)
    if dataset.form == "chat" and question_field:
        answer_field = dataset.answer_field or "answer"
        for name in (question_field, answer_field):
            if not isinstance(row.get(name), str):
                _count_bad(row, name, "text", where, bad)
                return None
        turns = [("user", row[question_field]), ("assistant", row[answer_field])]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}
    if dataset.form == "preference":
        missing = [name for name in ("context", "response1", "response2") if not row.get(name)]
        if missing:
            _count_bad(row, missing[0], "text", where, bad)
        return None if missing else row
    needed, kind = ("messages", list) if dataset.form == "chat" else ("responses_create_params", dict)
    if isinstance(row.get(needed), kind) and row[needed]:
        return row
    _count_bad(row, needed, "a list of messages" if kind is list else "an object", where, bad)
    return None


def _count_bad(row: Row, column: str, expected: str, where: str, bad: BadRows) -> None:
    if column in row:
        found = f"{type(row[column]).__name__} {str(row[column])[:60]!r}"
        bad.count(f"column {column!r} is not {expected}", where=where, sample=f"found {found}")
    else:
        columns = ", ".join(map(str, row)) or "none"
        bad.count(f"no column {column!r}", where=where, sample=f"the columns are {columns}")


def _encodable(text: str) -> bool:
    """False for lone surrogates, which JSON can carry and UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
