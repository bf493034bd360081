"""Reward environments: right answers score, wrong ones do not, and no response breaks or delays a verifier."""

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano3 import environments
from nano3.environments import Reward, bounded
from nano3.environments.code_gen import same_json, same_text
from nano3.environments.instruction_following import KINDS
from nano3.environments.language import LANGUAGES, is_written_in
from nano3.environments.math import compare
from nano3.environments.text import last_boxed, split_response, without_fence
from nano3.errors import UserError


def row(agent, **fields):
    return {"id": 7, "dataset": "test", "agent_ref": {"type": "responses_api_agents", "name": agent}, **fields}


def maths(expected):
    return row("math_with_judge_simple_agent", expected_answer=expected)


def choice(**fields):
    options = [{"A": "12"}, {"B": "forty five"}, {"C": "7"}]
    return row("mcqa_simple_agent", **{"options": options, "expected_answer": "B", **fields})


def structured(schema, **fields):
    return row("structured_outputs_simple_agent", schema_str=json.dumps(schema), schema_type="json", **fields)


def following(*constraints, **fields):
    kinds, arguments = zip(*constraints, strict=True)
    fields = {"instruction_id_list": list(kinds), "kwargs": list(arguments), "prompt": "p", **fields}
    return row("instruction_following_simple_agent", **fields)


def tool_use(action):
    return row("single_step_tool_use_with_argument_comparison_agent", expected_action=action)


def code(tests):
    return row("code_gen_simple_agent", verifier_metadata={"unit_tests": tests})


def question(expected, **fields):
    return row("equivalence_llm_judge_simple_agent", question="What?", expected_answer=expected, **fields)


def rubric(*lines, **fields):
    prompt = {"input": [{"role": "user", "content": "Be brief."}]}
    return row("multichallenge_simple_agent", rubric=list(lines), responses_create_params=prompt, **fields)


def work(truth=(), **fields):
    tables = {"emails": [{"id": "1", "subject": "lunch", "sender/recipient": "a@b.c"}]}
    fields = {"database": tables, "responses_create_params": {"input": "Hi"}, **fields}
    return row("workplace_assistant_simple_agent", ground_truth=list(truth), **fields)


def bank(truth=(), **fields):
    tables = {"accounts": [{"id": "0", "name": "main", "balance": 100}], "cards": [{"id": "red", "status": "active"}]}
    fields = {"database": tables, "user": [], "responses_create_params": {"input": "Hi"}, **fields}
    return row("banking_simple_agent", ground_truth=list(truth), **fields)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
CALL = {"type": "function_call", "name": "get_weather", "arguments": '{"city": "Rome", "days": 3}'}
GOOD_CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>"
)
EXAMPLES = {
    "maths": (maths("132"), "\\boxed{132}"),
    "choice": (choice(), "\\boxed{B}"),
    "structured": (structured(PERSON), '{"name": "Mia", "age": 3}'),
    "following": (following(("punctuation:no_comma", None)), "No commas here."),
    "tool use": (tool_use(CALL), GOOD_CALL),
    "plain reply": (tool_use({"type": "message"}), "Hello!"),
    "code": (
        code({"inputs": ["2", "3"], "outputs": ["4", "6"], "fn_name": "f"}),
        "So:\n```python\ndef f(n):\n    return 2 * n\n```",
    ),
    "program": (
        code({"inputs": ["2\n"], "outputs": ["4\n"], "fn_name": None}),
        "```\nprint(2 * int(input()))\n```\nDone.",
    ),
    "question": (question("The Nile"), "The answer is nile."),
    "long context": (
        row("long_context_qa_simple_agent", question="Who?", expected_answer=["Ada", "Ada Lovelace"]),
        "Ada Lovelace!",
    ),
    "rubric": (rubric({"instruction_id": "punctuation:no_comma"}), "Fine."),
    "work": (work(), "Nothing to do."),
    "bank": (bank(), "Nothing to do."),
}


def score(example, answer, thinking="hm"):
    return environments.verify(example, f"<think>\n{thinking}\n</think>\n{answer}<|im_end|>\n")


# What all environments share


