"""Code with unit tests: how programs are found and their outputs compared. What holds them: test_sandbox.py."""

import pytest

from environment_rows import EXAMPLES, code, score
from nano3.environments.code_gen import same_json, same_text


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("4\n", "4", True),
        ("4 5 \n6", "4  5\n6\n", True),
        ("4 5 6", "4 5\n6", False),
        ("0.50", "0.5", True),
        ("1e3", "1000", True),
        ("nan", "nan", True),
        ("inf", "Infinity", False),
        ("", "4", False),
        ("4\n4", "4", False),
        ("9" * 200, "9" * 199 + "8", False),
    ],
)
def test_outputs_are_compared_by_line_and_word_and_numbers_by_value(output, expected, same):
    assert same_text(output, expected) == same


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("[1, 2.0]", "[1.0, 2]", True),
        ("true", "1", False),
        ("[true]", "[1]", False),
        ('{"a": [1]}', '{"a":[1]}', True),
        ('{"a": 1, "b": 2}', '{"a": 1}', False),
        ("NaN", "NaN", False),
        ("1 1", "1", False),
        ("", "null", False),
        ("[" * 100_000, "1", False),
        ("9" * 5000, "1", False),
    ],
)
def test_results_are_compared_as_json_values(output, expected, same):
    assert same_json(output, expected) == same


def test_the_last_closed_code_block_is_the_program():
    example = EXAMPLES["code"][0]
    right, wrong = "```python\ndef f(n):\n    return 2*n\n```", "```python\ndef f(n):\n    return n\n```"
    assert score(example, f"{wrong}\nNo:\n{right}").value == 1.0
    assert score(example, f"{right}\nNo:\n{wrong}").value == 0.0
    assert not score(example, "def f(n): return 2*n").well_formed
    assert not score(example, right.removesuffix("```")).well_formed


def test_one_failed_test_of_many_is_no_reward_and_named():
    example = code({"inputs": ["2", "3", "0"], "outputs": ["4", "6", "1"], "fn_name": "f"})
    reward = score(example, "```python\ndef f(n):\n    return 2*n\n```")
    assert reward.value == 0.0 and reward.reason == "test 3 of 3: '0', expected '1'"
