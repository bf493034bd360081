# Reinforcement learning: prompts, then the stages in the order they run.


def rl_datasets(wildcards):
    prompts = recipe_of(wildcards).rl.prompts
    return [*prompts.train, *prompts.valid]


rule rl_prompts:
    input:
        raw=lambda wildcards: groups_of(wildcards, rl_datasets(wildcards), "raw"),
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        data=directory("results/{recipe}/rl/prompts"),
        manifest="results/{recipe}/rl/prompts/manifest.json",
    log:
        "results/{recipe}/logs/rl_prompts.log",
    benchmark:
        "results/{recipe}/benchmarks/rl_prompts.tsv"
    threads: threads_of("data")
    resources:
        **resources_of("data"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_prompts_config(recipe_of(wildcards)),
        code=code_version("rl_prompts"),
    message:
        "RL prompts"
    shell:
        "python scripts/rl_prompts.py --recipe {params.recipe} --raw {input.raw}"
        " --tokenizer {input.tokenizer} --output {output.data} --log {log}"


rule rlvr1:
    input:
        model="results/{recipe}/sft/model/manifest.json",
        prompts="results/{recipe}/rl/prompts/manifest.json",
    output:
        model=directory("results/{recipe}/rl/rlvr1"),
        manifest="results/{recipe}/rl/rlvr1/manifest.json",
    log:
        "results/{recipe}/logs/rlvr1.log",
    benchmark:
        "results/{recipe}/benchmarks/rlvr1.tsv"
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "rlvr1"),
    message:
        "Reinforcement learning from verifiable rewards"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/rlvr1.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts}"
        " --output {output.model} --log {log}"