@pytest.mark.parametrize(("example", "answer"), EXAMPLES.values(), ids=EXAMPLES)
def test_a_right_answer_scores_one_wherever_the_response_starts(example, answer):
    for start in ("<think>\nhm\n</think>\n", "hm</think>", "<think></think>", "\n</think>\n"):
        for end in ("", "<|im_end|>", "<|im_end|>\n<|im_start|>user\nmore"):
            reward = environments.verify(example, start + answer + end)
            assert reward.value == 1.0 and reward.well_formed, reward


@pytest.mark.parametrize(("example", "answer"), EXAMPLES.values(), ids=EXAMPLES)
def test_broken_thinking_scores_zero_and_is_not_well_formed(example, answer):
    for broken in (
        answer,
        f"<think>{answer}",
        "",
        "</think>",
        f"</think></think>{answer}",
        f"hm</think>{answer}</think>",
        f"</think><think>{answer}",
        f"<think><think>hm</think>{answer}",
        f"hm<|im_end|></think>{answer}",
    ):
        reward = environments.verify(example, broken)
        assert reward.value == 0.0 and not reward.well_formed and reward.reason, broken


@pytest.mark.parametrize("name", ["maths", "choice", "structured", "tool use", "code", "program", "question"])
def test_an_answer_in_the_thinking_only_scores_zero(name):
    example, answer = EXAMPLES[name]
    assert score(example, "I can't say.", thinking=answer).value == 0.0


MARKS = ("</think>", "<think>", "\\boxed{", "}", "{", "<tool_call>", "<function=", "</tool_call>", "```json\n", "```")
PROGRAM = "```python\ndef f(n):"
ODDITIES = ("B", "132", '"name"', "[[", "<<", "******", "\n\n", "\\frac{1}{0}", "\\left(", "1e9", "\x00", "\ud800", "½")
FRAGMENTS = st.sampled_from((*MARKS, PROGRAM, *ODDITIES))
TEXT = st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(EXAMPLES)), TEXT, st.booleans())
def test_any_response_gets_a_finite_reward_in_range_with_a_reason(name, text, closed):
    reward = environments.verify(EXAMPLES[name][0], f"hm</think>{text}" if closed else text)
    assert isinstance(reward, Reward) and math.isfinite(reward.value) and 0 <= reward.value <= 1
    assert isinstance(reward.reason, str) and reward.reason and len(reward.reason) < 400
    assert isinstance(reward.well_formed, bool)


HUGE = {
    "letters": "a" * 400_000,
    "braces": "\\boxed{" * 14_000,
    "open brackets": "[" * 99_000,
    "json nesting": '{"a":' * 16_000 + "1" + "}" * 16_000,
    "json list": "[" + "1," * 40_000 + "1]",
    "angles": "<<" * 49_000,
    "stars": "*" * 99_000,
    "blank lines": "\n" * 40_000 + "x" + "\n" * 40_000,
    "dots": ". " * 49_000,
    "calls": "<tool_call><function=f><parameter=" * 2_500,
    "closes": "</think>" * 50_000,
    "digits": "\\boxed{" + "9" * 90_000 + "}",
    "spaces": "x" + " " * 98_000 + "x",
}
ALL_KINDS = [
    ("keywords:existence", {"keywords": ["zebra"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["x"]}),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "x"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}),
    ("change_case:english_lowercase", {}),
    ("language:response_language", {"language": "de"}),
    ("copy:repeat_phrase", {"phrase": "a b c", "small_n": 2}),
    ("count:counting_composition", {"n_sent": 2, "n_words": 3}),
    ("detectable_format:sentence_hyphens", {}),
]


@pytest.mark.parametrize("kind", HUGE)
def test_huge_responses_are_scored_within_a_second(kind):
    examples = [example for example, _ in EXAMPLES.values()] + [following(*ALL_KINDS)]
    for example in examples:
        environments.verify(example, "")  # imports and schema caches are not what is timed
        start = time.process_time()
        reward = environments.verify(example, f"hm</think>{HUGE[kind]}")
        assert time.process_time() - start < 1.0, (kind, example["agent_ref"])
        assert 0 <= reward.value <= 1


