"""The order of the RL stages follows the recipe's sections, and comparisons become training rows and prompts."""

import json
import shutil
from pathlib import Path

import pytest

from nano3.data.generators import generate
from nano3.data.raw import write_shards
from nano3.errors import UserError
from nano3.recipe import load_recipe, stages
from nano3.rl.comparison_data import write_comparisons
from nano3.rl.rollout import load_chat_tokenizer, read_prompts
from rl_toy import toy_tokenizer

HERE = Path(__file__).parent


def recipe(tmp_path, text=""):
    for file in [*Path("config/recipes").glob("*.yaml"), *(HERE / "recipes").glob("*.yaml")]:
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "mine.yaml").write_text(f"extends: align\n{text}")
    return load_recipe(tmp_path / "mine.yaml")


def test_the_whole_of_post_training_has_the_order_of_the_real_run(tmp_path):
    whole = recipe(tmp_path)
    assert stages.rl_chain(whole) == ["rlvr1", "rlhf", "rlvr2", "dpo"]
    before = {stage: stages.stage_before(whole, stage) for stage in ("rlvr1", "genrm", "rlhf", "rlvr2", "dpo")}
    assert before == {
        "rlvr1": "sft/model",
        "genrm": "sft/model",
        "rlhf": "rl/rlvr1",
        "rlvr2": "rl/rlhf",
        "dpo": "rl/rlvr2",
    }


def test_a_stage_without_a_section_is_left_out(tmp_path):
    without = recipe(tmp_path, "rl: {rlhf: null, rlvr2: null}")
    assert stages.rl_chain(without) == ["rlvr1", "dpo"]
    assert stages.stage_before(without, "dpo") == "rl/rlvr1"
    assert stages.rl_chain(load_recipe("config/recipes/tiny.yaml"))[0] == "rlvr1"


def test_the_run_in_random_order_differs_from_rlvr1_in_its_curriculum_alone(tmp_path):
    whole = recipe(tmp_path)
    assert stages.compared(whole) == ["rlvr1_random"]
    assert stages.compared(recipe(tmp_path, "rl: {rlvr1: {curriculum: null}}")) == []
    ordered, random = (stages.rl_config(whole, name) for name in ("rlvr1", "rlvr1_random"))
    assert ordered.pop("curriculum") and random.pop("curriculum") is None
    assert ordered == random


def test_whether_a_comparison_is_trained_as_well_is_no_part_of_a_stages_identity(tmp_path):
    alone = recipe(tmp_path, "rl: {rlvr1: {curriculum: {against_random: false}}}")
    assert stages.rl_config(alone, "rlvr1") == stages.rl_config(recipe(tmp_path), "rlvr1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rl: {genrm: null}", "rl.rlhf needs rl.genrm"),
        ("rl: {rlhf: {validation: {generations: 1}}}", "validation.generations must be 2 or more"),
        ("rl: {preferences: null}", "rl.genrm needs rl.preferences"),
        ("rl: {preferences: {train: [rl_train]}}", "needs data sets of form 'preference'"),
    ],
)
def test_a_stage_that_lacks_what_it_needs_is_an_error(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, text)


def test_how_pairs_are_mined_is_no_part_of_what_dpo_depends_on_directly(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = recipe(tmp_path / "a"), recipe(tmp_path / "b", "rl: {dpo: {pairs: {generations: 3}}}")
    assert stages.rl_config(one, "dpo") == stages.rl_config(two, "dpo")
    assert stages.pairs_config(one) != stages.pairs_config(two)


def comparisons(tmp_path, rows, **config):
    raw = {}
    for name, examples in rows.items():
        raw[name] = [tmp_path / name]
        raw[name][0].mkdir()
        write_shards(iter(examples), raw[name][0])
    toy_tokenizer().save(str(tmp_path / "tokenizer.json"))
    output = tmp_path / "out"
    output.mkdir()
    config = {"train": ["a"], "valid": ["b"], "max_prompt_tokens": 2000, "max_bad_rows": 0.1} | config
    return output, write_comparisons(raw, load_chat_tokenizer(tmp_path), output, config)


def examples(count, split="train"):
    return list(generate("comparison", rows=count, seed=1, split=split, form="preference"))


def test_comparisons_are_written_in_both_orders_and_their_questions_once(tmp_path):
    output, found = comparisons(tmp_path, {"a": examples(40), "b": examples(5, "valid")})
    assert found["train"]["comparisons"] == 80
    rows, prompts = read_prompts(output / "train.jsonl"), read_prompts(output / "prompts_train.jsonl")
    questions = {row["context"][0]["content"] for row in rows}
    assert len(prompts) == len(questions) == found["train"]["prompts"] < 40
    assert {row["responses_create_params"]["input"][0]["content"] for row in prompts} == questions
    assert (output / "prompts_valid.jsonl").stat().st_size


def test_bad_and_long_comparisons_are_counted_and_too_many_are_an_error(tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    bad = {"id": 1, "context": "q", "response1": "a", "response2": "b"}
    _, found = comparisons(tmp_path / "few", {"a": [*examples(30), bad], "b": examples(5, "valid")})
    assert found["train"]["bad"]["no comparison"]["rows"] == 1
    with pytest.raises(UserError, match=r"rl\.preferences\.max_bad_rows"):
        comparisons(tmp_path / "many", {"a": [*examples(30), *[bad] * 20], "b": examples(5, "valid")})


def test_no_comparison_that_is_short_enough_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no comparisons are left for train"):
        comparisons(tmp_path, {"a": examples(3), "b": examples(3, "valid")}, max_prompt_tokens=5)


def test_files_of_helpsteer_rows_are_a_data_set_of_form_preference(tmp_path):
    from nano3.data.sources import Source, read_rows
    from nano3.recipe.data import Files

    row = {"id": "x", "context": "q", "response1": "a", "response2": "b", "overall_preference": -1}
    file = tmp_path / "helpsteer.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in (row, {"context": "q"})))
    source = Source("mine", Files(kind="files", paths=[str(file)], form="preference"), group=0)
    (found,) = read_rows(source)
    assert found["overall_preference"] == -1 and source.bad.total == 1
