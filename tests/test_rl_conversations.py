"""Rollouts of several turns: tools and users answer, every turn is a sample of its own, and all share one reward."""

import dataclasses
import json
import re
from types import SimpleNamespace

import pytest
import torch

from environment_rows import bank
from nano3 import evaluation
from nano3.environments import Reward
from nano3.environments.episode import Episode
from nano3.model.generate import Completion
from nano3.recipe.training import PairMining
from nano3.rl import draw, pairs, rlhf
from nano3.rl.preferences import read_pairs
from nano3.rl.rollout import readable, rollouts
from rl_toy import toy_model, toy_rows
from test_rl_training import gradient_of, responses

SETTINGS = {"generations": 2, "max_new_tokens": 300, "temperature": 1.0, "top_p": 1.0, "seed": 1}
SEARCH = {"type": "function", "name": "email_search_emails", "parameters": {"type": "object", "properties": {}}}
EMAILS = [{"id": "47", "subject": "lunch"}, {"id": "11", "subject": "report"}]


def work(id=1, **fields):
    """A request that names an email by its subject: only a search tells its id."""
    row = {
        "id": id,
        "agent_ref": {"name": "workplace_assistant_simple_agent"},
        "responses_create_params": {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Delete the email about lunch."}]}],
            "instructions": "You help at work.",
            "tools": [SEARCH],
        },
        "database": {"emails": EMAILS},
        "ground_truth": [{"name": "email_delete_email", "arguments": '{"email_id": "47"}'}],
    }
    return row | fields


def call(name, /, **arguments):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"I act.\n</think>\n<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>\n<|im_end|>"


def diligent(prompt):
    """Search, delete what was found, say so: each turn follows from what the prompt shows."""
    if "<tool_response>\ndeleted" in prompt:
        return "</think>\nDone.<|im_end|>"
    found = re.search(r'<tool_response>\n\[{"id":"(\d+)"', prompt)
    return call("email_delete_email", email_id=found[1]) if found else call("email_search_emails", query="lunch")


def scripted(monkeypatch, chat, *policies, context=100_000):
    """A model whose response number i follows policies[i % len(policies)]: prompt text -> response. A text without an
    end is cut at max_new_tokens. Returns the model and the prompts of every call of `generate`."""
    asked = []

    def generate(model, prompts, *, streams=None, **settings):
        texts = [chat.text(prompt) for prompt in prompts]
        places = range(len(prompts)) if streams is None else streams
        asked.append(texts)
        said = [policies[place % len(policies)](text) for place, text in zip(places, texts, strict=True)]
        ids = [chat.tokenizer.encode(text, add_special_tokens=False).ids for text in said]
        return [
            Completion(each, [-1.0] * len(each), text.endswith("<|im_end|>"))
            for each, text in zip(ids, said, strict=True)
        ]

    monkeypatch.setattr("nano3.model.generate.generate", generate)
    return SimpleNamespace(config=SimpleNamespace(max_position_embeddings=context)), asked


def guessing(prompt):
    return "</think>\nDone.<|im_end|>" if "<tool_response>" in prompt else call("email_delete_email", email_id="11")


def test_a_conversation_is_played_to_its_end_and_only_who_reads_the_tools_answer_is_rewarded(chat, monkeypatch):
    model, asked = scripted(monkeypatch, chat, diligent, guessing)
    good, bad = rollouts(model, chat, [work()], **SETTINGS)
    assert (good.reward, bad.reward) == (1.0, 0.0)
    assert (len(good.turns), len(bad.turns)) == (3, 2)
    assert "state differs in emails" in bad.reason
    assert good.finished and good.well_formed
    assert [len(texts) for texts in asked] == [2, 2, 1]  # all that go on write together
    for turn, texts in zip(good.turns, asked, strict=True):
        assert chat.text(turn.prompt) in texts
        assert len(turn.response) == len(turn.logprobs)
    assert "You help at work." in asked[2][0] and "email_search_emails</name>" in asked[2][0]
    assert "I act." in asked[2][0] and asked[2][0].endswith("<|im_start|>assistant\n<think>\n")


