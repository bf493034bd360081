# Supervised fine-tuning: packed data, then training.


rule sft_data:
    input:
        raw=lambda wildcards: groups_of(
            wildcards, recipe_of(wildcards).sft.data.datasets, "raw"
        ),
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        data=directory("results/{recipe}/sft/data"),
        manifest="results/{recipe}/sft/data/manifest.json",
    log:
        "results/{recipe}/logs/sft_data.log",
    benchmark:
        "results/{recipe}/benchmarks/sft_data.tsv"
    threads: threads_of("data")
    resources:
        **resources_of("data"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.sft_data_config(recipe_of(wildcards)),
        code=code_version("sft_data"),
    message:
        "Packed SFT data"
    shell:
        "python scripts/sft_data.py --recipe {params.recipe} --raw {input.raw} --tokenizer {input.tokenizer}"
        " --output {output.data} --log {log}"


rule sft:
    input:
        model="results/{recipe}/pretrain/long_context/manifest.json",
        data="results/{recipe}/sft/data/manifest.json",
    output:
        model=directory("results/{recipe}/sft/model"),
        manifest="results/{recipe}/sft/model/manifest.json",
    log:
        "results/{recipe}/logs/sft.log",
    benchmark:
        "results/{recipe}/benchmarks/sft.tsv"
    threads: threads_of("sft")
    resources:
        **resources_of("sft"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.sft_config(recipe_of(wildcards)),
    message:
        "Supervised fine-tuning"
    shell:
        "python scripts/launch.py --recipe {params.recipe} --job sft --"
        " python scripts/sft.py --recipe {params.recipe} --model {input.model} --data {input.data}"
        " --output {output.model} --log {log}"
