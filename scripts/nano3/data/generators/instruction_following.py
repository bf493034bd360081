"""Instruction following: say something about a topic under one to three constraints that code can check.

Constraint names and arguments are those of IFEval, so the same environment scores these rows and real ones.
An answer starts as a plan (sentences, and marks around them); every constraint changes the plan or states a
threshold that the finished answer meets.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nano3.data.generators.problem import INSTRUCTION_FOLLOWING, Problem, assistant, user
from nano3.data.generators.words import COLORS, ITEMS
from nano3.environments.ifeval import count_words
from nano3.errors import UserError

LEVELS = (1, 4)  # 1, 2: that many simple constraints; 3, 4: two and three of all kinds

_TOPICS = {
    "cats": ("They sleep all day", "They like warm milk", "They climb tall trees", "They hunt at night"),
    "dogs": ("They guard the house", "They love long walks", "They chase the ball", "They are good friends"),
    "bees": (
        "They make sweet honey",
        "They visit many flowers",
        "They live in a hive",
        "They work all summer",
    ),
    "birds": (
        "They sing in the morning",
        "They build small nests",
        "They fly to the south",
        "They eat seeds",
    ),
    "fish": ("They swim in the sea", "They have no legs", "They hide in the weeds", "They shine like silver"),
    "trees": ("They give us shade", "They grow very slowly", "They drop their leaves", "They hold the soil"),
    "rain": ("It falls from clouds", "It fills the rivers", "It helps the plants", "It sounds soft at night"),
    "snow": ("It is cold and white", "It falls in winter", "It covers the hills", "It melts in spring"),
    "tea": ("It is a hot drink", "It comes from leaves", "It tastes good with lemon", "It keeps me calm"),
    "bread": (
        "It is made from flour",
        "It smells very good",
        "It is best when fresh",
        "It goes well with soup",
    ),
    "books": (
        "They tell old stories",
        "They have many pages",
        "They teach us new things",
        "They wait on the shelf",
    ),
    "music": ("It has a clear beat", "It makes people dance", "It can be loud", "It fills the room"),
    "school": ("It starts in the morning", "It has many rooms", "It is full of children", "It ends at noon"),
    "the sea": ("It is wide and blue", "It tastes of salt", "It moves with the wind", "It is home to whales"),
    "the moon": ("It shines at night", "It has no air", "It circles the earth", "It looks like a lamp"),
    "trains": (
        "They run on rails",
        "They carry many people",
        "They stop at stations",
        "They are fast and long",
    ),
}
_REQUESTS = ("Write about {}.", "Tell me about {}.", "Describe {}.", "Say something about {}.")
_END_PHRASES = ("That is all.", "The end.", "Any questions?", "I hope this helps.", "See you soon.")
_WISHES = ("I like {}.", "Think of {}.", "I enjoy {}.")
# Words that the phrases of other constraints need, so that they can't be forbidden.
_PHRASE_WORDS = {
    "makes",
    "think",
    "say",
    "and",
    "ask",
    "name",
    "place",
    "the",
    "end",
    "any",
    "questions",
    "hope",
    "this",
}
_PHRASE_WORDS |= {"helps", "see", "you", "soon", "that", "all", "like", "enjoy", "also", "section"}
_SHOUTS = ("WOW", "YES", "GREAT", "HURRAY")


@dataclass
class Plan:
    """An answer in the making. `unused` holds sentences of the topic that are still free."""

    topic: str
    request: str
    sentences: list[str]
    unused: list[str]
    commas: bool = True
    forbidden: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    layout: str = "prose"
    case: Callable[[str], str] = str
    wrap: Callable[[str], str] = str

    def grow(self, sentences: int) -> None:
        """Take free sentences until there are `sentences`, as far as there are any."""
        while len(self.sentences) < sentences and self.unused:
            self.sentences.append(self.unused.pop())

    def answer(self) -> str:
        lead = "Also, " if self.commas else "Also "
        said = [
            (lead + _continued(text) if self.layout == "prose" and index else text) + "."
            for index, text in enumerate(self.sentences)
        ]
        body = _LAYOUTS[self.layout](said)
        separator = "\n" if "\n" in body or self.layout != "prose" else " "
        return self.case(self.wrap(separator.join([*self.before, body, *self.after])))


def _continued(sentence: str) -> str:
    """The sentence after a lead word: no capital, except for "I"."""
    return sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]


_LAYOUTS = {
    "prose": " ".join,
    "bullets": lambda said: "\n".join(f"* {text}" for text in said),
    "paragraphs": "\n***\n".join,
    "sections": lambda said: "\n".join(f"Section {number}\n{text}" for number, text in enumerate(said, 1)),
    "two": lambda said: f"{said[0]} ****** {' '.join(said[1:])}",
}

# What a constraint's function returns: the sentence for the prompt, the arguments, a note for the reasoning.
Stated = tuple[str, dict | None, str]


def draw(rng: random.Random, level: int, kinds: Sequence[str] = ()) -> Problem:
    """A request with constraints. kinds: restrict to these; by default all of the level's."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UserError(f"instruction_following: unknown kinds {unknown}, expected some of {', '.join(KINDS)}")
    allowed = [kind for kind in KINDS if not kinds or kind in kinds]
    if level <= 2 and not kinds:
        allowed = list(_SIMPLE)
    chosen = _compatible(rng, allowed, (1, 2, 2, 3)[level - 1])
    topic = rng.choice(list(_TOPICS))
    sentences = rng.sample(_TOPICS[topic], 4)
    request = rng.choice(_REQUESTS).format(topic)
    plan = Plan(topic, request, sentences[:1], sentences[1:])
    plan.commas = "punctuation:no_comma" not in chosen
    plan.grow(rng.randint(1, 2))
    stated = {kind: KINDS[kind](rng, plan) for kind in chosen}  # KINDS' order, which thresholds rely on
    order = rng.sample(chosen, len(chosen))
    prompt = " ".join([request, *(stated[kind][0] for kind in order)])
    reasoning = "; ".join([f"topic {topic}", *(stated[kind][2] for kind in order)])
    arguments = [stated[kind][1] for kind in order]
    verifier = {"instruction_id_list": order, "kwargs": arguments, "prompt": prompt, "grading_mode": "binary"}
    key = f"{request} {json.dumps(sorted(zip(order, map(json.dumps, arguments), strict=True)))}"
    return Problem(
        key,
        [user(prompt), assistant(plan.answer(), reasoning)],
        INSTRUCTION_FOLLOWING,
        verifier,
        hasty=[user(prompt), assistant(f"{sentences[0]}. {sentences[1]}.", f"topic {topic}")],
    )


