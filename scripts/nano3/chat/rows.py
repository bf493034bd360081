"""Chat rows as they come from data sets, made uniform, and the reasons to drop one (report, section 3.1.3)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nano3.chat.template import reasoning_of

Message = dict[str, Any]

# Text that would end or open a turn where a person or the model merely wrote about it.
CONTROL_TOKENS = re.compile(r"<\|(?:im_start|im_end|endoftext)\|>")
INLINE_REASONING = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)

HASH_BASE = np.uint64(0x9E3779B97F4A7C15)  # any odd number with mixed bits

# Reasons that the recipe asked for; every other reason means that a row is not what it should be.
CHOSEN = frozenset({"not_used_in", "forbidden_word", "repetition"})


class Dropped(Exception):
    """A row or sequence that can't be trained on: `reason` is a short key for the counts, `detail` for people."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Chat:
    """A conversation that passed the structural checks; reasoning is in `reasoning_content` and only there."""

    id: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None


def is_used_in(row: dict[str, Any], name: str) -> bool:
    """Whether the row's `used_in` (a list, or a string with commas) names `name`."""
    used = row.get("used_in") or []
    names = used.split(",") if isinstance(used, str) else used
    return name in (str(item).strip() for item in names)


def problem_of(row: dict[str, Any], row_id: str) -> str:
    """What a row asks: its `key`, else its first user message, else its id."""
    if row.get("key"):
        return str(row["key"])
    messages = row.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict) and message.get("role") == "user":
                return str(message.get("content"))
    return row_id


def read_chat(row: dict[str, Any], row_id: str, *, undefined_tools: bool = False) -> Chat:
    """Check a row's structure and make it uniform. Raises `Dropped`.

    Tool arguments become objects, inline `<think>` blocks become `reasoning_content`. undefined_tools: a call of a tool
    that the row does not define is no fault."""
    raw_messages = _parsed(row.get("messages"), "messages")
    if not isinstance(raw_messages, list) or not raw_messages:
        raise Dropped("no_messages", "`messages` is missing or empty")
    tools = _parsed(row.get("tools"), "tools") or None
    messages = [_uniform(message) for message in raw_messages]
    _check_turns(messages)
    if not undefined_tools:
        _check_tools(messages, tools)
    return Chat(id=row_id, messages=messages, tools=tools)


def _parsed(value: Any, field: str) -> Any:
    """Some data sets keep structured fields as JSON text."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Dropped("bad_json", f"`{field}` is text but not JSON: {error}") from None


def _uniform(message: Any) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Dropped("bad_message", f"expected an object with a `role`, found {str(message)[:80]!r}")
    role, content = message["role"], message.get("content")
    calls = message.get("tool_calls")
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise Dropped("content_not_text", f"the content of a {role} message is {type(content).__name__}")
    if CONTROL_TOKENS.search(content):
        raise Dropped("control_token_in_text", f"in a {role} message")
    if role != "assistant":
        return {"role": role, "content": content}
    reasoning = reasoning_of(message)
    if reasoning is None and (inline := INLINE_REASONING.fullmatch(content)):
        reasoning, content = inline[1].strip("\n"), inline[2].lstrip("\n")
    result: Message = {"role": role, "content": content}
    if isinstance(reasoning, str) and reasoning.strip():
        if CONTROL_TOKENS.search(reasoning):
            raise Dropped("control_token_in_text", "in a reasoning trace")
        result["reasoning_content"] = reasoning
    else:
        # White space right after the empty think block: the template keeps it in one place and trims it in another.
        result["content"] = content.strip()
    if calls:
        result["tool_calls"] = [_uniform_call(call) for call in calls]
    elif not result["content"]:
        raise Dropped("empty_answer", "an assistant message has neither content nor tool calls")
    return result


def _uniform_call(call: Any) -> dict[str, Any]:
    function = call.get("function") or call if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Dropped("bad_tool_call", f"expected an object with a `name`, found {str(call)[:80]!r}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise Dropped("bad_tool_arguments", f"{error} in {arguments[:80]!r}") from None
    if not isinstance(arguments or {}, dict):
        raise Dropped("bad_tool_arguments", f"expected an object, found {str(arguments)[:80]!r}")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _check_turns(messages: list[Message]) -> None:
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise Dropped("no_user_turn", f"roles: {', '.join(roles[:8])}")
    if "assistant" not in roles:
        raise Dropped("no_assistant_turn", f"roles: {', '.join(roles[:8])}")
    for before, role in zip(["start", *roles], roles, strict=False):
        if role == "tool" and before not in ("assistant", "tool"):
            raise Dropped("orphan_tool_result", f"a tool message follows {before}")


def _check_tools(messages: list[Message], tools: Any) -> None:
    """Calls need definitions: either `tools`, or a "# Tools" section that someone wrote into a message."""
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise Dropped("bad_tools", f"expected a list of objects, found {str(tools)[:80]!r}")
    if any("# Tools" in message["content"] for message in messages):
        return
    if not tools:
        for message in messages:
            if "tool_calls" in message:
                raise Dropped("tool_call_without_tools", "the row calls a tool but defines none")
            if "<tool_call>" in message["content"] or "<tool_call>" in message.get("reasoning_content", ""):
                raise Dropped("tool_call_without_tools", f"<tool_call> in a {message['role']} message")
        return
    defined = {(tool.get("function") or tool).get("name") for tool in tools}
    for message in messages:
        for call in message.get("tool_calls", []):
            if call["function"]["name"] not in defined:
                raise Dropped("undefined_tool", f"calls {call['function']['name']!r}, which `tools` lacks")


def assistant_text(chat: Chat) -> list[str]:
    """What the assistant thinks and says, one text per message."""
    return [
        f"{message.get('reasoning_content', '')} {message['content']}"
        for message in chat.messages
        if message["role"] == "assistant"
    ]


def word_pattern(words: list[str]) -> re.Pattern[str] | None:
    """One case-insensitive pattern for a list of words and phrases, whole words only; None for an empty list."""
    if not words:
        return None
    return re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words), re.IGNORECASE)


def repeats_itself(text: str, *, ngram: int, window: int, max_in_window: int, max_in_trace: int) -> str | None:
    """An n-gram of words that occurs too often, or None.

    Too often: more than `max_in_window` times starting within `window` words, or more than `max_in_trace` times in
    all. N-grams are compared by 64-bit hashes.
    """
    words = text.split()
    count = len(words) - ngram + 1
    if count <= min(max_in_window, max_in_trace):
        return None
    word_hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    hashes = np.zeros(count, np.uint64)
    for i in range(ngram):
        hashes = hashes * HASH_BASE + word_hashes[i : i + count]
    position = np.argsort(hashes, kind="stable")
    hashes = hashes[position]
    # Equal n-grams are neighbours now, in the order of the text: entry i and entry i + n span n + 1 occurrences.
    for limit, span in ((max_in_window, window), (max_in_trace, len(words))):
        same = hashes[limit:] == hashes[:-limit]
        close = position[limit:] - position[:-limit] < span
        if (found := np.flatnonzero(same & close)).size:
            start = position[found].min()
            return " ".join(words[start : start + ngram])
    return None