def test_results_stay_in_groups_beside_rows_of_one_turn(chat, monkeypatch):
    def policy(prompt):
        letter = "A" if "train 0" in prompt else "B"
        return diligent(prompt) if "email" in prompt else f"</think>\n\\boxed{{{letter}}}<|im_end|>"

    model, _ = scripted(monkeypatch, chat, policy)
    rows = [*toy_rows(2), work("a"), *toy_rows(1), work("b")]
    rolled = rollouts(model, chat, rows, **SETTINGS)
    assert [each.prompt_id for each in rolled] == ["0", "0", "1", "1", "a", "a", "0", "0", "b", "b"]
    assert [len(each.turns) for each in rolled] == [1] * 4 + [3, 3] + [1] * 2 + [3, 3]
    assert [each.reward for each in rolled] == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1]


def test_a_user_replies_and_old_thinking_is_no_part_of_the_next_prompt(chat, monkeypatch):
    def teller(prompt):
        return "</think>\nDone.<|im_end|>" if "savings" in prompt else "hm, hm\n</think>\nFrom which account?<|im_end|>"

    model, asked = scripted(monkeypatch, chat, teller)
    row = bank(user=[{"asked": ["account"], "say": "From savings."}])
    (rollout,) = rollouts(model, chat, [row], **SETTINGS | {"generations": 1})
    assert rollout.reward == 1.0
    assert "hm, hm" in rollout.turns[0].text and "hm, hm" not in asked[1][0]
    assert "<|im_start|>user\nFrom savings.<|im_end|>" in asked[1][0]


def test_a_turn_that_is_cut_ends_the_conversation_without_reward(chat, monkeypatch):
    def cut(prompt):
        return "</think>\nDone. And" if "<tool_response>" in prompt else call("email_delete_email", email_id="47")

    model, asked = scripted(monkeypatch, chat, cut)
    (rollout,) = rollouts(model, chat, [work()], **SETTINGS | {"generations": 1})
    assert (rollout.reward, rollout.finished, rollout.well_formed) == (0.0, False, False)
    assert re.fullmatch(r"turn 2 was cut at \d+ tokens", rollout.reason)
    assert len(asked) == 2


def test_a_prompt_that_outgrows_the_models_context_ends_the_conversation_and_says_so(chat, monkeypatch):
    model, _ = scripted(monkeypatch, chat, diligent)
    whole = rollouts(model, chat, [work()], **SETTINGS | {"generations": 1})[0]
    context = len(whole.turns[1].prompt) + SETTINGS["max_new_tokens"]
    model.config.max_position_embeddings = context
    (rollout,) = rollouts(model, chat, [work()], **SETTINGS | {"generations": 1})
    assert len(rollout.turns) == 2 and rollout.reward == 0 and not rollout.finished
    assert re.search(rf"turn 3 has \d+ tokens, the model's context leaves {context - 300}", rollout.reason)


def test_a_conversation_without_end_stops_at_the_environments_last_step(chat, monkeypatch):
    model, asked = scripted(monkeypatch, chat, lambda text: call("email_search_emails", query="lunch"))
    (rollout,) = rollouts(model, chat, [work()], **SETTINGS | {"generations": 1})
    assert len(rollout.turns) == len(asked) == 6
    assert rollout.finished and "no end after 6 turns" in rollout.reason


def test_the_whole_conversation_is_readable(chat, monkeypatch):
    model, _ = scripted(monkeypatch, chat, diligent)
    rollout = rollouts(model, chat, [work()], **SETTINGS)[0]
    shown = readable(rollout, chat, step=3)
    assert shown["turns"] == 3 and shown["step"] == 3
    assert "Delete the email about lunch." in shown["prompt"] and "tool_response" not in shown["prompt"]
    order = ["email_search_emails", '"subject":"lunch"', "email_delete_email", "tool\ndeleted", "Done."]
    places = [shown["response"].index(text) for text in order]
    assert places == sorted(places)
    assert shown["response"].count("<|im_start|>assistant\n<think>\n") == 2
    assert "turns" not in readable(dataclasses.replace(rollout, context=(), earlier=()), chat)


