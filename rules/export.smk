# The final model: a Hugging Face directory with its model card.


rule final:
    input:
        model=R + "/rl/rlvr1/manifest.json",
        stages=stage_manifests,
        evaluations=evaluation_manifests,
        # Not read: whoever asks for the model also gets the page that shows how it came to be.
        report=R + "/report.html",
        lineage=R + "/lineage.json",
    output:
        model=directory(R + "/rl/final"),
        manifest=R + "/rl/final/manifest.json",
    log:
        R + "/logs/final.log",
    benchmark:
        R + "/benchmarks/final.tsv"
    params:
        recipe=recipe_file,
        config=lambda wildcards: stages.final_config(recipe_of(wildcards)),
        code=code_version("final"),
    message:
        "Final model"
    shell:
        "python scripts/final.py --recipe {params.recipe} --model {input.model} --stages {input.stages}"
        " --evaluations {input.evaluations} --output {output.model} --log {log}"
