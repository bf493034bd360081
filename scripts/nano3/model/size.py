"""How big a Nemotron-H model is and what a token costs: arithmetic on the config alone."""

from dataclasses import dataclass

from nano3.model.config import ATTENTION, MAMBA, MOE, ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Parameter counts. The router's expert bias counts as a parameter, as in the published totals."""

    total: int
    active: int  # used for one token, with the language-model head but without the embedding table (report: 3.2B)
    active_with_embeddings: int  # with both tables (report: 3.6B)
    embedding: int  # one table


def parameters(config: ModelConfig) -> Parameters:
    """Exact parameter counts of the model that `NemotronH(config)` builds."""
    table = config.vocab_size * config.hidden_size
    outside_experts = sum(layer_parameters(config, letter, experts=0) for letter in config.pattern)
    experts = config.pattern.count(MOE) * expert_parameters(config)
    body = outside_experts + config.hidden_size  # the final norm
    active = body + experts * config.num_experts_per_tok + table
    return Parameters(
        total=body + experts * config.n_routed_experts + 2 * table,
        active=active,
        active_with_embeddings=active + table,
        embedding=table,
    )


def expert_parameters(config: ModelConfig) -> int:
    """Parameters of one routed expert: two matrices, no gate."""
    return 2 * config.hidden_size * config.moe_intermediate_size


def layer_parameters(config: ModelConfig, letter: str, *, experts: int) -> int:
    """Parameters of one layer with its pre-norm; of an MoE layer, count this many routed experts."""
    hidden = config.hidden_size
    if letter == MAMBA:
        convolution = config.mamba_conv_size * (config.conv_kernel + 1)
        heads = 3 * config.mamba_num_heads  # A_log, D, dt_bias
        projections = hidden * (config.mamba_projection_size + config.mamba_inner_size)
        return projections + convolution + heads + config.mamba_inner_size + hidden
    if letter == ATTENTION:
        width = 2 * (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
        return hidden * width + hidden
    router = hidden * config.n_routed_experts + config.n_routed_experts
    shared = 2 * hidden * config.moe_shared_expert_intermediate_size
    return router + shared + experts * expert_parameters(config) + hidden


def forward_flops_per_token(config: ModelConfig, context: int) -> float:
    """Floating-point operations of the forward pass per token, at this many tokens of context.

    A multiply-add counts as two. Matrix products, the scan in its chunked form and causal attention (half of
    the context on average) count; norms and activations, a fraction of a percent, do not.
    """
    active = parameters(config).active
    vectors = (config.num_layers + 1) * config.hidden_size  # norm weights take no matrix product
    products = 2.0 * (active - vectors)
    inner, state, groups = config.mamba_inner_size, config.ssm_state_size, config.n_groups
    chunk = min(config.chunk_size, context)
    # C B^T per group, (C B^T * L) x per head, chunk states in and out
    scan = 2.0 * (chunk * groups * state + chunk * inner + 2 * inner * state)
    attention = 2.0 * 2 * config.num_attention_heads * config.head_dim * (context + 1) / 2
    return products + config.pattern.count(MAMBA) * scan + config.pattern.count(ATTENTION) * attention


def train_flops_per_token(config: ModelConfig, context: int) -> float:
    """Forward and backward: the backward pass costs two forward passes."""
    return 3 * forward_flops_per_token(config, context)


def decode_cache_bytes(config: ModelConfig, rows: int, context: int, *, bytes_per_value: int = 4) -> int:
    """Memory of a generation cache: SSM states are always float32, the rest `bytes_per_value`."""
    ssm = 4 * config.mamba_inner_size * config.ssm_state_size
    conv = bytes_per_value * (config.conv_kernel - 1) * config.mamba_conv_size
    keys_values = bytes_per_value * 2 * config.num_key_value_heads * config.head_dim * context
    per_row = config.pattern.count(MAMBA) * (ssm + conv) + config.pattern.count(ATTENTION) * keys_values
    return rows * per_row


def training_bytes(config: ModelConfig, *, weight: int = 4, gradient: int = 4, optimizer: int = 8) -> int:
    """Memory of weights, gradients and optimizer state (bytes per parameter each), without activations."""
    return parameters(config).total * (weight + gradient + optimizer)
