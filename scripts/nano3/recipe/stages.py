"""Which part of the recipe each rule depends on: the subtree in its `params` and in its identity."""

from typing import Any

from nano3.errors import UserError
from nano3.recipe.judge import WHEREABOUTS
from nano3.recipe.schema import Recipe

RL_STAGES = ("rlvr1", "rlhf", "rlvr2", "dpo")
RANDOM_ORDER = "rlvr1_random"  # rlvr1 without its curriculum, for comparison
PRETRAIN_PHASES = ("phase1", "phase2", "long_context")


def _plain(section: Any) -> Any:
    return section.model_dump(mode="json")


def dataset_config(recipe: Recipe, dataset: str) -> dict[str, Any]:
    """What the raw shards of one data set depend on."""
    if dataset not in recipe.datasets:
        raise UserError(f"the recipe has no data set {dataset!r}; it has {', '.join(recipe.datasets)}")
    config = _plain(recipe.datasets[dataset])
    return config | {"seed": recipe.seed} if config["kind"] == "tasks" else config


def tokenizer_config(recipe: Recipe) -> dict[str, Any]:
    """What the tokenizer depends on."""
    return _plain(recipe.tokenizer)


def tokens_config(recipe: Recipe) -> dict[str, Any]:
    """What tokenised shards depend on."""
    return _plain(recipe.tokenisation)


def blend_config(recipe: Recipe, phase: str) -> dict[str, Any]:
    """What a pretraining blend depends on."""
    return {
        "phase": phase,
        "tokens": getattr(recipe.pretrain, phase).tokens,
        **_plain(getattr(recipe.blends, phase)),
    }


def pretrain_config(recipe: Recipe, phase: str) -> dict[str, Any]:
    """What a pretraining stage depends on. Phase 1 does not see phase 2's length beyond the common schedule."""
    pretrain = recipe.pretrain
    config = {
        "seed": recipe.seed,
        "model": _plain(recipe.model),
        "phase": phase,
        "precision": pretrain.precision,
        "isolate_documents": pretrain.isolate_documents,
        "optimizer": _plain(pretrain.optimizer),
        "balance": _plain(pretrain.balance),
    }
    if phase == "long_context":
        return config | _plain(pretrain.long_context)
    return config | {
        "sequence_length": pretrain.sequence_length,
        "global_batch_size": pretrain.global_batch_size,
        "schedule": _plain(pretrain.schedule),
        "validation": _plain(pretrain.validation),
        "start": 0 if phase == "phase1" else pretrain.phase1.tokens,
        "tokens": getattr(pretrain, phase).tokens,
    }


def sft_data_config(recipe: Recipe) -> dict[str, Any]:
    """What the packed SFT data depends on."""
    return {"seed": recipe.seed, **_plain(recipe.sft.data)}


def sft_config(recipe: Recipe) -> dict[str, Any]:
    """What the SFT stage depends on."""
    return {"seed": recipe.seed, **recipe.sft.model_dump(mode="json", exclude={"data"})}


def rl_prompts_config(recipe: Recipe) -> dict[str, Any]:
    """What the RL prompt files depend on."""
    return {"seed": recipe.seed, **_plain(recipe.rl.prompts), **_judge(recipe)}


def _judge(recipe: Recipe) -> dict[str, Any]:
    """The judge, for all that it takes part in; nothing where the recipe has none."""
    judge = recipe.rl.judge
    return {} if judge is None else {"judge": judge.model_dump(mode="json", exclude=WHEREABOUTS)}


def rl_chain(recipe: Recipe) -> list[str]:
    """The RL stages that the recipe has a section for, in the order in which the policy goes through them.

    The reward model is none of them: it starts from the SFT model and is only asked."""
    return [stage for stage in RL_STAGES if getattr(recipe.rl, stage) is not None]


def stage_before(recipe: Recipe, stage: str) -> str:
    """Path below results/{recipe} of the model that an RL stage starts from."""
    chain = rl_chain(recipe)
    if stage == "genrm" or stage not in chain or chain.index(stage) == 0:
        return "sft/model"
    return f"rl/{chain[chain.index(stage) - 1]}"


