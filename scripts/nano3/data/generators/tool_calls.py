"""Tool use: a request, some tools, one call, its result, the reply. Some requests fit no tool: a plain reply.

At level 0 a request comes without any tool, and the reply says so. A hasty writer calls the tool all the same, as in
collections whose lists of tools were lost: that is how models learn to call what they were not offered. Where a tool
is offered, a hasty writer makes the result up instead of calling it.
"""

import json
import random
from collections.abc import Sequence

from nano3.data.generators.open_chat import small_talk
from nano3.data.generators.problem import TOOL_USE, Problem, assistant, call, tool, user
from nano3.data.generators.problem import result as tool_result
from nano3.data.generators.words import CITIES, DAYS, ITEMS, NAMES
from nano3.errors import UserError

LEVELS = (0, 4)  # tools offered

_NO_CALL_SHARE = 0.15

# name -> (description, {parameter: type})
_TOOLS = {
    "get_weather": ("Weather in a city", {"city": "string"}),
    "get_time": ("Time in a city", {"city": "string"}),
    "get_price": ("Price of an item", {"item": "string"}),
    "get_age": ("Age of a person", {"name": "string"}),
    "multiply": ("Multiply two numbers", {"a": "integer", "b": "integer"}),
    "set_alarm": ("Set an alarm", {"day": "string", "hour": "integer"}),
    "send_note": ("Send a short note", {"to": "string", "text": "string"}),
}
TOOLS = tuple(_TOOLS)
_NOTES = ("call me", "see you soon", "lunch at noon", "good luck", "well done")
_WEATHER = ("sunny", "rainy", "cloudy", "windy", "snowy")


def draw(rng: random.Random, level: int, tools: Sequence[str] = TOOLS) -> Problem:
    """A request with `level` of the tools offered, exactly one of which fits, or none does."""
    unknown = sorted(set(tools) - set(TOOLS))
    if unknown or len(tools) < max(1, level):
        raise UserError(
            f"tool_calls: level {level} with the tools {list(tools)}: expected at least that many of {', '.join(TOOLS)}"
        )
    if level and rng.random() < _NO_CALL_SHARE:
        return _without_call(rng, level, tools)
    name = rng.choice(list(tools))
    request, arguments, result, reply = _REQUESTS[name](rng)
    as_text = json.dumps(arguments, separators=(",", ":"))
    key = f"{name}:{as_text}"
    messages = [
        user(request),
        call(name, arguments, reasoning=f"I need {name}."),
        tool_result(result),
        assistant(reply, f"The tool says {result}."),
    ]
    if level == 0:
        honest = [user(request), assistant("I have no tool for that.", "No tool is offered.")]
        return Problem(key, honest, TOOL_USE, {"expected_action": {"type": "message"}}, hasty=messages)
    others = rng.sample([other for other in tools if other != name], level - 1)
    offered = [name, *others]
    rng.shuffle(offered)
    verifier = {"expected_action": {"type": "function_call", "name": name, "arguments": as_text}}
    hasty = [user(request), assistant(reply, "I can say that at once.")]
    return Problem(key, messages, TOOL_USE, verifier, [_definition(each) for each in offered], hasty=hasty)


def _without_call(rng: random.Random, level: int, tools: Sequence[str]) -> Problem:
    request, reply, _ = small_talk(rng)
    offered = rng.sample(list(tools), level)
    messages = [user(request), assistant(reply, "No tool is needed.")]
    key = f"no call:{request}:{','.join(sorted(offered))}"
    defined = [_definition(name) for name in offered]
    return Problem(key, messages, TOOL_USE, {"expected_action": {"type": "message"}}, defined)


def _definition(name: str) -> dict:
    """A tool in the OpenAI function format."""
    description, parameters = _TOOLS[name]
    return tool(name, description, parameters)


# One function per tool: (request, arguments, result of the tool, reply).


def _weather(rng: random.Random):
    city, degrees, weather = rng.choice(CITIES), rng.randint(0, 35), rng.choice(_WEATHER)
    request = rng.choice(("How is the weather in {}?", "Is it warm in {}?", "Weather in {}, please.")).format(city)
    return (
        request,
        {"city": city},
        f"{degrees} {weather}",
        f"It is {degrees} degrees and {weather} in {city}.",
    )


def _time(rng: random.Random):
    city, clock = rng.choice(CITIES), f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
    request = rng.choice(("What time is it in {}?", "Tell me the time in {}.", "Time in {}?")).format(city)
    return request, {"city": city}, clock, f"It is {clock} in {city}."


def _price(rng: random.Random):
    item, coins = rng.choice(ITEMS), rng.randint(2, 99)
    request = rng.choice(("What does a {} cost?", "How much is a {}?", "Price of a {}?")).format(item)
    return request, {"item": item}, str(coins), f"The {item} costs {coins} coins."


def _age(rng: random.Random):
    name, years = rng.choice(NAMES), rng.randint(2, 99)
    request = rng.choice(("How old is {}?", "What is the age of {}?", "Tell me how old {} is.")).format(name)
    return request, {"name": name}, str(years), f"{name} is {years} years old."


def _multiply(rng: random.Random):
    a, b = rng.randint(11, 999), rng.randint(11, 999)
    request = rng.choice(("What is {}*{}?", "Multiply {} by {}.", "I need {} times {}.")).format(a, b)
    return request, {"a": a, "b": b}, str(a * b), f"{a}*{b} is {a * b}."


def _alarm(rng: random.Random):
    day, hour = rng.choice(DAYS), rng.randint(5, 22)
    request = rng.choice(("Wake me on {} at {}.", "Set an alarm for {} at {}.", "Alarm on {} at {}, please."))
    return (
        request.format(day, hour),
        {"day": day, "hour": hour},
        "ok",
        f"Your alarm is set for {day} at {hour}.",
    )


def _note(rng: random.Random):
    name, text = rng.choice(NAMES), rng.choice(_NOTES)
    request = rng.choice(("Tell {}: {}", "Write to {}: {}", "Note for {}: {}")).format(name, text)
    return request, {"to": name, "text": text}, "sent", f"I sent your note to {name}."


_REQUESTS = {
    "get_weather": _weather,
    "get_time": _time,
    "get_price": _price,
    "get_age": _age,
    "multiply": _multiply,
    "set_alarm": _alarm,
    "send_note": _note,
}
