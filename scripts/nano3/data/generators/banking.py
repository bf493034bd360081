"""A bank's customer wants something and leaves half of it out: the assistant asks, acts, and says so."""

import json
import random

from nano3.data.generators.problem import BANKING, Problem, assistant, call, result, tool, user
from nano3.data.generators.words import NAMES

LEVELS = (1, 3)  # 1: all is said at once; 2: the assistant has to ask for something; 3: and to choose a tool

_ACCOUNTS = ("main", "savings", "travel", "family")
_CARDS = ("blue", "red", "gold", "black")
_TOOLS = {
    "transfer": ("Send money", {"source": "string", "to": "string", "amount": "integer"}),
    "set_card": ("Block or unblock a card", {"card": "string", "status": "string"}),
    "open_account": ("Open an account", {"name": "string"}),
}


def draw(rng: random.Random, level: int) -> Problem:
    """A request, above level 1 a question and its answer, and the one call that it takes."""
    accounts = [{"id": str(i), "name": name, "balance": rng.randint(100, 999)} for i, name in enumerate(_chosen(rng))]
    cards = [{"id": name, "status": "active"} for name in rng.sample(_CARDS, 2)]
    name = rng.choice(list(_TOOLS))
    request, missing, asked, answer, arguments = _WISHES[name](rng, accounts, cards)
    script = []
    messages = [user(f"{request}{missing}." if level == 1 else f"{request}.")]
    if level > 1:
        messages += [assistant(asked, "Something is missing."), user(answer)]
        script = [{"asked": asked.strip("?").split()[-1:], "say": answer}]
    messages += [call(name, arguments, reasoning=f"I need {name}."), result("done"), assistant("Done.", "It is done.")]
    verifier = {
        "database": {"accounts": accounts, "cards": cards},
        "user": script,
        "ground_truth": [{"name": name, "arguments": json.dumps(arguments, separators=(",", ":"))}],
    }
    offered = list(_TOOLS) if level == 3 else [name]
    tools = [tool(each, *_TOOLS[each]) for each in offered]
    key = f"{name}:{json.dumps(arguments)}"
    return Problem(key, messages, BANKING, verifier, tools, conversation=True)


def _chosen(rng: random.Random) -> list[str]:
    return rng.sample(_ACCOUNTS, 2)


# One function per tool: (request, what may be left out, the question for it, the answer, arguments).


def _transfer(rng: random.Random, accounts: list[dict], cards: list[dict]):
    account, person, coins = rng.choice(accounts)["name"], rng.choice(NAMES), rng.randint(1, 99)
    request = rng.choice(("Send {} coins to {}", "Please pay {} coins to {}", "I want to send {} coins to {}"))
    arguments = {"source": account, "to": person, "amount": coins}
    return request.format(coins, person), f" from {account}", "From which account?", f"From {account}.", arguments


def _set_card(rng: random.Random, accounts: list[dict], cards: list[dict]):
    card = rng.choice(cards)["id"]
    request = rng.choice(("Block my card", "I lost my card", "Please block a card"))
    return request, f", the {card} one", "Which card?", f"The {card} one.", {"card": card, "status": "blocked"}


def _open_account(rng: random.Random, accounts: list[dict], cards: list[dict]):
    purpose = f"for {rng.choice(NAMES)}" if rng.random() < 0.5 else f"fund {rng.randint(1, 99)}"
    request = rng.choice(("Open an account", "I need a new account", "Please open one more account"))
    return request, f" called {purpose}", "What is its name?", f"Call it {purpose}.", {"name": purpose}


_WISHES = {"transfer": _transfer, "set_card": _set_card, "open_account": _open_account}
