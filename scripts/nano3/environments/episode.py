"""Conversations with tools: the model acts on a small database until it stops, and the state at the end is compared.

    episode = start(row)
    while not episode.over:
        response = sample(episode.messages)      # the assistant's turn as text
        episode.step(response)                   # appends it, and what the tools or the user say to it
    episode.reward()

The reward is 1 when the database is as the calls of row["ground_truth"] would have left it, whichever way it came to be
so (NeMo-Gym workplace_assistant). `verify` of such an environment scores a conversation of one response.
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from nano3.environments.fields import describe
from nano3.environments.fields import field as verifier_field
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import brief, split_response
from nano3.environments.tool_calls import OPEN_CALL, parse_calls
from nano3.errors import UserError

Message = dict
Record = dict
State = dict[str, list[Record]]  # table -> records, every record with an "id"
Tool = Callable[..., object]  # tool(state, **arguments) -> what the model is told

MAX_CALLS = 20  # in one turn
MAX_RESULT_CHARS = 4_000
CREATED = "created"  # mark of a record that a tool made: its id depends on the order and is not compared


class ToolError(Exception):
    """A call that can't be done; the message goes to the model, which may do better."""


@dataclass
class Episode:
    """One conversation about one row. messages: what the chat template renders next; over: nothing more is asked."""

    row: dict
    tools: dict[str, Tool]
    state: State
    truth: State
    messages: list[Message]
    max_steps: int
    user: Callable[[str], str | None] = lambda said: None  # what the user says to a message; None ends the talk
    steps: int = 0
    over: bool = False
    fault: str = ""
    calls: list[str] = field(default_factory=list)

    def step(self, response: str) -> None:
        """Take the assistant's next turn: run its calls, or let the user reply to its words."""
        if self.over:
            raise ValueError("the episode is over")
        self.steps += 1
        parts = split_response(response)
        try:
            calls = parse_calls(parts.answer)
            if parts.fault or len(calls) > MAX_CALLS:
                raise ValueError(parts.fault or f"{len(calls)} calls in one turn")
        except ValueError as error:
            self.fault = str(error)
            self.over = True
            return
        said = parts.answer.partition(OPEN_CALL)[0].strip()
        self.messages.append(_assistant(said, parts.thinking, calls))
        if calls:
            for name, arguments in calls:
                self.messages.append({"role": "tool", "content": self._call(name, arguments)})
        elif (reply := self.user(said)) is not None:
            self.messages.append({"role": "user", "content": reply})
        else:
            self.over = True
        if self.steps >= self.max_steps and not self.over:
            self.fault = f"no end after {self.max_steps} turns"
            self.over = True

    def stop(self, reason: str) -> None:
        """End the conversation where the model may not go on; the reward is 0 for this reason."""
        self.fault, self.over = reason, True

    def _call(self, name: str, arguments: dict[str, str]) -> str:
        self.calls.append(name)
        return run_call(self.tools, self.state, name, {key: value_of(text) for key, text in arguments.items()})

    def reward(self) -> Reward:
        """1 if the conversation came to an end and the state is the truth's, else 0."""
        if self.fault:
            return malformed(self.fault)
        if not self.over:
            return Reward(0.0, f"not ended after {self.steps} turns", well_formed=True)
        wrong = differences(self.state, self.truth)
        did = f"after {len(self.calls)} calls"
        return Reward(
            float(not wrong), f"state differs in {brief(wrong)} {did}" if wrong else f"state as wanted {did}", True
        )


def start(
    row: dict, tools: dict[str, Tool], state: State, *, max_steps: int, user: Callable[[str], str | None] | None = None
) -> Episode:
    """A new episode on a copy of `state`. Raises UserError for a row whose prompt or ground truth can't be used."""
    prompt = (row.get("responses_create_params") or {}).get("input") or []
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else copy.deepcopy(prompt)
    truth = _copied(state)
    for call in verifier_field(row, "ground_truth", list):
        try:
            arguments = call["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            tools[call["name"]](truth, **arguments)
        except (LookupError, TypeError, ValueError, AttributeError, ToolError) as error:
            raise UserError(f"{describe(row)}: ground_truth call {call!r:.80} fails: {error!r}") from error
    episode = Episode(row, tools, _copied(state), truth, messages, max_steps)
    if user is not None:
        episode.user = user
    return episode


def _copied(state: State) -> State:
    """Tools change fields of records, never what is inside a field."""
    return {name: [dict(record) for record in records] for name, records in state.items()}


def play(episode: Episode, response: str) -> Reward:
    """The reward of an episode that the model ends with this one turn."""
    episode.step(response)
    return episode.reward()


def run_call(tools: dict[str, Tool], state: State, name: str, arguments: dict) -> str:
    """What the model is told about one call; errors are told, not raised."""
    if name not in tools:
        return f"Error: no tool is called {brief(name)}"
    try:
        result = tools[name](state, **arguments)
    except (ToolError, TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        return f"Error: {brief(error, 200)}"
    return (result if isinstance(result, str) else json.dumps(result, separators=(",", ":")))[:MAX_RESULT_CHARS]


def value_of(text: str) -> object:
    """A parameter of a call: a number where it is written as one, else the text."""
    for kind in (int, float):
        try:
            if len(text) < 16 and str(kind(text)) == text and math.isfinite(kind(text)):
                return kind(text)
        except ValueError:
            continue
    return text


def differences(ours: State, theirs: State) -> str:
    """Names of the tables that differ, comma-separated. Texts are compared without case, records without order."""
    wrong = [
        name
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name) and _canonical(ours.get(name)) != _canonical(theirs.get(name))
    ]
    return ", ".join(sorted(wrong))


def _canonical(records: list[Record] | None) -> list[str]:
    kept = [
        {key: value for key, value in record.items() if key != "id" or CREATED not in record}
        for record in records or []
    ]
    return sorted(json.dumps(record, sort_keys=True).casefold() for record in kept)


def _assistant(said: str, thinking: str, calls: list[tuple[str, dict[str, str]]]) -> Message:
    message: Message = {"role": "assistant", "content": said}
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = [{"function": {"name": name, "arguments": dict(given)}} for name, given in calls]
    return message
