# What a person reads: the report, the lineage graph and the drift list.


def stage_manifests(wildcards):
    stages_in_order = (
        "pretrain/phase1",
        "pretrain/phase2",
        "pretrain/long_context",
        "sft/model",
    )
    recipe = recipe_of(wildcards)
    stages_in_order += ("rl/genrm",) * (recipe.rl.genrm is not None)
    stages_in_order += tuple(f"rl/{stage}" for stage in stages.rl_chain(recipe))
    return [
        f"results/{wildcards.recipe}/{stage}/manifest.json" for stage in stages_in_order
    ]


def evaluation_manifests(wildcards):
    return [
        f"results/{wildcards.recipe}/evaluation/{model}/manifest.json"
        for model in evaluated_models(wildcards)
    ]


def data_manifests(wildcards):
    parts = (
        "tokenizer",
        "data/blend/phase1",
        "data/blend/phase2",
        "data/blend/long_context",
    )
    rl = recipe_of(wildcards).rl
    parts += ("sft/data", "rl/prompts")
    parts += ("rl/preferences",) * (rl.preferences is not None)
    parts += ("rl/dpo_pairs",) * (rl.dpo is not None)
    return [f"results/{wildcards.recipe}/{part}/manifest.json" for part in parts]


rule report:
    input:
        stages=stage_manifests,
        evaluations=evaluation_manifests,
        data=data_manifests,
    output:
        report="results/{recipe}/report.html",
    log:
        "results/{recipe}/logs/report.log",
    benchmark:
        "results/{recipe}/benchmarks/report.tsv"
    params:
        recipe=recipe_file,
        code=code_version("report"),
    message:
        "Report"
    shell:
        "python scripts/report.py --recipe {params.recipe} --stages {input.stages}"
        " --evaluations {input.evaluations} --data {input.data} --output {output.report} --log {log}"


rule lineage:
    input:
        stages=stage_manifests,
        evaluations=evaluation_manifests,
        data=data_manifests,
    output:
        lineage="results/{recipe}/lineage.json",
    log:
        "results/{recipe}/logs/lineage.log",
    params:
        recipe=recipe_file,
        code=code_version("lineage"),
    message:
        "Lineage"
    shell:
        "python scripts/lineage.py --recipe {params.recipe} --output {output.lineage} --log {log}"


rule drift:
    output:
        drift="results/{recipe}/drift.txt",
    log:
        "results/{recipe}/logs/drift.log",
    params:
        recipe=recipe_file,
        code=code_version(),
    message:
        "Artifacts that older code made"
    shell:
        "python scripts/drift.py --recipe {params.recipe} --output {output.drift} --log {log}"


rule estimate:
    output:
        estimate="results/{recipe}/estimate.txt",
    log:
        "results/{recipe}/logs/estimate.log",
    params:
        recipe=recipe_file,
        config=lambda wildcards: recipe_of(wildcards).model_dump(mode="json"),
        code=code_version("estimate"),
    message:
        "What the recipe costs"
    shell:
        "python scripts/estimate.py --recipe {params.recipe} --output {output.estimate} --log {log}"


rule dag:
    output:
        picture="results/{recipe}/dag.svg",
    log:
        "results/{recipe}/logs/dag.log",
    params:
        recipe=recipe_file,
        config=lambda wildcards: recipe_of(wildcards).model_dump(mode="json"),
        rules=rules_version(),
        code=code_version("dag"),
    message:
        "Picture of the rules"
    shell:
        "python scripts/dag.py --recipe {params.recipe} --output {output.picture} --log {log}"
