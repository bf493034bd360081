"""The final model: a Hugging Face directory with a card that agrees with the manifests."""

import json

import pytest
import torch

from data_jobs import script
from fake_results import make_results
from nano3.artifacts import building, verify
from nano3.errors import UserError
from nano3.model import size
from nano3.recipe import load_recipe, stages


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("final"), every=20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of the whole of post-training."""
    return make_results(tmp_path_factory.mktemp("whole"), every=20, whole=True)


def arguments(results, **changes):
    recipe = results.parent.parent / "tiny.yaml"
    loaded = load_recipe(recipe)
    names = [f"evaluation/{name}" for name in stages.evaluated(loaded)]
    parts = {
        "--recipe": [recipe],
        "--model": [results / f"rl/{stages.rl_chain(loaded)[-1]}/manifest.json"],
        "--stages": [results / name / "manifest.json" for name in stages.stage_paths(loaded)],
        "--evaluations": [results / name / "manifest.json" for name in names],
        "--output": [results / "rl/final"],
    } | changes
    return [str(word) for flag, values in parts.items() for word in (flag, *values)]


@pytest.fixture(scope="module")
def final(results):
    script("final").main(arguments(results))
    return results / "rl/final"


def test_transformers_loads_it_without_custom_code_and_agrees_with_our_model(final):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nano3.model import hf

    tokenizer = AutoTokenizer.from_pretrained(final)
    theirs = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32).eval()
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=True, return_tensors="pt", return_dict=True
    )
    ids = inputs["input_ids"]
    assert tokenizer.decode(ids[0]).endswith("<|im_start|>assistant\n<think>\n")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, hf.load(final).eval()(ids), rtol=1e-4, atol=1e-4)
    assert theirs.generation_config.eos_token_id == 11


def test_it_is_a_verified_artifact_without_training_leftovers(final):
    manifest = verify(final)
    assert manifest.kind == "rl/final" and "model" in manifest.inputs
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(manifest.files)
    assert not {"metrics.jsonl", "timing.jsonl", "samples.jsonl"} & {file.name for file in final.iterdir()}


def test_the_same_inputs_give_the_same_manifest(results, final):
    before = (final / "manifest.json").read_bytes()
    script("final").main(arguments(results))
    assert (final / "manifest.json").read_bytes() == before


def test_the_card_holds_the_numbers_of_the_manifests(results, final):
    card = (final / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    recipe = load_recipe(results.parent.parent / "tiny.yaml")
    parameters = f"{size.parameters(recipe.model).total:,}"
    for text in (parameters, "| RLVR 1 |", "| 500 |", "65.0% (60.5 to 69.5) ▲", "1.520 ± 0.040", "50.0%",
                 "time_step_min", "scripts/chat.py results/tiny/rl/final", "Python Software Foundation",
                 "demonstration"):  # fmt: skip
        assert text in card, text
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "of which the training made 0.49 epochs" in card


def test_with_rlvr_alone_the_card_is_silent_about_later_stages(final):
    card = (final / "README.md").read_text()
    assert not any(word in card for word in ("RLHF", "DPO", "reward model", "not offered"))
    assert "Mean held-out reward 53.0% → 66.8%." in card  # 0.65, 0.55, 0.75 and 0.72 after it


def test_the_card_says_what_each_stage_did(whole):
    script("final").main(arguments(whole))
    card = (whole / "rl/final/README.md").read_text()
    for text in (
        "- **Reward model**: GRPO on comparisons", "Held-out ranking accuracy",
        "length over open conversations 86.0 → 64.0 tokens, -25.6% (-27.0% to -24.1%)",
        "absent tools called in 57.0% (52.0 to 62.0) → 4.0% (0.0 to 9.0) of the responses",
        "| Environment | n | Base | SFT | RLVR 1 | RLHF | RLVR 2 | DPO |",
        "| open conversations | thinking | 120.0 ± 0.9 | 62.0 ± 0.9, -48.3% |",
        "4.0% (0.0 to 9.0) ▼ |", "RLHF 71.0% (61.0 to 80.0), n = 100", "Check every call against the tools",
        "judge's score 3.28", "absent tools called 8.8%",
    ):  # fmt: skip
        assert text in card, text
    assert all(line.endswith("|") for line in card.splitlines() if line.startswith("|"))


def test_a_blend_that_was_made_again_since_does_not_get_into_the_card(results, final):
    blend = results / "data/blend/phase1"
    kept = {file.name: file.read_bytes() for file in blend.iterdir()}
    with building(blend, kind="blend", config={"changed": True}) as made:
        made.statistics["categories"] = {"code": {"asked_percent": 1, "effective_percent": 1, "released": True}}
    try:
        script("final").main(arguments(results))
        card = (final / "README.md").read_text()
        assert "**Phase 1**" not in card and "**Phase 2**" in card
    finally:
        for name, content in kept.items():
            (blend / name).write_bytes(content)


def test_an_evaluation_of_another_model_is_refused(results):
    evaluations = [results / "evaluation" / name for name in ("base", "sft")]
    with pytest.raises(UserError, match="measured another model"):
        script("final").main(arguments(results, **{"--evaluations": evaluations}))


def test_a_model_without_tokenizer_is_refused_with_the_missing_names(results, tmp_path):
    model = tmp_path / "results/tiny/rl/rlvr1"
    with building(model, kind="rl/rlvr1", config={}) as made:
        (made.path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"no generation_config\.json.*tokenizer\.json"):
        script("final").main(arguments(results, **{"--model": [model]}))


def test_a_changed_weight_file_is_refused(results, tmp_path):
    import shutil

    copy = tmp_path / "results/tiny/rl/rlvr1"
    shutil.copytree(results / "rl/rlvr1", copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(UserError, match="was changed after it was made"):
        script("final").main(arguments(results, **{"--model": [copy]}))
