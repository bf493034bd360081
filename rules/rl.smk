# Reinforcement learning: prompts, then the stages in the order they run.

# Priority of what the next stage waits for, before evaluations and comparisons.
CHAIN = 1


def rl_datasets(wildcards):
    prompts = recipe_of(wildcards).rl.prompts
    return [*prompts.train, *prompts.valid]


def workplace_tables(wildcards):
    """The files there are in the directory of the workplace's tables; what is missing is the script's error."""
    directory = recipe_of(wildcards).rl.prompts.workplace_tables
    return sorted(map(str, Path(directory).glob("*.*"))) if directory else []


rule rl_prompts:
    input:
        raw=lambda wildcards: groups_of(wildcards, rl_datasets(wildcards), "raw"),
        tokenizer="results/{recipe}/tokenizer/manifest.json",
        tables=workplace_tables,
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


def policy_before(stage):
    """Manifest of the model that an RL stage starts from."""
    return lambda wildcards: (
        f"results/{wildcards.recipe}/{stages.stage_before(recipe_of(wildcards), stage)}/manifest.json"
    )


def profile_for(stage):
    """Manifest of the pass rates for a stage, where the recipe has a curriculum for it."""

    def manifest(wildcards):
        curriculum = getattr(recipe_of(wildcards).rl, stage).curriculum
        path = f"results/{wildcards.recipe}/rl/profile/{stage}/manifest.json"
        return [] if curriculum is None else [path]

    return manifest


def profile_option(wildcards, input):
    return f"--profile {input.profile}" if input.profile else ""


def preference_datasets(wildcards):
    preferences = recipe_of(wildcards).rl.preferences
    return [*preferences.train, *preferences.valid]


rule rl_profile:
    input:
        model=lambda wildcards: policy_before(wildcards.rl_stage)(wildcards),
        prompts="results/{recipe}/rl/prompts/manifest.json",
    output:
        data=directory("results/{recipe}/rl/profile/{rl_stage}"),
        manifest="results/{recipe}/rl/profile/{rl_stage}/manifest.json",
    log:
        "results/{recipe}/logs/rl_profile/{rl_stage}.log",
    benchmark:
        "results/{recipe}/benchmarks/rl_profile/{rl_stage}.tsv"
    priority: CHAIN
    threads: threads_of("evaluation")
    resources:
        **resources_of("evaluation"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.profile_config(
            recipe_of(wildcards), wildcards.rl_stage
        ),
    message:
        "Pass rates for the curriculum of {wildcards.rl_stage}"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job evaluation --single --"
        " python scripts/rl_profile.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts}"
        " --output {output.data} --log {log}"


rule preferences:
    input:
        raw=lambda wildcards: groups_of(
            wildcards, preference_datasets(wildcards), "raw"
        ),
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        data=directory("results/{recipe}/rl/preferences"),
        manifest="results/{recipe}/rl/preferences/manifest.json",
    log:
        "results/{recipe}/logs/preferences.log",
    benchmark:
        "results/{recipe}/benchmarks/preferences.tsv"
    threads: threads_of("data")
    resources:
        **resources_of("data"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.preferences_config(recipe_of(wildcards)),
        code=code_version("preferences"),
    message:
        "Comparisons for the reward model"
    shell:
        "python scripts/preferences.py --recipe {params.recipe} --raw {input.raw}"
        " --tokenizer {input.tokenizer} --output {output.data} --log {log}"


rule rlvr1:
    input:
        model="results/{recipe}/sft/model/manifest.json",
        prompts="results/{recipe}/rl/prompts/manifest.json",
        profile=profile_for("rlvr1"),
    output:
        model=directory("results/{recipe}/rl/rlvr1"),
        manifest="results/{recipe}/rl/rlvr1/manifest.json",
    log:
        "results/{recipe}/logs/rlvr1.log",
    benchmark:
        "results/{recipe}/benchmarks/rlvr1.tsv"
    priority: CHAIN
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "rlvr1"),
        profile=profile_option,
    message:
        "Reinforcement learning from verifiable rewards"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/rlvr1.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts} {params.profile}"
        " --output {output.model} --log {log}"


