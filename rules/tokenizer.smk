# The tokenizer: trained on the recipe's own data, or one that exists.


def tokenizer_data(wildcards):
    tokenizer = recipe_of(wildcards).tokenizer
    return (
        groups_of(wildcards, tokenizer.datasets, "raw")
        if tokenizer.kind == "train"
        else []
    )


rule tokenizer:
    input:
        raw=tokenizer_data,
    output:
        tokenizer=directory("results/{recipe}/tokenizer"),
        manifest="results/{recipe}/tokenizer/manifest.json",
    log:
        "results/{recipe}/logs/tokenizer.log",
    benchmark:
        "results/{recipe}/benchmarks/tokenizer.tsv"
    threads: threads_of("data")
    resources:
        **resources_of("data"),
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.tokenizer_config(recipe_of(wildcards)),
        code=code_version("tokenizer"),
    message:
        "Tokenizer"
    shell:
        "python scripts/tokenizer.py --recipe {params.recipe} --raw {input.raw}"
        " --output {output.tokenizer} --log {log}"
