"""Workplace assistant: several turns of tools on five databases, state compared at the end (report section 3.2.1;
NeMo-Gym workplace_assistant, whose row format this is).

row["ground_truth"] is a list of calls, {"name", "arguments"}; none at all is right where nothing should change. A row
may bring its own small database in row["database"], {table: [record, ...]} with the tables of `workplace_tools`; the
published rows name none and are about WorkBench's, which `use` takes from a directory (recipe key
rl.prompts.workplace_tables).
"""

import csv
import json
from pathlib import Path

from nano3.environments.episode import Episode, Record, State, play
from nano3.environments.episode import start as start_episode
from nano3.environments.fields import describe
from nano3.environments.reward import Reward
from nano3.environments.workplace_tools import TABLES, TOOLS
from nano3.errors import UserError

MAX_STEPS = 6

# WorkBench's file -> (our table, its column of ids)
_FILES = {
    "emails": ("emails", "email_id"),
    "calendar_events": ("calendar", "event_id"),
    "analytics_data": ("analytics", None),
    "project_tasks": ("tasks", "task_id"),
    "customer_relationship_manager_data": ("customers", "customer_id"),
    "email_addresses": ("directory", None),
}
HOW = (
    "Set rl.prompts.workplace_tables in the recipe to a directory with WorkBench's tables"
    f" ({', '.join(_FILES)}; .csv or .jsonl), or give the row a field `database`."
)

_databases: State | None = None


def use(directory: Path | None) -> None:
    """Take the databases of rows that bring none from a directory, see `read_tables`; None: there are none."""
    global _databases
    _databases = None if directory is None else read_tables(directory)


def in_use() -> bool:
    """Whether rows need no database of their own."""
    return _databases is not None


def read_tables(directory: Path) -> State:
    """The tables in a directory: each a .csv or .jsonl file with WorkBench's name or ours, e.g. calendar_events.csv
    or calendar.jsonl. Raises UserError for a missing or broken one."""
    databases: State = {name: [] for name in TABLES}
    for name, (table, key) in _FILES.items():
        known = [Path(directory) / f"{each}.{kind}" for kind in ("csv", "jsonl") for each in (name, table)]
        file = next((file for file in known if file.is_file()), None)
        if file is None:
            raise UserError(
                f"{known[0]} does not exist; expected WorkBench's processed data: {', '.join(_FILES)} as .csv or .jsonl"
                " in the directory of recipe key rl.prompts.workplace_tables"
            )
        databases[table] = [_record(file, row, number, table, key) for number, row in enumerate(_rows(file))]
    return databases


def write_tables(tables: State, directory: Path) -> None:
    """Write tables as {table}.jsonl into a new directory that `read_tables` reads."""
    directory.mkdir()
    for name, records in tables.items():
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _rows(file: Path) -> list[dict]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            if file.suffix == ".csv":
                return list(csv.DictReader(lines, strict=True))
            return [json.loads(line) for line in lines if line.strip()]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} can't be read as {file.suffix[1:]}: {error}") from None


def _record(file: Path, row: object, number: int, table: str, key: str | None) -> Record:
    if not isinstance(row, dict) or None in row or None in row.values():
        raise UserError(f"{file}, record {number}: expected a value for every column, found {row!r:.120}")
    record = dict(row)
    identity = record.pop("id", None)
    if identity is None:
        identity = record.pop(key, None) if key else str(number)
    if identity is None:
        raise UserError(f"{file}, record {number}: there is no column {key!r} with its id, only {', '.join(row)}")
    if table == "directory" and "email" not in record:
        record = {"email": next(iter(record.values()), "")}
    return {"id": identity, **record}


def needs_tables(row: dict) -> bool:
    """Whether a row brings no database of its own."""
    return _given(row) is None


def start(row: dict) -> Episode:
    """The conversation of a row. Raises UserError when it has no database, or its ground truth can't be done."""
    return start_episode(row, TOOLS, database(row, tuple(TABLES), _databases), max_steps=MAX_STEPS)


def verify(row: dict, response: str) -> Reward:
    """The reward when this one turn is all: 1 where nothing had to change and the answer makes no call."""
    return play(start(row), response)


def database(row: dict, tables: tuple[str, ...], default: State | None) -> State:
    """The row's own database, else `default`. Raises UserError."""
    given = _given(row)
    if given is None and default is not None:
        return default
    if given is None and tables == tuple(TABLES):
        raise UserError(f"{describe(row)}: there is no field 'database'. {HOW}")
    if not isinstance(given, dict):
        raise UserError(f"{describe(row)}: field 'database' is {given!r:.80}, expected {{table: [record, ...]}}")
    for name, records in given.items():
        if name not in tables:
            raise UserError(f"{describe(row)}: database has table {name!r}, expected some of {', '.join(tables)}")
        if not isinstance(records, list) or not all(isinstance(each, dict) and "id" in each for each in records):
            raise UserError(f"{describe(row)}: table {name!r} must be a list of records, each with an id")
    return {name: [dict(record) for record in given.get(name, [])] for name in tables}


def _given(row: dict) -> object:
    given = row.get("database")
    return (row.get("verifier_metadata") or {}).get("database") if given is None else given
