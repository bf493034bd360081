"""What alignment changes besides rewards: how long responses are, calls of tools that were not offered, and which of
two models a reward model prefers.

All of it is measured on held-out prompts with the evaluation's own settings, the same for every model of a recipe.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nano3.data.jsonl import write_jsonl
from nano3.environments.text import split_response
from nano3.evaluation import Z95, interval
from nano3.model import hf
from nano3.model.nemotron_h import NemotronH
from nano3.recipe.training import Evaluation
from nano3.rl import pairs
from nano3.rl.comparison_data import PROMPTS
from nano3.rl.draw import unscored
from nano3.rl.order import derived_seed
from nano3.rl.pairs import WITHOUT_TOOLS, hallucinated_tools, probes, score
from nano3.rl.rlhf import Compare, Comparison, RewardModel, scores_of, whole_lengths
from nano3.rl.rollout import (
    ChatTokenizer,
    Rollout,
    first_of_each,
    load_chat_tokenizer,
    read_prompts,
    readable,
    rollouts,
)

Row = dict[str, Any]
PARTS = ("thinking", "answer", "response")  # the response is the other two together
CONVERSATIONS = "conversations.jsonl"
JUDGED = 50  # conversations that a reward model compares, in both orders


# lengths


def lengths(rolled: Sequence[Rollout], generations: int, chat: ChatTokenizer) -> dict[str, dict[str, float]]:
    """thinking, answer, response -> mean tokens, and margin: half of the 95% interval over prompts.

    One prompt alone has no margin. rolled: responses, `generations` to each prompt in a row."""
    parts = [whole_lengths(rollout, chat) for rollout in rolled]
    tokens = np.array([(thinking, answer, thinking + answer) for thinking, answer in parts], dtype=np.float64)
    by_prompt = tokens.reshape(-1, generations, len(PARTS)).mean(1)
    found = {name: {"mean": float(mean)} for name, mean in zip(PARTS, by_prompt.mean(0), strict=True)}
    if len(by_prompt) > 1:
        margins = Z95 * by_prompt.std(0, ddof=1) / math.sqrt(len(by_prompt))
        for name, margin in zip(PARTS, margins, strict=True):
            found[name]["margin"] = float(margin)
    return found


def lengths_by_environment(rolled: Sequence[Rollout], generations: int, chat: ChatTokenizer) -> dict[str, Any]:
    """Environment -> `lengths` of its responses."""
    names = sorted({rollout.environment for rollout in rolled})
    return {
        name: lengths([rollout for rollout in rolled if rollout.environment == name], generations, chat)
        for name in names
    }


# tools that were not offered


def offers_tools(row: Row) -> bool:
    """Whether a request names tools that the response may call."""
    return bool(row["responses_create_params"].get("tools"))


def tools_not_offered(
    model: NemotronH,
    chat: ChatTokenizer,
    rows: Sequence[Row],
    rolled: Sequence[Rollout],
    settings: Evaluation,
    *,
    seed: int,
) -> dict[str, dict[str, float]]:
    """How often a tool is called that was not offered, see `nano3.rl.pairs.hallucinated_tools`: rate, its 95% interval
    (low, high) and the number n of responses.

    all: over all probes. Where the prompts hold both, also apart: never_offered, requests of environments without
    tools; and tools_taken_away, requests that were written for tools. rolled: the evaluation's answers to `rows`; those
    to requests without tools count here as they are, and only requests whose tools are taken away are asked anew."""
    asked = probes(rows, settings.prompts)
    if len(rolled) != len(asked) * settings.generations:
        raise ValueError(f"{len(rolled)} answers to {len(asked)} prompts, expected {settings.generations} to each")
    never = [
        rolled[place * settings.generations + g]
        for place, row in enumerate(asked)
        for g in range(settings.generations)
        if not row.get(WITHOUT_TOOLS)
    ]
    taken = rollouts(
        model,
        chat,
        [row for row in asked if row.get(WITHOUT_TOOLS)],
        generations=settings.generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=derived_seed(seed, "evaluation", "without tools"),
        score=score,
        converse=pairs.converse,
    )
    groups = {"all": [*never, *taken]}
    if never and taken:
        groups |= {"never_offered": never, "tools_taken_away": taken}
    return {
        name: {
            key.removeprefix("hallucinated_tools/"): value
            for key, value in hallucinated_tools(mine, settings.generations).items()
        }
        for name, mine in groups.items()
    }


# conversations that no verifier can score


def converse(
    model: NemotronH, chat: ChatTokenizer, rows: Sequence[Row], settings: Evaluation, generations: int, *, seed: int
) -> list[Rollout]:
    """`generations` responses to every conversation, row by row, not scored."""
    return rollouts(
        model,
        chat,
        rows,
        generations=generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=derived_seed(seed, "evaluation", "conversations"),
        score=unscored,
    )


def conversations(
    output: Path,
    model: NemotronH,
    chat: ChatTokenizer,
    settings: Evaluation,
    inputs: dict[str, Path],
    comparison: dict[str, Any] | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Measures of responses to the first `settings.prompts` of RLHF's held-out conversations; the responses are kept in
    `output` for readers.

    inputs: "preferences", the comparisons whose contexts they are; with a `comparison` (max_new_tokens and
    temperature of the verdicts) also "genrm", a reward model, and "sft", the model over which the `win_rate` is."""
    rows = first_of_each(read_prompts(inputs["preferences"] / PROMPTS["valid"]), settings.prompts)
    rolled = converse(model, chat, rows, settings, settings.generations, seed=seed)
    measured, kept = conversation_measures(rolled, settings, chat)
    write_jsonl(output / CONVERSATIONS, kept)
    if comparison is None:
        return measured
    device = str(next(model.parameters()).device)
    sft = hf.load(inputs["sft"], device=device).eval()
    theirs = converse(sft, load_chat_tokenizer(inputs["sft"]), rows[:JUDGED], settings, 1, seed=seed)
    reward_model = RewardModel(
        hf.load(inputs["genrm"], device=device).eval(), load_chat_tokenizer(inputs["genrm"]), **comparison
    )
    texts = ([rollout.text for rollout in some] for some in (rolled[:: settings.generations][:JUDGED], theirs))
    return measured | {"win_rate": win_rate(reward_model, rows[:JUDGED], *texts, seed=seed)}