def _compatible(rng: random.Random, allowed: Sequence[str], count: int) -> list[str]:
    """Up to `count` kinds that can be followed together, in KINDS' order."""
    chosen: list[str] = []
    for kind in rng.sample(allowed, len(allowed)):
        if len(chosen) < count and not any(_clash(kind, other) for other in chosen):
            chosen.append(kind)
    return [kind for kind in KINDS if kind in chosen]


def _clash(one: str, other: str) -> bool:
    return any(one in group and other in group for group in _EXCLUSIVE)


def _existence(rng: random.Random, plan: Plan) -> Stated:
    word = rng.choice([word for word in ITEMS + COLORS if word != plan.forbidden])
    plan.sentences.append(f"It makes me think of {word}")
    return f"Use the word {word}.", {"keywords": [word]}, f"use {word}"


def _frequency(rng: random.Random, plan: Plan) -> Stated:
    word, times = rng.choice([word for word in ITEMS if word != plan.forbidden]), rng.randint(2, 3)
    plan.sentences.append("I say " + " and ".join([word] * times))
    stated = f"Use the word {word} at least {times} times."
    return stated, {"keyword": word, "frequency": times, "relation": "at least"}, f"{times} times {word}"


def _forbidden(rng: random.Random, plan: Plan) -> Stated:
    """Forbid a word of one free sentence, which then can't be used."""
    used = _PHRASE_WORDS | set(" ".join([plan.request, *plan.sentences, *plan.unused[1:]]).lower().split())
    words = [word for word in plan.unused.pop(0).lower().split() if len(word) > 2 and word not in used]
    plan.forbidden = rng.choice(words or ITEMS)
    return f"Do not use the word {plan.forbidden}.", {"forbidden_words": [plan.forbidden]}, f"avoid {plan.forbidden}"


