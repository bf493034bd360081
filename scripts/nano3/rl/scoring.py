"""What environments need beyond their rows, set up from the recipe in one place: the judge and the workplace's tables.

Every program that scores responses calls `set_up` when it starts, so that what is missing is known before anything is
sampled.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nano3.data.rl_prompts import WORKPLACE_TABLES
from nano3.environments import judge, needs_judge, stop_unless_scorable, workplace_assistant
from nano3.recipe import Recipe
from nano3.recipe.judge import AnyJudge, key_of


def set_up(recipe: Recipe, rows: Iterable[dict[str, Any]], prompts: Path | None, *, device: str) -> None:
    """Make environments score with the recipe's judge and with the tables in the prompt artifact, if it has any.

    rows: what will be scored. A local judge is loaded only if one of them needs it. Raises UserError for a judge that
    can't be asked, and for a row that needs what the recipe does not give."""
    rows = list(rows)
    tables = prompts / WORKPLACE_TABLES if prompts is not None else None
    workplace_assistant.use(tables if tables is not None and tables.is_dir() else None)
    chosen = recipe.rl.judge
    stop_unless_scorable(rows, judge=chosen is not None, tables=workplace_assistant.in_use())
    wanted = chosen is not None and any(map(needs_judge, rows))
    judge.use(_judge(chosen, device) if wanted else None)


def _judge(settings: AnyJudge, device: str):
    if settings.kind == "model":
        from nano3.rl import local_judge

        path, limits = Path(settings.path), settings.model_dump(include={"max_new_tokens", "temperature"})
        return local_judge.load(path, device=device, **limits)
    asked = settings.model_dump(exclude={"kind", "key_env"})
    return judge.Endpoint(key=key_of(settings), **asked)
