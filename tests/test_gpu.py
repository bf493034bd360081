"""What must hold on a GPU: it computes what the CPU computes, again and again the same bits.

    pytest -m gpu tests/test_gpu.py                              on a machine with one
    NANO3_GPU_TESTS_ON=cpu pytest -m gpu tests/test_gpu.py       a rehearsal of the same tests on the CPU

Tolerances are some five times what was measured on one GPU. What a run measures is kept by
`--junitxml FILE -o junit_family=xunit1`.
"""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from nano3.artifacts import building, read_manifest, verify
from nano3.model import hf, mamba2, moe
from nano3.model.cache import empty_cache
from nano3.model.generate import generate
from nano3.model.nemotron_h import NemotronH
from nano3.rl import rlvr
from nano3.train import loop
from nano3.train.hardware import arithmetic
from nano3.train.loss import summed_cross_entropy
from nano3.train.tracking import read_rows
from test_model_moe import one_kernel_and_one_at_a_time
from test_model_parity import CONFIG, trained_looking
from test_model_sequence import difference, doc_ids_of, relative, scan_against_recurrence
from test_rl_stages import dpo_world, interrupted, script

DEVICE = os.environ.get("NANO3_GPU_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(),
        reason="torch finds no GPU here; NANO3_GPU_TESTS_ON=cpu rehearses these tests on the CPU",
    ),
]

# Heads, groups and chunks like those of the 31.6B model, so that products have the shapes that kernels are made for.
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "head_dim": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "chunk_size": 64,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 192,
    "moe_shared_expert_intermediate_size": 384,
    "initializer_range": 0.05,
}
CUTS = [0, 1, 64, 70, 161, 200]
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], list(range(90)), [8, 8, 8]]


def new_model(device: str = DEVICE, **changes) -> NemotronH:
    return trained_looking(CONFIG.model_copy(update=SHAPE | changes)).to(device)


@pytest.fixture(autouse=True)
def _global_settings():
    """Strict determinism as in training, no TF32, and torch's settings as they were afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    assert not torch.backends.cuda.matmul.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module", autouse=True)
def _cublas_workspace():
    """What nano3.train.hardware chooses, before the first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def ids():
    torch.manual_seed(2)
    return torch.randint(0, SHAPE["vocab_size"], (3, 201))


def training_pass(device: str, ids: torch.Tensor, packed: bool, precision: str = "fp32"):
    """Logits, loss and gradients of one step's forward and backward pass, on the CPU."""
    model = new_model(device).train()
    ids = ids.to(device)
    doc_ids = doc_ids_of(CUTS, len(ids)).to(device) if packed else None
    targets = ids[:, 1:]
    with arithmetic(device, precision):
        hidden = model.hidden(ids[:, :-1], doc_ids=doc_ids)
        logits = model.lm_head(hidden).float().detach()
        loss = summed_cross_entropy(hidden, model.lm_head.weight, targets, torch.ones_like(targets)) / targets.numel()
    (loss + 0.01 * model.balance_loss()).backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
    assert all(g.dtype == torch.float32 for g in gradients.values())
    return logits.cpu(), loss.item(), gradients


@pytest.mark.parametrize("packed", [False, True], ids=["one document a row", "packed"])
def test_logits_loss_and_every_gradient_are_those_of_the_cpu(ids, packed, record_property):
    logits, loss, gradients = training_pass("cpu", ids, packed)
    our_logits, our_loss, ours = training_pass(DEVICE, ids, packed)
    worst = {name: relative(ours[name], gradient) for name, gradient in gradients.items()}
    record_property("logits", difference(our_logits, logits))
    record_property("loss", abs(our_loss - loss))
    record_property("gradients", max(worst.values()))
    assert difference(our_logits, logits) <= 6e-6
    assert abs(our_loss - loss) <= 2e-6
    assert {name: value for name, value in worst.items() if not value <= 2e-5} == {}


def test_a_repeated_training_step_gives_the_same_bits(ids):
    for precision in ("fp32", "bf16"):
        (logits, loss, first), (again, loss_again, second) = (
            training_pass(DEVICE, ids, True, precision) for _ in range(2)
        )
        assert torch.equal(logits, again) and loss == loss_again
        assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("packed", [False, True], ids=["one document a row", "packed"])