def _letters(rng: random.Random, plan: Plan) -> Stated:
    answer = plan.answer().lower()
    letter = rng.choice([letter for letter in "aeiost" if letter in answer])
    count = max(1, answer.count(letter) - rng.randint(0, 3))
    arguments = {"letter": letter, "let_frequency": count, "let_relation": "at least"}
    return f"Use the letter {letter} at least {count} times.", arguments, f"{letter} {count} times"


def _sentences(rng: random.Random, plan: Plan) -> Stated:
    least = rng.randint(2, 4)
    plan.grow(least)
    least = min(least, len(plan.sentences))
    arguments = {"num_sentences": least, "relation": "at least"}
    return f"Write at least {least} sentences.", arguments, f"{least} sentences"


def _paragraphs(rng: random.Random, plan: Plan) -> Stated:
    plan.grow(rng.randint(2, 3))
    plan.layout, count = "paragraphs", len(plan.sentences)
    return (
        f"Write {count} paragraphs with *** between them.",
        {"num_paragraphs": count},
        f"{count} paragraphs",
    )


def _words(rng: random.Random, plan: Plan) -> Stated:
    count = count_words(plan.answer())
    if rng.random() < 0.5:
        limit = max(1, count - count % 5)
        return (
            f"Use at least {limit} words.",
            {"num_words": limit, "relation": "at least"},
            f"{limit} words or more",
        )
    limit = count + 5 - count % 5
    return (
        f"Use less than {limit} words.",
        {"num_words": limit, "relation": "less than"},
        f"under {limit} words",
    )


def _placeholders(rng: random.Random, plan: Plan) -> Stated:
    count = rng.randint(1, 2)
    plan.sentences += ["Ask [name]", "Go to [place]"][:count]
    return f"Use at least {count} placeholders like [name].", {"num_placeholders": count}, f"{count} in []"


def _postscript(rng: random.Random, plan: Plan) -> Stated:
    plan.after.insert(0, f"P.S. {rng.choice(_WISHES).format(plan.topic)}")
    return "Add a postscript that starts with P.S.", {"postscript_marker": "P.S."}, "P.S. at the end"


def _bullets(rng: random.Random, plan: Plan) -> Stated:
    plan.grow(rng.randint(2, 4))
    plan.layout, count = "bullets", len(plan.sentences)
    return f"Use exactly {count} bullet points.", {"num_bullets": count}, f"{count} bullets"


def _highlights(rng: random.Random, plan: Plan) -> Stated:
    count = rng.randint(1, 2)
    plan.grow(count)
    for index in range(count):
        head, _, last = plan.sentences[index].rpartition(" ")
        plan.sentences[index] = f"{head} *{last}*"
    return f"Highlight at least {count} parts like *this*.", {"num_highlights": count}, f"{count} in **"


def _sections(rng: random.Random, plan: Plan) -> Stated:
    plan.grow(rng.randint(2, 3))
    plan.layout, count = "sections", len(plan.sentences)
    stated = f"Write {count} sections. Start each with Section and its number."
    return stated, {"section_spliter": "Section", "num_sections": count}, f"{count} sections"


def _json(rng: random.Random, plan: Plan) -> Stated:
    plan.wrap = lambda text: json.dumps({"answer": text})
    return "Answer in JSON.", None, "as JSON"


def _title(rng: random.Random, plan: Plan) -> Stated:
    plan.before.append(f"<<{plan.topic.capitalize()}>>")
    return "Add a title in << and >>.", None, "title first"


