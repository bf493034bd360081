"""Banking conversation: tools and a simulated user, state compared at the end (report section 3.2.1).

The user's first message leaves something out, and the assistant has to ask before it acts. The user is scripted:
row["user"] lists {"asked": [words], "say": text}, and a question that holds one of the words is answered with the first
such text not yet said. With row["user_profile"], a text, a language model plays the user instead (the one in use as
judge). A message that asks nothing ends the conversation.
"""

from collections.abc import Callable

from nano3.environments import judge
from nano3.environments.episode import Episode, State, Tool, ToolError, play
from nano3.environments.episode import start as start_episode
from nano3.environments.fields import describe, field
from nano3.environments.reward import Reward
from nano3.environments.workplace_assistant import database
from nano3.environments.workplace_tools import create, find, shown
from nano3.errors import UserError

MAX_STEPS = 10
OTHERWISE = "I do not know."
TABLES = ("accounts", "cards", "transfers")

_PLAY = """You play the customer of a bank in a conversation with its assistant. Your situation:

{profile}

The assistant said:

{said}

Reply with what the customer says next and nothing else, in at most two sentences. Tell the assistant \
only what it asks for."""


def start(row: dict) -> Episode:
    """The conversation of a row. Raises UserError for a row whose database, ground truth or user can't be used."""
    return start_episode(row, TOOLS, database(row, TABLES, None), max_steps=MAX_STEPS, user=_user(row))


def verify(row: dict, response: str) -> Reward:
    """The reward when this one turn is all."""
    return play(start(row), response)


def needs_judge(row: dict) -> bool:
    """Whether a language model plays the user."""
    return isinstance(row.get("user_profile"), str)


def _user(row: dict) -> Callable[[str], str | None]:
    profile = row.get("user_profile")
    if needs_judge(row):
        if not judge.in_use():
            raise UserError(
                f"{describe(row)}: user_profile wants a language model to play the user and none is set. {judge.HOW}"
            )
        return lambda said: _played(profile, said)
    script = list(field(row, "user", list))
    for line in script:
        if not (isinstance(line, dict) and isinstance(line.get("asked"), list) and isinstance(line.get("say"), str)):
            raise UserError(f'{describe(row)}: user line {line!r:.80}, expected {{"asked": [words], "say": text}}')

    def reply(said: str) -> str | None:
        if "?" not in said:
            return None
        for line in script:
            if any(str(word).casefold() in said.casefold() for word in line["asked"]):
                script.remove(line)
                return line["say"]
        return OTHERWISE

    return reply


def _played(profile: str, said: str) -> str | None:
    if "?" not in said:
        return None
    prompt = _PLAY.format(profile=judge.quoted(profile, "situation"), said=judge.quoted(said, "message"))
    try:
        return judge.text(prompt)
    except judge.JudgeFailed:
        return OTHERWISE


# The tools


def _account(state: State, name: object) -> dict:
    for account in state["accounts"]:
        if str(account.get("name", "")).casefold() == str(name).strip().casefold():
            return account
    raise ToolError(f"no account is called {name!r:.40}")


def _amount(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        raise ToolError("the amount must be a whole number above zero")
    return value


def get_balance(state: State, account: str = "") -> object:
    return _account(state, account)["balance"]


def transfer(state: State, source: str = "", to: str = "", amount: object = 0) -> str:
    """Move money between own accounts, or from one to a person."""
    paying, coins = _account(state, source), _amount(amount)
    if paying["balance"] < coins:
        raise ToolError("not enough money")
    if not str(to).strip():
        raise ToolError("to whom?")
    try:
        receiving = _account(state, to)
    except ToolError:
        create(state, "transfers", {"source": paying["name"], "to": to, "amount": coins})
    else:
        receiving["balance"] += coins
    paying["balance"] -= coins
    return "done"


def set_card(state: State, card: str = "", status: str = "") -> str:
    """Block or unblock a card."""
    if status not in ("blocked", "active"):
        raise ToolError("status is blocked or active")
    find(state, "cards", card)["status"] = status
    return "done"


def open_account(state: State, name: str = "") -> str:
    if not str(name).strip() or any(str(each["name"]).casefold() == str(name).casefold() for each in state["accounts"]):
        raise ToolError("the account needs a new name")
    create(state, "accounts", {"name": name})["balance"] = 0
    return "done"


def list_transfers(state: State) -> object:
    return [shown(each) for each in state["transfers"][-5:]] or "none"


TOOLS: dict[str, Tool] = {
    "get_balance": get_balance,
    "transfer": transfer,
    "set_card": set_card,
    "open_account": open_account,
    "list_transfers": list_transfers,
}
