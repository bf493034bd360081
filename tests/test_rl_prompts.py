"""RL prompt files: nothing lost on the way, placeholders filled by their rules, everything else counted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from chat_toy import ROOT, WEATHER, save_raw, save_tokenizer, toy_tokenizer, user
from nano3.artifacts import verify
from nano3.chat.request import messages_of
from nano3.chat.template import render
from nano3.data.placeholders import resolve
from nano3.data.rl_prompts import write_prompts
from nano3.errors import UserError
from nano3.recipe.data import RlPrompts

DAPO, SKYWORK = "BytedTsinghua-SIA/DAPO-Math-17k", "Skywork/Skywork-OR1-RL-Data"
FRAME = {"prefix": "Solve it.\n\n", "suffix": "\n\nBox the answer.\n"}


def agent(name):
    return {"type": "responses_api_agents", "name": f"{name}_simple_agent"}


def row(number, environment="mcqa", **fields):
    return {
        "id": number,
        "dataset": "nano_v3_sft_profiled_stem_mcqa",
        "agent_ref": agent(environment),
        "responses_create_params": {"input": [user(f"Question {number}?")], "temperature": 1.0},
        "expected_answer": "B",
        "options": [{"A": "1"}, {"B": "2"}],
        "pass_rate": 0.5,
        "uuid": f"u{number}",
    } | fields


def dapo(number, at, **fields):
    return {
        "id": number,
        "dataset": "nano_v3_sft_profiled_dapo17k",
        "agent_ref": agent("math_with_judge"),
        "pass_rate": 0.25,
        "_hf_placeholder": {"row": at, "question_template": FRAME},
    } | fields


def skywork(number, at, **fields):
    template = "{question}\nAnswer in a box."
    return {
        "id": number,
        "dataset": "nano_v3_sft_profiled_skywork_no_omni",
        "agent_ref": agent("math_with_judge"),
        "_hf_placeholder": {"row": at, "question_template": template},
    } | fields


def dapo_source(question, answer="34"):
    content = f"Solve the problem step by step.\n\n{question}\n\nRemember the answer line."
    return {"prompt": [user(content)], "reward_model": {"ground_truth": answer, "style": "rule"}}


def skywork_source(question, answer):
    return {"prompt": [user(question)], "reward_model": {"ground_truth": answer, "style": "rule"}}


def write(tmp_path, train, valid=None, **settings):
    """Statistics, train rows and valid rows."""
    tokenizer = tmp_path / "tokenizer"
    if not tokenizer.exists():
        save_tokenizer(tokenizer)
    raw = {"t": [save_raw(tmp_path / "t/0", "t", train)]}
    if valid:
        raw["v"] = [save_raw(tmp_path / "v/0", "v", valid)]
    else:
        settings = {"held_out_rows": 1} | settings
    settings = {"max_prompt_tokens": 200, "max_bad_rows": 0.0} | settings
    section = RlPrompts(train=["t"], valid=["v"] if valid else [], **settings)
    output = tmp_path / "out"
    output.mkdir()
    statistics = write_prompts(raw, tokenizer, output, section.model_dump())
    return statistics, read(output / "train.jsonl"), read(output / "valid.jsonl")


def read(file: Path):
    return [json.loads(line) for line in file.read_text().splitlines()]


def save_table(file: Path, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_rows_without_placeholder_pass_through_unchanged(tmp_path):
    source = [
        row(1),
        row(2, "code_gen", verifier_metadata={"unit_tests": {"inputs": ["1\n"], "outputs": ["2\n"]}}),
        row(3, "structured_outputs", schema_str='{"type": "object"}', _hf_placeholder=None),
        row(4, "workplace_assistant", ground_truth=[], database={"emails": []}, category="x"),
        row(5, "instruction_following", instruction_id_list=["a:b"], kwargs=[{"n": None}], prompt="p"),
    ]
    statistics, train, valid = write(tmp_path, source)
    assert train + valid == source
    assert [list(kept) for kept in train + valid] == [list(kept) for kept in source]
    assert statistics["splits"]["train"]["environments"]["code_gen_simple_agent"] == 1


def test_the_last_rows_are_held_out_when_no_validation_set_is_named(tmp_path):
    _, train, valid = write(tmp_path, [row(i) for i in range(10)], held_out_rows=3)
    assert [kept["id"] for kept in train] == list(range(7))
    assert [kept["id"] for kept in valid] == [7, 8, 9]


def test_held_out_rows_are_the_last_usable_ones(tmp_path):
    source = [row(i) for i in range(6)] + [row(6, agent_ref=None)]
    _, train, valid = write(tmp_path, source, held_out_rows=2, max_bad_rows=0.5)
    assert [kept["id"] for kept in valid] == [4, 5] and len(train) == 4


def test_several_training_sets_hold_out_their_part_each(tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    raw = {
        name: [save_raw(tmp_path / name, name, [row(f"{name}{i}") for i in range(n)])]
        for name, n in (("a", 30), ("b", 10))
    }
    section = RlPrompts(train=["a", "b"], held_out_rows=4, max_prompt_tokens=100)
    statistics = write_prompts(raw, tmp_path / "tokenizer", tmp_path, section.model_dump())
    assert [kept["id"] for kept in read(tmp_path / "valid.jsonl")] == ["a27", "a28", "a29", "b9"]
    assert statistics["datasets"]["b"]["written"] == {"train": 9, "valid": 1}


def test_validation_sets_of_their_own_leave_the_training_rows_alone(tmp_path):
    statistics, train, valid = write(tmp_path, [row(1), row(2)], [row(8), row(9)])
    assert [kept["id"] for kept in train] == [1, 2] and [kept["id"] for kept in valid] == [8, 9]
    assert statistics["splits"]["valid"]["rows"] == 2


def test_a_dapo_question_loses_its_frame_and_gets_the_blends(tmp_path):
    table = save_table(tmp_path / "dapo.parquet", [dapo_source("unused"), dapo_source("What\n\nis 2+2?", "4")])
    source = [dapo(1, 1, uuid="kept"), row(2)]
    statistics, train, _ = write(tmp_path, source, placeholder_tables={DAPO: str(table)})
    text = "Solve it.\n\nWhat\n\nis 2+2?\n\nBox the answer."
    assert train == [
        {
            "id": 1,
            "dataset": "nano_v3_sft_profiled_dapo17k",
            "agent_ref": agent("math_with_judge"),
            "pass_rate": 0.25,
            "uuid": "kept",
            "question": text,
            "expected_answer": "4",
            "responses_create_params": {"input": [user(text)]},
        }
    ]
    assert statistics["datasets"]["t"]["placeholders_resolved"] == {DAPO: 1}
    facts = statistics["placeholder_tables"][DAPO]
    assert facts["rows"] == 2 and facts["rows_used"] == 1 and len(facts["sha256"][0]) == 64


@pytest.mark.parametrize(
    ("stored", "expected"),
    [('["7", "8"]', "7"), ('{"a": "7"}', "7"), ("[7]", "7"), ("\\frac12", "\\frac12"), ("3", "3")],
)
def test_a_skywork_answer_is_the_first_of_its_json(stored, expected):
    filled = resolve(skywork(1, 0), {SKYWORK: {0: skywork_source("Is {x} 7?", stored)}})
    assert filled["expected_answer"] == expected
    assert filled["question"] == "Is {x} 7?"
    assert filled["responses_create_params"] == {"input": [user("Is {x} 7?\nAnswer in a box.")]}
    assert "_hf_placeholder" not in filled and filled["id"] == 1


def test_tables_are_directories_too_and_only_the_named_split_is_read(tmp_path):
    save_table(tmp_path / "sky/data/code-00000-of-00001.parquet", [skywork_source("code", '["c"]')])
    save_table(tmp_path / "sky/data/math-00000-of-00002.parquet", [skywork_source("one", '["1"]')])
    save_table(tmp_path / "sky/data/math-00001-of-00002.parquet", [skywork_source("two", '["2"]')])
    source = [skywork(1, 0), skywork(2, 1), row(3)]
    _, train, _ = write(tmp_path, source, placeholder_tables={SKYWORK: str(tmp_path / "sky")})
    assert [kept["question"] for kept in train] == ["one", "two"]


def test_unresolvable_rows_are_counted_by_reason_and_never_written(tmp_path):
    table = save_table(
        tmp_path / "d.parquet",
        [
            dapo_source("ok"),
            {"prompt": [user("no frame")], "reward_model": {"ground_truth": "1"}},
            dapo_source("q", ""),
        ],
    )
    source = [
        dapo(1, 0),
        dapo(2, 99),
        dapo(3, 1),
        dapo(4, 2),
        dapo(5, None),
        dapo(6, 0, dataset="unheard_of"),
        dapo(7, 0, _hf_placeholder={"row": 0, "question_template": "?"}),
        skywork(8, 0),
        row(9, responses_create_params={"input": []}),
        row(10, responses_create_params=None),
        row(11, agent_ref={"type": "x"}),
        row(12),
    ]
    statistics, train, valid = write(tmp_path, source, placeholder_tables={DAPO: str(table)}, max_bad_rows=1.0)
    assert [kept["id"] for kept in train + valid] == [1, 12]
    counts = statistics["datasets"]["t"]
    assert {reason: found["rows"] for reason, found in counts["bad"].items()} == {
        "placeholder row out of range": 1,
        "placeholder question has no frame": 1,
        "placeholder without answer": 1,
        "placeholder without row number": 1,
        "placeholder of unknown data set": 1,
        "placeholder template": 1,
        "placeholder table not given": 1,
        "no usable prompt": 2,
        "no agent_ref": 1,
    }
    assert counts["rows"] == 12 == sum(counts["written"].values()) + 10


def test_too_many_bad_rows_are_an_error_that_names_the_key(tmp_path):
    with pytest.raises(UserError, match=r"rl\.prompts\.max_bad_rows") as error:
        write(tmp_path, [row(1), row(2), skywork(3, 0)])
    assert f"add {SKYWORK} to rl.prompts.placeholder_tables" in str(error.value)


def test_long_prompts_are_counted_apart_from_bad_rows(tmp_path):
    long = row(3, responses_create_params={"input": [user("long " * 200)]})
    statistics, train, valid = write(tmp_path, [row(1), long, row(2)])
    assert [kept["id"] for kept in train + valid] == [1, 2]
    counts = statistics["datasets"]["t"]
    assert counts["longer_than_max_prompt_tokens"] == 1 and not counts["bad"]


def test_the_length_is_that_of_the_prompt_the_model_sees(tmp_path):
    request = {"input": [user("Weather?")], "tools": [WEATHER["function"]]}
    text = render([user("Weather?")], [WEATHER["function"]], add_generation_prompt=True)
    length = len(toy_tokenizer().encode(text).ids)
    source = [row(1, responses_create_params=request), row(2)]
    statistics, _, _ = write(tmp_path, source, max_prompt_tokens=length)
    assert statistics["splits"]["train"]["longest_prompt_tokens"] == length


def test_no_prompt_left_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no prompts are left for train"):
        write(tmp_path, [row(1)], held_out_rows=1)


def test_a_missing_table_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.parquet"):
        write(tmp_path, [dapo(1, 0), row(2)], placeholder_tables={DAPO: str(tmp_path / "nowhere.parquet")})


def test_a_request_of_the_responses_api_becomes_messages():
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"text": "!"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "name": "f", "arguments": '{"a": 1}', "call_id": "1"},
        {"type": "function_call", "name": "g", "arguments": "{}", "call_id": "2"},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
        {"role": "assistant", "content": "Done"},
        {"role": "user", "content": "More"},
    ]
    messages, tools = messages_of({"instructions": "Be brief.", "input": items, "tools": []})
    assert tools is None
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert messages[1]["content"] == "Hi!"
    assert messages[2]["reasoning_content"] == "hm"
    assert [call["function"]["name"] for call in messages[2]["tool_calls"]] == ["f", "g"]
    assert messages_of({"input": "Hi"}) == ([user("Hi")], None)
    with pytest.raises(UserError, match="'web_search_call'"):
        messages_of({"input": [{"type": "web_search_call"}]})


def test_the_script_publishes_a_verified_artifact(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from rl_prompts import main

    recipe = yaml.safe_load((ROOT / "config/recipes/tiny.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    save_tokenizer(tmp_path / "tokenizer")
    raw = [
        str(save_raw(tmp_path / name, name, [row(i) for i in range(5)]) / "manifest.json")
        for name in [*recipe["rl"]["prompts"]["train"], *recipe["rl"]["prompts"]["valid"]]
    ]
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "out"), "--raw", *raw]
    main([*arguments, "--tokenizer", str(tmp_path / "tokenizer/manifest.json")])
    assert set(verify(tmp_path / "out").files) == {"train.jsonl", "valid.jsonl"}
    assert "train: 5 prompts" in capsys.readouterr().out