def _two(rng: random.Random, plan: Plan) -> Stated:
    plan.grow(2)
    plan.layout = "two"
    return "Give two different answers with ****** between them.", None, "two answers"


def _repeat(rng: random.Random, plan: Plan) -> Stated:
    plan.before.insert(0, plan.request)
    stated = "First repeat the request word for word."
    return stated, {"prompt_to_repeat": plan.request}, "repeat first"


def _capital_words(rng: random.Random, plan: Plan) -> Stated:
    count = rng.randint(1, 2)
    plan.sentences.insert(0, " ".join(rng.sample(_SHOUTS, count)))
    arguments = {"capital_frequency": count, "capital_relation": "at least"}
    return f"Use at least {count} words in all capital letters.", arguments, f"{count} in capitals"


def _capital(rng: random.Random, plan: Plan) -> Stated:
    plan.case = str.upper
    return "Use only capital letters.", None, "all capitals"


def _lowercase(rng: random.Random, plan: Plan) -> Stated:
    plan.case = str.lower
    return "Use only lowercase letters.", None, "all lowercase"


def _end(rng: random.Random, plan: Plan) -> Stated:
    phrase = rng.choice(_END_PHRASES)
    plan.after.append(phrase)
    return f"End with: {phrase}", {"end_phrase": phrase}, f"end with {phrase}"


def _quotation(rng: random.Random, plan: Plan) -> Stated:
    plan.wrap = lambda text: f'"{text}"'
    return "Put the whole answer in double quotes.", None, "in quotes"


def _no_comma(rng: random.Random, plan: Plan) -> Stated:
    plan.grow(2)
    return "Use no commas.", None, "no commas"


# Kinds that count something of the finished answer come last.
KINDS: dict[str, Callable[[random.Random, Plan], Stated]] = {
    "keywords:forbidden_words": _forbidden,
    "punctuation:no_comma": _no_comma,
    "length_constraints:number_sentences": _sentences,
    "detectable_format:number_highlighted_sections": _highlights,
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "detectable_content:number_placeholders": _placeholders,
    "change_case:capital_word_frequency": _capital_words,
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:multiple_sections": _sections,
    "combination:two_responses": _two,
    "detectable_format:title": _title,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "detectable_content:postscript": _postscript,
    "change_case:english_capital": _capital,
    "change_case:english_lowercase": _lowercase,
    "startend:quotation": _quotation,
    "detectable_format:json_format": _json,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_words": _words,
}
_SIMPLE = (
    "keywords:existence",
    "keywords:forbidden_words",
    "punctuation:no_comma",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "startend:end_checker",
    "startend:quotation",
    "detectable_format:number_bullet_lists",
    "detectable_format:title",
    "detectable_format:json_format",
    "detectable_content:postscript",
    "length_constraints:number_words",
)
_CASES = {
    "change_case:english_capital",
    "change_case:english_lowercase",
    "change_case:capital_word_frequency",
}
_LAYOUT_KINDS = {
    "length_constraints:number_paragraphs",
    "detectable_format:number_bullet_lists",
    "detectable_format:multiple_sections",
    "combination:two_responses",
}
_WRAPS = {"startend:quotation", "detectable_format:json_format"}
_EXCLUSIVE = (
    _CASES,
    _LAYOUT_KINDS | {"detectable_format:number_highlighted_sections"},  # *x* looks like a bullet
    _LAYOUT_KINDS - {"combination:two_responses"}
    | _WRAPS,  # a quotation mark or brace would hide the first line's mark
    {"combination:repeat_prompt", "detectable_format:title", "change_case:capital_word_frequency"},  # all come first
    {"combination:repeat_prompt"} | _WRAPS,
    {"startend:end_checker", "detectable_content:postscript"},  # both come last
    {"startend:end_checker", "detectable_format:json_format"},
    {"detectable_format:multiple_sections"} | _CASES,  # "Section" keeps its case
)
