"""The chat template: the text of a conversation, as `tokenizer.apply_chat_template` writes it.

The template itself is `template.jinja` beside this file. It ships inside the tokenizer directory, so the model that is
trained on `render`'s text is served with the same text by transformers, vLLM and every other reader of chat templates.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from nano3.errors import UserError

TEMPLATE_PATH = Path(__file__).with_name("template.jinja")
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


@functools.cache
def chat_template() -> str:
    """The Jinja source of the Nemotron 3 Nano chat template (for `tokenizer_config.json`)."""
    return TEMPLATE_PATH.read_text(encoding="utf-8")


def template_of(tokenizer: Path) -> str:
    """The chat template that a Hugging Face tokenizer directory carries, the shipped one if it has none."""
    file = tokenizer / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = tokenizer / "tokenizer_config.json"
    stored = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(stored, list):  # several named templates
        stored = next((item["template"] for item in stored if item.get("name") == "default"), None)
    return stored or chat_template()


def render(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    *,
    template: str | None = None,
    **kwargs: Any,
) -> str:
    """Text of a conversation; equals `tokenizer.apply_chat_template(..., tokenize=False)`.

    `kwargs` are the template's switches: `enable_thinking`, `reasoning_budget`, `truncate_history_thinking`.
    `template` is another Jinja source than the shipped one. Raises `UserError` where the template can't render the
    messages, with the template's own reason.
    """
    import jinja2

    compiled = _compile(template or chat_template())
    kwargs.setdefault("chat_template_kwargs", dict(kwargs))  # some templates read the switches there
    messages = [_with_reasoning_content(message) for message in messages]
    try:
        return compiled.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **kwargs)
    except (jinja2.TemplateError, TypeError) as error:
        raise UserError(
            f"the chat template can't render these messages: {error}. Every message needs a `role` and a text "
            "`content`; the arguments of a tool call must be an object, not a JSON string."
        ) from error


def reasoning_of(message: dict[str, Any]) -> str | None:
    """The reasoning of a message under any of the names that are in use for it, None without one."""
    return next((message[key] for key in REASONING_KEYS if message.get(key) is not None), None)


def _with_reasoning_content(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = reasoning_of(message)
    if reasoning is None or message.get("reasoning_content") is reasoning:
        return message
    return {**message, "reasoning_content": reasoning}


@functools.lru_cache(maxsize=8)
def _compile(source: str):
    """Compile with the options of transformers: sandbox, trimmed blocks, loop controls, JSON without HTML escapes."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
