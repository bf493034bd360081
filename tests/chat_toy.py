"""A small tokenizer with the chat tokens, and raw artifacts, for tests of chat data."""

from functools import cache
from pathlib import Path

from nano3.artifacts import building
from nano3.data import tokenizer as tokenizers
from nano3.data.raw import write_shards

ROOT = Path(__file__).parent.parent


@cache
def toy_tokenizer():
    texts = [path.read_text() for path in sorted((ROOT / "scripts/nano3/recipe").glob("*.py"))]
    return tokenizers.train(texts, vocab_size=500, reserved=20)


def save_tokenizer(directory: Path) -> Path:
    """A tokenizer artifact."""
    with building(directory, kind="tokenizer", config={}) as artifact:
        tokenizers.save_trained(toy_tokenizer(), artifact.path)
    return directory


def save_raw(directory: Path, dataset: str, rows: list[dict], group: int = 0) -> Path:
    """A raw artifact."""
    with building(directory, kind="raw", config={"dataset": dataset, "group": group}) as artifact:
        write_shards(iter(rows), artifact.path)
    return directory


def user(content):
    return {"role": "user", "content": content}


def assistant(content, reasoning=None, calls=()):
    message = {"role": "assistant", "content": content}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return message


def tool(content):
    return {"role": "tool", "content": content}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": " Weather of a city. ",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "its name", "enum": ["Köln", "Rome"], "default": None},
                "days": {"type": "integer", "minimum": 1},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
