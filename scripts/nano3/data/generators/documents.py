"""Questions about several documents (the report's long-context QA has at least five): one of them has the answer."""

import random
from collections.abc import Sequence

from nano3.data.generators.long_context import distractor
from nano3.data.generators.problem import LONG_CONTEXT_QA, Problem, assistant, user
from nano3.data.generators.words import CITIES, COLORS, ITEMS, NAMES
from nano3.errors import UserError

LEVELS = (1, 500)  # distracting sentences of a document, at most
DOCUMENTS = 5

# (what is said, what is asked, possible answers)
_FACTS = (
    ("{name} lives in {answer}.", "Where does {name} live?", CITIES),
    ("{name} lost a {answer}.", "What did {name} lose?", ITEMS),
    ("{name} wears {answer} shoes.", "Which color are the shoes of {name}?", COLORS),
    ("The room of {name} is {answer}.", "Which room has {name}?", [str(number) for number in range(10, 100)]),
)
FACTS = ("city", "item", "color", "room")  # what they are about, in their order


def draw(rng: random.Random, level: int, documents: int = DOCUMENTS, facts: Sequence[str] = FACTS) -> Problem:
    """Documents about a person each, with up to `level` distracting sentences, and a question about one person."""
    unknown = sorted(set(facts) - set(FACTS))
    if unknown or not facts:
        raise UserError(f"documents: unknown facts {unknown}, expected some of {', '.join(FACTS)}")
    said, asked, answers = _FACTS[FACTS.index(rng.choice(list(facts)))]
    people = rng.sample(NAMES, documents)
    told = [rng.choice(answers) for _ in people]
    texts = []
    for name, answer in zip(people, told, strict=True):
        sentences = [distractor(rng) for _ in range(rng.randint(0, level))]
        sentences.insert(rng.randint(0, len(sentences)), said.format(name=name, answer=answer))
        texts.append(" ".join(sentences))
    chosen = rng.randrange(documents)
    question = asked.format(name=people[chosen])
    prompt = "\n".join([*(f"{number}) {text}" for number, text in enumerate(texts, 1)), question])
    fact = said.format(name=people[chosen], answer=told[chosen])
    messages = [user(prompt), assistant(f"The answer is {told[chosen]}.", f"{chosen + 1}) {fact}")]
    verifier = {"question": question, "expected_answer": told[chosen]}
    hasty = [user(prompt), assistant(f"The answer is {told[0]}.", "It is in the first.")]
    return Problem(fact, messages, LONG_CONTEXT_QA, verifier, hasty=hasty)
