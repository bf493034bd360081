"""The chat template: every rule of the format, and one text whoever renders it."""

import pytest

from chat_toy import WEATHER, assistant, tool, toy_tokenizer, user
from nano3.chat.template import chat_template, render, template_of
from nano3.errors import UserError

EMPTY_SYSTEM = "<|im_start|>system\n<|im_end|>\n"
OPEN = "<|im_start|>assistant\n"

CONVERSATIONS = {
    "plain": [user("Hi"), assistant("Hello")],
    "system": [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello", "A greeting.")],
    "turns": [user("1"), assistant("one", "first"), user("2"), assistant("two", "second")],
    "tools": [
        user("Weather?"),
        assistant("", "Ask.", [("weather", {"city": "Köln", "days": 2})]),
        tool("rain"),
        tool("wind"),
        assistant("Rain <and> wind."),
        user("Thanks"),
        assistant("", None, [("weather", {"city": ["a", None], "deep": {"k": True}, "x": None, "y": 3.5})]),
    ],
    "other roles": [{"role": "developer", "content": "Rules"}, user("Hi"), {"role": "system", "content": "later"}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, [WEATHER], [WEATHER["function"]]])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"enable_thinking": False},
        {"reasoning_budget": 7},
        {"truncate_history_thinking": False},
    ],
)
@pytest.mark.parametrize("prompt", [False, True])
def test_transformers_renders_the_same_text(name, tools, switches, prompt):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=toy_tokenizer(), chat_template=chat_template())
    messages = CONVERSATIONS[name]
    expected = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **switches
    )
    assert render(messages, tools, prompt, **switches) == expected


def test_a_conversation_without_a_system_message_has_an_empty_system_turn():
    assert render([user("Hi")]) == EMPTY_SYSTEM + "<|im_start|>user\nHi<|im_end|>\n"


def test_the_first_system_message_fills_the_system_turn_and_a_later_one_has_its_own():
    text = render([{"role": "system", "content": "A"}, user("Hi"), {"role": "system", "content": "B"}])
    assert text == (
        "<|im_start|>system\nA<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>system\nB<|im_end|>\n"
    )


def test_an_unknown_role_is_a_plain_turn():
    assert render([{"role": "critic", "content": "No."}]) == EMPTY_SYSTEM + "<|im_start|>critic\nNo.<|im_end|>\n"


def test_the_generation_prompt_opens_or_closes_the_think_block():
    assert render([user("Hi")], add_generation_prompt=True).endswith("Hi<|im_end|>\n" + OPEN + "<think>\n")
    off = render([user("Hi")], add_generation_prompt=True, enable_thinking=False)
    assert off.endswith(OPEN + "<think></think>")


def test_reasoning_stands_in_think_tags_before_the_answer():
    assert render([user("Hi"), assistant(" Hello \n", "Be nice.")]).endswith(
        OPEN + "<think>\nBe nice.\n</think>\n Hello<|im_end|>\n"
    )


@pytest.mark.parametrize("reasoning", [None, "", "  \n"])
def test_an_answer_without_reasoning_gets_an_empty_think_block(reasoning):
    assert render([user("Hi"), assistant("Hello", reasoning)]).endswith(OPEN + "<think></think>Hello<|im_end|>\n")


def test_think_tags_in_the_content_are_left_as_they_are():
    content = "<think>\nhm\n</think>\nHello"
    assert render([user("Hi"), assistant(content)]).endswith(OPEN + content + "<|im_end|>\n")


def test_other_names_for_reasoning_mean_the_same():
    expected = render([user("Hi"), assistant("Hello", "hm")])
    for key in ("reasoning", "thinking"):
        assert render([user("Hi"), {"role": "assistant", "content": "Hello", key: "hm"}]) == expected


def test_reasoning_before_the_last_user_message_is_dropped_and_after_it_kept():
    text = render([user("1"), assistant("one", "first"), user("2"), assistant("two", "second")])
    assert "first" not in text
    assert OPEN + "<think></think>\none<|im_end|>\n" in text
    assert "<think>\nsecond\n</think>\ntwo" in text


def test_history_keeps_its_reasoning_when_asked_to():
    messages = [user("1"), assistant("one", "first"), user("2")]
    assert "<think>\nfirst\n</think>\none" in render(messages, truncate_history_thinking=False)