def conversation_measures(
    rolled: Sequence[Rollout], settings: Evaluation, chat: ChatTokenizer
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures of responses to conversations: prompts, generations, finished and well_formed shares, lengths, samples;
    and every response as a row for people."""
    formed = [not split_response(rollout.text).fault for rollout in rolled]
    rows = [
        {key: value for key, value in readable(rollout, chat).items() if key not in ("reward", "reason")}
        | {"well_formed": fine}
        for rollout, fine in zip(rolled, formed, strict=True)
    ]
    return {
        "prompts": len(rolled) // settings.generations,
        "generations": settings.generations,
        "finished": sum(rollout.finished for rollout in rolled) / len(rolled),
        "well_formed": sum(formed) / len(formed),
        "lengths": lengths(rolled, settings.generations, chat),
        "samples": rows[:: settings.generations][: settings.samples],
    }, rows


def win_rate(
    compare: Compare, rows: Sequence[Row], ours: Sequence[str], theirs: Sequence[str], *, seed: int
) -> dict[str, float]:
    """How often `ours` is preferred to `theirs`, one response of each to every row: mean, its 95% interval (low, high),
    prompts, n comparisons, and the broken_share of verdicts.

    Every pair is compared in both orders. A win counts 1, a tie and a broken verdict 1/2, a loss 0."""
    asked = [
        pair
        for row, mine, other in zip(rows, ours, theirs, strict=True)
        for pair in (Comparison(row, mine, other), Comparison(row, other, mine))
    ]
    verdicts = compare(asked, derived_seed(seed, "evaluation", "win rate"))
    points = []
    for place, verdict in enumerate(verdicts):
        first, second = scores_of(verdict)
        margin = first - second if place % 2 == 0 else second - first
        points.append((np.sign(margin) + 1) / 2)
    pairs = [[float(points[i]), float(points[i + 1])] for i in range(0, len(points), 2)]
    broken = sum(verdict is None for verdict in verdicts) / len(verdicts)
    return {**interval(pairs), "prompts": len(pairs), "n": len(points), "broken_share": broken}
