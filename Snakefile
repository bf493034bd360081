# The Nemotron 3 Nano recipe, from raw text to an aligned model.
#
#   snakemake --profile profiles/local                     everything of the recipe `tiny`, on this machine
#   snakemake --profile profiles/local results/tiny/sft/model            a part of it
#   snakemake --profile slurm results/nano3/rl/final                     the 31.6B recipe on a cluster
#
# results/{recipe}/... is made from config/recipes/{recipe}.yaml.

from snakemake.utils import min_version

min_version("9.27")


wildcard_constraints:
    recipe=r"[A-Za-z0-9_-]+",
    dataset=r"[A-Za-z0-9_-]+",
    group=r"\d+",
    phase="phase1|phase2|long_context",
    model="base|sft|rlvr1|rlhf|rlvr2|dpo|rlvr1_random",
    rl_stage="rlvr1|rlvr2",


localrules:
    all,
    blend,
    report,
    lineage,
    drift,
    estimate,
    dag,


include: "rules/common.smk"
include: "rules/jobs.smk"
include: "rules/data.smk"
include: "rules/tokenizer.smk"
include: "rules/pretrain.smk"
include: "rules/sft.smk"
include: "rules/rl.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/export.smk"


rule all:
    default_target: True
    input:
        "results/tiny/rl/final",
        "results/tiny/report.html",
        "results/tiny/lineage.json",


onstart:
    stop_unless_machine_fits()
    stop_unless_cluster_fits()


onsuccess:
    show_where_to_look()