def test_bfloat16_products_stay_close_and_router_and_scan_stay_float32(ids, packed, monkeypatch, record_property):
    exact_logits, exact_loss, exact = training_pass(DEVICE, ids, packed)
    seen = set()
    route, scan = moe.Router.forward, mamba2.scan_forward

    def watched_router(self, x):
        result = route(self, x)
        seen.update(("router", value.dtype) for value in result[:2])
        return result

    def watched_scan(*arguments):
        result = scan(*arguments)
        seen.update(("scan", value.dtype) for value in (*arguments[:6], *result[:2]))
        return result

    monkeypatch.setattr(moe.Router, "forward", watched_router)
    monkeypatch.setattr(mamba2, "scan_forward", watched_scan)
    logits, loss, gradients = training_pass(DEVICE, ids, packed, "bf16")
    assert seen == {("router", torch.float32), ("scan", torch.float32)}
    assert logits.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients.values())
    apart = {name: ((g - exact[name]).norm() / exact[name].norm()).item() for name, g in gradients.items()}
    record_property("logits", ((logits - exact_logits).norm() / exact_logits.norm()).item())
    record_property("loss", abs(loss - exact_loss))
    record_property("gradients, worst", max(apart.values()))
    record_property("gradients, median", sorted(apart.values())[len(apart) // 2])
    assert (logits - exact_logits).norm() / exact_logits.norm() <= 0.1
    assert abs(loss - exact_loss) <= 0.01
    assert {name: value for name, value in apart.items() if not value <= 0.4} == {}


@pytest.mark.parametrize("sizes", [[5, 0, 40, 3], [0, 0, 0, 480], [120, 120, 120, 120], [1, 46, 1, 0]])
def test_experts_in_one_kernel_equal_one_at_a_time(sizes, monkeypatch, record_property):
    """An expert without a token gets a gradient of zero, whatever was in its memory before."""
    if DEVICE == "cuda" and not moe.can_group(torch.empty(4, 32, 64, device=DEVICE, dtype=torch.bfloat16)):
        pytest.skip("this GPU has no kernel that multiplies all experts at once; it needs a Hopper GPU or later")
    grouped, single = one_kernel_and_one_at_a_time(sizes, DEVICE, monkeypatch)
    apart = [((a - b).float().norm() / b.float().norm()).item() for a, b in zip(grouped, single, strict=True)]
    record_property("worst", max(apart))
    assert max(apart) <= 1e-2
    assert grouped[3].flatten(1).any(1).tolist() == [size > 0 for size in sizes]
    again, _ = one_kernel_and_one_at_a_time(sizes, DEVICE, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(grouped, again, strict=True))


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_the_chunked_scan_and_its_gradients_equal_the_recurrence(scale, record_property):
    outputs, gradients = scan_against_recurrence(2, 150, 4, 64, 2, 128, chunk_size=64, scale=scale, device=DEVICE)
    record_property("output", outputs)
    record_property("gradients", gradients)
    assert outputs < 1e-6 and gradients < 5e-5


def test_prefill_and_cached_decoding_equal_a_full_pass(ids, record_property):
    model, ids = new_model().eval(), ids.to(DEVICE)
    cache = empty_cache(model.config, rows=3, capacity=4, device=DEVICE)
    with torch.no_grad():
        pieces = torch.cat([model(part, cache=cache) for part in ids.split([70, 1, 1, 30, 1, 98], dim=1)], 1)
        apart = difference(pieces, model(ids))
    record_property("logits", apart)
    assert apart <= 5e-6


def test_greedy_text_is_that_of_the_cpu(record_property):
    settings = {"max_new_tokens": 60, "temperature": 0}
    ours, cpus = (generate(new_model(device), PROMPTS, **settings) for device in (DEVICE, "cpu"))
    assert [c.tokens for c in ours] == [c.tokens for c in cpus]
    apart = [
        torch.tensor(a.logprobs).sub(torch.tensor(b.logprobs)).abs().max() for a, b in zip(ours, cpus, strict=True)
    ]
    record_property("log-probabilities", max(apart).item())
    assert max(apart) <= 1e-5


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.8}], ids=["plain", "top-p"])
def test_sampled_text_is_that_of_the_cpu(settings):
    ours, cpus = (generate(new_model(device), PROMPTS * 4, max_new_tokens=40, **settings) for device in (DEVICE, "cpu"))
    same = sum(a.tokens == b.tokens for a, b in zip(ours, cpus, strict=True))
    assert same >= 15  # of 16: a draw may fall between two roundings of a cumulative probability


@pytest.mark.parametrize(("precision", "experts"), [("fp32", "joined"), ("bf16", "joined"), ("bf16", "sorted")])
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_text(precision, experts, monkeypatch):
    if experts == "sorted":
        monkeypatch.setattr(moe, "DENSE_BELOW", 0)
    model, settings = new_model(), {"max_new_tokens": 40, "stop_ids": [0, 1, 2, 3, 4, 5]}
    with arithmetic(DEVICE, precision):
        first, again = (generate(model, PROMPTS * 4, seed=5, **settings) for _ in range(2))
        assert first == again
        assert first != generate(model, PROMPTS * 4, seed=6, **settings)


@pytest.mark.parametrize("vocabulary", [512, 20_000])
def test_a_compiled_step_writes_the_same_text(vocabulary, record_property):
    model, settings = new_model(vocab_size=vocabulary), {"max_new_tokens": 60}
    for temperature in (0, 1):
        eager, compiled = (
            generate(model, PROMPTS, **settings, temperature=temperature, compiled=flag) for flag in (False, True)
        )
        assert [c.tokens for c in compiled] == [c.tokens for c in eager]
        pairs = zip(compiled, eager, strict=True)
        apart = max(torch.tensor(a.logprobs).sub(torch.tensor(b.logprobs)).abs().max().item() for a, b in pairs)
        record_property(f"log-probabilities at {temperature}", apart)
        assert apart <= 1e-5


