"""The final model: a Hugging Face directory with a card that agrees with the manifests."""

import json

import pytest
import torch

from data_jobs import script
from fake_results import RECIPE, make_results
from nano3.artifacts import building, verify
from nano3.errors import UserError
from nano3.model import size
from nano3.recipe import load_recipe
from nano3.report import read


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("final"), every=20)


def arguments(results, **changes):
    parts = {
        "--recipe": [RECIPE],
        "--model": [results / "rl/rlvr1/manifest.json"],
        "--stages": [results / name / "manifest.json" for name in read.STAGES],
        "--evaluations": [results / name / "manifest.json" for name in read.EVALUATIONS],
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


def test_the_card_holds_the_numbers_of_the_manifests(final):
    card = (final / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    parameters = f"{size.parameters(load_recipe(RECIPE).model).total:,}"
    for text in (parameters, "| RLVR |", "65.0% (60.5% to 69.5%), n = 500", "1.520 ± 0.040", "50.0%", "time_step_min",
                 "scripts/chat.py results/tiny/rl/final", "Python Software Foundation", "demonstration"):  # fmt: skip
        assert text in card, text
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


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
    evaluations = [results / name for name in read.EVALUATIONS[:2]]
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
