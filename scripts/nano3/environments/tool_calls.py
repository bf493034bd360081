"""Tool use, one step: the call, or the plain reply, that the row expects.

Row format of NeMo-Gym's single_step_tool_use_with_argument_comparison: row["expected_action"] is
{"type": "function_call", "name": ..., "arguments": JSON text} or {"type": "message"}. The second kind is what
teaches a model not to call tools it was not given (report, appendix C).
"""

import json
import re

from nano3.environments.fields import describe, field
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import brief, split_response
from nano3.errors import UserError

OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"
_NAME = re.compile(r"\s*<function=([^\s<>]+)>")


def verify(row: dict, response: str) -> Reward:
    """1 if the answer makes exactly the expected call, or replies without any call where a reply is expected.

    Argument values are compared as JSON where they are JSON, as text otherwise. Raises UserError for a row
    without a usable expected_action.
    """
    action = field(row, "expected_action", dict)
    expected = _expected(row, action)
    parts = split_response(response)
    if parts.fault:
        return malformed(parts.fault)
    try:
        calls = parse_calls(parts.answer)
    except ValueError as error:
        return malformed(f"broken tool call: {error}")
    if expected is None:
        return Reward(float(not calls), f"{len(calls)} calls, expected a plain reply", well_formed=True)
    if len(calls) != 1:
        return Reward(0.0, f"{len(calls)} calls, expected one of {expected[0]}", well_formed=not calls)
    (name, arguments) = calls[0]
    if name != expected[0]:
        return Reward(0.0, f"called {brief(name)}, expected {expected[0]}", well_formed=True)
    wrong = sorted(
        key
        for key in arguments.keys() | expected[1].keys()
        if key not in arguments or key not in expected[1] or not _same(arguments[key], expected[1][key])
    )
    reason = f"wrong arguments: {brief(', '.join(wrong))}" if wrong else f"called {name} as expected"
    return Reward(float(not wrong), reason, well_formed=True)


def parse_calls(answer: str) -> list[tuple[str, dict[str, str]]]:
    """(name, {argument: text}) of every <tool_call> block, in the chat template's format. Raises ValueError."""
    calls = []
    for block in answer.split(OPEN_CALL)[1:]:
        body, closing, after = block.partition(CLOSE_CALL)
        if not closing:
            raise ValueError("not closed")
        if after.strip():
            raise ValueError("text after a call")
        name = _NAME.match(body)
        inside, closing, rest = body[name.end() :].rpartition("</function>") if name else ("", "", "")
        if not closing or rest.strip():
            raise ValueError("no <function=name>...</function>")
        calls.append((name[1], _parameters(inside)))
    return calls


def _parameters(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    head, *blocks = text.split("<parameter=")
    if head.strip():
        raise ValueError("text between <function> and <parameter>")
    for block in blocks:
        name, opened, rest = block.partition(">")
        value, closed, after = rest.rpartition("</parameter>")
        if not opened or not closed or after.strip() or name in parameters:
            raise ValueError("no <parameter=name>...</parameter>")
        parameters[name] = value.strip()
    return parameters


def _expected(row: dict, action: dict) -> tuple[str, dict] | None:
    """(name, arguments) of the expected call; None when a plain reply is expected."""
    if action.get("type") == "message":
        return None
    try:
        if action.get("type") != "function_call" or not isinstance(action.get("name"), str):
            raise ValueError("expected type function_call with a name, or type message")
        arguments = action.get("arguments") or "{}"
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments are {type(arguments).__name__}, expected an object")
    except ValueError as error:
        raise UserError(f"{describe(row)}: expected_action {action!r:.80}: {error}") from error
    return action["name"], arguments


def _same(text: str, expected: object) -> bool:
    if text == expected or text == str(expected):
        return True
    try:
        return not isinstance(expected, str) and json.loads(text) == expected
    except (ValueError, RecursionError):
        return False
