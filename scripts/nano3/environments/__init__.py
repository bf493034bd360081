"""Reward environments: one file each, all with verify(row, response) -> Reward.

A row is a NeMo-Gym example; agent_ref names the environment, verifier fields sit at the top level. `verify(row, "")`
is a cheap test of the row itself: it raises UserError when the row can't be scored. Environments in EPISODES are
conversations of several turns: `start(row)` opens one, see `episode`.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nano3.environments import (
    banking,
    code_gen,
    instruction_following,
    math,
    mcqa,
    multi_challenge,
    open_qa,
    structured_outputs,
    tool_calls,
    workplace_assistant,
)
from nano3.environments.episode import Episode
from nano3.environments.fields import describe
from nano3.environments.judge import HOW as JUDGE_WANTED
from nano3.environments.reward import Reward
from nano3.errors import UserError

WORKPLACE = "workplace_assistant_simple_agent"
ENVIRONMENTS = {
    "math_with_judge_simple_agent": math.verify,
    "mcqa_simple_agent": mcqa.verify,
    "structured_outputs_simple_agent": structured_outputs.verify,
    "instruction_following_simple_agent": instruction_following.verify,
    "single_step_tool_use_with_argument_comparison_agent": tool_calls.verify,
    "code_gen_simple_agent": code_gen.verify,
    "equivalence_llm_judge_simple_agent": open_qa.verify,
    "long_context_qa_simple_agent": open_qa.verify,
    "multichallenge_simple_agent": multi_challenge.verify,
    WORKPLACE: workplace_assistant.verify,
    "banking_simple_agent": banking.verify,
}
# Environments some of whose rows only a judge can score -> whether a row is one of them.
JUDGED = {
    "equivalence_llm_judge_simple_agent": open_qa.needs_judge,
    "long_context_qa_simple_agent": open_qa.needs_judge,
    "multichallenge_simple_agent": multi_challenge.needs_judge,
    "banking_simple_agent": banking.needs_judge,
}
EPISODES = {
    WORKPLACE: workplace_assistant.start,
    "banking_simple_agent": banking.start,
}


def short_name(agent: str) -> str:
    """An environment's name for ratios, metrics and tables, e.g. "mcqa" of "mcqa_simple_agent"."""
    return agent.removesuffix("_agent").removesuffix("_simple")


def verify(row: dict, response: str) -> Reward:
    """Score a response with the environment that row["agent_ref"]["name"] names.

    response: the assistant's text after the prompt, special tokens readable; see text.split_response for what it
    may start with. Raises UserError for an unknown environment or a row that lacks its verifier fields.
    """
    name = name_of(row)
    if name not in ENVIRONMENTS:
        known = ", ".join(sorted(ENVIRONMENTS))
        raise UserError(f"{describe(row)}: no environment is called {name!r}. agent_ref.name can be: {known}")
    return ENVIRONMENTS[name](row, response)


def verify_all(rows: Sequence[dict], responses: Sequence[str], *, threads: int = 8) -> list[Reward]:
    """The rewards of many responses, in order. Those that a judge or the sandbox decides wait side by side."""
    return side_by_side(verify, rows, responses, threads=threads)


def side_by_side(function: Callable[..., Any], *columns: Iterable[Any], threads: int = 8) -> list[Any]:
    """function(*arguments) of every row of equally long columns, in order, from several threads at once: for what
    mostly waits for the sandbox or a judge. The first row that raises is the one whose error is raised."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda arguments: function(*arguments), zip(*columns, strict=True)))


def needs_judge(row: dict) -> bool:
    """Whether the row's environment may have to ask a judge about a response to it."""
    return name_of(row) in JUDGED and JUDGED[name_of(row)](row)


def stop_unless_scorable(rows: Iterable[dict], *, judge: bool, tables: bool) -> None:
    """Raise UserError for a row that needs a judge or the workplace's tables where there are none."""
    for row in rows:
        if not judge and needs_judge(row):
            raise UserError(f"{describe(row)}: this row needs a judge and none is set. {JUDGE_WANTED}")
        if not tables and name_of(row) == WORKPLACE and workplace_assistant.needs_tables(row):
            raise UserError(f"{describe(row)}: this row names no database. {workplace_assistant.HOW}")


def is_conversation(row: dict) -> bool:
    """Whether the row's environment takes several turns."""
    return name_of(row) in EPISODES


def start(row: dict) -> Episode:
    """Open the conversation of a row for which `is_conversation`. Raises UserError for a row that can't be played."""
    return EPISODES[name_of(row)](row)


def opened(row: dict) -> Episode | None:
    """The conversation of a row, None for a row of one turn. Raises UserError for a row that can't be played."""
    return start(row) if is_conversation(row) else None


def name_of(row: dict) -> str | None:
    """The name of the row's environment, None where it has none."""
    return (row.get("agent_ref") or {}).get("name")


__all__ = [
    "ENVIRONMENTS",
    "EPISODES",
    "Episode",
    "Reward",
    "is_conversation",
    "name_of",
    "needs_judge",
    "opened",
    "side_by_side",
    "start",
    "stop_unless_scorable",
    "verify",
    "verify_all",
]