class Talk(Episode):
    """A conversation that goes on for `max_steps` turns, whatever is said; its reward counts a letter."""

    def step(self, response):
        self.steps += 1
        self.messages += [{"role": "assistant", "content": response[:5]}, {"role": "user", "content": "And?"}]
        self.over = self.steps == self.max_steps

    def reward(self):
        return Reward(float(any("e" in message["content"] for message in self.messages)), "talked", True)


def talk(steps):
    """Opens a conversation of row["id"] -> turns."""
    return lambda row: Talk(row, {}, {}, {}, [], steps[row["id"]]) if row["id"] in steps else None


@pytest.fixture
def chatty(chat):
    """A tokenizer with which turns end soon."""
    return dataclasses.replace(chat, stop_ids=tuple(range(20, 80)))


SAMPLED = {"generations": 3, "max_new_tokens": 60, "temperature": 1.0, "top_p": 1.0, "seed": 1}


def test_equal_seeds_give_equal_bits_and_rows_of_one_turn_are_sampled_as_without_company(chatty):
    model, rows = toy_model().eval(), toy_rows(5)
    first, again = (rollouts(model, chatty, rows, converse=talk({1: 3, 4: 2}), **SAMPLED) for _ in range(2))
    assert first == again
    assert [len(each.turns) for each in first] == [1] * 3 + [3] * 3 + [1] * 6 + [2] * 3
    other = rollouts(model, chatty, rows, converse=talk({1: 3, 4: 2}), **SAMPLED | {"seed": 2})
    assert [each.turns[1].response for each in first[3:6]] != [each.turns[1].response for each in other[3:6]]
    alone = rollouts(model, chatty, rows, converse=lambda row: None, **SAMPLED)
    for played, single in zip(first, alone, strict=True):
        assert (played.turns[0].response, played.turns[0].logprobs) == (single.response, single.logprobs)


def test_what_a_conversation_samples_does_not_depend_on_when_others_end(chatty):
    model, rows = toy_model().eval(), toy_rows(5)
    short = rollouts(model, chatty, rows, converse=talk({1: 3, 2: 1, 4: 2}), **SAMPLED)
    long = rollouts(model, chatty, rows, converse=talk({1: 3, 2: 3, 4: 3}), **SAMPLED)
    assert [turn.response for each in short[3:6] for turn in each.turns] == [
        turn.response for each in long[3:6] for turn in each.turns
    ]
    responses = [tuple(turn.response) for each in long[3:6] for turn in each.turns]
    assert len(set(responses)) == len(responses)


def test_the_trainer_finds_the_generators_probabilities_for_every_turn(chatty, machine):
    from nano3.rl.logprobs import response_logprobs

    model = toy_model().eval()
    turns = [
        turn
        for each in rollouts(model, chatty, toy_rows(4), converse=talk({0: 3, 3: 2}), **SAMPLED)
        for turn in each.turns
    ]
    prompts, said = [turn.prompt for turn in turns], [turn.response for turn in turns]
    with torch.no_grad():
        for batch in response_logprobs(model, prompts, said, micro_batch_tokens=500, arithmetic=machine.arithmetic):
            for value, (i, j) in zip(batch.logprobs.tolist(), batch.where(), strict=True):
                assert abs(value - turns[i].logprobs[j]) < 1e-4


def joined(*rollouts):
    """One conversation whose turns are these responses."""
    *earlier, last = rollouts
    context = ({"role": "user", "content": "?"},)
    return dataclasses.replace(last, context=context, earlier=tuple(each.turns[0] for each in earlier))


def test_all_turns_of_a_conversation_share_its_advantage_and_count_every_token(chat, machine):
    a, b, c, d = responses([3, 8, 5, 4], [True] * 4)
    together, measured = gradient_of(chat, machine, [joined(a, b), joined(c, d)], [1.0, -0.5])
    apart, single = gradient_of(chat, machine, [a, b, c, d], [1.0, 1.0, -0.5, -0.5])
    torch.testing.assert_close(together, apart)
    assert measured["supervised_tokens"] == single["supervised_tokens"] == 20
    assert (measured["trained_responses"], single["trained_responses"]) == (2, 4)
    without, _ = gradient_of(chat, machine, [a, b, c, d], [0.0, 1.0, 0.0, -0.5])
    assert not torch.allclose(together, without)