def test_an_unknown_environment_is_an_error_that_names_the_known_ones():
    with pytest.raises(UserError, match="mcqa_simple_agent"):
        environments.verify(row("chess_agent"), "x")
    with pytest.raises(UserError, match="math_with_judge"):
        environments.verify({}, "x")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (row("math_with_judge_simple_agent"), "expected_answer"),
        (row("mcqa_simple_agent", expected_answer="A"), "options"),
        (choice(expected_answer="D"), "none of the options"),
        (choice(grading_mode="vibes"), "lenient_boxed"),
        (row("structured_outputs_simple_agent", schema_str='{"type": 3}'), "JSON Schema"),
        (row("structured_outputs_simple_agent", schema_str="{"), "JSON Schema"),
        (structured(PERSON) | {"schema_type": "xml"}, "json"),
        (following(("poetry:rhyme", None)), "poetry:rhyme"),
        (following(("keywords:existence", {})), "keywords"),
        (following(("keywords:existence", {"keywords": "cat"})), "list of words"),
        (following(("length_constraints:number_words", {"num_words": "5", "relation": "at least"})), "number_words"),
        (following(("length_constraints:number_words", {"num_words": 5, "relation": "about"})), "at least"),
        (following(("punctuation:no_comma", None), kwargs=[]), "same number"),
        (following(("language:response_language", {"language": "tlh"})), "unknown"),
        (tool_use({"type": "function_call"}), "expected_action"),
        (code({"inputs": ["1"], "outputs": []}), "same number"),
        (code({"inputs": [], "outputs": []}), "at least one"),
        (code({"inputs": ["1"], "outputs": [" \n"]}), "does nothing"),
        (code({"inputs": ["{"], "outputs": ["1"], "fn_name": "f"}), "unit_tests"),
        (code({"inputs": [1], "outputs": ["1"]}), "must be texts"),
        (row("code_gen_simple_agent"), "unit_tests"),
        (question(" the "), "expected_answer"),
        (question(None), "expected_answer"),
        (rubric(), "empty"),
        (rubric({"question": "Polite?"}), "judge"),
        (rubric({"pass_criteria": "YES"}), "rubric line"),
        (rubric({"instruction_id": "poetry:rhyme"}), "poetry:rhyme"),
        (work([{"name": "fly", "arguments": "{}"}]), "ground_truth"),
        (work([{"name": "email_delete_email", "arguments": '{"email_id": "7"}'}]), "no record"),
        (work(database=None), "database"),
        (work(database={"planes": []}), "planes"),
        (work(database={"emails": [{"subject": "x"}]}), "with an id"),
        (bank(user=[{"say": "x"}]), "user line"),
        (bank([{"name": "transfer", "arguments": '{"source": "main", "to": "Ada", "amount": 200}'}]), "not enough"),
        (tool_use({"type": "function_call", "name": "f", "arguments": "[1]"}), "object"),
    ],
)
def test_a_row_that_can_not_be_scored_is_an_error_before_there_is_an_answer(example, message):
    with pytest.raises(UserError, match=message):
        environments.verify(example, "")


def test_verifier_fields_may_sit_in_verifier_metadata():
    nested = row("math_with_judge_simple_agent", verifier_metadata={"expected_answer": "3"})
    assert score(nested, "\\boxed{3}").value == 1


def test_a_reward_outside_its_range_is_refused():
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="lies in"):
            Reward(value, "", True)


# Taking responses apart


def test_the_last_box_counts_and_braces_nest():
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}} end") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{1} then \boxed{2") is None
    assert last_boxed("no box") is None


def test_a_code_fence_is_removed_only_when_it_holds_the_whole_text():
    assert without_fence("```json\n{}\n```") == "{}"
    assert without_fence("```\n[1]\n```") == "[1]"
    assert without_fence("```json {} ```") == "{}"
    assert without_fence("see ```json\n{}\n```") == "see ```json\n{}\n```"


def test_thinking_and_answer_are_separated():
    parts = split_response("<think>\nwhy\n</think>\n\nbecause<|im_end|>")
    assert (parts.thinking, parts.answer, parts.fault) == ("why", "because", "")


# Mathematics


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
    assert bounded.call("os:listdir", "/tmp", seconds=5) == []
    with pytest.raises(bounded.CheckFailed, match=r"OSError|Network"):
        bounded.call("socket:create_connection", ["192.0.2.1", 80], seconds=5)


