"""Rows of every environment, right answers to them, and text that may break a verifier."""

import json

from hypothesis import strategies as st

from nano3 import environments


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


MARKS = ("</think>", "<think>", "\\boxed{", "}", "{", "<tool_call>", "<function=", "</tool_call>", "```json\n", "```")
PROGRAM = "```python\ndef f(n):"
ODDITIES = ("B", "132", '"name"', "[[", "<<", "******", "\n\n", "\\frac{1}{0}", "\\left(", "1e9", "\x00", "\ud800", "½")
FRAGMENTS = st.sampled_from((*MARKS, PROGRAM, *ODDITIES))
TEXT = st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=12).map("".join)