def test_a_compiled_step_with_sorted_experts_writes_the_same_bits_twice(monkeypatch):
    monkeypatch.setattr(moe, "DENSE_BELOW", 0)
    model = new_model()
    with arithmetic(DEVICE, "bf16"):
        first, again = (generate(model, PROMPTS, max_new_tokens=20, compiled=True) for _ in range(2))
    assert first == again


def test_logits_and_every_gradient_are_those_of_transformers(ids, tmp_path, record_property):
    transformers = pytest.importorskip("transformers")
    model = new_model()
    hf.save(model, tmp_path)
    theirs, ids = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).to(DEVICE), ids[:, :150].to(DEVICE)
    with torch.no_grad():
        apart = difference(model(ids), theirs(ids, use_cache=False).logits)
    record_property("logits", apart)
    assert apart <= 5e-6
    torch.use_deterministic_algorithms(False)  # their sums over experts and along time have no deterministic kernel
    model(ids).logsumexp(-1).square().mean().backward()
    theirs(ids, use_cache=False).logits.logsumexp(-1).square().mean().backward()
    for name in ("embeddings", "lm_head"):
        own, other = (next(p.grad for n, p in m.named_parameters() if name in n) for m in (model, theirs))
        record_property(f"gradient of {name}", relative(own, other))
        assert relative(own, other) <= 1e-5


# Stages of training, by their scripts


def on_this_device(arguments: list[str], precision: str = "fp32") -> list[str]:
    """The arguments of a toy world's script, its recipe changed to train on DEVICE."""
    file = Path(arguments[arguments.index("--recipe") + 1])
    recipe = yaml.safe_load(file.read_text())
    job = {"threads": 1, "gpus_per_node": int(DEVICE == "cuda")}
    recipe["execution"] |= {"sft": job, "rl": job, "evaluation": job}
    for stage in (recipe["sft"], recipe["rl"]["rlvr1"], recipe["rl"].get("dpo", {})):
        stage["precision"] = precision
    file.write_text(yaml.safe_dump(recipe))
    return arguments


def sft_world(root: Path) -> list[str]:
    """Packed chats and a model to fine-tune below `root`; the arguments of scripts/sft.py."""
    import train_toy

    root.mkdir()
    train_toy.toy_world(root)
    model = root / "results/toy/pretrain/long_context"
    with building(model, kind="pretrain/long_context", config={}) as artifact:
        hf.save(trained_looking(CONFIG.model_copy(update=train_toy.SHAPE)), artifact.path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (artifact.path / name).write_bytes((root / "results/toy/tokenizer" / name).read_bytes())
    recipe, output, data = root / "toy.yaml", root / "results/toy/sft/model", root / "results/toy/sft/data"
    return [*("--recipe", str(recipe)), *("--model", str(model)), *("--data", str(data)), *("--output", str(output))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fine_tuning_interrupted_after_a_checkpoint_goes_on_to_the_same_bytes(
    precision, tmp_path, monkeypatch, record_property
):
    calm = script("sft", on_this_device(sft_world(tmp_path / "calm"), precision), monkeypatch)
    arguments = on_this_device(sft_world(tmp_path / "rough"), precision)
    step = loop.optimizer_step

    def power_cut(*rest):
        if rest[4] == 7:  # checkpoints are made every three steps
            raise RuntimeError("power cut")
        return step(*rest)

    monkeypatch.setattr(loop, "optimizer_step", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        script("sft", arguments, monkeypatch)
    monkeypatch.setattr(loop, "optimizer_step", step)
    rough = script("sft", arguments, monkeypatch)
    assert verify(calm).files == verify(rough).files
    losses = [row["loss"] for row in read_rows(calm / "metrics.jsonl") if "split" not in row]
    record_property("losses", json.dumps(losses))
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert read_manifest(calm).statistics["steps"] == 12


@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1.0001), ("bf16", 1.1)])
def test_grpo_resumes_to_the_same_bytes_and_trainer_and_generator_agree(
    precision, largest, tmp_path, monkeypatch, record_property
):
    from rl_toy import toy_world

    calm = script("rlvr1", on_this_device(toy_world(tmp_path / "calm"), precision), monkeypatch)
    arguments = on_this_device(toy_world(tmp_path / "rough"), precision)
    interrupted(rlvr, 3, monkeypatch)
    with pytest.raises(RuntimeError, match="power cut"):
        script("rlvr1", arguments, monkeypatch)
    rough = script("rlvr1", arguments, monkeypatch)
    assert verify(calm).files == verify(rough).files
    rows = [row for row in read_rows(calm / "metrics.jsonl") if "ratio_max" in row]
    record_property("ratio_max", max(row["ratio_max"] for row in rows))
    record_property("log_ratio_mean", max(row["log_ratio_mean"] for row in rows))
    assert max(row["ratio_max"] for row in rows) <= largest


def test_dpo_runs_and_starts_at_ln_2(tmp_path, monkeypatch):
    output = script("dpo", on_this_device(dpo_world(tmp_path)), monkeypatch)
    rows = read_rows(output / "metrics.jsonl")
    assert rows[0]["preference_loss"] == pytest.approx(0.6931472, abs=1e-6)