def test_what_a_check_leaves_behind_the_next_one_does_not_see():
    bounded.call("sys:setrecursionlimit", 4321, seconds=5)
    assert bounded.call("sys:getrecursionlimit", seconds=5) != 4321


# Code


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


# Multiple choice


@pytest.mark.parametrize("answer", ["\\boxed{B}", "\\boxed{ B }", "\\boxed{(B)}", "\\boxed{A} no, \\boxed{B}"])
def test_one_boxed_capital_letter_scores(answer):
    assert score(choice(), answer).value == 1.0


@pytest.mark.parametrize(
    "answer",
    ["B", "\\boxed{b}", "\\boxed{A}", "\\boxed{A or B}", "\\boxed{\\text{B}}", "\\boxed{B} \\boxed{A}", "\\boxed{E}"],
)
def test_anything_but_one_boxed_capital_letter_does_not(answer):
    assert score(choice(), answer).value == 0.0


def test_a_wrong_letter_is_well_formed_and_a_letter_not_offered_is_not():
    assert score(choice(), "\\boxed{A}").well_formed
    assert not score(choice(), "\\boxed{E}").well_formed


def test_lenient_modes_take_the_option_text():
    assert score(choice(grading_mode="lenient_boxed"), "\\boxed{Forty  Five}").value == 1.0
    assert score(choice(grading_mode="lenient_boxed"), "\\boxed{12}").value == 0.0
    assert score(choice(grading_mode="lenient_answer_colon"), "Answer: B").value == 1.0
    assert score(choice(), "\\boxed{forty five}").value == 0.0


# Structured output


def test_json_that_the_schema_accepts_scores_bare_or_fenced():
    for answer in ('{"name": "Mia", "age": 3}', '```json\n{"age":3,"name":"Mia"}\n```'):
        assert score(structured(PERSON), answer).value == 1.0


@pytest.mark.parametrize(
    ("answer", "well_formed"),
    [
        ('{"name": "Mia", "age": "3"}', True),
        ('{"name": "Mia"}', True),
        ('{"name": "Mia", "age": 3, "more": 1}', True),
        ("[]", True),
        ('{"name": "Mia", "age": NaN}', False),
        ('Here: {"name": "Mia", "age": 3}', False),
        ('{"name": "Mia", "age": 3', False),
        ("[" * 50_000, False),
    ],
)
def test_other_json_or_no_json_does_not_score(answer, well_formed):
    reward = score(structured(PERSON), answer)
    assert reward.value == 0.0 and reward.well_formed == well_formed


def test_object_schemas_are_closed_at_every_depth():
    schema = {"type": "array", "items": {"type": "object", "properties": {"properties": {"type": "integer"}}}}
    assert score(structured(schema), '[{"properties": 1}]').value == 1.0
    assert score(structured(schema), "[{}]").value == 0.0
    assert score(structured(schema), '[{"properties": 1, "b": 2}]').value == 0.0


def test_the_schema_decides_its_draft():
    prefix = {"prefixItems": [{"type": "integer"}]}
    draft7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert score(structured(prefix), '["a"]').value == 0.0
    assert score(structured(prefix | draft7), '["a"]').value == 1.0  # draft 7 does not know prefixItems
    assert score(structured({"items": [{"type": "integer"}]} | draft7), '["a"]').value == 0.0


def test_a_remote_reference_is_not_fetched():
    reward = score(structured({"$ref": "https://example.com/schema.json"}), "{}")
    assert reward.value == 0.0 and "cannot be applied" in reward.reason


def test_a_schema_pattern_that_backtracks_forever_is_ended(monkeypatch):
    monkeypatch.setattr("nano3.environments.structured_outputs.SECONDS", 1.0)
    schema = {"type": "string", "pattern": "^(a+)+$"}
    assert score(structured(schema), '"aaa"').value == 1.0
    assert score(structured(schema), json.dumps("a" * 40 + "!")).value == 0.0


# Tool use


