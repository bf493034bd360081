"""Parameter counts, FLOPs, memory, and the config's own checks."""

import pytest
import torch
from pydantic import ValidationError

from nano3.model import size
from nano3.model.cache import BLOCK, empty_cache
from nano3.model.config import ModelConfig
from nano3.model.nemotron_h import NemotronH
from test_model_parity import CONFIG

NANO3 = ModelConfig(
    vocab_size=131072,
    hidden_size=2688,
    pattern="MEMEM*E" * 5 + "MEMEMEM*E" + "MEMEMEME",
    num_attention_heads=32,
    num_key_value_heads=2,
    head_dim=128,
    mamba_num_heads=64,
    mamba_head_dim=64,
    ssm_state_size=128,
    n_groups=8,
    chunk_size=128,
    n_routed_experts=128,
    num_experts_per_tok=6,
    moe_intermediate_size=1856,
    moe_shared_expert_intermediate_size=3712,
    max_position_embeddings=262144,
)


def held(model: torch.nn.Module) -> int:
    """Parameters, and the routers' bias, which the published total counts though it is a buffer."""
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("correction_bias")]
    return sum(value.numel() for value in [*model.parameters(), *biases])


def test_nano3_has_the_published_number_of_parameters():
    count = size.parameters(NANO3)
    assert count.total == 31_577_940_288
    assert round(count.active / 1e6) == 3228
    assert round(count.active_with_embeddings / 1e6) == 3580
    assert (NANO3.num_layers, *map(NANO3.pattern.count, "ME*")) == (52, 23, 23, 6)


def test_nano3_builds_on_the_meta_device_with_that_many():
    with torch.device("meta"):
        model = NemotronH(NANO3)
    assert held(model) == 31_577_940_288
    assert model.layers[0].mixer.in_proj.weight.shape == (10304, 2688)


def test_a_built_model_has_the_computed_number_of_parameters():
    assert held(NemotronH(CONFIG)) == size.parameters(CONFIG).total


def test_flops_per_token_are_near_two_per_active_parameter_and_grow_with_context():
    short, long = (size.forward_flops_per_token(NANO3, context) for context in (128, 262_144))
    assert 2 * 3.2e9 < short < 2.2 * 3.3e9
    assert long > 2 * short
    assert size.train_flops_per_token(NANO3, 128) == 3 * short


def test_flops_of_the_matrix_products_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = CONFIG.model_copy(update={"pattern": "E", "num_experts_per_tok": 8})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        NemotronH(config).eval()(torch.zeros(2, 16, dtype=torch.int64))
    assert size.forward_flops_per_token(config, 16) * 32 == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_cache_is_as_large_as_computed():
    cache = empty_cache(CONFIG, rows=3, capacity=2 * BLOCK)
    tensors = [v for layer in cache.layers if layer is not None for v in vars(layer).values() if v is not None]
    assert sum(v.numel() * v.element_size() for v in tensors) == size.decode_cache_bytes(CONFIG, 3, 2 * BLOCK)


def test_the_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in NemotronH(CONFIG).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_initial_values_follow_the_recipe():
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"initializer_range": 0.0173, "mamba_num_heads": 60, "hidden_size": 256})
    mixer, experts = NemotronH(config).layers[0].mixer, NemotronH(config).layers[1].mixer
    decay = mixer.A_log.exp()
    assert 1 <= decay.min() < 3 < 13 < decay.max() <= 16
    step = torch.nn.functional.softplus(mixer.dt_bias)
    assert 0.00099 <= step.min() < 0.003 < 0.05 < step.max() <= 0.101
    assert (mixer.D == 1).all()
    assert mixer.in_proj.weight.std().item() == pytest.approx(0.0173, rel=0.03)
    assert mixer.out_proj.weight.std().item() == pytest.approx(0.0173 / 6**0.5, rel=0.03)
    assert experts.experts.up_proj.std().item() == pytest.approx(0.0173, rel=0.03)
    assert experts.experts.down_proj.std().item() == pytest.approx(0.0173 / 6**0.5, rel=0.03)
    assert (experts.gate.e_score_correction_bias == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "MEX"}, "unknown: 'X'"),
        ({"pattern": ""}, "non-empty"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"n_groups": 4}, "multiple of n_groups"),
        ({"num_experts_per_tok": 9}, "exceeds n_routed_experts"),
        ({"time_step_min": 0.5}, "exceeds time_step_max"),
        ({"hidden_size": 0}, "greater than 0"),
        ({"rope_theta": 10000}, "Extra inputs"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**(CONFIG.model_dump() | change))
