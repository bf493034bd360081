"""The recipe: numbers of the report, references that hold, errors that name the nearest key, docs without drift."""

from pathlib import Path

import pytest

from nano3.errors import UserError
from nano3.model.size import parameters
from nano3.recipe import identity, load_recipe, stages
from nano3.recipe.docs import readme, schema_json

RECIPES = Path("config/recipes")


@pytest.fixture(scope="module")
def nano3():
    return load_recipe(RECIPES / "nano3.yaml")


def child(tmp_path, text):
    for file in RECIPES.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "mine.yaml").write_text(text)
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_is_valid(file):
    load_recipe(file)


def test_nano3_has_the_layers_of_the_report(nano3):
    pattern = nano3.model.pattern
    assert len(pattern) == 52
    assert (pattern.count("M"), pattern.count("E"), pattern.count("*")) == (23, 23, 6)
    assert [i for i, layer in enumerate(pattern) if layer == "*"] == [5, 12, 19, 26, 33, 42]


def test_nano3_has_the_parameters_of_the_report(nano3):
    count = parameters(nano3.model)
    assert count.total == 31_577_940_288
    assert round(count.active / 1e6) == 3228
    assert round(count.active_with_embeddings / 1e6) == 3580


def test_nano3_has_the_mixtures_of_the_report(nano3):
    first, second = (getattr(nano3.blends, phase).categories for phase in ("phase1", "phase2"))
    assert (len(first), len(second)) == (15, 12)
    assert sum(category.share for category in first.values()) == pytest.approx(100.0)
    assert sum(category.share for category in second.values()) == pytest.approx(100.1)


def test_nano3_long_context_is_a_scaled_phase_2_with_documents_and_retrieval(nano3):
    long_context = nano3.blends.long_context.categories
    assert long_context["long-document-qa"].share == 20
    assert long_context["synthetic-retrieval"].share == 1
    for name, category in nano3.blends.phase2.categories.items():
        assert long_context[name].share == pytest.approx(0.79 * category.share)
        assert long_context[name].datasets == category.datasets


def test_nano3_has_the_schedule_of_the_report(nano3):
    pretrain = nano3.pretrain
    schedule = pretrain.schedule
    assert (schedule.warmup_tokens, schedule.stable_tokens, schedule.decay_tokens) == (8.4e9, 20e12, 5e12)
    assert (schedule.peak, schedule.final) == (1e-3, 1e-5)
    tokens_per_step = pretrain.sequence_length * pretrain.global_batch_size
    assert tokens_per_step == 25_165_824
    assert round((pretrain.phase1.tokens + pretrain.phase2.tokens) / tokens_per_step) == 993_411
    assert pretrain.phase1.tokens == pytest.approx(0.94 * 25e12)


def test_nano3_has_the_sft_and_grpo_numbers_of_the_report(nano3):
    assert nano3.sft.steps * nano3.sft.global_batch_size * nano3.sft.data.pack_length == 13_000 * 64 * 262_144
    assert (nano3.sft.data.reasoning_off, nano3.sft.data.budget_truncation) == (0.10, 0.03)
    assert (nano3.sft.learning_rate, nano3.sft.warmup_steps) == (5e-5, 800)
    rlvr = nano3.rl.rlvr1
    assert rlvr.prompts_per_step * rlvr.generations_per_prompt == 2048
    assert (rlvr.clip_low, rlvr.clip_high, rlvr.kl_coefficient, rlvr.learning_rate) == (0.2, 0.28, 0, 3e-6)
    assert rlvr.overlong_filtering and rlvr.freeze_router and rlvr.leave_one_out


def test_tiny_has_the_same_kinds_of_layers_as_nano3(nano3):
    tiny = load_recipe(RECIPES / "tiny.yaml")
    assert set(tiny.model.pattern) == set(nano3.model.pattern)
    assert tiny.model.routed_scaling_factor == nano3.model.routed_scaling_factor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: tiny\nsft: {learing_rate: 1}", "sft.learing_rate: unknown key 'learing_rate'; did you mean"),
        ("extends: tiny\nsft: {learing_rate: 1}", "'learning_rate'?"),
        ("extends: tiny\nmodl: {}", "did you mean 'model'?"),
        ("extends: tiny\ndatasets: {mine: {kind: hub}}", "datasets.mine.repo: this key is required"),
        ("extends: tiny\nsft: {data: {datasets: {python_code: {share: 1}}}}", "needs data sets of form 'chat'"),
        ("extends: tiny\nrl: {prompts: {train: [nothing]}}", "names 'nothing', which `datasets` does not define"),
        ("extends: tiny\npretrain: {phase2: {tokens: 7}}", "make them equal"),
        ("extends: tiny\nmodel: {pattern: MXE}", "unknown: 'X'"),
        ("extends: tiny\nsft: {steps: many}", "found 'many'"),
        ("extends: mine", "in a circle"),
        ("extends: tinny", "mine.yaml extends it"),
        ("extends: tiny\ntokenizer: {kind: existing, path: x}", "'vocab_size' belongs to another kind"),
        ("- a list", "must hold a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_an_error_that_says_what_to_change(tmp_path, text, expected):
    with pytest.raises(UserError) as error:
        load_recipe(child(tmp_path, text))
    assert expected in str(error.value)


def test_a_recipe_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match="nano3, tiny"):
        load_recipe(RECIPES / "missing.yaml")


def test_extends_merges_mappings_replaces_lists_and_removes_nulls(tmp_path):
    recipe = load_recipe(
        child(
            tmp_path,
            "extends: tiny\nsft: {steps: 7}\nrl: {prompts: {valid: [rl_train]}}\n"
            "blends: {phase1: {categories: {code: null}}}",
        )
    )
    tiny = load_recipe(RECIPES / "tiny.yaml")
    assert recipe.sft.steps == 7 and recipe.sft.learning_rate == tiny.sft.learning_rate
    assert recipe.rl.prompts.valid == ["rl_train"]
    assert set(recipe.blends.phase1.categories) == set(tiny.blends.phase1.categories) - {"code"}


def test_execution_is_no_part_of_any_identity(tmp_path):
    tiny = load_recipe(RECIPES / "tiny.yaml")
    other = load_recipe(child(tmp_path, "extends: tiny\nexecution: {log_interval: 7, micro_batch_tokens: 512}"))
    for phase in stages.PRETRAIN_PHASES:
        assert stages.pretrain_config(tiny, phase) == stages.pretrain_config(other, phase)
    assert stages.rl_config(tiny, "rlvr1") == stages.rl_config(other, "rlvr1")


def test_identity_depends_on_values_and_inputs_but_not_on_key_order():
    assert identity({"a": 1, "b": 2}, {"x": "1"}) == identity({"b": 2, "a": 1}, {"x": "1"})
    assert identity({"a": 1}, {}) != identity({"a": 2}, {})
    assert identity({"a": 1}, {"x": "1"}) != identity({"a": 1}, {"x": "2"})
    with pytest.raises((TypeError, ValueError)):
        identity({"a": {1, 2}}, {})


def test_the_generated_docs_are_up_to_date():
    hint = "run: python -m nano3.recipe.docs config"
    assert Path("config/README.md").read_text() == readme(), hint
    assert Path("config/schema.json").read_text() == schema_json(), hint