def test_a_tool_result_is_no_user_message_for_the_history():
    messages = [user("1"), assistant("", "plan", [("f", {})]), tool("r"), assistant("done", "check")]
    text = render(messages)
    assert "plan" in text and "check" in text


def test_the_budget_stands_in_the_last_user_message_only():
    messages = [user("1"), assistant("one"), user("2"), assistant("", None, [("f", {})]), tool("r")]
    text = render(messages, reasoning_budget=64)
    assert text.count("{thinking token budget: 64}") == 1
    assert "<|im_start|>user\n2\n\n{thinking token budget: 64}<|im_end|>\n" in text


def test_switches_may_come_in_chat_template_kwargs():
    switches = {"enable_thinking": False, "reasoning_budget": 3}
    messages = [user("Hi")]
    assert render(messages, None, True, chat_template_kwargs=switches) == render(messages, None, True, **switches)


def test_tools_are_described_in_the_system_turn():
    text = render([{"role": "system", "content": "Be brief."}, user("Hi")], [WEATHER])
    system = text.split("<|im_end|>")[0]
    assert system.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n")
    assert (
        "<tools>\n<function>\n<name>weather</name>\n<description>Weather of a city.</description>\n<parameters>\n"
        "<parameter>\n<name>city</name>\n<type>string</type>\n<description>its name</description>\n"
        '<enum>["Köln", "Rome"]</enum>\n<default>None</default>\n</parameter>\n'
        "<parameter>\n<name>days</name>\n<type>integer</type>\n<minimum>1</minimum>\n</parameter>\n"
        '<additionalProperties>False</additionalProperties>\n<required>["city"]</required>\n</parameters>\n'
        "<strict>True</strict>\n</function>\n</tools>"
    ) in system
    assert "<IMPORTANT>" in system and system.endswith("</IMPORTANT>")


def test_no_blank_line_precedes_the_tools_without_a_system_message():
    assert render([user("Hi")], [WEATHER]).startswith("<|im_start|>system\n# Tools\n")
    assert render([user("Hi")], []) == render([user("Hi")])


def test_tool_calls_follow_the_content_with_values_as_text_or_json():
    arguments = {"a": "x\ny", "b": True, "c": None, "d": 3.5, "e": [1, "é"], "f": {"k": "<v>"}}
    text = render([user("Go"), assistant("Now.", "hm", [("run", arguments), ("stop", {})])])
    assert text.endswith(
        OPEN + "<think>\nhm\n</think>\nNow.\n<tool_call>\n<function=run>\n<parameter=a>\nx\ny\n</parameter>\n"
        "<parameter=b>\nTrue\n</parameter>\n<parameter=c>\nNone\n</parameter>\n<parameter=d>\n3.5\n</parameter>\n"
        '<parameter=e>\n[1, "é"]\n</parameter>\n<parameter=f>\n{"k": "<v>"}\n</parameter>\n</function>\n</tool_call>\n'
        "<tool_call>\n<function=stop>\n</function>\n</tool_call>\n<|im_end|>\n"
    )


def test_a_call_without_content_still_has_a_think_block():
    assert render([user("Go"), assistant("", None, [("run", {})])]).endswith(
        OPEN + "<think></think>\n<tool_call>\n<function=run>\n</function>\n</tool_call>\n<|im_end|>\n"
    )


def test_neighbouring_tool_results_share_one_user_turn():
    text = render([user("Go"), assistant("", None, [("run", {})]), tool("1"), tool("2"), user("Next"), tool("3")])
    assert (
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>\n<|im_end|>\n"
        "<|im_start|>user\nNext<|im_end|>\n<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<|im_end|>\n"
    ) in text


def test_arguments_that_are_no_object_are_explained():
    with pytest.raises(UserError, match="must be an object, not a JSON string"):
        render([user("Go"), assistant("", None, [("run", '{"a": 1}')])])


def test_a_broken_template_is_explained():
    with pytest.raises(UserError, match="not valid Jinja: line 1"):
        render([user("Hi")], template="{% if %}")


def test_the_template_of_a_tokenizer_directory_wins_over_the_shipped_one(tmp_path):
    assert template_of(tmp_path) == chat_template()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "A"}]}')
    assert template_of(tmp_path) == "A"
    (tmp_path / "chat_template.jinja").write_text("B")
    assert render([user("Hi")], template=template_of(tmp_path)) == "B"
