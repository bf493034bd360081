"""What the report shows of every RL stage: its curves, its curriculum, and responses that it trained on."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from nano3.report.conversations import shown, turns_of
from nano3.report.figures import Figure, Rows, chart, joined, pair, value_of
from nano3.report.read import Artifact, Stage, lines
from nano3.report.results import Z95
from nano3.report.svg import Series, histograms

STEP = "step"
SMALL = {"width": 250, "height": 150}
TOGETHER = 4  # environments that one chart can hold; more get a small chart each
HELD_OUT = "Thin: the step's own prompts. Strong, with dots: the same held-out prompts every time."
PAIRS_SHOWN = 2  # of every group of preference pairs

LEADS = {
    "rl/rlvr1": "GRPO on rewards that programs check.",
    "rl/genrm": "GRPO on comparisons of two responses; the reward is minus the distance of the verdict to people's.",
    "rl/rlhf": "GRPO with the reward model as judge: it compares the responses to a prompt in a circle, and the shorter"
    " ones of a group are preferred.",
    "rl/rlvr2": "GRPO on rewards that programs check, again.",
    "rl/dpo": "Preference pairs mined on policy; a call of a tool that was not offered is the rejected side.",
}


def stage_content(stage: Stage, profile: Artifact | None, pairs: Artifact | None) -> dict[str, Any]:
    """What the template shows of one stage. profile: the pass rates that its curriculum starts from; pairs: the
    preference pairs that DPO trains on."""
    curves = {"rl/genrm": reward_model, "rl/rlhf": judged, "rl/dpo": preferences}.get(stage.path, verified)
    return {
        "title": stage.title,
        "lead": LEADS.get(stage.path, ""),
        "environments": by_environment(stage),
        "figures": [figure for figure in curves(stage) if figure],
        "common": common(stage),
        "curriculum": curriculum(stage, profile) if profile else None,
        "groups": groups(stage),
        "pairs": pair_samples(pairs) if stage.path == "rl/dpo" and pairs else [],
    }


# curves


def verified(stage: Stage) -> list[Figure | None]:
    """Rewards of a stage that verifiers score."""
    rows = joined([stage], x=STEP)
    names = environments_of(stage)
    reward = pair(rows, "reward", 0)
    if len(names) > TOGETHER:
        return []  # each has its own chart, see `by_environment`
    note = "Over all environments."
    found = [chart("Mean reward", reward, STEP, "mean reward", note, stage=stage.title, from_zero=True, percent=True)]
    if names:
        series = [line for i, name in enumerate(names) for line in _thin_and_strong(rows, f"reward/{name}", name, i)]
        found.insert(
            0,
            chart(
                "Reward by environment",
                series,
                STEP,
                "mean reward",
                HELD_OUT,
                stage=stage.title,
                from_zero=True,
                percent=True,
            ),
        )
    return found


def by_environment(stage: Stage) -> list[Figure]:
    """A small chart of every environment's reward, where they are too many for one."""
    names = environments_of(stage)
    if len(names) <= TOGETHER or stage.path == "rl/genrm":
        return []
    rows = joined([stage], x=STEP)
    percent = stage.path != "rl/rlhf"  # there a judge's score, which is no share
    found = []
    for name, key in (("all environments", "reward"), *((name, f"reward/{name}") for name in names)):
        series = _thin_and_strong(rows, key, "reward", 0)
        title = name.replace("_", " ")
        options = {"from_zero": percent, "percent": percent, **SMALL}
        found.append(chart(title, series, STEP, "reward", "", stage=f"{stage.title}, reward", **options))
    return [figure for figure in found if figure]


def reward_model(stage: Stage) -> list[Figure | None]:
    """How near the verdicts come to people's."""
    rows, at = joined([stage], x=STEP), {"stage": stage.title}
    share = {"from_zero": True, "percent": True, **at}
    ranking = "Verdicts that prefer the response that people prefer; ties of people are left out. Guessing: 50%."
    ranking += _guessing(rows.valid)
    distance = "Minus the distance to people's helpfulness and ranking; -10 for a broken verdict."
    return [
        chart("Ranking accuracy", pair(rows, "ranking_accuracy", 0), STEP, "share of verdicts", ranking, **share),
        chart("Broken verdicts", pair(rows, "broken_share", 4), STEP, "share of verdicts", "", **share),
        chart("Reward", pair(rows, "reward", 2), STEP, "mean reward", distance, **at),
    ]


