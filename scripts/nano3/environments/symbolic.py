"""Symbolic equivalence by math-verify. Imported only in the server process of `bounded`.

math-verify parses LaTeX with a grammar; of plain text it hands to Python's parser only what consists of digits and
operators. Nothing that a model writes is run, and the cell holds what goes wrong nevertheless.
"""

import logging

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

logging.disable(logging.CRITICAL)

# The limit of `bounded` is the hard one; these soft ones leave time for the other notation.
SECONDS = 2


def equivalent(expected: str, candidate: str) -> bool:
    r"""Whether two answers in LaTeX or plain notation are the same, e.g. "\frac{1}{2}" and "50\%"."""
    extraction = [LatexExtractionConfig(), ExprExtractionConfig()]
    gold = parse(rf"\boxed{{{expected}}}", extraction, parsing_timeout=SECONDS)
    answer = parse(rf"\boxed{{{candidate}}}", extraction, parsing_timeout=SECONDS)
    return bool(gold and answer and verify(gold, answer, timeout_seconds=SECONDS))


# Fills the parsers' caches, once for all checks that are forked from here.
equivalent(r"\frac{x^2}{2}+\sqrt{3}", "x**2/2 + 3^{1/2}")
