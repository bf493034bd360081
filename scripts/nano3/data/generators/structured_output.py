"""JSON by schema: the prompt states facts and a small JSON Schema, the answer is an object that fits it.

Keys and types change from row to row (age or years, number or string), so the schema has to be read.
"""

import json
import random

from nano3.data.generators.problem import STRUCTURED_OUTPUTS, Problem, assistant, user
from nano3.data.generators.words import ANIMALS, CITIES, COLORS, NAMES

LEVELS = (1, 5)  # fields of the object

# What a fact can be called in a schema; the first is the word of the prompt.
_KEYS = {
    "name": ("name", "person", "who"),
    "age": ("age", "years"),
    "city": ("city", "home", "town"),
    "color": ("color", "likes"),
    "pet": ("pet", "animal"),
}
_STRICT_SHARE = 0.3  # of string fields that list their allowed values


def draw(rng: random.Random, level: int) -> Problem:
    """Facts about a person and a schema of `level` fields."""
    facts = {
        "name": rng.choice(NAMES),
        "age": rng.randint(2, 99),
        "city": rng.choice(CITIES),
        "color": rng.choice(COLORS),
        "pet": rng.choice(ANIMALS),
    }
    chosen = sorted(rng.sample(list(facts), level), key=lambda _: rng.random())
    properties, answer, notes = {}, {}, []
    for fact in chosen:
        key = rng.choice(_KEYS[fact])
        properties[key], answer[key] = _property(rng, fact, facts[fact])
        notes.append(f"{key}: {json.dumps(answer[key])}")
    schema = json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
        separators=(",", ":"),
    )
    told = {"name", *chosen, *rng.sample(list(facts), 1)}  # at times one that nobody asked for
    prompt = f"{_sentence(facts, told)}\nJSON for {schema}"
    reply = json.dumps(answer, separators=(",", ":"))
    verifier = {"schema_str": schema, "schema_type": "json", "schema_fields_count": str(level)}
    return Problem(
        f"{json.dumps(facts)}:{schema}",
        [user(prompt), assistant(reply, "\n".join(notes))],
        STRUCTURED_OUTPUTS,
        verifier,
        hasty=[user(prompt), assistant(_everything(facts, told), "All of it.")],
    )


def _everything(facts: dict, told: set[str]) -> str:
    """All that the prompt says as JSON, whatever the schema asks for."""
    return json.dumps({fact: facts[fact] for fact in facts if fact in told}, separators=(",", ":"))


def _property(rng: random.Random, fact: str, value: str | int) -> tuple[dict, str | int]:
    """A schema for one fact and the value in the type that it asks for."""
    if isinstance(value, int):
        if rng.random() < 0.5:
            return {"type": "integer"}, value
        return {"type": "string"}, str(value)
    if fact == "color" and rng.random() < _STRICT_SHARE:
        allowed = rng.sample([color for color in COLORS if color != value], 2)
        allowed.insert(rng.randint(0, 2), value)
        return {"enum": allowed}, value
    return {"type": "string"}, value


def _sentence(facts: dict, told: set[str]) -> str:
    """The facts that are told, in one sentence."""
    parts = {
        "age": f"is {facts['age']}",
        "city": f"lives in {facts['city']}",
        "color": f"likes {facts['color']}",
        "pet": f"has a {facts['pet']}" if facts["pet"][0] not in "aeiou" else f"has an {facts['pet']}",
    }
    said = [text for fact, text in parts.items() if fact in told]
    if not said:
        return f"This is {facts['name']}."
    return f"{facts['name']} {' and '.join(said)}."
