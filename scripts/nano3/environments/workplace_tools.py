"""The 27 tools of the workplace assistant over five databases and a directory of people.

Names and arguments are those of WorkBench (Styles et al. 2024, arXiv:2405.00823), which NeMo-Gym's rows call. Most are
one of five operations on a table, so a line each says which table, which fields, and which argument is which field.
"""

from collections.abc import Iterable

from nano3.environments.episode import CREATED, Record, State, Tool, ToolError

MAX_FOUND = 5  # a search shows the first few
MAX_FIELD_CHARS = 2_000

_EMAIL = ("inbox/outbox", "sender/recipient", "subject", "sent_datetime", "body")
_EVENT = ("event_name", "participant_email", "event_start", "duration")
_TASK = ("task_name", "assigned_to_email", "list_name", "due_date", "board")
_CUSTOMER = (
    "customer_name", "customer_email", "customer_phone", "last_contact_date", "product_interest", "status",
    "assigned_to_email", "notes", "follow_up_by",
)  # fmt: skip
TABLES = {
    "emails": _EMAIL,
    "calendar": _EVENT,
    "analytics": ("date_of_visit", "visitor_id", "page_views", "session_duration_seconds", "traffic_source",
                  "user_engaged"),
    "plots": ("plot",),
    "tasks": _TASK,
    "customers": _CUSTOMER,
    "directory": ("email",),
}  # fmt: skip


def find(state: State, table: str, identity: object) -> Record:
    """The record with this id. Raises ToolError."""
    for record in state.get(table, []):
        if str(record.get("id")) == str(identity):
            return record
    raise ToolError(f"{table}: no record has id {identity!r:.40}")


def create(state: State, table: str, fields: Record) -> Record:
    """Add a record with the next free id."""
    numbers = [int(record["id"]) for record in state.get(table, []) if str(record["id"]).isdigit()]
    record = {"id": str(max(numbers, default=-1) + 1).zfill(8), CREATED: True}
    record |= {key: _text(value) for key, value in fields.items()}
    state.setdefault(table, []).append(record)
    return record


def _text(value: object) -> str:
    text = str(value)
    if len(text) > MAX_FIELD_CHARS:
        raise ToolError(f"a field of {len(text)} characters is too long")
    return text


def shown(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != CREATED}


def _get(table: str, key: str) -> Tool:
    def get(state: State, **arguments: object) -> object:
        record = shown(find(state, table, arguments.get(key)))
        wanted = str(arguments.get("field", ""))
        if wanted and wanted not in record:
            raise ToolError(f"no field is called {wanted!r:.40}; there are {', '.join(record)}")
        return {wanted: record[wanted]} if wanted else record

    return get


def _search(table: str, fields: Iterable[str], earliest: str = "", latest: str = "", when: str = "") -> Tool:
    """By a query over all fields, by single fields, and by time."""
    fields = tuple(fields)

    def search(state: State, query: str = "", date_min: str = "", date_max: str = "", **wanted: object) -> object:
        low, high = str(wanted.pop(earliest, date_min) or ""), str(wanted.pop(latest, date_max) or "")
        unknown = sorted(set(wanted) - set(fields))
        if unknown:
            raise ToolError(f"can't search by {', '.join(unknown)}")
        found = []
        for record in state.get(table, []):
            everything = " ".join(str(value) for value in record.values()).casefold()
            moment = str(record.get(when, ""))
            if (
                str(query).casefold() in everything
                and all(str(value).casefold() in str(record.get(key, "")).casefold() for key, value in wanted.items())
                and (not low or moment >= low)
                and (not high or moment <= high)
            ):
                found.append(shown(record))
        return found[:MAX_FOUND] or "nothing found"

    return search


def _create(table: str, fields: Iterable[str], required: int) -> Tool:
    """A new record; the first `required` fields must be given."""
    fields = tuple(fields)

    def make(state: State, **given: object) -> str:
        missing = [name for name in fields[:required] if not str(given.get(name, "")).strip()]
        unknown = sorted(set(given) - set(fields))
        if missing or unknown:
            raise ToolError(f"missing {missing}, unknown {unknown}; fields are {', '.join(fields)}")
        return create(state, table, {name: given.get(name, "") for name in fields})["id"]

    return make


def _delete(table: str, key: str) -> Tool:
    def delete(state: State, **arguments: object) -> str:
        state[table].remove(find(state, table, arguments.get(key)))
        return "deleted"

    return delete


def _update(table: str, key: str, fields: Iterable[str]) -> Tool:
    fields = tuple(fields)

    def update(state: State, field: str = "", new_value: object = "", **arguments: object) -> str:
        record = find(state, table, arguments.get(key))
        if field not in fields:
            raise ToolError(f"no field is called {field!r:.40}; there are {', '.join(fields)}")
        record[field] = _text(new_value)
        return "updated"

    return update