rule rlvr1_random:
    input:
        model="results/{recipe}/sft/model/manifest.json",
        prompts="results/{recipe}/rl/prompts/manifest.json",
    output:
        model=directory("results/{recipe}/rl/rlvr1_random"),
        manifest="results/{recipe}/rl/rlvr1_random/manifest.json",
    log:
        "results/{recipe}/logs/rlvr1_random.log",
    benchmark:
        "results/{recipe}/benchmarks/rlvr1_random.tsv"
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "rlvr1_random"),
    message:
        "Reinforcement learning from verifiable rewards, in random order"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/rlvr1_random.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts}"
        " --output {output.model} --log {log}"


rule genrm:
    input:
        model="results/{recipe}/sft/model/manifest.json",
        preferences="results/{recipe}/rl/preferences/manifest.json",
    output:
        model=directory("results/{recipe}/rl/genrm"),
        manifest="results/{recipe}/rl/genrm/manifest.json",
    log:
        "results/{recipe}/logs/genrm.log",
    benchmark:
        "results/{recipe}/benchmarks/genrm.tsv"
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "genrm"),
    message:
        "Generative reward model"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/genrm.py --recipe {params.recipe} --model {input.model} --preferences {input.preferences}"
        " --output {output.model} --log {log}"


rule rlhf:
    input:
        model=policy_before("rlhf"),
        genrm="results/{recipe}/rl/genrm/manifest.json",
        preferences="results/{recipe}/rl/preferences/manifest.json",
        prompts="results/{recipe}/rl/prompts/manifest.json",
    output:
        model=directory("results/{recipe}/rl/rlhf"),
        manifest="results/{recipe}/rl/rlhf/manifest.json",
    log:
        "results/{recipe}/logs/rlhf.log",
    benchmark:
        "results/{recipe}/benchmarks/rlhf.tsv"
    priority: CHAIN
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "rlhf"),
    message:
        "Reinforcement learning with the reward model"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/rlhf.py --recipe {params.recipe} --model {input.model} --genrm {input.genrm}"
        " --preferences {input.preferences} --prompts {input.prompts}"
        " --output {output.model} --log {log}"


rule rlvr2:
    input:
        model=policy_before("rlvr2"),
        prompts="results/{recipe}/rl/prompts/manifest.json",
        profile=profile_for("rlvr2"),
    output:
        model=directory("results/{recipe}/rl/rlvr2"),
        manifest="results/{recipe}/rl/rlvr2/manifest.json",
    log:
        "results/{recipe}/logs/rlvr2.log",
    benchmark:
        "results/{recipe}/benchmarks/rlvr2.tsv"
    priority: CHAIN
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "rlvr2"),
        profile=profile_option,
    message:
        "Reinforcement learning from verifiable rewards, again"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/rlvr2.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts} {params.profile}"
        " --output {output.model} --log {log}"


rule dpo_pairs:
    input:
        model=policy_before("dpo"),
        prompts="results/{recipe}/rl/prompts/manifest.json",
        files=lambda wildcards: recipe_of(wildcards).rl.dpo.pairs.files,
    output:
        data=directory("results/{recipe}/rl/dpo_pairs"),
        manifest="results/{recipe}/rl/dpo_pairs/manifest.json",
    log:
        "results/{recipe}/logs/dpo_pairs.log",
    benchmark:
        "results/{recipe}/benchmarks/dpo_pairs.tsv"
    priority: CHAIN
    threads: threads_of("evaluation")
    resources:
        **resources_of("evaluation"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.pairs_config(recipe_of(wildcards)),
    message:
        "Preference pairs for DPO"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job evaluation --single --"
        " python scripts/dpo_pairs.py --recipe {params.recipe} --model {input.model} --prompts {input.prompts}"
        " --output {output.data} --log {log}"


rule dpo:
    input:
        model=policy_before("dpo"),
        pairs="results/{recipe}/rl/dpo_pairs/manifest.json",
        prompts="results/{recipe}/rl/prompts/manifest.json",
    output:
        model=directory("results/{recipe}/rl/dpo"),
        manifest="results/{recipe}/rl/dpo/manifest.json",
    log:
        "results/{recipe}/logs/dpo.log",
    benchmark:
        "results/{recipe}/benchmarks/dpo.tsv"
    priority: CHAIN
    threads: threads_of("rl")
    resources:
        **resources_of("rl"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.rl_config(recipe_of(wildcards), "dpo"),
    message:
        "DPO against hallucinated tools"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job rl --"
        " python scripts/dpo.py --recipe {params.recipe} --model {input.model} --pairs {input.pairs} --prompts {input.prompts}"
        " --output {output.model} --log {log}"
