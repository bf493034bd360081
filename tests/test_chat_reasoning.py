"""Reasoning control: rates, independence of order, and what is cut."""

from chat_toy import assistant, toy_tokenizer, user
from nano3.chat.reasoning import cut_traces, draw, has_reasoning, is_chosen, without_reasoning

MESSAGES = [user("1"), assistant("one", "first second third fourth"), user("2"), assistant("two", "x" * 50)]


def test_draws_are_uniform_and_depend_on_seed_and_name_alone():
    draws = [draw(0, "off", f"row {i}") for i in range(4000)]
    assert all(0 <= value < 1 for value in draws)
    assert abs(sum(draws) / 4000 - 0.5) < 0.02
    assert draw(0, "off", "row 7") == draws[7]
    assert draw(1, "off", "row 7") != draws[7] != draw(0, "budget", "row 7")


def test_the_chosen_share_is_the_rate():
    for rate in (0.0, 0.03, 0.10, 1.0):
        share = sum(is_chosen(5, "off", f"row {i}", 0, rate) for i in range(10_000)) / 10_000
        assert abs(share - rate) < 0.01
        if rate in (0.0, 1.0):
            assert share == rate


def test_stripping_removes_every_trace_and_nothing_else():
    stripped = without_reasoning(MESSAGES)
    assert not any(has_reasoning(message) for message in stripped)
    assert [message["content"] for message in stripped] == ["1", "one", "2", "two"]
    assert has_reasoning(MESSAGES[1])


def test_a_cut_trace_is_a_beginning_of_at_most_the_budget_and_the_answer_stays():
    tokenizer = toy_tokenizer()
    for i in range(50):
        messages, budget = cut_traces(MESSAGES, 3, tokenizer, 0, f"row {i}")
        trace = messages[3]["reasoning_content"]
        assert MESSAGES[3]["reasoning_content"].startswith(trace) and trace != MESSAGES[3]["reasoning_content"]
        assert 1 <= len(tokenizer.encode(trace).ids) <= budget
        assert messages[3]["content"] == "two"
        assert messages[:3] == MESSAGES[:3]


def test_budgets_spread_over_the_whole_trace():
    budgets = [cut_traces(MESSAGES, 3, toy_tokenizer(), 0, f"row {i}")[1] for i in range(300)]
    length = len(toy_tokenizer().encode("x" * 50).ids)
    assert min(budgets) == 1 and max(budgets) == length - 1


def test_shorter_traces_of_a_chain_stay_whole():
    chain = [user("1"), assistant("a", "short"), assistant("b", "long " * 40)]
    for i in range(20):
        messages, budget = cut_traces(chain, 1, toy_tokenizer(), 0, f"row {i}")
        short = len(toy_tokenizer().encode("short").ids)
        assert (messages[1]["reasoning_content"] == "short") == (budget >= short)
        assert len(messages[2]["reasoning_content"]) < 200


def test_a_character_of_several_tokens_is_never_cut_in_two():
    trace = "😀" * 10
    for i in range(30):
        cut = cut_traces([user("1"), assistant("a", trace)], 1, toy_tokenizer(), 0, f"row {i}")
        assert cut is None or set(cut[0][1]["reasoning_content"]) == {"😀"}


def test_a_trace_of_one_token_is_not_cut():
    assert cut_traces([user("1"), assistant("a", "x")], 1, toy_tokenizer(), 0, "row") is None
