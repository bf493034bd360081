"""Conversations with tools: the state at the end decides, however it came about, and no turn breaks an episode."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano3 import environments
from nano3.environments import banking, judge, workplace_assistant
from nano3.environments.episode import value_of
from nano3.environments.workplace_tools import TOOLS
from nano3.errors import UserError

EMAILS = [
    {"id": "1", "subject": "lunch", "sender/recipient": "ada@work.com", "sent_datetime": "2023-11-01", "body": "noon?"},
    {"id": "2", "subject": "report", "sender/recipient": "ben@work.com", "sent_datetime": "2023-11-02", "body": "done"},
]
VISITS = [
    {"id": "0", "date_of_visit": "2023-11-01", "visitor_id": "7", "traffic_source": "direct", "user_engaged": "True",
     "session_duration_seconds": "10", "page_views": "3"},
    {"id": "1", "date_of_visit": "2023-11-01", "visitor_id": "8", "traffic_source": "search", "user_engaged": "False",
     "session_duration_seconds": "20", "page_views": "1"},
]  # fmt: skip
DATABASE = {
    "emails": EMAILS,
    "calendar": [
        {"id": "5", "event_name": "standup", "participant_email": "ada@work.com", "event_start": "2023-12-01"}
    ],
    "tasks": [{"id": "6", "task_name": "fix", "list_name": "Backlog", "due_date": "2023-12-01"}],
    "customers": [{"id": "9", "customer_name": "Cleo", "status": "Lead"}],
    "analytics": VISITS,
    "directory": [{"id": "0", "email": "ada@work.com"}],
}


def work(*truth, **fields):
    calls = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in truth]
    agent = {"name": "workplace_assistant_simple_agent"}
    prompt = {"input": [{"role": "user", "content": "Please."}]}
    row = {"id": 1, "agent_ref": agent, "ground_truth": calls, "database": DATABASE, "responses_create_params": prompt}
    return row | fields


def bank(*truth, **fields):
    database = {
        "accounts": [{"id": "0", "name": "main", "balance": 100}, {"id": "1", "name": "savings", "balance": 50}],
        "cards": [{"id": "red", "status": "active"}],
    }
    user = [{"asked": ["account"], "say": "From savings."}, {"asked": ["account"], "say": "I said savings."}]
    return work(*truth) | {"agent_ref": {"name": "banking_simple_agent"}, "database": database, "user": user} | fields


def call(name, /, **arguments):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"</think><tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def play(row, *responses):
    episode = environments.start(row)
    for response in responses:
        episode.step(response)
    return episode


DONE = "</think>Done."
DELETE = ("email_delete_email", {"email_id": "1"})


def test_the_state_decides_and_not_the_way():
    row = work(DELETE)
    short = play(row, call("email_delete_email", email_id="1"), DONE)
    long = play(
        row,
        call("email_search_emails", query="lunch"),
        call("email_delete_email", email_id="99"),
        "</think>Now:\n" + call("email_delete_email", email_id="1").removeprefix("</think>"),
        DONE,
    )
    assert short.reward().value == long.reward().value == 1.0
    assert json.loads(long.messages[2]["content"])[0]["id"] == "1"
    assert long.messages[4]["content"].startswith("Error: emails: no record")
    assert [message["role"] for message in short.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    "responses",
    [
        [DONE],
        [call("email_delete_email", email_id="2"), DONE],
        [call("email_delete_email", email_id="1"), call("email_delete_email", email_id="2"), DONE],
        [
            call("email_delete_email", email_id="1"),
            call("email_send_email", recipient="a@b.c", subject="x", body=""),
            DONE,
        ],
        [call("email_delete_email", email_id="1")],
        [call("email_delete_email", email_id="1"), "</think><tool_call>"],
        [call("email_delete_email", email_id="1"), "never closed"],
    ],
)
def test_another_state_or_no_proper_end_scores_zero(responses):
    reward = play(work(DELETE), *responses).reward()
    assert reward.value == 0.0 and reward.reason


def test_two_calls_in_one_turn_are_both_done():
    both = call("email_delete_email", email_id="1") + call("email_delete_email", email_id="2").removeprefix("</think>")
    episode = play(work(DELETE, ("email_delete_email", {"email_id": "2"})), both, DONE)
    assert episode.reward().value == 1.0 and len(episode.calls) == 2


def test_a_conversation_ends_after_six_turns():
    episode = play(work(DELETE), *[call("email_search_emails", query="lunch")] * 6)
    assert episode.over and "6 turns" in episode.reward().reason
    with pytest.raises(ValueError, match="over"):
        episode.step(DONE)


def test_created_records_are_compared_without_their_ids_order_and_case():
    send = [{"recipient": "a@b.c", "subject": "A", "body": "x"}, {"recipient": "d@e.f", "subject": "B", "body": "y"}]
    row = work(*[("email_send_email", each) for each in send])
    calls = [call("email_send_email", **{**each, "subject": each["subject"].lower()}) for each in reversed(send)]
    assert play(row, *calls, DONE).reward().value == 1.0


def test_episodes_do_not_share_their_state():
    row = work(DELETE)
    before = json.dumps(row)
    play(row, call("email_delete_email", email_id="1"), DONE)
    assert json.dumps(row) == before
    assert play(row, call("email_delete_email", email_id="1"), DONE).reward().value == 1.0


# tool -> arguments that work on DATABASE, and a word of the result
USES = {
    "company_directory_find_email_address": ({"name": "Ada"}, "ada@work.com"),
    "email_get_email_information_by_id": ({"email_id": "1", "field": "subject"}, "lunch"),
    "email_search_emails": ({"query": "ben", "date_min": "2023-11-02"}, "report"),
    "email_send_email": ({"recipient": "a@b.c", "subject": "s", "body": "b"}, "sent"),
    "email_delete_email": ({"email_id": "1"}, "deleted"),
    "email_forward_email": ({"email_id": "1", "recipient": "a@b.c"}, "sent"),
    "email_reply_email": ({"email_id": "1", "body": "yes"}, "sent"),
    "calendar_get_event_information_by_id": ({"event_id": "5", "field": "event_name"}, "standup"),
    "calendar_search_events": ({"query": "standup", "time_max": "2023-12-02"}, "standup"),
    "calendar_create_event": (
        {"event_name": "e", "participant_email": "a@b.c", "event_start": "2023-12-01", "duration": 30},
        "00000006",
    ),
    "calendar_delete_event": ({"event_id": "5"}, "deleted"),
    "calendar_update_event": ({"event_id": "5", "field": "event_name", "new_value": "x"}, "updated"),
    "analytics_get_visitor_information_by_id": ({"visitor_id": "7"}, "direct"),
    "analytics_total_visits_count": ({"time_min": "2023-11-01"}, '{"2023-11-01":2}'),
    "analytics_engaged_users_count": ({}, '{"2023-11-01":1}'),
    "analytics_traffic_source_count": ({"traffic_source": "search"}, '{"2023-11-01":1}'),
    "analytics_get_average_session_duration": ({}, '{"2023-11-01":15.0}'),
    "analytics_create_plot": (
        {"time_min": "a", "time_max": "b", "value_to_plot": "c", "plot_type": "bar"},
        "a_b_c_bar",
    ),
    "project_management_get_task_information_by_id": ({"task_id": "6", "field": "list_name"}, "Backlog"),
    "project_management_search_tasks": ({"list_name": "backlog"}, "fix"),
    "project_management_create_task": (
        {
            "task_name": "t",
            "assigned_to_email": "a@b.c",
            "list_name": "Backlog",
            "due_date": "2023-12-01",
            "board": "B",
        },
        "00000007",
    ),
    "project_management_delete_task": ({"task_id": "6"}, "deleted"),
    "project_management_update_task": ({"task_id": "6", "field": "list_name", "new_value": "Review"}, "updated"),
    "customer_relationship_manager_search_customers": ({"customer_name": "cleo"}, "Lead"),
    "customer_relationship_manager_update_customer": (
        {"customer_id": "9", "field": "status", "new_value": "Won"},
        "updated",
    ),
    "customer_relationship_manager_add_customer": ({"customer_name": "Dan"}, "00000010"),
    "customer_relationship_manager_delete_customer": ({"customer_id": "9"}, "deleted"),
}
READING = ("get", "search", "find", "count", "average")


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_does_its_work_and_only_acting_changes_the_state(tool):
    arguments, word = USES[tool]
    episode = play(work((tool, arguments)), call(tool, **arguments))
    assert word in episode.messages[-1]["content"]
    episode.step(DONE)
    assert episode.reward().value == 1.0
    changed = play(work((tool, arguments)), DONE).reward().value == 0.0
    assert changed != any(word in tool for word in READING)


def test_the_published_databases_are_read_from_csv(tmp_path, monkeypatch):
    files = {
        "emails": "email_id,inbox/outbox,subject\n00000001,inbox,lunch\n",
        "calendar_events": "event_id,event_name\n00000002,standup\n",
        "analytics_data": "date_of_visit,visitor_id\n2023-11-01,7\n",
        "project_tasks": "task_id,task_name\n3,fix\n",
        "customer_relationship_manager_data": "customer_id,customer_name\n4,Cleo\n",
        "email_addresses": "email_address\nada@work.com\n",
    }
    monkeypatch.setattr(workplace_assistant, "_databases", None)
    row = work(("email_delete_email", {"email_id": "00000001"}), database=None)
    with pytest.raises(UserError, match="database"):
        environments.start(row)
    with pytest.raises(UserError, match=r"emails\.csv does not exist"):
        workplace_assistant.use(tmp_path)
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    workplace_assistant.use(tmp_path)
    assert play(row, call("email_delete_email", email_id="00000001"), DONE).reward().value == 1.0


# Banking

TRANSFER = ("transfer", {"source": "savings", "to": "Ada", "amount": 20})


def test_the_user_answers_questions_and_leaves_after_a_statement():
    ask = "</think>From which account?"
    episode = play(bank(TRANSFER), ask, call("transfer", source="savings", to="ada", amount="20"), DONE)
    assert episode.messages[2] == {"role": "user", "content": "From savings."}
    assert episode.over and episode.reward().value == 1.0
    episode = play(bank(TRANSFER), "</think>What is your favourite colour?", ask, ask, ask)
    assert [message["content"] for message in episode.messages[2::2]] == [
        "I do not know.",
        "From savings.",
        "I said savings.",
        "I do not know.",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "main", "to": "Ada", "amount": "20"},
        {"source": "savings", "to": "Ada", "amount": "21"},
        {"source": "savings", "to": "Ada", "amount": "-20"},
        {"source": "savings", "to": "main", "amount": "20"},
        {"source": "savings", "to": "Ada", "amount": "1e400"},
    ],
)
def test_another_transfer_scores_zero(arguments):
    assert play(bank(TRANSFER), call("transfer", **arguments), DONE).reward().value == 0.0


def test_no_call_is_right_where_nothing_should_change():
    assert play(bank(), "</think>I am sorry, I can't do that.").reward().value == 1.0
    assert play(bank(), call("set_card", card="red", status="blocked"), DONE).reward().value == 0.0


def test_money_moves_between_own_accounts_and_accounts_are_opened():
    own = ("transfer", {"source": "savings", "to": "main", "amount": 50})
    assert play(bank(own), call("transfer", source="Savings", to="Main", amount=50), DONE).reward().value == 1.0
    opened = ("open_account", {"name": "trip"})
    assert play(bank(opened), call("open_account", name="trip"), DONE).reward().value == 1.0
    episode = play(bank(), call("get_balance", account="main"), call("list_transfers"))
    assert [episode.messages[i]["content"] for i in (2, 4)] == ["100", "none"]


def test_a_language_model_may_play_the_user():
    row = bank(TRANSFER, user_profile="You want to pay Ada 20 coins from savings.")
    with pytest.raises(UserError, match="user_profile"):
        environments.start(row)
    judge.use(lambda messages: "<think>hm</think>From my savings.")
    try:
        episode = play(row, "</think>From which account?")
        assert episode.messages[-1] == {"role": "user", "content": "From my savings."}
        judge.use(lambda messages: 1 / 0)
        episode.step("</think>Sure?")
        assert episode.messages[-1]["content"] == banking.OTHERWISE
    finally:
        judge.use(None)


# Anything at all

WORDS = [
    "email_id",
    "1",
    "query",
    "amount",
    "20",
    "-5",
    "",
    "null",
    "[1]",
    "9" * 400,
    "nan",
    "field",
    "new_value",
    "id",
]
NAMES = st.sampled_from([*TOOLS, *banking.TOOLS, "fly", "os.system"])
ARGUMENTS = st.dictionaries(st.sampled_from([*WORDS, "source", "to", "card"]), st.sampled_from(WORDS), max_size=4)
CALL = st.builds(lambda name, arguments: call(name, **arguments), NAMES, ARGUMENTS)
SAYING = st.text(max_size=20)
TURN = st.one_of(CALL, SAYING, SAYING.map(lambda text: f"</think>{text}"), st.just("</think>?"))


@settings(max_examples=200, deadline=None)
@given(st.lists(TURN, max_size=8), st.booleans())
def test_any_conversation_gets_a_finite_reward_with_a_reason(turns, at_the_bank):
    episode = environments.start(bank(TRANSFER) if at_the_bank else work(DELETE))
    for each in turns:
        if episode.over:
            break
        episode.step(each)
    reward = episode.reward()
    assert math.isfinite(reward.value) and 0 <= reward.value <= 1 and reward.reason and len(reward.reason) < 400
    assert episode.steps <= episode.max_steps
    assert all(len(message["content"]) <= 5000 for message in episode.messages)


def test_numbers_are_numbers_only_where_they_are_written_as_such():
    assert value_of("20") == 20 and value_of("2.5") == 2.5
    for text in ("00000012", "1.50", "1e5", "true", "nan", "inf", "9" * 5000, ""):
        assert value_of(text) == text
