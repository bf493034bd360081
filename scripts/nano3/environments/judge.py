"""A judge: a language model that says how good an answer is, where no rule can.

Either an OpenAI-compatible endpoint or any callable from messages to text, e.g. a local model's generation:

    judge.use(judge.Endpoint(url="http://127.0.0.1:8000/v1", model="some-instruct-model"))
    judge.use(lambda messages: generate(messages))

Environments ask only what exact comparison left open. A judge that fails, stays silent or says something else than a
verdict gives no reward and a reason, never an error: one lost answer must not end a training run. That no judge is in
use at all is an error where the row needs one, because then every answer would be lost.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nano3.environments.text import brief
from nano3.errors import UserError

Message = dict[str, str]
HOW = (
    "Set rl.judge in the recipe (kind: endpoint for an OpenAI-compatible server, kind: model for a local directory), or"
    " leave the data sets of this environment out of rl.prompts."
)
MAX_ANSWER_CHARS = 20_000  # of an answer that a judge is shown
MAX_REPLY_BYTES = 1 << 20

_VERDICT = re.compile(r"\[\[\s*(\w+)\s*\]\]")
_THINKING = re.compile(r"^.*</think>", re.DOTALL)

_judge: "Callable[[list[Message]], str] | None" = None


class JudgeFailed(Exception):
    """No verdict could be had; the message says why."""


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks the OpenAI chat completions protocol. `url` ends before /chat/completions."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    temperature: float = 0.0
    max_tokens: int = 4096
    timeout_seconds: float = 120.0
    tries: int = 3
    pause_seconds: float = 1.0  # before the second try; doubles with every further one

    def __call__(self, messages: Sequence[Message]) -> str:
        """The reply's text. Raises JudgeFailed after `tries` tries."""
        problem = "no try"
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
            try:
                return self._ask(messages)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}"
                if error.code < 500 and error.code not in (408, 409, 429):
                    break  # asking again can't help
            except (OSError, ValueError, LookupError, TypeError) as error:
                problem = f"{type(error).__name__}: {brief(error)}"
        raise JudgeFailed(f"the judge at {self.url} gave no reply: {problem}")

    def _ask(self, messages: Sequence[Message]) -> str:
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        deadline = time.monotonic() + self.timeout_seconds
        with urllib.request.urlopen(request, timeout=self.timeout_seconds) as reply:
            data = b""
            while chunk := reply.read1(65536):  # a reply that trickles in must end some time, too
                data += chunk
                if len(data) > MAX_REPLY_BYTES or time.monotonic() > deadline:
                    raise TimeoutError("the reply is too long or too slow")
        content = json.loads(data)["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError(f"the reply's content is {type(content).__name__}, expected text")
        return content


def use(judge: "Callable[[list[Message]], str] | None") -> None:
    """The judge that environments ask from now on; None for no judge."""
    global _judge
    _judge = judge


def in_use() -> bool:
    """Whether there is a judge to ask."""
    return _judge is not None


def ask(prompt: str, verdicts: Sequence[str], where: str) -> tuple[str, str]:
    """(verdict, explanation) on a prompt that asks for one of `verdicts` in double brackets, e.g. [[YES]].

    The last bracketed verdict after the judge's thinking counts. where: the row, for errors. Raises JudgeFailed when
    there is none, UserError when no judge is in use.
    """
    if _judge is None:
        raise UserError(f"{where}: this answer needs a judge and none is set. {HOW}")
    said = text(prompt)
    found = [word.upper() for word in _VERDICT.findall(said) if word.upper() in verdicts]
    if not found:
        raise JudgeFailed(f"the judge gave none of the verdicts {', '.join(verdicts)}: {brief(said)!r}")
    return found[-1], brief(said)


def text(prompt: str) -> str:
    """What the judge says to a prompt, without its thinking. Raises JudgeFailed."""
    if _judge is None:
        raise JudgeFailed("no judge is set")
    try:
        reply = _judge([{"role": "user", "content": prompt}])
    except JudgeFailed:
        raise
    except Exception as error:  # a local model may fail in its own ways
        raise JudgeFailed(f"the judge failed: {type(error).__name__}: {brief(error)}") from error
    if not isinstance(reply, str):
        raise JudgeFailed(f"the judge replied with {type(reply).__name__}, expected text")
    return _THINKING.sub("", reply).strip()


def quoted(text: str, label: str) -> str:
    """Text for a judge's prompt between tags of `label`; it can't close them, nor speak the verdict's language."""
    text = text[:MAX_ANSWER_CHARS].replace("[[", "[ [").replace("]]", "] ]")
    text = re.sub(rf"</?\s*{label}\s*>", "", text, flags=re.IGNORECASE)
    return f"<{label}>\n{text}\n</{label}>"
