"""Recipe sections about training: optimizer, schedules, pretraining, SFT, GRPO and evaluation."""

from typing import Literal

from pydantic import Field, model_validator

from nano3.recipe.data import RlPrompts, SftData
from nano3.recipe.judge import AnyJudge
from nano3.recipe.section import Count, Fraction, Rate, Section, Share

Precision = Literal["auto", "fp32", "bf16"]


class Optimizer(Section):
    """AdamW."""

    betas: tuple[float, float] = Field((0.9, 0.95), description="decay rates of the two moments")
    weight_decay: Rate = Field(0.1, description="decoupled weight decay; not on norms, biases, A_log and D")
    epsilon: float = Field(1e-8, gt=0)
    gradient_clip: float = Field(1.0, gt=0, description="largest global gradient norm")


class Balance(Section):
    """Expert load balancing (report, section 2.4)."""

    bias_update_rate: Rate = Field(1e-3, description="step of the aux-loss-free expert bias update")
    loss_coefficient: Rate = Field(1e-4, description="weight of the sequence-level balance loss")


class Validation(Section):
    """When and on how much the validation loss is measured."""

    interval: Count = Field(description="optimizer steps between validations; also at the start and the end")
    sequences: Count = Field(description="sequences of every data set")


class WsdSchedule(Section):
    """Warmup, stable, decay, in tokens (report, section 2.4). The stable part includes the warmup."""

    peak: float = Field(gt=0, description="learning rate of the stable part")
    final: float = Field(gt=0, description="learning rate at the end of the decay")
    warmup_tokens: Count = Field(description="linear warmup from 0")
    stable_tokens: Count = Field(description="tokens, from the start of training, until the decay begins")
    decay_tokens: Count = Field(description="tokens of the decay")
    decay: Literal["cosine", "linear", "minus_sqrt"] = Field("cosine", description="shape of the decay")

    @model_validator(mode="after")
    def _order(self) -> "WsdSchedule":
        if self.warmup_tokens > self.stable_tokens:
            raise ValueError(
                f"warmup_tokens ({self.warmup_tokens}) is larger than stable_tokens ({self.stable_tokens}),"
                " which counts from the start of training"
            )
        return self


class Phase(Section):
    """One pretraining phase: a length; its data is the blend of the same name."""

    tokens: Count = Field(description="tokens of this phase")


class LongContext(Section):
    """Continued pretraining on long sequences (report, section 2.5)."""

    tokens: Count = Field(description="tokens of this stage")
    learning_rate: float = Field(gt=0, description="constant")
    lengths: dict[Count, Share] = Field(
        min_length=1, description="sequence length -> share of the tokens trained at that length"
    )
    global_batch_size: Count = Field(
        description="sequences of the longest length a step; shorter ones fill as many tokens"
    )
    validation: Validation


class Pretrain(Section):
    """Pretraining: two phases on one schedule, then long context."""

    sequence_length: Count = Field(description="tokens of a training sequence")
    global_batch_size: Count = Field(description="sequences of an optimizer step")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it, else fp32")
    isolate_documents: bool = Field(
        False, description="state and attention never cross a document boundary inside a sequence"
    )
    schedule: WsdSchedule
    optimizer: Optimizer = Optimizer()
    balance: Balance = Balance()
    validation: Validation
    phase1: Phase
    phase2: Phase
    long_context: LongContext

    @model_validator(mode="after")
    def _schedule_covers_phases(self) -> "Pretrain":
        planned = self.schedule.stable_tokens + self.schedule.decay_tokens
        total = self.phase1.tokens + self.phase2.tokens
        if planned != total:
            raise ValueError(
                f"the schedule covers {planned} tokens (stable + decay) but phase1 + phase2 have {total};"
                " make them equal"
            )
        return self


class Sft(Section):
    """Supervised fine-tuning (report, section 3.1)."""

    data: SftData
    steps: Count = Field(description="optimizer steps")
    global_batch_size: Count = Field(description="packed sequences of a step")
    learning_rate: float = Field(gt=0, description="peak")
    warmup_steps: int = Field(ge=0)
    final_fraction: Fraction = Field(0.0, description="last learning rate, as a share of the peak")
    decay: Literal["constant", "cosine", "linear"] = Field("constant", description="after the warmup")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it, else fp32")
    optimizer: Optimizer = Optimizer()
    balance: Balance = Balance()
    validation: Validation


