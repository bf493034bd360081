"""Comparisons for the reward model, and the prompts of RLHF: the same conversations without their responses."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nano3.chat.raw import read_rows
from nano3.data.bad_rows import BadRows
from nano3.data.generators.problem import PREFERENCE
from nano3.data.jsonl import JsonlWriter
from nano3.errors import UserError
from nano3.rl.genrm import comparisons
from nano3.rl.rollout import ChatTokenizer

PROMPTS = {"train": "prompts_train.jsonl", "valid": "prompts_valid.jsonl"}


def write_comparisons(
    raw: dict[str, list[Path]], chat: ChatTokenizer, output: Path, config: dict[str, Any]
) -> dict[str, Any]:
    """Write `output`/{train,valid}.jsonl, comparisons in both orders, and prompts_{train,valid}.jsonl; returns
    statistics. raw: data set -> raw artifacts; config: the recipe's `rl.preferences`.

    Raises UserError for too many bad rows and for a split without any."""
    statistics: dict[str, Any] = {}
    for split, prompts in PROMPTS.items():
        bad, counts = BadRows(), {"comparisons": 0, "prompts": 0, "longer_than_max_prompt_tokens": 0}
        seen: set[str] = set()
        with JsonlWriter(output / f"{split}.jsonl") as both, JsonlWriter(output / prompts) as contexts:
            for example in (row for name in config[split] for row in read_rows(raw[name])):
                both_orders = _checked(example, bad)
                if max((len(chat.prompt_ids(row)) for row in both_orders), default=0) > config["max_prompt_tokens"]:
                    counts["longer_than_max_prompt_tokens"] += 1
                    continue
                for row in both_orders:
                    both.write(row)
                    counts["comparisons"] += 1
                for row in _new_prompt(both_orders, seen):
                    contexts.write(row)
                    counts["prompts"] += 1
        bad.check(counts["comparisons"] // 2, config["max_bad_rows"], where=split, key="rl.preferences.max_bad_rows")
        if not counts["comparisons"]:
            raise UserError(
                f"no comparisons are left for {split}. Check rl.preferences: max_prompt_tokens is"
                f" {config['max_prompt_tokens']}, and {counts['longer_than_max_prompt_tokens']} were longer."
            )
        statistics[split] = counts | {"bad": bad.statistics()}
    return statistics


def _checked(example: dict[str, Any], bad: BadRows) -> list[dict[str, Any]]:
    try:
        return list(comparisons([example]))
    except (UserError, KeyError, TypeError, ValueError) as error:
        bad.count("no comparison", where=f"id {example.get('id')}", sample=str(error))
        return []


def _new_prompt(rows: list[dict[str, Any]], seen: set[str]) -> Iterable[dict[str, Any]]:
    """The conversation of a comparison as a prompt, the first time that it comes."""
    if not rows:
        return
    context = rows[0]["context"]
    key = json.dumps(context, sort_keys=True)
    if key not in seen:
        seen.add(key)
        yield {
            "id": rows[0]["id"].rpartition("/")[0],
            "agent_ref": {"type": "responses_api_agents", "name": PREFERENCE},
            "responses_create_params": {"input": context},
        }
