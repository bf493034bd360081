# Supervised fine-tuning: packed data, then training.


rule sft_data:
    input:
        raw=lambda wildcards: groups_of(
            wildcards, recipe_of(wildcards).sft.data.datasets, "raw"
        ),
        tokenizer=R + "/tokenizer/manifest.json",
    output:
        data=directory(R + "/sft/data"),
        manifest=R + "/sft/data/manifest.json",
    log:
        R + "/logs/sft_data.log",
    benchmark:
        R + "/benchmarks/sft_data.tsv"
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
        model=R + "/pretrain/long_context/manifest.json",
        data=R + "/sft/data/manifest.json",
    output:
        model=directory(R + "/sft/model"),
        manifest=R + "/sft/model/manifest.json",
    log:
        R + "/logs/sft.log",
    benchmark:
        R + "/benchmarks/sft.tsv"
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