class RlValidation(Section):
    """When and how the held-out reward is measured."""

    interval: Count = Field(description="optimizer steps between validations")
    prompts: Count = Field(description="held-out prompts of every environment; all where there are fewer")
    generations: Count = Field(4, description="responses per prompt")


class CurriculumSettings(Section):
    """Easy prompts first, hard ones last, by pass rates that the stage's first policy has on them (section 3.2.2)."""

    mean: tuple[Fraction, Fraction] = Field(
        (0.8, 0.2), description="pass rate that the Gaussian is centred on, at the first and the last step"
    )
    width: float = Field(0.15, gt=0, description="standard deviation of the Gaussian")
    solved: float = Field(1.0, gt=0, description="prompts with this pass rate or more are dropped")
    generations: Count = Field(8, description="responses that a pass rate is the mean reward of")
    prompts: Count | None = Field(None, description="prompts of every environment to profile and use; none: all")
    patience: Count | None = Field(
        None, description="profile again after this many validations without a better reward; none: never"
    )
    least_gain: Rate = Field(0.005, description="a smaller rise of the held-out reward is none")
    against_random: bool = Field(
        False,
        description="of rlvr1: also train the same stage with its prompts in random order; the report compares the two",
    )


class Grpo(Section):
    """Reinforcement learning from verifiable rewards with GRPO (report, section 3.2)."""

    steps: Count = Field(description="optimizer steps; on-policy, one a rollout")
    prompts_per_step: Count = 128
    generations_per_prompt: Count = Field(16, ge=2)
    max_new_tokens: Count = Field(description="longest response")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    environment_ratio: dict[str, Share] = Field(
        {}, description="environment -> relative number of prompts per step; empty: as in the data"
    )
    learning_rate: float = Field(gt=0, description="constant after the warmup")
    warmup_steps: int = Field(10, ge=0)
    clip_low: float = Field(0.2, gt=0, lt=1, description="ratio is clipped below at 1 - clip_low")
    clip_high: float = Field(0.28, gt=0, description="ratio is clipped above at 1 + clip_high")
    dual_clip: float | None = Field(None, gt=1, description="bound on the loss of negative advantages; none: off")
    kl_coefficient: Rate = Field(0.0, description="weight of the k3 KL to the stage's first policy")
    normalise_by_std: bool = Field(True, description="divide advantages by the group's standard deviation")
    leave_one_out: bool = Field(True, description="baseline of a response: mean reward of the others in its group")
    overlong_filtering: bool = Field(True, description="responses cut at max_new_tokens take no part in the loss")
    importance_sampling: Literal["none", "plain", "masked"] = Field(
        "masked", description="correction for the mismatch between generator and trainer probabilities"
    )
    importance_band: tuple[float, float] = Field(
        (0.5, 2.0),
        description="masked: tokens whose train/generate ratio is outside take no part in the loss",
    )
    dynamic_sampling: Count | None = Field(
        None,
        description="replace groups of equal rewards by further prompts, in at most so many rounds a step; none: off",
    )
    curriculum: CurriculumSettings | None = Field(None, description="order of the prompts; none: shuffled epochs")
    best: str | None = Field(
        None, description="held-out measure whose best step is published, e.g. reward; none: the last step"
    )
    freeze_router: bool = Field(True, description="router weights stay; the expert bias is still updated")
    bias_update_rate: Rate = Field(1e-3, description="step of the expert bias update")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it, else fp32")
    optimizer: Optimizer = Optimizer(betas=(0.9, 0.999), weight_decay=0.0)
    validation: RlValidation


class Preferences(Section):
    """Comparisons for the reward model, in the manner of HelpSteer; their contexts are the prompts of RLHF."""

    train: list[str] = Field(min_length=1, description="data sets of form preference")
    valid: list[str] = Field(min_length=1, description="data sets of form preference, held out")
    max_prompt_tokens: Count = Field(description="longer comparisons are left out and counted")
    max_bad_rows: Fraction = Field(0.01, description="a larger share of rows that are no comparison is an error")