# What is no operation on one table.


def _send(state: State, recipient: str = "", subject: str = "", body: str = "") -> str:
    if "@" not in str(recipient):
        raise ToolError("the recipient must be an email address")
    create(state, "emails", {"inbox/outbox": "outbox", "sender/recipient": recipient, "subject": subject, "body": body})
    return "sent"


def _forward(state: State, email_id: object = "", recipient: str = "") -> str:
    email = find(state, "emails", email_id)
    return _send(state, recipient, f"FW: {email.get('subject', '')}", str(email.get("body", "")))


def _reply(state: State, email_id: object = "", body: str = "") -> str:
    email = find(state, "emails", email_id)
    return _send(state, str(email.get("sender/recipient", "")), str(email.get("subject", "")), body)


def _find_email_address(state: State, name: str = "") -> object:
    found = [each["email"] for each in state.get("directory", []) if str(name).casefold() in each["email"].casefold()]
    return found[:MAX_FOUND] or "nobody found"


def _visitor(state: State, visitor_id: object = "") -> object:
    found = [shown(each) for each in state.get("analytics", []) if str(each.get("visitor_id")) == str(visitor_id)]
    return found[:MAX_FOUND] or "no such visitor"


def _visits(state: State, time_min: str, time_max: str) -> dict[str, list[Record]]:
    days: dict[str, list[Record]] = {}
    for visit in state.get("analytics", []):
        day = str(visit.get("date_of_visit", ""))
        if (not time_min or day >= str(time_min)) and (not time_max or day <= str(time_max)):
            days.setdefault(day, []).append(visit)
    return days


def _total(state: State, time_min: str = "", time_max: str = "") -> dict[str, int]:
    return {day: len(visits) for day, visits in _visits(state, time_min, time_max).items()}


def _engaged(state: State, time_min: str = "", time_max: str = "") -> dict[str, int]:
    days = _visits(state, time_min, time_max)
    return {day: sum(str(each.get("user_engaged")) == "True" for each in visits) for day, visits in days.items()}


def _sources(state: State, time_min: str = "", time_max: str = "", traffic_source: str = "") -> dict[str, int]:
    wanted = str(traffic_source).casefold()
    days = _visits(state, time_min, time_max)
    return {
        day: sum(wanted in ("", str(each.get("traffic_source")).casefold()) for each in visits)
        for day, visits in days.items()
    }


def _duration(state: State, time_min: str = "", time_max: str = "") -> dict[str, float]:
    days = _visits(state, time_min, time_max)
    return {
        day: sum(float(each.get("session_duration_seconds") or 0) for each in visits) / len(visits)
        for day, visits in days.items()
    }


def _plot(state: State, time_min: str = "", time_max: str = "", value_to_plot: str = "", plot_type: str = "") -> str:
    return create(state, "plots", {"plot": f"{time_min}_{time_max}_{value_to_plot}_{plot_type}"})["plot"]


TOOLS: dict[str, Tool] = {
    "company_directory_find_email_address": _find_email_address,
    "email_get_email_information_by_id": _get("emails", "email_id"),
    "email_search_emails": _search("emails", _EMAIL, when="sent_datetime"),
    "email_send_email": _send,
    "email_delete_email": _delete("emails", "email_id"),
    "email_forward_email": _forward,
    "email_reply_email": _reply,
    "calendar_get_event_information_by_id": _get("calendar", "event_id"),
    "calendar_search_events": _search("calendar", _EVENT, "time_min", "time_max", "event_start"),
    "calendar_create_event": _create("calendar", _EVENT, 4),
    "calendar_delete_event": _delete("calendar", "event_id"),
    "calendar_update_event": _update("calendar", "event_id", _EVENT),
    "analytics_get_visitor_information_by_id": _visitor,
    "analytics_total_visits_count": _total,
    "analytics_engaged_users_count": _engaged,
    "analytics_traffic_source_count": _sources,
    "analytics_get_average_session_duration": _duration,
    "analytics_create_plot": _plot,
    "project_management_get_task_information_by_id": _get("tasks", "task_id"),
    "project_management_search_tasks": _search("tasks", _TASK, when="due_date"),
    "project_management_create_task": _create("tasks", _TASK, 5),
    "project_management_delete_task": _delete("tasks", "task_id"),
    "project_management_update_task": _update("tasks", "task_id", _TASK),
    "customer_relationship_manager_search_customers": _search("customers", _CUSTOMER, when="last_contact_date"),
    "customer_relationship_manager_update_customer": _update("customers", "customer_id", _CUSTOMER),
    "customer_relationship_manager_add_customer": _create("customers", _CUSTOMER, 1),
    "customer_relationship_manager_delete_customer": _delete("customers", "customer_id"),
}
