"""Mathematics: equal answers score in every notation, and nothing that a model writes is run or runs away."""

import time

import pytest

from environment_rows import maths, score
from nano3.environments import bounded
from nano3.environments.math import compare
from nano3.errors import UserError
from workspace import ROOT


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("132", "132"),
        ("132", "132."),
        ("132", "+132"),
        ("1000", "1,000"),
        ("1000", "1{,}000"),
        ("0.5", "1/2"),
        ("0.5", "\\frac{1}{2}"),
        ("-0.5", "-\\dfrac{1}{2}"),
        ("-7", "\\text{−7}"),
        ("3", "$3$"),
        (3, "3.0"),
        ("\\frac{\\sqrt{2}}{2}", "1/\\sqrt{2}"),
        ("2x+2", "2(x+1)"),
        ("(1,2)", "(1, 2)"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("50\\%", "0.5"),
    ],
)
def test_equal_answers_in_other_notation_score(expected, answer):
    assert score(maths(expected), f"So \\boxed{{{answer}}}").value == 1.0


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("132", "133"),
        ("132", "1 32"),
        ("12", "1 2"),
        ("132", ""),
        ("132", "13 or 132"),
        ("0.3333", "1/3"),
        ("5", "1/0"),
        ("x+1", "x-1"),
        ("1", "(((("),
        ("100000000000000000001", "100000000000000000002"),
    ],
)
def test_different_answers_do_not_score(expected, answer):
    assert score(maths(expected), f"So \\boxed{{{answer}}}").value == 0.0


def test_a_final_answer_without_a_box_scores_but_is_not_well_formed():
    for text in ("The answer is 42.", "Answer: 42", "12\n#### 42", "The answer is 7. No, the answer is 42."):
        reward = score(maths("42"), text)
        assert reward.value == 1.0 and not reward.well_formed
    assert score(maths("42"), "I computed 42").value == 0.0


def test_integers_are_compared_without_the_symbolic_child():
    bounded.stop()
    start = time.perf_counter()
    for answer in range(200):
        score(maths("132"), f"\\boxed{{{answer}}}")
    assert time.perf_counter() - start < 0.5
    assert bounded._child is None


def test_expressions_that_explode_are_ended_and_the_next_one_is_scored():
    for monster in ("9^{9^{9^{9}}}", "(x+1)^{100000}"):
        start = time.perf_counter()
        equal, _ = compare("x^3", monster)
        assert not equal and time.perf_counter() - start < 20
    assert compare("x^3", "x \\cdot x^2") == (True, "symbolic")


def test_a_check_that_hangs_in_c_is_ended():
    with pytest.raises(bounded.CheckFailed, match="no result"):
        bounded.call("re:fullmatch", "(a+)+b", "a" * 40, seconds=0.5)
    assert bounded.call("math:sqrt", 9, seconds=5) == 3.0


def test_a_check_that_raises_reports_the_error():
    with pytest.raises(bounded.CheckFailed, match="ValueError"):
        bounded.call("math:sqrt", -1, seconds=5)


def test_a_missing_package_is_an_error_and_not_a_wrong_answer():
    with pytest.raises(UserError, match="no_such_package"):
        bounded.call("no_such_package:check", 1, seconds=5)


def test_a_check_that_takes_all_memory_is_ended():
    with pytest.raises(bounded.CheckFailed):
        bounded.call("operator:mul", [0], 10**10, seconds=5)


INJECTIONS = [
    "9**9**9",
    "9^{9^{9}}",
    "(9**9**9)%7",
    "factorial(99999999)",
    "99999999!!!",
    "10^{10^{10}}",
    "\\sum_{i=1}^{10^{12}} i^i",
    "__import__('os').system('touch WITNESS')",
    "\\text{__import__('os').system('touch WITNESS')}",
    "x**(open('WITNESS','w').write('x'))",
    "\\operatorname{exec}(\\text{open('WITNESS','w')})",
    "1}__import__('os').system('touch WITNESS'){",
    "lambda: exec('open(chr(87))')",
    "().__class__.__bases__[0].__subclasses__()",
    "1+1#'+';import os;os.system('touch WITNESS')",
    '\\lambda x. x \\circ \\mathrm{eval}(\'open("WITNESS","w")\')',
]


@pytest.mark.parametrize("answer", INJECTIONS)
def test_code_and_monsters_in_an_answer_are_neither_run_nor_right(answer, tmp_path, monkeypatch):
    monkeypatch.setattr("nano3.environments.math.SECONDS", 1.0)
    witness = tmp_path / "witness"
    answer = answer.replace("WITNESS", str(witness))
    compare("x^3", "x \\cdot x^2")  # the server is up
    for expected in ("2", "x+1"):
        start = time.perf_counter()
        for form in (f"\\boxed{{{answer}}}", f"The answer is {answer}"):
            assert score(maths(expected), form).value == 0.0
        assert time.perf_counter() - start < 8
    assert not witness.exists()
    assert compare("x^3", "x \\cdot x^2") == (True, "symbolic")


def test_a_check_sees_no_network_no_files_and_no_environment(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    bounded.stop()
    assert bounded.call("os:getenv", "SOME_TOKEN", seconds=5) is None
    assert bounded.call("os.path:exists", str(tmp_path / "file"), seconds=5) is False
    shown = ROOT.relative_to("/tmp").parts[:1] if ROOT.is_relative_to("/tmp") else ()  # our own code may lie there
    assert bounded.call("os:listdir", "/tmp", seconds=5) == list(shown)
    with pytest.raises(bounded.CheckFailed, match=r"OSError|Network"):
        bounded.call("socket:create_connection", ["192.0.2.1", 80], seconds=5)


def test_what_a_check_leaves_behind_the_next_one_does_not_see():
    bounded.call("sys:setrecursionlimit", 4321, seconds=5)
    assert bounded.call("sys:getrecursionlimit", seconds=5) != 4321
