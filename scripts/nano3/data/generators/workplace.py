"""A day at work: look something up in a small database, change it, say so. Some requests need no look or no change."""

import json
import random
from collections.abc import Sequence

from nano3.data.generators.problem import WORKPLACE, Problem, assistant, call, result, tool, user
from nano3.data.generators.words import DAYS, ITEMS, NAMES, PLACES

LEVELS = (1, 3)  # 1: the request names the record; 2: it has to be found; 3: one more tool is offered

_TOOLS = {
    "email_search_emails": ("Find emails", {"query": "string"}),
    "email_delete_email": ("Delete an email", {"email_id": "string"}),
    "email_reply_email": ("Answer an email", {"email_id": "string", "body": "string"}),
    "calendar_search_events": ("Find events", {"query": "string"}),
    "calendar_delete_event": ("Delete an event", {"event_id": "string"}),
    "project_management_search_tasks": ("Find tasks", {"query": "string"}),
    "project_management_delete_task": ("Delete a task", {"task_id": "string"}),
    "project_management_update_task": (
        "Change a task",
        {"task_id": "string", "field": "string", "new_value": "string"},
    ),
}
# table -> (word for a record, its name's field, what search tool finds it, its argument of identity)
_THINGS = {
    "emails": ("email", "subject", "email_search_emails", "email_id"),
    "calendar": ("event", "event_name", "calendar_search_events", "event_id"),
    "tasks": ("task", "task_name", "project_management_search_tasks", "task_id"),
}
_BODIES = ("yes", "no", "thanks", "see you", "later")
_LISTS = ("Backlog", "Review", "Completed")

# kind -> (table, tool)
_KINDS = {
    "delete_email": ("emails", "email_delete_email"),
    "reply": ("emails", "email_reply_email"),
    "delete_event": ("calendar", "calendar_delete_event"),
    "delete_task": ("tasks", "project_management_delete_task"),
    "move_task": ("tasks", "project_management_update_task"),
}
KINDS = tuple(_KINDS)


def draw(rng: random.Random, level: int, kinds: Sequence[str] = KINDS) -> Problem:
    """A request about one of three records."""
    kind = rng.choice(list(kinds))
    table, acting = _KINDS[kind]
    thing, named, searching, identity = _THINGS[table]
    records = _records(rng, table, named)
    chosen = rng.choice(records)
    what, more, done = _wish(rng, kind)
    known = level == 1
    about = f"{thing} {chosen['id']}" if known else f"{thing} about {chosen[named]}"
    messages = [user(what.format(about=f"the {about}"))]
    if not known:
        found = json.dumps([chosen], separators=(",", ":"))
        messages += [call(searching, {"query": chosen[named]}, reasoning=f"Find {chosen[named]}."), result(found)]
    arguments = {identity: chosen["id"], **more}
    messages += [
        call(acting, arguments, reasoning=f"The id is {chosen['id']}."),
        result(done),
        assistant("Done.", "It is done."),
    ]
    offered = [acting] if known else [searching, acting]
    if level == 3:
        offered.append(rng.choice([name for name in _TOOLS if name not in offered]))
    rng.shuffle(offered)
    verifier = {
        "database": {table: records},
        "ground_truth": [{"name": acting, "arguments": json.dumps(arguments, separators=(",", ":"))}],
        "category": f"workplace_{table}",
    }
    tools = [tool(name, *_TOOLS[name]) for name in offered]
    key = f"{kind}:{about}:{json.dumps(more)}"
    hasty = [messages[0], assistant("Done.", "That is easy.")]  # without having done it
    return Problem(key, messages, WORKPLACE, verifier, tools, hasty=hasty, conversation=True)


def _wish(rng: random.Random, kind: str) -> tuple[str, dict, str]:
    """(request, arguments besides the id, what the tool says)."""
    match kind:
        case "reply":
            body = rng.choice(_BODIES)
            return f"Answer {{about}}: {body}", {"body": body}, "sent"
        case "move_task":
            place = rng.choice(_LISTS)
            return f"Move {{about}} to {place}.", {"field": "list_name", "new_value": place}, "updated"
        case _:
            return rng.choice(("Delete {about}.", "Please delete {about}.", "Remove {about}.")), {}, "deleted"


def _records(rng: random.Random, table: str, named: str) -> list[dict]:
    """Three records of a table with different names and ids."""
    names, identities = rng.sample([*ITEMS, *PLACES], 3), rng.sample(range(10, 100), 3)
    records = []
    for name, identity in zip(names, identities, strict=True):
        record = {"id": str(identity), named: name}
        if table == "emails":
            record["sender/recipient"] = f"{rng.choice(NAMES).lower()}@work.com"
        elif table == "calendar":
            record["event_start"] = rng.choice(DAYS)
        else:
            record["list_name"] = "Inbox"
        records.append(record)
    return records
