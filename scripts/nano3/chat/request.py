"""Requests of the Responses API, as NeMo-Gym rows hold them, as messages for the chat template."""

from __future__ import annotations

import json
from typing import Any

from nano3.errors import UserError

Message = dict[str, Any]


def messages_of(request: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Messages and tools of a `responses_create_params` object.

    `input` is a text or a list of items: messages, function calls and their outputs, reasoning. Raises UserError for an
    item of another type.
    """
    items = request.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    messages: list[Message] = []
    if request.get("instructions"):
        messages.append({"role": "system", "content": request["instructions"]})
    for item in items or []:
        kind = item.get("type") or "message"
        if kind == "message":
            _add(messages, {**item, "content": _text(item.get("content"))})
        elif kind == "reasoning":
            text = _text(item.get("content") or item.get("summary"))
            messages.append({"role": "assistant", "content": "", "reasoning_content": text})
        elif kind == "function_call":
            arguments = item.get("arguments") or {}
            call = {"name": item["name"], "arguments": _object(arguments)}
            _add(messages, {"role": "assistant", "content": "", "tool_calls": [{"function": call}]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "content": _text(item.get("output"))})
        else:
            raise UserError(
                f"responses_create_params.input has an item of type {kind!r}; expected message, reasoning, "
                "function_call or function_call_output"
            )
    return messages, request.get("tools") or None


def _add(messages: list[Message], message: Message) -> None:
    """Append; reasoning, words and calls of one assistant turn are items of their own and belong to one message."""
    last = messages[-1] if messages else {}
    if message["role"] != "assistant" or last.get("role") != "assistant":
        messages.append(message)
        return
    merged = {**last, **message, "content": last.get("content", "") + message["content"]}
    if calls := last.get("tool_calls", []) + message.get("tool_calls", []):
        merged["tool_calls"] = calls
    messages[-1] = merged


def _text(content: Any) -> str:
    """Content is a text, or a list of parts with a text each."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return "" if content is None else str(content)


def _object(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise UserError(f"a function call's arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise UserError(f"a function call's arguments must be an object, found {type(arguments).__name__}")
    return arguments
