# The final model: a Hugging Face directory with its model card.


def last_policy(wildcards):
    last = stages.rl_chain(recipe_of(wildcards))[-1]
    return f"results/{wildcards.recipe}/rl/{last}/manifest.json"


rule final:
    input:
        model=last_policy,
        stages=stage_manifests,
        evaluations=evaluation_manifests,
        # Not read: whoever asks for the model also gets the page that shows how it came to be.
        report="results/{recipe}/report.html",
        lineage="results/{recipe}/lineage.json",
    output:
        model=directory("results/{recipe}/rl/final"),
        manifest="results/{recipe}/rl/final/manifest.json",
    log:
        "results/{recipe}/logs/final.log",
    benchmark:
        "results/{recipe}/benchmarks/final.tsv"
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.final_config(recipe_of(wildcards)),
        code=code_version("final"),
    message:
        "Final model"
    shell:
        "python scripts/final.py --recipe {params.recipe} --model {input.model} --stages {input.stages}"
        " --evaluations {input.evaluations} --output {output.model} --log {log}"
