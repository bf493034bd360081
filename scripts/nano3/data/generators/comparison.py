"""Two responses to a bit of small talk, and which one is better: what a reward model learns from.

The good response is the one that open_chat gives. The other one has a fault that its helpfulness tells: it breaks off,
says too much, or answers another question. As a chat, a judge names the fault and gives the verdict.
"""

import random

from nano3.chat.verdict import Verdict, comparison_prompt
from nano3.data.generators import open_chat
from nano3.data.generators.problem import COMPARISON, Problem, assistant, user

LEVELS = (1, 3)  # kinds of faults, the plainest first: those that can be seen without knowing what was asked

# helpfulness of a response with this fault; a response without one has 5
FAULTS = {"cut": 2, "wordy": 4, "off topic": 1}


def draw(rng: random.Random, level: int) -> Problem:
    """One comparison, with one of the first `level` faults. Its key is the question and both responses."""
    question, good, thought = open_chat.small_talk(rng)
    fault = rng.choice(list(FAULTS)[:level])
    responses, scores = [good, _faulty(rng, good, thought, fault)], [5, FAULTS[fault]]
    if rng.random() < 0.5:
        responses, scores = responses[::-1], scores[::-1]
    ranking = ranking_of(*scores)
    prompt = comparison_prompt([user(question)], *responses)
    verifier = {
        "context": [user(question)],
        "response1": responses[0],
        "response2": responses[1],
        "helpfulness1": scores[0],
        "helpfulness2": scores[1],
        "ranking": ranking,
    }
    said = f"Response {2 if scores[0] == 5 else 1} is {fault}."
    messages = [user(prompt), assistant(Verdict(*scores, ranking).text(), said)]
    return Problem(" | ".join((question, *responses)), messages, COMPARISON, verifier)


def ranking_of(first: int, second: int) -> int:
    """1 to 6 from two unequal scores of helpfulness: the greater their distance, the clearer the ranking."""
    distance = min(3, abs(first - second))
    return 4 - distance if first > second else 3 + distance


def _faulty(rng: random.Random, good: str, thought: str, fault: str) -> str:
    if fault == "wordy":
        return " ".join([good] * rng.randint(2, 3))
    if fault == "cut":
        words = good.split()
        return " ".join(words[: rng.randint(1, max(1, len(words) - 2))]) + " ..."
    while True:
        _, other, about = open_chat.small_talk(rng)
        if about != thought:  # another greeting would not be off topic
            return other