class Rlhf(Grpo):
    """RLHF with a generative reward model and group-relative length control (report, section 3.3.2)."""

    verifiable: bool = Field(
        False, description="also the prompts of rl.prompts; their responses are compared by their verifiers"
    )
    judge_max_new_tokens: Count = Field(description="longest verdict of the reward model")
    judge_temperature: float = Field(0.6, ge=0, description="0: greedy")
    thinking_weight: Rate = Field(0.5, description="weight of the length term of the thinking")
    answer_weight: Rate = Field(0.5, description="weight of the length term of the answer")
    bonus: Rate = Field(0.5, description="for the shortest thinking and the shortest answer of a group, if good")
    bonus_percentile: float = Field(80, ge=0, le=100, description="base reward, within the group, that is good")

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> "Rlhf":
        if self.validation.generations < 2:
            raise ValueError("rlhf compares responses to one prompt: its validation.generations must be 2 or more")
        return self


class PairMining(Section):
    """Preference pairs from responses that the policy samples (report, appendix C)."""

    prompts: Count | None = Field(None, description="training prompts of every environment to sample from; none: all")
    generations: Count = Field(32, ge=2, description="responses per prompt")
    max_new_tokens: Count = Field(description="longest response")
    pairs_per_prompt: Count = Field(25, description="most pairs of a group from one prompt")
    pairs: Count = Field(10_000, description="most pairs in all, from the groups in turn")
    files: list[str] = Field([], description="pair files to take as well, JSONL, relative to the repository")
    valid: Fraction = Field(0.05, description="share of the pairs held out")


class Dpo(Section):
    """Direct preference optimisation against calls of tools that were not offered (report, appendix C)."""

    pairs: PairMining
    steps: Count = Field(50, description="optimizer steps")
    global_batch_size: Count = Field(128, description="pairs of a step")
    max_tokens: Count | None = Field(None, description="pairs with a longer prompt + response are left out; none: all")
    max_new_tokens: Count = Field(description="longest response of the validation")
    learning_rate: float = Field(gt=0, description="constant after the warmup")
    warmup_steps: int = Field(0, ge=0)
    beta: float = Field(0.05, gt=0, description="strength of the KL penalty to the first policy")
    preference_weight: Rate = Field(1.0, description="weight of the preference loss")
    sft_weight: Rate = Field(0.2, description="weight of the loss per token on preferred responses")
    best: str | None = Field(None, description="held-out measure whose best step is published; none: the last step")
    freeze_router: bool = Field(True, description="router weights stay; the expert bias is still updated")
    bias_update_rate: Rate = Field(1e-3, description="step of the expert bias update")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it, else fp32")
    optimizer: Optimizer = Optimizer(betas=(0.9, 0.999), weight_decay=0.0)
    validation: RlValidation


class Rl(Section):
    """Reinforcement learning stages, in the order they run. A stage without a section is left out."""

    prompts: RlPrompts
    judge: AnyJudge | None = Field(
        None, description="scores what no rule can, in every stage and evaluation; none: no row may need one"
    )
    preferences: Preferences | None = None
    rlvr1: Grpo
    genrm: Grpo | None = Field(None, description="the reward model, trained from the SFT model; needs preferences")
    rlhf: Rlhf | None = Field(None, description="needs genrm")
    rlvr2: Grpo | None = Field(None, description="RLVR again, after RLHF")
    dpo: Dpo | None = None

    @model_validator(mode="after")
    def _needs(self) -> "Rl":
        for stage, needed in (("genrm", "preferences"), ("rlhf", "genrm")):
            if getattr(self, stage) is not None and getattr(self, needed) is None:
                raise ValueError(f"rl.{stage} needs rl.{needed}: add that section, or leave rl.{stage} out")
        return self


class Evaluation(Section):
    """The held-out measurements behind the report's tables."""

    prompts: Count = Field(description="held-out prompts of every environment; all where there are fewer")
    generations: Count = Field(description="responses per prompt")
    max_new_tokens: Count
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    samples: Count = Field(4, description="responses per environment shown in the report")
    text_tokens: Count = Field(100_000, description="held-out tokens of every data set for bits per byte, at most")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it, else fp32")
