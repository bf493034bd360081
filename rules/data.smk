# Raw text -> tokenised shards -> blends.


rule raw_shards:
    output:
        data=directory("results/{recipe}/data/raw/{dataset}/{group}"),
        manifest="results/{recipe}/data/raw/{dataset}/{group}/manifest.json",
    log:
        "results/{recipe}/logs/raw_shards/{dataset}.{group}.log",
    benchmark:
        "results/{recipe}/benchmarks/raw_shards/{dataset}.{group}.tsv"
    threads: threads_of("data")
    resources:
        **resources_of("data"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.dataset_config(
            recipe_of(wildcards), wildcards.dataset
        ),
        code=code_version("raw_shards"),
    message:
        "Raw shards of {wildcards.dataset}, group {wildcards.group}"
    shell:
        "python scripts/raw_shards.py --recipe {params.recipe} --dataset {wildcards.dataset}"
        " --group {wildcards.group} --output {output.data} --log {log}"


rule tokenize_shards:
    input:
        raw="results/{recipe}/data/raw/{dataset}/{group}/manifest.json",
        tokenizer="results/{recipe}/tokenizer/manifest.json",
    output:
        data=directory("results/{recipe}/data/tokens/{dataset}/{group}"),
        manifest="results/{recipe}/data/tokens/{dataset}/{group}/manifest.json",
    log:
        "results/{recipe}/logs/tokenize_shards/{dataset}.{group}.log",
    benchmark:
        "results/{recipe}/benchmarks/tokenize_shards/{dataset}.{group}.tsv"
    threads: threads_of("data")
    resources:
        **resources_of("data"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.tokens_config(recipe_of(wildcards)),
        code=code_version("tokenize_shards"),
    message:
        "Tokens of {wildcards.dataset}, group {wildcards.group}"
    shell:
        "python scripts/tokenize_shards.py --recipe {params.recipe} --dataset {wildcards.dataset}"
        " --group {wildcards.group} --raw {input.raw} --tokenizer {input.tokenizer}"
        " --output {output.data} --log {log}"


rule blend:
    input:
        tokens=lambda wildcards: groups_of(
            wildcards, blend_datasets(wildcards, wildcards.phase), "tokens"
        ),
    output:
        data=directory("results/{recipe}/data/blend/{phase}"),
        manifest="results/{recipe}/data/blend/{phase}/manifest.json",
    log:
        "results/{recipe}/logs/blend/{phase}.log",
    benchmark:
        "results/{recipe}/benchmarks/blend/{phase}.tsv"
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.blend_config(
            recipe_of(wildcards), wildcards.phase
        ),
        code=code_version("blend"),
    message:
        "Blend of pretraining {wildcards.phase}"
    shell:
        "python scripts/blend.py --recipe {params.recipe} --phase {wildcards.phase} --tokens {input.tokens}"
        " --output {output.data} --log {log}"