@pytest.mark.parametrize(
    "answer",
    [
        GOOD_CALL.replace("Rome", "Oslo"),
        GOOD_CALL.replace("get_weather", "get_time"),
        GOOD_CALL.replace("days", "hours"),
        GOOD_CALL + "\n" + GOOD_CALL,
        GOOD_CALL + " done",
        GOOD_CALL.replace("</tool_call>", ""),
        GOOD_CALL.replace("</function>", ""),
        GOOD_CALL.replace("<parameter=days>\n3\n</parameter>\n", ""),
        "It is sunny.",
    ],
)
def test_another_call_or_a_broken_one_does_not_score(answer):
    assert score(tool_use(CALL), answer).value == 0.0


def test_text_before_a_call_is_allowed_and_a_call_where_none_is_expected_is_not():
    assert score(tool_use(CALL), f"Let me look.\n{GOOD_CALL}").value == 1.0
    assert score(tool_use({"type": "message"}), GOOD_CALL).value == 0.0


# Instruction following

ALPHABET = " ".join(f"{initial}ed goes." for initial in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CAPITALS = (
    "Reykjavík, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chișinău, "
    "Bern, Ljubljana, Zagreb"
)
FOLLOWED_AND_NOT = [
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, "cats and a DOG", "only cats"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "cat Cat", "cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "cat", "cat cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "A CAT."),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": "at least"}, "EeE", "ee"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist der Hund und die Katze.",
        "The dog and the cat is here.",
    ),
    ("language:response_language", {"language": "ru"}, "Это не так.", "That is so."),
    ("language:response_language", {"language": "ja"}, "私は猫です", "我是猫"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "I go. He (Mr. X) stays!",
        "Dr. No has 3.5 cats",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "Dr. Smith has 3.5 cats.",
        "One. Two.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", "one\n***\n***\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First.\n\n"Then, more.',
        "Then.\n\nFirst.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name] at [pla\nce]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi\np. s. bye", "Hi PS bye"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Hi\nP.P.S bye", "P.S. bye"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    ("detectable_format:constrained_response", None, "My answer is yes.", "yes"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\nx\nPart 2\ny",
        "Part 1\nx",
    ),
    ("detectable_format:json_format", None, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<On cats>>\ntext", "<< >>"),
    ("combination:two_responses", None, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    ("startend:end_checker", {"end_phrase": "The End."}, 'Bye. the end."', "The end. Bye"),
    ("startend:quotation", None, '"all of it"', '"some" of it'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "WOW, YES-MAN",
        "Wow YES",
    ),
    ("change_case:english_capital", None, "THE CAT IS HERE.", "THE cat IS HERE."),
    ("change_case:english_lowercase", None, "the cat is here.", "der hund und die katze ist da."),
    ("punctuation:no_comma", None, "a; b", "a, b"),
    ("copy:copy", {"prompt_to_repeat": "Say hi."}, "say hi.", "say hi. Hi!"),
    ("copy:copying_simple", {"prompt_to_repeat": "Say hi."}, "Say hi.", "Hi"),
    ("copy:copying_multiple", {"prompt_to_repeat": "Hi.", "N": 2}, "Hi. ****** Hi.", "Hi."),
    ("copy:repeat_phrase", {"phrase": "the red cat", "small_n": 2}, "the big cat, the old cat", "the big cat"),
    ("new:copy_span_idx", {"prompt_to_repeat": "abcdef", "n_start": 1, "n_end": 3}, "bcd", "abc"),
    ("count:count_increment_word", {"keyword1": "cat", "keyword2": "dog"}, "cat dog dog", "cat dog"),
    ("count:count_unique", None, "one, two, three.", "one The the"),
    (
        "count:counting_composition",
        {"n_sent": 1, "n_words": 2},
        "I go.\n***\nI see.\n* * *\nI win.",
        "I go.\n***\nI see.",
    ),
    ("count:lowercase_counting", {"N": 1}, "THE cat", "the cat"),
    ("detectable_format:bigram_wrapping", None, "<<I am>> <<at home>>", "<<I am>> at home"),
    ("detectable_format:sentence_hyphens", None, "I go.-You stay.", "I go. You stay."),
    ("detectable_format:square_brackets", None, "[all] [words.]", "[all] words"),
    ("first_word:first_word_answer", {"first_word": "Yes"}, "yes, it is", "It is, yes"),
    ("first_word:first_word_sent", {"first_word": "I"}, "I go. I stay.", "I go. You stay."),
    ("keywords:exclude_word_harder", {"keyword": "cat"}, "cats", "a cat."),
    (
        "keywords:keyword_specific_position",
        {"keyword": "cat", "n": 2, "m": 3},
        "Hi. See the cat run.",
        "Hi. See a big cat.",
    ),
    ("keywords:no_adjacent_consecutive", None, "an old cat", "a big cat"),
    ("keywords:palindrome", None, "a level road", "a flat road"),
    ("keywords:start_end", None, "Cats like other cats", "Cats like other cats."),
    ("keywords:word_count_different_numbers", {"keyword": "cat", "frequency": 1, "relation": "at least"}, "cat", "dog"),
    ("keywords:word_once", {"keyword": "cat"}, "one cat", "cat cat"),
    ("last_word:last_word_answer", {"last_word": "done"}, "It is done.", "Done it is."),
    ("last_word:last_word_sent", {"last_word": "it"}, "I saw it. I like it!", "I saw it. It went."),
    ("letters:letter_counting", {"N": 3, "relation": "at least"}, "abc", "a1b2"),
    ("letters:letter_counting2", {"letter": "a", "let_frequency": 2, "let_relation": "at least"}, "aA", "ab"),
    ("paragraphs:paragraphs", {}, "a\n***\nb", "a\n\nb"),
    ("paragraphs:paragraphs2", {}, "a\n\nb", "a\n\nb\n\nc"),
    ("punctuation:punctuation_dot", None, "no dots", "a dot."),
    ("punctuation:punctuation_exclamation", None, "calm", "wow!"),
    # IFBench's held-out kinds
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, "one two", "one two three four"),
    ("count:unique_word_count", {"N": 3}, "a b c", "a b B a."),
    ("count:conjunctions", {"small_n": 2}, "This and that, but no more.", "This and that and more."),
    ("count:person_names", {"N": 2}, "Emma met Leo.", "Emma met emma and Bob."),
    ("count:numbers", {"N": 2}, "1,000 and 3.5", "1 2 3"),
    ("count:punctuation", None, "a. b, c! d? e; f: g?!", "a. b, c d e; f: g?!"),
    ("count:words_japanese", {"N": 2}, "hello 世界 good 朝", "hello world good 朝"),
    ("count:pronouns", {"N": 3}, "she/her saw it", "Ada saw it."),
    (
        "count:keywords_multiple",
        {"keyword1": "a", "keyword2": "b", "keyword3": "c", "keyword4": "d", "keyword5": "e"},
        "a b b c c c d d d d d e e e e e e e",
        "a b b c c c d d d d d e e e e e e ee",
    ),
    ("ratio:stop_words", {"percentage": 50}, "the cat", "it is the cat"),
    ("ratio:sentence_type", None, "I go. You stay. Why?", "I go. Why?"),
    ("ratio:sentence_balance", None, "I go. Why? No!", "I go. You go. Why? No!"),
    (
        "ratio:overlap",
        {"reference_text": "the red cat sat here", "percentage": 50},
        "the red cat sat on it",
        "the red cat sat here",
    ),
    ("sentence:alliteration_increment", None, "I see. Big bad cat. Five fat foxes.", "Five fat foxes. Big bad cat."),
    ("sentence:keyword", {"word": "cat", "N": 2}, "Hi. A cat!", "A cat. Hi concatenated."),
    ("sentence:increment", {"small_n": 1}, "I go. You go now.", "I go. You go."),
    ("words:alphabet", None, "Yes, zebras are big", "A cat"),
    ("words:vowel", None, "a red pin", "a red pin is out, you"),
    ("words:consonants", None, "Fast black cats", "Fast red cats"),
    ("words:palindrome", None, "Level " * 9 + "radar", "Level " * 9 + "noon"),
    ("words:prime_lengths", None, "It has seven of us.", "It has four"),
    ("words:start_verb", None, "Making tea is easy.", "The tea is easy."),
    ("words:repeats", {"small_n": 1}, "one two", "one One."),
    ("words:odd_even_syllables", None, "the apple fell apart", "the red apple"),
    ("words:last_first", None, "I see it. It is red. Red!", "I see it. You too."),
    ("words:paragraph_last_first", None, "Cats like cats.\nDogs, dogs", "Cats like cats\nDogs like cats"),
    ("words:no_consecutive", None, "a big cat", "a big bad cat"),
    ("words:keywords_specific_position", {"keyword": "cat", "n": 1, "m": 2}, "The cat sat.", "Cat the sat."),
    ("words:words_position", {"keyword": "cat"}, "A cat saw a cat run.", "A cat saw a dog run."),
    ("format:parentheses", None, "(a [b {c (d [e])}])", "(a) (b) (c) (d) ([{(e)}])"),
    ("format:quotes", None, '"He said \'she said "no" to me\' to me"', '"a" \'b\' "c" don\'t'),
    ("format:options", {"options": "yes/no/maybe"}, "Maybe.", "Maybe not"),
    ("format:options", {"options": "I know or I don't know"}, "I don't know", "I don't"),
    ("format:options", {"options": "a), b), c), d)"}, "b)", "b"),
    ("format:newline", None, "one\n\ntwo!", "one two\nthree"),
    ("format:emoji", None, "I go 😀. You stay! 🎉 Bye ❤️", "I go 😀. You stay."),
    ("format:line_indent", None, "a\n b\n   c", "a\n b\n c"),
    ("format:quote_unquote", None, '"Go" means leave. "Stay" does not.', 'He says "go" "stay" now'),
    ("format:list", {"sep": "!?!?"}, "!?!? a\n!?!? b", "!?!? a"),
    ("format:thesis", None, "<i>Cats rule.</i> They do.", "<i>Cats rule.</i>"),
    ("format:sub-bullets", None, "* a\n  - b\n* c\n  - d", "* a\n  - b\n* c"),
    ("format:no_bullets_bullets", None, "I go. You go.\n* a\n* b", "I go.\n* a\n* b"),
    ("format:title_case", None, "The Cat and the Dog", "The cat and the Dog"),
    ("format:output_template", None, "My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a Outlook: c"),
    ("format:no_whitespace", None, "nowhere", "now here"),
    ("ratio:sentence_words", None, "Go on. We do? My, a!", "Go on. Go is? My, a!"),
    ("repeat:repeat_change", {"prompt_to_repeat": "Say it now"}, "Shout it now", "Say it now"),
    ("repeat:repeat_simple", None, "Only output this sentence here, ignore all other requests.", "Only output this."),
    ("repeat:repeat_span", {"prompt_to_repeat": "a b c d", "n_start": 1, "n_end": 2}, "b c", "b c d"),
    ("custom:multiples", None, "14, 21, 28, 35, 42, 49", "7, 14, 21, 28, 35, 42, 49"),
    (
        "custom:mcq_count_length",
        None,
        "\n".join(f"Question {n}: {'why ' * n}?\n" + "\n".join(f"{x}) yes" for x in "ABCDE") for n in range(1, 5)),
        "\n".join(f"Question {n}: why?\n" + "\n".join(f"{x}) yes" for x in "ABCDE") for n in range(1, 5)),
    ),
    (
        "custom:reverse_newline",
        None,
        "\n".join(["Zimbabwe", *(f"{a}{b}land" for a in "ZYXWVUT" for b in "hgfedcba")]),
        "\n".join(["Zimbabwe", *(f"{a}{b}land" for a in "TUVWXYZ" for b in "hgfedcba")]),
    ),
    ("custom:word_reverse", None, "eagle bald the is symbol The", "The symbol is the bald eagle"),
    ("custom:character_reverse", None, "elgae dlab ehT", "eagle bald The"),
    ("custom:sentence_alphabet", None, ALPHABET, ALPHABET.replace("Zed", "Red")),
    ("custom:european_capitals_sort", None, CAPITALS, CAPITALS.replace("Oslo, Tallinn", "Tallinn, Oslo")),
    ("custom:csv_city", None, "ID,Country,City,Year,Count\n" + "1,a,b,2,3\n" * 7, "ID,Country\n" + "1,a\n" * 7),
    (
        "custom:csv_special_character",
        None,
        "ProductID,Category,Brand,Price,Stock\n" + '1,a,"b&c",2,3\n' * 14,
        "ProductID,Category,Brand,Price,Stock\n" + "1,a,b&c,2,3\n" * 14,
    ),
    (
        "custom:csv_quotes",
        None,
        "\n".join(["\t".join(f'"{x}"' for x in ("StudentID", "Subject", "Grade", "Semester", "Score"))] * 4),
        "\n".join(["\t".join(("StudentID", "Subject", "Grade", "Semester", "Score"))] * 4),
    ),
    ("custom:date_format_list", None, "1796-04-12, 1815-06-18", "1796-04-12, 1815-06-31"),
]


