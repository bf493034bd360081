"""Symbolic equivalence by math-verify. Imported only in the child process of `bounded`."""

import logging

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

logging.disable(logging.CRITICAL)

# The child's watchdog is the hard limit; these soft ones spare a restart where Python can be interrupted.
SECONDS = 2


def equivalent(expected: str, candidate: str) -> bool:
    r"""Whether two answers in LaTeX or plain notation are the same, e.g. "\frac{1}{2}" and "50\%"."""
    extraction = [LatexExtractionConfig(), ExprExtractionConfig()]
    gold = parse(rf"\boxed{{{expected}}}", extraction, parsing_timeout=SECONDS)
    answer = parse(rf"\boxed{{{candidate}}}", extraction, parsing_timeout=SECONDS)
    return bool(gold and answer and verify(gold, answer, timeout_seconds=SECONDS))
