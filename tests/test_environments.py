"""Reward environments: right answers score, wrong ones do not, and no response breaks or delays a verifier."""

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environment_rows import (
    CALL,
    EXAMPLES,
    GOOD_CALL,
    PERSON,
    TEXT,
    bank,
    choice,
    code,
    following,
    question,
    row,
    rubric,
    score,
    structured,
    tool_use,
    work,
)
from nano3 import environments
from nano3.environments import Reward
from nano3.environments.text import last_boxed, split_response, without_fence
from nano3.errors import UserError

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
