"""The shape of a Nemotron-H model; field names are those of the Hugging Face `nemotron_h` config."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAMBA, MOE, ATTENTION = "M", "E", "*"

Count = Annotated[int, Field(gt=0)]


class ModelConfig(BaseModel):
    """Shape and initialisation of a Nemotron-H model (Nemotron 3 Nano report, table 1 and section 2.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: Count = Field(description="rows of the embedding and of the language-model head (untied)")
    hidden_size: Count = Field(description="width of the residual stream")
    pattern: str = Field(description="one letter per layer: M Mamba-2, E mixture of experts, * attention")

    num_attention_heads: Count = Field(description="query heads of an attention layer")
    num_key_value_heads: Count = Field(description="key/value heads, each shared by a group of query heads")
    head_dim: Count = Field(description="width of an attention head")

    mamba_num_heads: Count = Field(description="heads of a Mamba-2 layer")
    mamba_head_dim: Count = Field(description="channels of a Mamba-2 head")
    ssm_state_size: Count = Field(description="state width of a Mamba-2 head")
    n_groups: Count = Field(description="groups of Mamba-2 heads that share B and C, and groups of the gated norm")
    conv_kernel: int = Field(4, ge=2, description="taps of the causal depthwise convolution")
    chunk_size: Count = Field(description="tokens per chunk of the SSD scan: affects speed, not results")

    n_routed_experts: Count = Field(description="experts of an MoE layer that the router chooses from")
    num_experts_per_tok: Count = Field(description="routed experts a token visits (top-k)")
    moe_intermediate_size: Count = Field(description="width of a routed expert")
    moe_shared_expert_intermediate_size: Count = Field(description="width of the expert that sees every token")
    routed_scaling_factor: float = Field(2.5, gt=0, description="factor on the renormalised top-k weights")

    layer_norm_epsilon: float = Field(1e-5, gt=0, description="epsilon of every RMSNorm")
    initializer_range: float = Field(0.0173, gt=0, description="standard deviation of initial weights")
    time_step_min: float = Field(0.001, gt=0, description="smallest initial time step of a Mamba-2 head")
    time_step_max: float = Field(0.1, gt=0, description="largest initial time step of a Mamba-2 head")
    time_step_floor: float = Field(1e-4, gt=0, description="lower bound of a drawn initial time step")
    rescale_prenorm_residual: bool = Field(
        True, description="divide initial weights of residual output projections by sqrt(number of layers)"
    )
    max_position_embeddings: Count = Field(description="longest context, in tokens (a limit, not a parameter)")

    @field_validator("pattern")
    @classmethod
    def _known_letters(cls, pattern: str) -> str:
        unknown = sorted(set(pattern) - {MAMBA, MOE, ATTENTION})
        if not pattern or unknown:
            raise ValueError(
                f"pattern {pattern!r} must be a non-empty string of M (Mamba-2), E (experts) and * (attention)"
                + (f"; unknown: {', '.join(map(repr, unknown))}" if unknown else "")
            )
        return pattern

    @model_validator(mode="after")
    def _shapes_agree(self) -> "ModelConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.mamba_num_heads % self.n_groups:
            raise ValueError(
                f"mamba_num_heads ({self.mamba_num_heads}) must be a multiple of n_groups ({self.n_groups})"
            )
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) exceeds n_routed_experts ({self.n_routed_experts})"
            )
        if self.time_step_min > self.time_step_max:
            raise ValueError(f"time_step_min ({self.time_step_min}) exceeds time_step_max ({self.time_step_max})")
        return self

    @property
    def num_layers(self) -> int:
        return len(self.pattern)

    @property
    def mamba_inner_size(self) -> int:
        """Channels of x, z and y in a Mamba-2 layer."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def mamba_conv_size(self) -> int:
        """Channels that pass the convolution: x, B and C."""
        return self.mamba_inner_size + 2 * self.n_groups * self.ssm_state_size

    @property
    def mamba_projection_size(self) -> int:
        """Rows of a Mamba-2 layer's input projection: z, x, B, C and dt."""
        return self.mamba_inner_size + self.mamba_conv_size + self.mamba_num_heads