def _guessing(held_out: Sequence[dict[str, Any]]) -> str:
    """A sentence where the last held-out verdicts are not clearly better than guesses: the judge of RLHF is then a poor
    one, and readers should know."""
    last = held_out[-1] if held_out else {}
    if not last.get("n") or last["ranking_accuracy"] > 0.5 + Z95 * math.sqrt(0.25 / last["n"]):
        return ""
    return f" At the end they are no better than that ({last['ranking_accuracy']:.0%} of {last['n']} held out)."


def judged(stage: Stage) -> list[Figure | None]:
    """What the reward model says of the policy's responses, and how long they are."""
    rows, at = joined([stage], x=STEP), {"stage": stage.title}
    parts = [
        *_thin_and_strong(rows, "thinking_tokens", "thinking", 0),
        *_thin_and_strong(rows, "answer_tokens", "answer", 1),
    ]
    score = "Helpfulness, 1 to 5, without the terms for length. It is relative: both sides of a comparison improve."
    found = [
        chart("Judge's score", pair(rows, "judge_score", 0), STEP, "mean score", score, **at),
        chart("Thinking and answer", parts, STEP, "mean tokens", HELD_OUT, from_zero=True, **at),
        chart("Reward with length terms", pair(rows, "reward", 2), STEP, "mean reward", "", **at),
    ]
    broken = pair(rows, "judge_broken_share", 4)
    return [*found, chart("Broken verdicts", broken, STEP, "share of verdicts", "", from_zero=True, percent=True, **at)]


def preferences(stage: Stage) -> list[Figure | None]:
    """DPO: margins, accuracy, and calls of tools that were not offered."""
    rows, at = joined([stage], x=STEP), {"stage": stage.title}
    share = {"from_zero": True, "percent": True, **at}
    key = "hallucinated_tools"
    called = [
        Series("held out", rows.valid_points(value_of(f"{key}/rate")), 1, dots=True),
        Series("95% interval", rows.valid_points(value_of(f"{key}/low")), 1, dashed=True),
        Series("95% interval", rows.valid_points(value_of(f"{key}/high")), 1, dashed=True),
    ]
    loss = "Of preferred over rejected; ln 2 = 0.693 where the policy is still the one it began as."
    note = "To requests that offer no tools."
    margin = "beta times how much more the policy prefers the chosen side than the first policy did."
    accuracy = "Pairs with a margin above 0."
    return [
        chart("Tools called that were not offered", called, STEP, "share of responses", note, **share),
        chart("Preference loss", pair(rows, "preference_loss", 0), STEP, "nats per pair", loss, from_zero=True, **at),
        chart("Margin", pair(rows, "margin", 2), STEP, "mean margin", margin, **at),
        chart("Accuracy", pair(rows, "accuracy", 4), STEP, "share of pairs", accuracy, **share),
        *verified(stage),
    ]


def common(stage: Stage) -> list[Figure]:
    """Small charts of lengths, form and entropy of the responses."""
    rows = joined([stage], x=STEP)
    shown = (
        ("response_tokens", "Response length, tokens", False),
        ("finished_share", "Finished responses", True),
        ("well_formed_share", "Well-formed responses", True),
        ("entropy", "Entropy, nats per token", False),
        ("zero_variance_groups", "Groups of equal rewards", True),
    )
    found = [
        chart(
            title,
            _thin_and_strong(rows, key, title.split(",")[0], 2),
            STEP,
            title,
            "",
            stage=stage.title,
            from_zero=True,
            percent=percent,
            **SMALL,
        )
        for key, title, percent in shown
    ]
    return [figure for figure in found if figure]


def environments_of(stage: Stage) -> list[str]:
    """Environments that a stage measures a reward of."""
    rows = (*stage.train, *stage.valid)
    return sorted({key.removeprefix("reward/") for row in rows for key in row if key.startswith("reward/")})


