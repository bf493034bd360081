# Held-out measurements of the model after each part of the recipe.

# Name of an evaluated model -> the stage that makes it, in the order of the recipe.
MODELS = {
    "base": "pretrain/long_context",
    "sft": "sft/model",
    "rlvr1": "rl/rlvr1",
    "rlhf": "rl/rlhf",
    "rlvr2": "rl/rlvr2",
    "dpo": "rl/dpo",
}


def evaluated_models(wildcards):
    """Names of the models of a recipe that are evaluated, in order."""
    return ["base", "sft", *stages.rl_chain(recipe_of(wildcards))]


def evaluated_model(wildcards):
    return f"results/{wildcards.recipe}/{MODELS[wildcards.model]}/manifest.json"


def pretraining_tokens(wildcards):
    phases = ("phase1", "phase2", "long_context")
    datasets = dict.fromkeys(
        name for phase in phases for name in blend_datasets(wildcards, phase)
    )
    return groups_of(wildcards, datasets, "tokens")


rule evaluate:
    input:
        model=evaluated_model,
        prompts="results/{recipe}/rl/prompts/manifest.json",
        tokens=pretraining_tokens,
    output:
        data=directory("results/{recipe}/evaluation/{model}"),
        manifest="results/{recipe}/evaluation/{model}/manifest.json",
    log:
        "results/{recipe}/logs/evaluate/{model}.log",
    benchmark:
        "results/{recipe}/benchmarks/evaluate/{model}.tsv"
    threads: threads_of("evaluation")
    resources:
        **resources_of("evaluation"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.evaluation_config(recipe_of(wildcards)),
        code=code_version("evaluate"),
    message:
        "Evaluation of {wildcards.model}"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job evaluation --single --"
        " python scripts/evaluate.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts}"
        " --tokens {input.tokens} --output {output.data} --log {log}"
