"""Preference pairs mined on policy, against tools that were never offered (report, appendix C).

Three groups of pairs, from many sampled responses to every prompt:

    no_tools       no tools offered, none called: the better answer is preferred
    with_tools     tools offered: the better answer is preferred
    hallucination  no tools offered: any tool call is the rejected side, an answer without one the chosen side

Prompts with tools are also asked without them: that is where a policy trained on tool use calls what is not there.
Of two conversations, the turns at which they part are the pair.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from nano3.chat.request import messages_of
from nano3.environments import Episode, Reward, opened, verify
from nano3.environments.text import split_response
from nano3.environments.tool_calls import CLOSE_CALL, OPEN_CALL
from nano3.recipe.training import PairMining
from nano3.rl.conversation import Turn
from nano3.rl.order import derived_seed
from nano3.rl.preferences import pair_row
from nano3.rl.rollout import ASSISTANT, ChatTokenizer, Rollout, by_environment, rollouts

GROUPS = ("no_tools", "with_tools", "hallucination")
WITHOUT_TOOLS = "without_tools"  # marks a row whose tools were taken away
CALL_TAGS = (OPEN_CALL, CLOSE_CALL, "<function=", "</function>")  # even pieces of a call are no answer

Row = dict[str, Any]


def without_tools(row: Row) -> Row:
    """The same request with no tools offered; `score` rewards any proper answer to it that calls none."""
    request = {key: value for key, value in row["responses_create_params"].items() if key != "tools"}
    return {**row, "id": f"{row.get('id', '')}/without tools", "responses_create_params": request, WITHOUT_TOOLS: True}


def score(row: Row, response: str) -> Reward:
    """The environment's reward; of a request whose tools were taken away: 1 for a proper answer without a call."""
    if not row.get(WITHOUT_TOOLS):
        return verify(row, response)
    fault = split_response(response).fault
    called = any(tag in response for tag in CALL_TAGS)
    reason = fault or ("wrote a tool call that was not offered" if called else "no tool called")
    return Reward(float(not fault and not called), reason, well_formed=not fault)


def converse(row: Row) -> Episode | None:
    """The row's conversation; None where it has one turn, or no tools any more to play it with."""
    return None if row.get(WITHOUT_TOOLS) else opened(row)


def calls_a_tool(rollout: Rollout) -> bool:
    """Whether a response starts a tool call anywhere."""
    return any(OPEN_CALL in turn.text for turn in rollout.turns)


def probes(rows: Sequence[Row], count: int | None) -> list[Row]:
    """Requests without tools: the first `count` of every environment, those that offer tools without them."""
    chosen = [rows[i] for indices in by_environment(rows).values() for i in indices[:count]]
    return [without_tools(row) if _tools(row) else row for row in chosen]


def hallucinated_tools(rolled: Sequence[Rollout], generations: int) -> dict[str, float]:
    """How often a tool is called that was not offered: rate, its 95% interval (low, high) and n. rolled: responses to
    `probes`, `generations` to each in a row."""
    from nano3.evaluation import interval

    called = [float(calls_a_tool(rollout)) for rollout in rolled]
    found = interval([called[start : start + generations] for start in range(0, len(called), generations)])
    names = {"mean": "rate", "low": "low", "high": "high"}
    return {f"hallucinated_tools/{names[key]}": value for key, value in found.items()} | {
        "hallucinated_tools/n": len(called)
    }