def _thin_and_strong(rows: Rows, key: str, name: str, colour: int) -> list[Series]:
    held_out = rows.valid_points(value_of(key))
    return [
        Series(name, rows.points(key), colour, faint=bool(held_out)),
        Series(f"{name}, held out", held_out, colour, dots=True),
    ]


# curriculum


def curriculum(stage: Stage, profile: Artifact) -> dict[str, Any]:
    """The profiled pass rates by environment, and those of the prompts that each step drew, where they were noted."""
    rates: dict[str, list[float]] = {}
    for row in lines(profile.directory / "profile.jsonl"):
        rates.setdefault(str(row.get("environment", "prompts")).replace("_", " "), []).append(float(row["pass_rate"]))
    every = [rate for mine in rates.values() for rate in mine]
    settings = (stage.manifest.config or {}).get("curriculum") or {}
    solved = settings.get("solved", 1.0)
    title = f"{stage.title}: profiled pass rates"
    return {
        "prompts": len(every),
        "mean": fmean(every) if every else None,
        "solved": sum(rate >= solved for rate in every),
        "histogram": Figure(
            "Profiled pass rates",
            histograms(sorted(rates.items()), title=title, x_label="pass rate"),
            "Of the training prompts, before the stage. Grey: always solved.",
        )
        if every
        else None,
        "drawn": drawn_rates(stage, settings),
    }


def drawn_rates(stage: Stage, settings: dict[str, Any]) -> Figure | None:
    """Mean pass rate of the prompts of every step (`pass_rate` in the metrics), beside the Gaussian's mean."""
    rows = joined([stage], x=STEP)
    drawn = [Series("drawn prompts", rows.points("pass_rate"), 0)]
    if not drawn[0].points:
        return None
    if "mean" in settings and "steps" in (stage.manifest.config or {}):
        steps, (first, last) = stage.manifest.config["steps"], settings["mean"]
        drawn.append(Series("mean of the Gaussian", [(1, first), (max(2, steps), last)], 1, dashed=True))
    note = "The plan is that of the first profile; where prompts are profiled again it starts afresh."
    options = {"from_zero": True, "percent": True, "stage": stage.title}
    return chart("Pass rate of the drawn prompts", drawn, STEP, "mean pass rate", note, **options)


# responses


def groups(stage: Stage) -> list[dict[str, Any]]:
    """The best and the worst response of the newest group that was kept, of every environment."""
    newest: dict[str, list[dict[str, Any]]] = {}
    for best, worst in zip(stage.samples[::2], stage.samples[1::2], strict=False):
        newest[best["environment"]] = [best, worst]
    return [
        {
            "environment": name.replace("_", " "),
            "step": found[0].get("step"),
            "turns": turns_of(found[0]["prompt"]),
            "answers": [shown(label, row) for label, row in zip(("Best", "Worst"), found, strict=True)],
        }
        for name, found in sorted(newest.items())
    ]


def pair_samples(pairs: Artifact) -> list[dict[str, Any]]:
    """The first preference pairs of every group."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in lines(pairs.directory / "train.jsonl"):
        mine = found.setdefault(str(row.get("group", "given")), [])
        if len(mine) < PAIRS_SHOWN and "context" in row:
            mine.append(row)
    return [_pair(group, row) for group, rows in sorted(found.items()) for row in rows]


def _pair(group: str, row: dict[str, Any]) -> dict[str, Any]:
    context = row["context"]
    messages = [{"role": "user", "content": context}] if isinstance(context, str) else context
    sides = {side["rank"]: side["completion"] for side in row["completions"]}
    rewards = row.get("rewards") or [None, None]
    return {
        "group": group.replace("_", " "),
        "turns": [_message(message) for message in messages],
        "tools": len(row.get("tools") or []),
        "answers": [
            {
                "name": name,
                "parts": [_message(message) for message in _messages(sides[rank])],
                "reward": rewards[rank],
                "reason": "",
                "finished": True,
            }
            for rank, name in ((0, "Chosen"), (1, "Rejected"))
        ],
    }


def _messages(completion: Any) -> Sequence[dict[str, Any]]:
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion


def _message(message: dict[str, Any]) -> dict[str, str]:
    return turns_of(f"<|im_start|>{message['role']}\n{message.get('content') or ''}<|im_end|>")[0]
