"""Hugging Face directories: what we write, stock transformers loads as it is; what it writes, we load."""

import json

import pytest
import torch

from nano3.errors import UserError
from nano3.model import hf
from nano3.model.generate import generate
from nano3.model.nemotron_h import NemotronH, cast
from test_model_parity import CONFIG, trained_looking

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    model = trained_looking()
    hf.save(model, directory, bos=1, eos=2, pad=0, generation_eos=11)
    return model, directory


def test_transformers_loads_our_directory_and_agrees_with_its_own_time_step_clamp_left_on(saved):
    model, directory = saved
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    ids = torch.randint(0, CONFIG.vocab_size, (2, 70))
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() <= 1e-4


def test_the_clamp_would_have_mattered(saved, tmp_path):
    model, directory = saved
    config = json.loads((directory / "config.json").read_text()) | {"time_step_min": 0.02}
    theirs = transformers.NemotronHForCausalLM(transformers.NemotronHConfig(**config))
    theirs.load_state_dict(transformers.AutoModelForCausalLM.from_pretrained(directory).state_dict())
    ids = torch.randint(0, CONFIG.vocab_size, (2, 70))
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() > 1e-3


def test_greedy_text_equals_that_of_transformers_over_64_tokens(saved):
    model, directory = saved
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    prompt = [1, 20, 33, 7]
    ours = generate(model, [prompt], max_new_tokens=64, temperature=0, stop_ids=(), seed=0)[0].tokens
    ids = torch.tensor([prompt])
    text = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64, min_length=68)
    expected = text[0, len(prompt) :].tolist()
    stop = ours.index(11) if 11 in ours else 64  # `min_length` forbids transformers the stop token
    assert ours[:stop] == expected[:stop]
    assert stop > 20


def test_save_and_load_give_back_the_same_bits_and_the_same_config(saved):
    model, directory = saved
    again = hf.load(directory)
    assert again.config == model.config
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_saving_twice_writes_the_same_bytes(saved, tmp_path):
    _model, directory = saved
    hf.save(hf.load(directory), tmp_path, bos=1, eos=2, pad=0, generation_eos=11)
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (directory / file).read_bytes()


def test_what_transformers_saves_loads_here(saved, tmp_path):
    model, directory = saved
    transformers.AutoModelForCausalLM.from_pretrained(directory).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop(hf.EXTRAS, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_sharded_checkpoint_loads(saved, tmp_path):
    model, directory = saved
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = hf.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_names_on_disk_are_those_of_the_published_checkpoint(saved):
    from safetensors import safe_open

    with safe_open(saved[1] / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {
        "backbone.embeddings.weight",
        "backbone.layers.0.mixer.A_log",
        "backbone.layers.0.mixer.conv1d.bias",
        "backbone.layers.1.mixer.experts.7.down_proj.weight",
        "backbone.layers.1.mixer.gate.e_score_correction_bias",
        "backbone.layers.1.mixer.shared_experts.up_proj.weight",
        "backbone.layers.3.mixer.q_proj.weight",
        "backbone.norm_f.weight",
        "lm_head.weight",
    } <= names


def test_weights_are_as_readable_as_the_files_beside_them(saved):
    modes = {(saved[1] / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_bfloat16_keeps_what_needs_float32(saved, tmp_path):
    model, _ = saved
    hf.save(model, tmp_path, dtype=torch.bfloat16)
    again = hf.load(tmp_path)
    assert again.lm_head.weight.dtype == torch.bfloat16
    mamba, experts = again.layers[0].mixer, again.layers[1].mixer
    kept = [mamba.A_log, mamba.D, mamba.dt_bias, experts.gate.weight, experts.gate.e_score_correction_bias]
    assert {value.dtype for value in kept} == {torch.float32}
    ids = torch.randint(0, CONFIG.vocab_size, (2, 20))
    with torch.no_grad():
        assert (again(ids) - model(ids)).abs().median() < 0.02  # a few tokens may go to other experts
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert (theirs(ids).logits - hf.load(tmp_path, dtype=torch.float32)(ids)).abs().max() <= 1e-4


def test_half_precision_weights_train(saved):
    model = cast(trained_looking(), torch.bfloat16).train()
    ids = torch.randint(0, CONFIG.vocab_size, (2, 20))
    model(ids).logsumexp(-1).mean().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())


def test_autocast_trains_float32_weights(saved):
    model = trained_looking().train()
    ids = torch.randint(0, CONFIG.vocab_size, (2, 20))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    logits.logsumexp(-1).mean().backward()
    assert (logits - trained_looking()(ids)).abs().median() < 0.02  # a few tokens may go to other experts
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_group": 4}, "n_group is 4"),
        ({"hybrid_override_pattern": "M-E"}, "unknown: '-'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 64}, "has shape"),
        ({"hybrid_override_pattern": "MEM*EMM"}, "missing"),
        ({"hybrid_override_pattern": "MEM*E"}, "unknown tensors"),
    ],
)
def test_a_directory_of_another_model_is_an_error_that_says_why(saved, tmp_path, change, message):
    _, directory = saved
    config = json.loads((directory / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=message):
        hf.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        hf.load(tmp_path)


def test_loading_costs_no_random_numbers(saved):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert isinstance(hf.load(saved[1]), NemotronH)
    assert torch.equal(torch.rand(3), expected)