def test_overlong_filtering_leaves_out_a_cut_conversation_with_all_its_turns(chat, machine):
    a, b, c = responses([3, 8, 5], [True, False, True])
    filtered, measured = gradient_of(chat, machine, [joined(a, b), c], [1.0, -0.5], overlong_filtering=True)
    alone, _ = gradient_of(chat, machine, [c], [-0.5])
    torch.testing.assert_close(filtered, alone)
    assert measured["supervised_tokens"] == 5


def test_measures_and_evaluation_count_the_tokens_of_all_turns(chat):
    a, b, c = responses([3, 8, 5], [True] * 3)
    rolled = [joined(a, b), c]
    found = draw.measures(rolled)
    assert (found["response_tokens"], found["turns"]) == (8.0, 2.0)
    assert found["entropy"] == pytest.approx(5.6)
    assert "turns" not in draw.measures([c])
    assert evaluation.scores(rolled, 1)["toy"]["mean_length"] == 8.0


def test_a_mined_pair_is_the_turn_at_which_two_conversations_part(chat, monkeypatch, tmp_path):
    def wrong(prompt):
        text = diligent(prompt)
        return text.replace("47", "11") if "delete" in text else text

    model, _ = scripted(monkeypatch, chat, diligent, wrong)
    settings = PairMining(generations=2, max_new_tokens=300, pairs_per_prompt=5, pairs=10)
    found, statistics = pairs.mine(model, chat, [work()], settings, seed=1)
    assert statistics["prompts"] == 2 and statistics["pairs"]["with_tools"] == 1
    (pair,) = [row for row in found if row["group"] == "with_tools"]
    assert [message["role"] for message in pair["context"]] == ["system", "user", "assistant", "tool"]
    assert pair["rewards"] == [1.0, 0.0]
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(pair) + "\n")
    ((read,), _) = read_pairs(file, chat)
    better, worse = rollouts(model, chat, [work()], **SETTINGS)
    assert read.prompt == better.turns[1].prompt == worse.turns[1].prompt
    assert "47" in chat.text(read.chosen) and "11" in chat.text(read.rejected)
    assert chat.text(read.chosen) == better.turns[1].text.replace("\n<|im_end|>", "<|im_end|>")


def test_conversations_that_differ_only_in_what_they_were_told_are_no_pair(chat):
    a, b = responses([3, 8], [True, True])
    other = dataclasses.replace(b, prompt=[*b.prompt, 9])
    assert pairs.parting(joined(a, b), joined(a, other)) is None
    assert pairs.parting(joined(a, b), joined(a, a))[1].response == a.response


def test_a_request_whose_tools_were_taken_away_is_one_turn(chat, monkeypatch):
    model, asked = scripted(monkeypatch, chat, lambda text: "</think>\nI can't.<|im_end|>")
    row = pairs.without_tools(work())
    (rollout,) = rollouts(model, chat, [row], score=pairs.score, converse=pairs.converse, **SETTINGS)[:1]
    assert (len(rollout.turns), rollout.reward, len(asked)) == (1, 1.0, 1)


def test_rlhf_compares_conversations_by_their_end_and_measures_all_turns(chat, monkeypatch):
    model, _ = scripted(monkeypatch, chat, diligent, guessing)
    row = work()
    rolled = rollouts(model, chat, [row], score=draw.unscored, **SETTINGS)
    settings = SimpleNamespace(thinking_weight=0.0, answer_weight=0.0, bonus=0.0, bonus_percentile=80)
    judge = rlhf.GroupJudge(rlhf.Mixed(lambda comparisons, seed: []), settings, chat)
    judged, measured = judge([row], rolled, 0)
    assert [each.reward for each in judged] == [5.0, 1.0]
    assert measured["answer_tokens"] + measured["thinking_tokens"] == sum(each.tokens for each in rolled) / 2