def stage_paths(recipe: Recipe) -> list[str]:
    """Paths below results/{recipe} of the trained stages, in the order in which they run."""
    trained = [stage for stage in ("rlvr1", "genrm", "rlhf", "rlvr2", "dpo") if getattr(recipe.rl, stage) is not None]
    return [*(f"pretrain/{phase}" for phase in PRETRAIN_PHASES), "sft/model", *(f"rl/{stage}" for stage in trained)]


def evaluated(recipe: Recipe) -> list[str]:
    """Names of the models that are evaluated, in the order of the recipe."""
    return ["base", "sft", *rl_chain(recipe)]


def compared(recipe: Recipe) -> list[str]:
    """Names of further models that are evaluated, which no later stage starts from."""
    curriculum = recipe.rl.rlvr1.curriculum
    return [RANDOM_ORDER] if curriculum is not None and curriculum.against_random else []


def rl_section(recipe: Recipe, stage: str) -> Any:
    """The section of the recipe that an RL stage runs by."""
    if stage == RANDOM_ORDER:
        return recipe.rl.rlvr1.model_copy(update={"curriculum": None})
    return getattr(recipe.rl, stage)


def data_paths(recipe: Recipe) -> list[str]:
    """Paths below results/{recipe} of the data that stages read, in the order of the recipe."""
    rl = recipe.rl
    paths = ["tokenizer", *(f"data/blend/{phase}" for phase in PRETRAIN_PHASES), "sft/data", "rl/prompts"]
    paths += [f"rl/profile/{stage}" for stage in ("rlvr1", "rlvr2") if has_curriculum(recipe, stage)]
    paths += ["rl/preferences"] * (rl.preferences is not None)
    return paths + ["rl/dpo_pairs"] * (rl.dpo is not None)


def has_curriculum(recipe: Recipe, stage: str) -> bool:
    """Whether an RL stage chooses its prompts by pass rates."""
    return getattr(getattr(recipe.rl, stage), "curriculum", None) is not None


def rl_config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """What an RL stage depends on. DPO does not see how its pairs were mined: the pairs are its input."""
    judge = {} if stage == "genrm" else _judge(recipe)
    left_out = {"pairs": True, "curriculum": {"against_random"}}
    return {"seed": recipe.seed, **rl_section(recipe, stage).model_dump(mode="json", exclude=left_out), **judge}


def preferences_config(recipe: Recipe) -> dict[str, Any]:
    """What the comparisons depend on."""
    return _plain(recipe.rl.preferences)


def pairs_config(recipe: Recipe) -> dict[str, Any]:
    """What mining preference pairs depends on."""
    return {"seed": recipe.seed, **_plain(recipe.rl.dpo.pairs), **_judge(recipe)}


def profile_config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """What the pass rates for a stage's curriculum depend on."""
    if not has_curriculum(recipe, stage):
        raise UserError(f"rl.{stage} of the recipe has no curriculum, so there are no pass rates for it")
    section = getattr(recipe.rl, stage)
    return {
        "seed": recipe.seed,
        "stage": stage,
        "max_new_tokens": section.max_new_tokens,
        "prompts": section.curriculum.prompts,
        "generations": section.curriculum.generations,
        **_judge(recipe),
    }


def evaluation_config(recipe: Recipe, model: str) -> dict[str, Any]:
    """What the evaluation of a model ("base", "sft", "rlvr1", ...) depends on.

    probe_tools: calls of tools that were not offered are counted also if no held-out prompt offers any; comparison: how
    the reward model compares the model with the SFT model, None where it does not."""
    rlhf = recipe.rl.rlhf
    comparison = None
    if rlhf is not None and model in rl_chain(recipe):
        comparison = {"max_new_tokens": rlhf.judge_max_new_tokens, "temperature": rlhf.judge_temperature}
    return {
        "seed": recipe.seed,
        **_plain(recipe.evaluation),
        "probe_tools": recipe.rl.dpo is not None,
        "comparison": comparison,
        **_judge(recipe),
    }


def final_config(recipe: Recipe) -> dict[str, Any]:
    """What the model card says beyond the manifests."""
    return recipe.model_dump(mode="json", include={"title", "model", "datasets", "blends"})
