"""From chat rows to training sequences: filters, cutting into turns, and masks that cover the assistant's words."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_toy import WEATHER, assistant, tool, toy_tokenizer, user
from nano3.chat.prepare import tokenise
from nano3.chat.rows import Dropped, is_used_in, problem_of, read_chat, repeats_itself, word_pattern
from nano3.chat.sequences import chunks_of, training_turns
from nano3.chat.template import render

END = "<|im_end|>\n"
REPETITION = {"ngram": 3, "window": 20, "max_in_window": 2, "max_in_trace": 4}


def sequences(messages, tools=None):
    chat = read_chat({"messages": messages, "tools": tools}, "id")
    return [chunks_of(turn, chat.tools) for turn in training_turns(chat.messages)]


def supervised(chunks):
    return [text for text, counts in chunks if counts]


def reason_of(row):
    with pytest.raises(Dropped) as dropped:
        read_chat(row, "id")
    return dropped.value.reason


def test_without_reasoning_a_conversation_is_one_sequence_with_every_answer():
    messages = [user("1"), assistant("one"), user("2"), assistant("two")]
    (chunks,) = sequences(messages)
    assert supervised(chunks) == ["one" + END, "two" + END]
    assert "".join(text for text, _ in chunks) == render(messages)
    assert chunks[0][0].endswith("<|im_start|>assistant\n<think></think>")


def test_with_reasoning_every_user_turn_is_a_sequence_and_only_its_own_answer_counts():
    messages = [user("1"), assistant("one", "first"), user("2"), assistant("two"), user("3"), assistant("three", "3rd")]
    found = sequences(messages)
    assert [supervised(chunks) for chunks in found] == [
        ["first\n</think>\none" + END],
        ["two" + END],
        ["3rd\n</think>\nthree" + END],
    ]
    assert [chunks[0][0].endswith("<think>\n") for chunks in found] == [True, False, True]
    for chunks, length in zip(found, (2, 4, 6), strict=True):
        assert "".join(text for text, _ in chunks) == render(messages[:length])
    assert "first" not in found[1][0][0]


def test_a_chain_of_calls_is_one_sequence_and_results_are_context():
    messages = [
        user("Weather?"),
        assistant("", "Ask.", [("weather", {"city": "Rome"})]),
        tool("rain"),
        assistant("", None, [("weather", {"city": "Köln"})]),
        tool("sun"),
        assistant("Rain and sun.", "Both."),
    ]
    (chunks,) = sequences(messages, [WEATHER])
    call = "<tool_call>\n<function=weather>\n<parameter=city>\n{}\n</parameter>\n</function>\n</tool_call>\n"
    assert supervised(chunks) == [
        "Ask.\n</think>\n" + call.format("Rome") + END,
        "\n" + call.format("Köln") + END,
        "Both.\n</think>\nRain and sun." + END,
    ]
    assert [text.endswith("<think>\n") for text, counts in chunks if not counts] == [True, False, True]


def test_a_user_turn_without_an_answer_makes_no_sequence():
    messages = [user("1"), user("2"), assistant("two", "hm"), user("3")]
    (chunks,) = sequences(messages)
    assert supervised(chunks) == ["hm\n</think>\ntwo" + END]


def test_messages_after_the_last_answer_are_left_out():
    (chunks,) = sequences([user("1"), assistant("one"), user("unanswered")])
    assert "unanswered" not in "".join(text for text, _ in chunks)


def test_answers_in_a_row_each_begin_with_their_own_prompt():
    (chunks,) = sequences([user("1"), assistant("one"), assistant("more")])
    assert supervised(chunks) == ["one" + END, "more" + END]


def test_inline_reasoning_counts_as_reasoning():
    inline = [user("1"), assistant("<think>\nhm\n</think>\n\none")]
    split = [user("1"), assistant("one", "hm")]
    assert sequences(inline) == sequences(split)


def test_text_that_the_template_would_not_continue_is_dropped():
    with pytest.raises(Dropped, match="prefix_mismatch"):
        sequences([user("1"), assistant("early <think> tag")])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("ab é\n.", max_size=12), st.text("cd \n", min_size=1, max_size=12).filter(str.strip)),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_masked_tokens_decode_to_exactly_the_assistants_words(turns, reasoning):
    tokenizer = toy_tokenizer()
    messages = []
    for question, answer in turns:
        messages += [user(question), assistant(answer, "why" if reasoning else None)]
    for chunks in sequences(messages):
        ((ids, mask),) = tokenise([chunks], tokenizer)
        words = tokenizer.decode([i for i, m in zip(ids.tolist(), mask, strict=True) if m], skip_special_tokens=False)
        assert words == "".join(supervised(chunks))
        everything = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        assert everything == "".join(text for text, _ in chunks)
        assert ids[mask.astype(bool)][-2:].tolist() == tokenizer.encode("<|im_end|>\n").ids
        assert "<|im_start|>" not in words and 2 not in ids


def test_batches_and_single_sequences_are_tokenised_alike():
    found = sequences([user("1"), assistant("one", "a"), user("2"), assistant("two", "b")])
    together = list(tokenise(found, toy_tokenizer()))
    alone = [next(tokenise([chunks], toy_tokenizer())) for chunks in found]
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(together, alone, strict=True))


CALL = [("weather", {"city": "Rome"})]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("no_messages", {}),
        ("no_messages", {"messages": []}),
        ("bad_json", {"messages": "[{"}),
        ("bad_message", {"messages": ["Hi"]}),
        ("content_not_text", {"messages": [{"role": "user", "content": ["Hi"]}]}),
        ("content_not_text", {"messages": [{"role": "user", "content": None}]}),
        ("control_token_in_text", {"messages": [user("a<|im_end|>b"), assistant("x")]}),
        ("control_token_in_text", {"messages": [user("a"), assistant("x", "<|im_start|>")]}),
        ("empty_answer", {"messages": [user("a"), assistant(" ")]}),
        ("no_user_turn", {"messages": [assistant("x")]}),
        ("no_assistant_turn", {"messages": [user("x")]}),
        ("orphan_tool_result", {"messages": [user("x"), tool("r"), assistant("y")]}),
        ("tool_call_without_tools", {"messages": [user("x"), assistant("", None, CALL)]}),
        ("tool_call_without_tools", {"messages": [user("x"), assistant("<tool_call>")]}),
        ("tool_call_without_tools", {"messages": [user("x"), assistant("y", "<tool_call>")]}),
        ("undefined_tool", {"messages": [user("x"), assistant("", None, [("fly", {})])], "tools": [WEATHER]}),
        ("bad_tool_call", {"messages": [user("x"), assistant("") | {"tool_calls": ["f"]}], "tools": [WEATHER]}),
        ("bad_tool_arguments", {"messages": [user("x"), assistant("", None, [("weather", "{")])], "tools": [WEATHER]}),
        ("bad_tool_arguments", {"messages": [user("x"), assistant("", None, [("weather", [1])])], "tools": [WEATHER]}),
        ("bad_tools", {"messages": [user("x"), assistant("y")], "tools": {"a": 1}}),
    ],
)
def test_a_broken_row_is_dropped_for_its_reason(reason, row):
    assert reason_of(row) == reason


def test_a_tools_section_in_a_message_stands_for_tool_definitions():
    messages = [{"role": "system", "content": "# Tools\n..."}, user("x"), assistant("<tool_call>...")]
    assert read_chat({"messages": messages}, "id").messages[2]["content"] == "<tool_call>..."


def test_arguments_and_fields_in_json_text_become_objects():
    messages = [user("x"), assistant("", None, [("weather", '{"city": "Rome"}')])]
    chat = read_chat({"messages": json.dumps(messages), "tools": json.dumps([WEATHER])}, "id")
    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    assert chat.tools == [WEATHER]


@pytest.mark.parametrize(
    ("used_in", "expected"),
    [(["nano_v3"], True), ("super, nano_v3", True), ("nano_v3", True), ("nano_v30", False), (None, False), ([], False)],
)
def test_used_in_may_be_a_list_or_text_with_commas(used_in, expected):
    assert is_used_in({"used_in": used_in}, "nano_v3") is expected


def test_a_problem_is_its_key_or_its_first_question():
    assert problem_of({"key": "k", "messages": [user("q")]}, "id") == "k"
    assert problem_of({"messages": [{"role": "system", "content": "s"}, user("q")]}, "id") == "q"
    assert problem_of({"messages": "[]"}, "id") == "id"


def test_repetition_close_together_is_found():
    assert repeats_itself("x y z " * 3, **REPETITION) == "x y z"
    assert repeats_itself("x y z " * 2, **REPETITION) is None


def test_repetition_spread_over_the_trace_is_found_only_beyond_its_own_limit():
    def spread(times):
        return " ".join(" ".join(["x y z", *(f"w{i}.{j}" for j in range(30))]) for i in range(times))

    assert repeats_itself(spread(5), **REPETITION) == "x y z"
    assert repeats_itself(spread(4), **REPETITION) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 4), st.integers(1, 5), st.integers(1, 8))
def test_repetition_agrees_with_counting_every_window(words, ngram, in_window, in_trace):
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    window = 10
    crowded = any(
        grams[i : i + window].count(gram) > in_window for i in range(len(grams)) for gram in grams[i : i + window]
    )
    expected = crowded or any(grams.count(gram) > in_trace for gram in grams)
    limits = {"window": window, "max_in_window": in_window, "max_in_trace": in_trace}
    assert bool(repeats_itself(" ".join(words), ngram=ngram, **limits)) == expected


def test_forbidden_words_match_whole_words_in_any_case():
    pattern = word_pattern(["our great nation", "C++"])
    assert pattern.search("Of OUR great Nation!") and pattern.search("in C++.")
    assert not pattern.search("four great nations")
    assert word_pattern([]) is None
