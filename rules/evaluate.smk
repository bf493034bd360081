# Held-out measurements of the model after each part of the recipe.

# Name of an evaluated model -> the stage that makes it, in the order of the recipe.
MODELS = {
    "base": "pretrain/long_context",
    "sft": "sft/model",
    "rlvr1": "rl/rlvr1",
    "rlhf": "rl/rlhf",
    "rlvr2": "rl/rlvr2",
    "dpo": "rl/dpo",
    "rlvr1_random": "rl/rlvr1_random",
}


def evaluated_model(wildcards):
    return f"results/{wildcards.recipe}/{MODELS[wildcards.model]}/manifest.json"


def evaluation_setting(wildcards):
    return stages.evaluation_config(recipe_of(wildcards), wildcards.model)


def held_out_conversations(wildcards):
    """Manifest of the comparisons whose contexts RLHF answers, where the recipe has RLHF."""
    rlhf = recipe_of(wildcards).rl.rlhf
    path = f"results/{wildcards.recipe}/rl/preferences/manifest.json"
    return [] if rlhf is None else [path]


def compared_with_sft(path):
    """Manifest of what the comparison with the SFT model needs, where there is one."""
    return lambda wildcards: (
        [f"results/{wildcards.recipe}/{path}/manifest.json"]
        if evaluation_setting(wildcards)["comparison"]
        else []
    )


def evaluation_options(wildcards, input):
    names = ("preferences", "genrm", "sft")
    return " ".join(f"--{name} {input[name]}" for name in names if input[name])


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
        preferences=held_out_conversations,
        genrm=compared_with_sft("rl/genrm"),
        sft=compared_with_sft("sft/model"),
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
        config=evaluation_setting,
        options=evaluation_options,
        code=code_version("evaluate"),
    message:
        "Evaluation of {wildcards.model}"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job evaluation --single --"
        " python scripts/evaluate.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts}"
        " --tokens {input.tokens} {params.options} --output {output.data} --log {log}"
