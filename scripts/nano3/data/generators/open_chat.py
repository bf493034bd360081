"""Small talk, who the model is, and definitions from a short list of facts. No verifier: a reward model compares.

The key is the wording of the turns, so held-out chats ask known things in ways, or in an order, not seen in training.
"""

import random

from nano3.data.generators.problem import PREFERENCE, Problem, assistant, user
from nano3.data.generators.words import NAMES

LEVELS = (1, 3)  # user turns

_THINKING_SHARE = 0.5  # of chats that think first, briefly, so that both modes are natural

_GREETINGS = ("Hi", "Hello", "Hey", "Good morning", "Good evening", "Hi there", "Hello there", "Hey there")
_MANNERS = ("{}!", "{}.", "{}, how are you?", "{}, Nano!", "{}, I am {name}.", "{}! My name is {name}.")
_REPLIES = {
    "plain": ("Hello! How can I help?", "Hi! What can I do for you?"),
    "how are you": ("I am fine. How can I help?", "I am well, thank you. What can I do for you?"),
    "name": ("Hello {name}! How can I help?", "Nice to meet you, {name}!"),
}
_ASIDES = (
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Introduce yourself."),
     "I am Nano, a tiny language model.", "They ask who I am."),
    (("What can you do?", "How can you help me?", "What are you good at?", "Tell me what you can do."),
     "I can do small sums, answer simple questions, write JSON and call tools.", "They ask what I can do."),
    (("Are you a human?", "Are you real?", "Are you a person?", "Is this a human?"),
     "No, I am a computer program.", "They ask if I am human."),
    (("How big are you?", "How many parameters do you have?", "Are you a large model?"),
     "I am very small: about two million parameters.", "They ask for my size."),
    (("Who made you?", "Where do you come from?", "How were you trained?"),
     "An open recipe made me: pretraining, then fine-tuning, then reinforcement learning.", "They ask for my origin."),
    (("Thank you!", "Thanks!", "Thanks a lot.", "Thank you very much."),
     "You are welcome!", "They thank me."),
    (("Bye!", "Goodbye!", "See you later.", "Good night!"),
     "Goodbye! Have a nice day.", "They leave."),
    (("Tell me a joke.", "Make me laugh.", "Do you know a joke?", "Say something funny."),
     "Why did the cat sit on the book? It liked the cover.", "They want a joke."),
    (("I am sad.", "I feel bad today.", "I had a bad day."),
     "I am sorry to hear that. I hope tomorrow is better.", "They feel sad."),
    (("I am happy.", "I feel great today.", "I had a good day."),
     "That is good to hear!", "They feel happy."),
)  # fmt: skip
_FACTS = {
    "a noun": "A noun is a word that names a person, place or thing.",
    "a verb": "A verb is a word for an action.",
    "the sun": "The sun is the star at the center of our solar system.",
    "the moon": "The moon is a ball of rock that circles the earth.",
    "a planet": "A planet is a large round body that circles a star.",
    "water": "Water is a clear liquid made of hydrogen and oxygen.",
    "ice": "Ice is frozen water.",
    "rain": "Rain is water that falls from clouds.",
    "a cat": "A cat is a small animal that says meow.",
    "a dog": "A dog is a friendly animal that barks.",
    "a bee": "A bee is an insect that makes honey.",
    "a tree": "A tree is a tall plant with a trunk of wood.",
    "a triangle": "A triangle is a shape with three sides.",
    "a square": "A square is a shape with four equal sides.",
    "a circle": "A circle is a round shape. Every point is equally far from the center.",
    "an even number": "An even number can be divided by two.",
    "a prime number": "A prime number has exactly two divisors: one and itself.",
    "a minute": "A minute is sixty seconds.",
    "a week": "A week is seven days.",
    "a year": "A year is twelve months.",
    "a computer": "A computer is a machine that follows instructions.",
    "a language model": "A language model is a program that predicts the next word.",
    "a token": "A token is a small piece of text.",
    "python": "Python is a programming language.",
    "json": "JSON is a text format for data.",
    "a book": "A book is a set of pages to read.",
    "a clock": "A clock shows the time.",
    "a map": "A map is a drawing of a place.",
    "music": "Music is sound that is nice to hear.",
    "gold": "Gold is a yellow metal.",
}
_ASK_FACT = (
    "What is {}?", "Tell me what {} is.", "Do you know what {} is?", "Please explain what {} is.", "Define: {}",
    "I want to know what {} is.", "Can you tell me what {} is?", "Explain: {}", "What does {} mean?", "Say what {} is.",
)  # fmt: skip


def draw(rng: random.Random, level: int) -> Problem:
    """A chat of `level` user turns."""
    thinks = rng.random() < _THINKING_SHARE
    messages, words = [], []
    turns = rng.sample(("greeting", "aside", "fact", "fact"), level)
    turns.sort(key=lambda turn: turn != "greeting")  # people greet first
    for turn in turns:
        question, reply, thought = _TURNS[turn](rng)
        messages += [user(question), assistant(reply, thought if thinks else "")]
        words.append(question)
    return Problem(" | ".join(words), messages, PREFERENCE)


def _greeting(rng: random.Random) -> tuple[str, str, str]:
    manner, name = rng.choice(_MANNERS), rng.choice(NAMES)
    question = manner.format(rng.choice(_GREETINGS), name=name)
    kind = "name" if "{name}" in manner else "how are you" if "how are you" in manner else "plain"
    return question, rng.choice(_REPLIES[kind]).format(name=name), "They greet me."


def _aside(rng: random.Random) -> tuple[str, str, str]:
    questions, reply, thought = rng.choice(_ASIDES)
    return rng.choice(questions), reply, thought


def _fact(rng: random.Random) -> tuple[str, str, str]:
    thing = rng.choice(list(_FACTS))
    return rng.choice(_ASK_FACT).format(thing), _FACTS[thing], f"They ask about {thing}."


_TURNS = {"greeting": _greeting, "aside": _aside, "fact": _fact}


def small_talk(rng: random.Random) -> tuple[str, str, str]:
    """One turn of any kind: question, reply, thought."""
    return _TURNS[rng.choice(list(_TURNS))](rng)