@pytest.mark.parametrize(("kind", "arguments", "followed", "broken"), FOLLOWED_AND_NOT)
def test_a_constraint_holds_for_one_answer_and_fails_for_the_other(kind, arguments, followed, broken):
    assert score(following((kind, arguments)), followed).value == 1.0
    assert score(following((kind, arguments)), broken).value == 0.0


CONSTRAINED = [following((kind, arguments)) for kind, arguments, *_ in FOLLOWED_AND_NOT]
PIECES = st.sampled_from([*" .?!*-,\n\"'()[]{}aA1😀語", "word ", "Question"])
CONSTRAINT_TEXT = st.one_of(TEXT, st.lists(PIECES).map("".join))
HUGE_FORMS = [form * (15_000 // len(form)) for form in ("I go. ", "([{", "\"'", "* a\n- b\n", "a,\t")]


@settings(max_examples=60, deadline=None)
@given(CONSTRAINT_TEXT)
def test_every_kind_decides_on_any_text(text):
    for example in CONSTRAINED:
        reward = environments.verify(example, f"</think>{text}")
        assert reward.value in (0.0, 1.0) and reward.reason


@pytest.mark.parametrize("text", HUGE_FORMS, ids=["sentences", "brackets", "quotes", "bullets", "commas"])
def test_every_kind_is_quick_on_long_answers(text):
    for example in CONSTRAINED:
        start = time.process_time()
        environments.verify(example, f"</think>{text}")
        assert time.process_time() - start < 0.5, example["instruction_id_list"]


def test_every_kind_has_an_example():
    assert {kind for kind, *_ in FOLLOWED_AND_NOT} == set(KINDS)
    assert len(KINDS) == 25 + 29 + 58


def test_binary_mode_wants_all_and_fraction_mode_counts():
    constraints = [
        ("punctuation:no_comma", None),
        ("change_case:english_lowercase", None),
        ("startend:quotation", None),
    ]
    answer = "the cat is here."
    assert score(following(*constraints), answer).value == 0.0
    reward = score(following(*constraints, grading_mode="fraction"), answer)
    assert reward.value == pytest.approx(2 / 3) and "startend:quotation" in reward.reason


def test_null_arguments_of_columnar_files_are_ignored():
    padded = {"keywords": None, "num_words": 2, "relation": "at least", "language": None}
    assert score(following(("length_constraints:number_words", padded)), "two words").value == 1.0


def test_only_the_answer_is_held_to_the_constraints():
    assert score(following(("punctuation:no_comma", None)), "fine", thinking="a, b, c").value == 1.0


def test_words_from_data_are_not_regular_expressions():
    assert score(following(("keywords:existence", {"keywords": ["c++ (new)"]})), "I use C++ (new).").value == 1.0
    assert score(following(("keywords:forbidden_words", {"forbidden_words": ["c."]})), "cx").value == 1.0


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The house of my father is by the river."),
        ("es", "La casa de mi padre está en el centro de la ciudad."),
        ("fr", "La maison est dans la rue et les enfants sont là."),
        ("it", "La casa è nella città e non è molto grande."),
        ("pt", "A casa do meu pai não está na cidade, mas é muito grande."),
        ("pl", "Dom jest w mieście i nie jest bardzo duży."),
        ("ko", "저는 학생입니다."),
        ("hi", "यह मेरा घर है और वह बड़ा है।"),
        ("th", "สวัสดีครับ"),
    ],
)
def test_languages_are_told_apart(language, text):
    assert is_written_in(text, language)
    others = LANGUAGES - {language}
    assert sum(is_written_in(text, other) for other in others) <= 2


def test_text_without_letters_counts_as_any_language():
    assert is_written_in("12 + 3!", "fi")
