"""Mining preference pairs: three groups, hallucinated tool calls as the rejected side, and how often they occur."""

import json

from nano3.recipe.training import PairMining
from nano3.rl import pairs
from nano3.rl.preferences import read_pairs
from nano3.rl.rollout import Rollout
from rl_toy import toy_model, toy_rows

CALL = "</think>\n<tool_call>\n<function=add>\n</function>\n</tool_call>\n<|im_end|>"
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def tool_row(id=7):
    return {
        "id": id,
        "agent_ref": {"name": "single_step_tool_use_with_argument_comparison_agent"},
        "responses_create_params": {"input": [{"role": "user", "content": "add"}], "tools": [TOOL]},
        "expected_action": {"type": "function_call", "name": "add", "arguments": "{}"},
    }


def rolled(chat, row, *answers):
    """Rollouts with these texts; a text without <|im_end|> was cut."""
    found = []
    for text in answers:
        reward = pairs.score(row, text)
        ids = chat.tokenizer.encode(text, add_special_tokens=False).ids
        finished = text.endswith("<|im_end|>")
        prompt = chat.prompt_ids(row)
        found.append(
            Rollout(
                prompt_id=str(row["id"]),
                environment="toy",
                prompt=prompt,
                response=ids,
                logprobs=[0.0] * len(ids),
                text=text,
                reward=reward.value,
                reason=reward.reason,
                finished=finished,
                well_formed=reward.well_formed,
            )
        )
    return found


def test_without_tools_correctness_decides_and_any_call_is_rejected(chat):
    row = toy_rows(1)[0]  # multiple choice, A is right
    right, wrong = "</think>\\boxed{A}<|im_end|>", "</think>\\boxed{B}<|im_end|>"
    found = list(pairs.pairs_of(row, rolled(chat, row, wrong, CALL, right, "</think>\\boxed{B}")))
    assert [(group, better.text, worse.text) for group, better, worse in found] == [
        ("hallucination", right, CALL),
        ("no_tools", right, wrong),
    ]


def test_a_correct_answer_that_calls_a_tool_which_is_not_there_is_still_rejected(chat):
    row = toy_rows(1)[0]
    called = "</think>\\boxed{A}<tool_call><|im_end|>"
    found = list(pairs.pairs_of(row, rolled(chat, row, called, "</think>\\boxed{A}<|im_end|>")))
    assert [(group, worse.text) for group, _, worse in found] == [("hallucination", called)]


def test_with_tools_the_right_call_wins(chat):
    row = tool_row()
    plain = "</think>I can't.<|im_end|>"
    found = list(pairs.pairs_of(row, rolled(chat, row, plain, CALL)))
    assert [(group, better.text, worse.text) for group, better, worse in found] == [("with_tools", CALL, plain)]


def test_taking_the_tools_away_turns_the_same_responses_round(chat):
    row = pairs.without_tools(tool_row())
    plain, broken = "</think>I can't.<|im_end|>", "no thinking closed<|im_end|>"
    found = list(pairs.pairs_of(row, rolled(chat, row, plain, CALL, broken)))
    assert [(group, better.text, worse.text) for group, better, worse in found] == [("hallucination", plain, CALL)]
    assert "tools" not in row["responses_create_params"]
    assert pairs.score(row, CALL).value == 0
    assert pairs.score(row, plain).value == 1


def test_equal_responses_and_prompts_without_a_good_one_give_no_pairs(chat):
    row = toy_rows(1)[0]
    wrong = "</think>\\boxed{B}<|im_end|>"
    assert list(pairs.pairs_of(row, rolled(chat, row, wrong, wrong, CALL))) == []


def test_the_rate_of_hallucinated_tools_counts_responses_with_its_interval(chat):
    row = toy_rows(1)[0]
    found = pairs.hallucinated_tools(rolled(chat, row, CALL, "a", "b", CALL), 2)
    assert found["hallucinated_tools/rate"] == 0.5
    assert found["hallucinated_tools/n"] == 4
    assert 0 < found["hallucinated_tools/low"] < 0.5 < found["hallucinated_tools/high"] < 1


def test_probes_are_the_prompts_with_their_tools_taken_away():
    rows = [*toy_rows(4), tool_row(), tool_row(8)]
    chosen = pairs.probes(rows, 1)
    assert len(chosen) == 3
    assert not any(row["responses_create_params"].get("tools") for row in chosen)


def test_mined_pairs_are_a_file_that_reads_back_as_the_sampled_tokens(chat, tmp_path, monkeypatch):
    rows = [*toy_rows(2), tool_row()]
    answers = ["</think>\n\\boxed{A}<|im_end|>", CALL.replace("\n<|im_end|>", "<|im_end|>")]

    def sampled(model, chat, rows, *, generations, score, **settings):
        return [rollout for row in rows for rollout in rolled(chat, row, *(answers * generations)[:generations])]

    monkeypatch.setattr(pairs, "rollouts", sampled)
    settings = PairMining(generations=4, max_new_tokens=8, pairs_per_prompt=1, pairs=100)
    found, statistics = pairs.mine(None, chat, rows, settings, seed=1)
    assert statistics["prompts"] == 4  # the tool row is asked twice
    assert statistics["pairs"] == {"no_tools": 0, "with_tools": 1, "hallucination": 3}
    assert statistics["hallucinated_tools/rate"] == 0.5
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    read, _ = read_pairs(file, chat)
    by_group = {pair.group: pair for pair in reversed(read)}
    assert by_group["hallucination"].prompt == chat.prompt_ids(rows[1])  # environments are sorted
    assert chat.text(by_group["hallucination"].chosen) == answers[0]
    assert chat.text(by_group["with_tools"].chosen) == answers[1]


def test_mining_samples_the_policy_and_its_counts_add_up(chat):
    settings = PairMining(generations=4, max_new_tokens=6, pairs=3)
    found, statistics = pairs.mine(toy_model().eval(), chat, [*toy_rows(4), tool_row()], settings, seed=1)
    assert len(found) == sum(statistics["pairs"].values()) <= 3
    assert statistics["hallucinated_tools/n"] == 5 * 4


def test_pairs_of_one_conversation_stay_on_one_side():
    rows = [{"context": [{"role": "user", "content": str(i // 5)}], "number": i} for i in range(2000)]
    train, valid = pairs.divide(rows, 0.2, seed=4)
    assert len(train) + len(valid) == 2000
    assert not {row["number"] // 5 for row in train} & {row["number"] // 5 for row in valid}
    assert 0.12 < len(valid) / 2000 < 0.28
    assert pairs.divide(rows, 0.0, seed=4)[1] == []
