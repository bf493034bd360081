"""Recipe section of the judge: the language model that decides what no rule can."""

import os
from typing import Annotated, Literal

from pydantic import Field

from nano3.errors import UserError
from nano3.recipe.section import Count, Rate, Section


class EndpointJudge(Section):
    """A judge behind a server that speaks the OpenAI chat completions protocol."""

    kind: Literal["endpoint"]
    url: str = Field(
        pattern=r"^https?://\S+$", description="what stands before /chat/completions, e.g. http://127.0.0.1:8000/v1"
    )
    model: str = Field(description="the model's name at that server")
    key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w*$", description="environment variable that holds the key, never the key itself"
    )
    temperature: Rate = Field(0.0, description="0: greedy")
    max_tokens: Count = Field(4096, description="longest reply")
    timeout_seconds: float = Field(120.0, gt=0, description="wait for one reply")
    tries: Count = Field(3, description="how often to ask before an answer is lost")


class ModelJudge(Section):
    """A judge on the device that trains, by the model class of this project."""

    kind: Literal["model"]
    path: str = Field(description="directory in the Hugging Face layout, relative to the repository; made beforehand")
    temperature: Rate = Field(0.0, description="0: greedy")
    max_new_tokens: Count = Field(2048, description="longest reply, thinking included")


AnyJudge = Annotated[EndpointJudge | ModelJudge, Field(discriminator="kind")]
# Where a judge is found and how long it may take are no part of what its verdicts are.
WHEREABOUTS = {"url", "key_env", "timeout_seconds", "tries"}


def key_of(settings: AnyJudge) -> str:
    """The judge's key from the environment, empty where it needs none. Raises UserError when it is not set."""
    name = getattr(settings, "key_env", None)
    if name and not os.environ.get(name):
        raise UserError(
            f"rl.judge.key_env names the environment variable {name}, which is not set: the judge's key is missing.\n"
            f"  export {name}=..., or take key_env out of the recipe where the server asks for no key."
        )
    return os.environ[name] if name else ""