def mine(
    model, chat: ChatTokenizer, rows: Sequence[Row], settings: PairMining, *, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Pair rows, and statistics: prompts and pairs by group, and how often tools were hallucinated.

    Uses the first `settings.prompts` rows of every environment. At most `settings.pairs_per_prompt` pairs of a group
    come from one prompt, and `settings.pairs` in all, taken from the groups in turn."""
    chosen = [rows[i] for indices in by_environment(rows).values() for i in indices[: settings.prompts]]
    chosen += [without_tools(row) for row in chosen if _tools(row)]
    rolled = rollouts(
        model,
        chat,
        chosen,
        generations=settings.generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=1.0,
        top_p=1.0,
        seed=seed,
        score=score,
        converse=converse,
    )
    size = settings.generations
    found: dict[str, list[dict[str, Any]]] = {group: [] for group in GROUPS}
    prompts: Counter[str] = Counter()
    for place, row in enumerate(chosen):
        mined: Counter[str] = Counter()
        for group, better, worse in pairs_of(row, rolled[place * size : (place + 1) * size]):
            if mined[group] < settings.pairs_per_prompt and (turns := parting(better, worse)):
                mined[group] += 1
                more = {"rewards": [better.reward, worse.reward], "environment": better.environment}
                more |= {"id": better.prompt_id}
                found[group].append(_pair(row, *turns, chat, group=group, **more))
        prompts.update(mined.keys())
    asked = [i for i, row in enumerate(chosen) if not _tools(row)]
    responses = [rolled[i * size + g] for i in asked for g in range(size)]
    kept = list(islice(_in_turn(list(found.values())), settings.pairs))
    pairs = Counter(pair["group"] for pair in kept)
    statistics = {
        "prompts": len(chosen),
        "prompts_with_pairs": {group: prompts[group] for group in GROUPS},
        "mined": {group: len(found[group]) for group in GROUPS},
        "pairs": {group: pairs[group] for group in GROUPS},
    }
    return kept, statistics | (hallucinated_tools(responses, size) if responses else {})


def divide(pairs: Sequence[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Pairs to train on, and about this share of them held out: all pairs of a conversation are on the same side."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for pair in pairs:
        conversation = json.dumps([pair.get("context", pair.get("prompt")), bool(pair.get("tools"))], sort_keys=True)
        sides[derived_seed(seed, "held out", conversation) < share * 2**63].append(pair)
    return sides


def pairs_of(row: Row, rolled: Sequence[Rollout]) -> Iterator[tuple[str, Rollout, Rollout]]:
    """(group, preferred, rejected) of one prompt's responses.

    Responses cut at the longest length are no side of a pair: their end is not the policy's."""
    ended = [rollout for rollout in rolled if rollout.finished]
    if not _tools(row):
        proper = [rollout for rollout in ended if not calls_a_tool(rollout)]
        calls = [rollout for rollout in ended if calls_a_tool(rollout)]
        best = _best(proper)
        yield from (("hallucination", best[i % len(best)], worse) for i, worse in enumerate(calls) if best)
        group, ended = "no_tools", proper
    else:
        group = "with_tools"
    if not row.get(WITHOUT_TOOLS):  # among answers without a call there is none better than another
        best = _best(ended)
        worse = [rollout for rollout in ended if best and rollout.reward < best[0].reward]
        yield from ((group, best[i % len(best)], each) for i, each in enumerate(worse))


def _best(rolled: Sequence[Rollout]) -> list[Rollout]:
    """The responses with the highest reward, none if it is 0."""
    highest = max((rollout.reward for rollout in rolled), default=0.0)
    return [rollout for rollout in rolled if rollout.reward == highest] if highest > 0 else []


def parting(better: Rollout, worse: Rollout) -> tuple[Turn, Turn] | None:
    """The first turns that differ, after equal ones: what the preferred and the rejected conversation did at one
    prompt. None where only a tool's or a user's reply told them apart. Responses of one turn are their own."""
    for ours, theirs in zip(better.turns, worse.turns, strict=False):
        if ours.prompt != theirs.prompt:
            return None
        if ours.response != theirs.response:
            return ours, theirs
    return None


def _pair(row: Row, better: Turn, worse: Turn, chat: ChatTokenizer, **more: Any) -> dict[str, Any]:
    context, tools = messages_of(row["responses_create_params"])
    opened_turn = chat.text(better.prompt).rpartition(ASSISTANT)[2]
    sides = [
        {"role": "assistant", "content": opened_turn + chat.text(_without_stop(turn, chat))} for turn in (better, worse)
    ]
    return pair_row(better.context or context, tools, *sides, **more)


def _without_stop(turn: Turn, chat: ChatTokenizer) -> list[int]:
    return turn.response[:-1] if turn.response[-1:] and turn.response[-1] in chat.stop_ids else turn.response


def _tools(row: Row) -> list[Any]:
    return row["responses_create_params"].get("tools") or []


def _in_turn(groups: list[list[Any]]) -> Iterator[Any]:
    """One of each group after the other, until all are used up."""
    for place in range(max(map(len, groups), default=0)):
        yield from (group[place] for group in groups if place < len(group))
