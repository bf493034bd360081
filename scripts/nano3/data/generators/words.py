"""Small word lists that the families share: short, common, and few, so that a tiny vocabulary covers them."""

# ruff: noqa: SIM905 (words in a row read better than a list of quoted words)

NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jane Kim Leo Mia Nora Omar Pia Quinn Rosa Sam Tom Uma Vera Will Yara Zoe"
).split()
CITIES = "Rome Oslo Lima Paris Cairo Delhi Tokyo Bern Quito Accra Hanoi Dublin Madrid Berlin Sydney Boston".split()
ITEMS = "apple book coin pen cup ball card stone shell key cake egg nut seed hat".split()
ANIMALS = "cat dog fox owl bee cow hen pig ant bat".split()
COLORS = "red blue green black white pink gold gray".split()
PLACES = "park lake shop farm beach school market garden bridge station".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def plural(noun: str) -> str:
    """The regular English plural, e.g. boxes, books."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
