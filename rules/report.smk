# What a person reads: the report, the lineage graph and the drift list.


def manifests_of(wildcards, paths):
    return [f"results/{wildcards.recipe}/{path}/manifest.json" for path in paths]


def stage_manifests(wildcards):
    return manifests_of(wildcards, stages.stage_paths(recipe_of(wildcards)))


def of_models(wildcards, names):
    return manifests_of(wildcards, [f"evaluation/{name}" for name in names])


def evaluation_manifests(wildcards):
    return of_models(wildcards, stages.evaluated(recipe_of(wildcards)))


def all_evaluation_manifests(wildcards):
    """Also of models that the final one does not descend from."""
    compared = of_models(wildcards, stages.compared(recipe_of(wildcards)))
    return evaluation_manifests(wildcards) + compared


def data_manifests(wildcards):
    return manifests_of(wildcards, stages.data_paths(recipe_of(wildcards)))


rule report:
    input:
        stages=stage_manifests,
        evaluations=all_evaluation_manifests,
        data=data_manifests,
    output:
        report="results/{recipe}/report.html",
    log:
        "results/{recipe}/logs/report.log",
    benchmark:
        "results/{recipe}/benchmarks/report.tsv"
    params:
        recipe=recipe_file,
        title=lambda wildcards: recipe_of(wildcards).title,
        code=code_version("report"),
    message:
        "Report"
    shell:
        "python scripts/report.py --recipe {params.recipe} --stages {input.stages}"
        " --evaluations {input.evaluations} --data {input.data} --output {output.report} --log {log}"


rule lineage:
    input:
        stages=stage_manifests,
        evaluations=all_evaluation_manifests,
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


def code_and_makers(wildcards):
    """Changes with what the drift list is about: the code of any script, and what is noted of who made each artifact."""
    results = Path("results") / wildcards.recipe
    made = [manifest.parent / PROVENANCE for manifest in find_manifests(results)]
    noted = [file.read_text() for file in made if file.is_file()]
    code = [code_version(file.stem) for file in sorted(Path("scripts").glob("*.py"))]
    return hashlib.sha256(repr([code, noted]).encode()).hexdigest()[:16]


rule drift:
    output:
        drift="results/{recipe}/drift.txt",
    log:
        "results/{recipe}/logs/drift.log",
    params:
        recipe=recipe_file,
        state=code_and_makers,
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
