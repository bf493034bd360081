"""Workplace assistant: several turns of tools on five databases, state compared at the end (report section 3.2.1;
NeMo-Gym workplace_assistant, whose row format this is).

row["ground_truth"] is a list of calls, {"name", "arguments"}; none at all is right where nothing should change. A row
may bring its own small database in row["database"], {table: [record, ...]} with the tables of `workplace_tools`; the
published rows are about WorkBench's, which `use` takes from its CSV files.
"""

import csv
from pathlib import Path

from nano3.environments.episode import Episode, State, play
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

_databases: State | None = None


def use(directory: Path) -> None:
    """Take WorkBench's databases from its CSV files for rows that bring none. Raises UserError for a missing file."""
    global _databases
    databases: State = {name: [] for name in TABLES}
    for name, (table, key) in _FILES.items():
        file = Path(directory) / f"{name}.csv"
        if not file.is_file():
            raise UserError(f"{file} does not exist; expected WorkBench's processed data: {', '.join(_FILES)} as .csv")
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        for number, record in enumerate(rows):
            identity = record.pop(key) if key else str(number)
            if table == "directory":
                record = {"email": next(iter(record.values()))}
            databases[table].append({"id": identity, **record})
    _databases = databases


def start(row: dict) -> Episode:
    """The conversation of a row. Raises UserError when it has no database, or its ground truth can't be done."""
    return start_episode(row, TOOLS, database(row, tuple(TABLES), _databases), max_steps=MAX_STEPS)


def verify(row: dict, response: str) -> Reward:
    """The reward when this one turn is all: 1 where nothing had to change and the answer makes no call."""
    return play(start(row), response)


def database(row: dict, tables: tuple[str, ...], default: State | None) -> State:
    """The row's own database, else `default`. Raises UserError."""
    given = row.get("database")
    if given is None:
        given = (row.get("verifier_metadata") or {}).get("database")
    if given is None and default is not None:
        return default
    if not isinstance(given, dict):
        raise UserError(f"{describe(row)}: field 'database' is {given!r:.80}, expected {{table: [record, ...]}}")
    for name, records in given.items():
        if name not in tables:
            raise UserError(f"{describe(row)}: database has table {name!r}, expected some of {', '.join(tables)}")
        if not isinstance(records, list) or not all(isinstance(each, dict) and "id" in each for each in records):
            raise UserError(f"{describe(row)}: table {name!r} must be a list of records, each with an id")
    return {name: [dict(record) for record in given.get(name, [])] for name in tables}
