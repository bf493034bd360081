"""The recipe's execution section: how jobs run. Never part of an artifact's identity."""

from typing import Literal

from pydantic import Field

from nano3.recipe.section import Count, Section


class Job(Section):
    """Resources of one job."""

    threads: Count = Field(1, description="CPU threads")
    memory_mb: Count = Field(2000, description="memory")
    runtime_minutes: Count = Field(60, description="wall time; a training stage that needs more is a chain of jobs")
    nodes: Count = Field(1, description="nodes")
    gpus_per_node: int = Field(0, ge=0, description="GPUs of each node; training starts a process for each")
    device: Literal["auto", "cpu"] = Field(
        "auto", description="auto: the GPUs if the job has any; cpu: train on CPUs over Gloo, whatever GPUs it has"
    )


class Assumptions(Section):
    """What `results/{recipe}/estimate.txt` assumes beyond the recipe."""

    train_tokens_per_second: float | None = Field(
        None, gt=0, description="trained tokens a second and device at pretraining's sequence length"
    )
    generate_tokens_per_second: float | None = Field(
        None, gt=0, description="generated tokens a second and device in RL rollouts"
    )
    price_per_hour: float | None = Field(None, gt=0, description="dollars for a device hour")


class Execution(Section):
    """Where and how the recipe runs; nothing here changes a result beyond floating-point summation order."""

    backend: Literal["torch", "megatron"] = Field("torch", description="what trains the model")
    micro_batch_tokens: Count = Field(description="tokens of a forward/backward pass on one device")
    checkpoint_interval: Count = Field(description="optimizer steps between checkpoints")
    log_interval: Count = Field(1, description="optimizer steps between log lines")
    save_after_minutes: float | None = Field(
        None, gt=0, description="a training job saves and stops (exit 75) after this time; a retry goes on from there"
    )
    allow_unsafe: bool = Field(
        False, description="where no sandbox can be made, score what a model wrote with resource limits alone"
    )
    data: Job = Job()
    pretrain: Job = Job()
    long_context: Job = Job()
    sft: Job = Job()
    rl: Job = Job()
    evaluation: Job = Job()
    assumptions: Assumptions = Assumptions()
