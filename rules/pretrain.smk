# Pretraining: two phases on one learning-rate schedule, then long context.


rule pretrain_phase1:
    input:
        blend="results/{recipe}/data/blend/phase1/manifest.json",
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        model=directory("results/{recipe}/pretrain/phase1"),
        manifest="results/{recipe}/pretrain/phase1/manifest.json",
    log:
        "results/{recipe}/logs/pretrain_phase1.log",
    benchmark:
        "results/{recipe}/benchmarks/pretrain_phase1.tsv"
    threads: threads_of("pretrain")
    resources:
        **resources_of("pretrain"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.pretrain_config(recipe_of(wildcards), "phase1"),
    message:
        "Pretraining, phase 1"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job pretrain --"
        " python scripts/pretrain_phase1.py --recipe {params.recipe} --blend {input.blend} --tokenizer {input.tokenizer}"
        " --output {output.model} --log {log}"


rule pretrain_phase2:
    input:
        model="results/{recipe}/pretrain/phase1/manifest.json",
        blend="results/{recipe}/data/blend/phase2/manifest.json",
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        model=directory("results/{recipe}/pretrain/phase2"),
        manifest="results/{recipe}/pretrain/phase2/manifest.json",
    log:
        "results/{recipe}/logs/pretrain_phase2.log",
    benchmark:
        "results/{recipe}/benchmarks/pretrain_phase2.tsv"
    threads: threads_of("pretrain")
    resources:
        **resources_of("pretrain"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.pretrain_config(recipe_of(wildcards), "phase2"),
    message:
        "Pretraining, phase 2"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job pretrain --"
        " python scripts/pretrain_phase2.py --recipe {params.recipe} --model {input.model} --blend {input.blend} --tokenizer {input.tokenizer}"
        " --output {output.model} --log {log}"


rule pretrain_long_context:
    input:
        model="results/{recipe}/pretrain/phase2/manifest.json",
        blend="results/{recipe}/data/blend/long_context/manifest.json",
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        model=directory("results/{recipe}/pretrain/long_context"),
        manifest="results/{recipe}/pretrain/long_context/manifest.json",
    log:
        "results/{recipe}/logs/pretrain_long_context.log",
    benchmark:
        "results/{recipe}/benchmarks/pretrain_long_context.tsv"
    threads: threads_of("long_context")
    resources:
        **resources_of("long_context"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.pretrain_config(
            recipe_of(wildcards), "long_context"
        ),
    message:
        "Pretraining, long context"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job long_context --"
        " python scripts/pretrain_long_context.py --recipe {params.recipe} --model {input.model} --blend {input.blend} --tokenizer {input.tokenizer}"
        " --output {output.model} --log {log}"
