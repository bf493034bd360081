"""The whole of post-training as a workflow, on the recipe `align`: every stage runs, in its order, and runs once."""

import json
from itertools import pairwise

import pytest

from nano3.artifacts import digest_of
from workspace import ROOT, Workspace

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

FINAL = "results/align/rl/final"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    files = (ROOT / "tests" / "recipes" / name for name in ("mini.yaml", "align.yaml", "align_pairs.jsonl"))
    workspace = Workspace(tmp_path_factory.mktemp("built"), tuple(files))
    workspace.snakemake("--profile", "profiles/local", FINAL, timeout=1500)
    return workspace


def inputs(built, stage):
    return json.loads((built.path / "results/align" / stage / "manifest.json").read_text())["inputs"]


def digest(built, stage):
    return digest_of(built.path / "results/align" / stage)


def test_every_stage_starts_from_the_one_before(built):
    order = ["sft/model", "rl/rlvr1", "rl/rlhf", "rl/rlvr2", "rl/dpo", "rl/final"]
    for before, after in pairwise(order):
        assert inputs(built, after)["model"] == digest(built, before)
    assert inputs(built, "rl/genrm")["model"] == digest(built, "sft/model")
    assert inputs(built, "rl/rlhf")["genrm"] == digest(built, "rl/genrm")
    assert inputs(built, "rl/rlvr1")["profile"] == digest(built, "rl/profile/rlvr1")


def test_every_model_is_evaluated(built):
    found = {path.name for path in (built.path / "results/align/evaluation").iterdir()}
    assert {"base", "sft", "rlvr1", "rlhf", "rlvr2", "dpo"} <= found


def test_a_second_run_does_nothing(built):
    assert built.planned(FINAL) == {}


def test_a_change_of_rlhf_reruns_it_and_what_follows(built):
    built.edit("config/recipes/align.yaml", "judge_max_new_tokens: 8", "judge_max_new_tokens: 9")
    planned = built.planned(FINAL)
    assert {"rlhf", "rlvr2", "dpo_pairs", "dpo", "final"} <= set(planned)
    assert not {"sft", "rlvr1", "genrm"} & set(planned)
