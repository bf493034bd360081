"""Pictures of the workflow: drawn from the real one, and up to date in the docs."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from nano3 import rulegraph
from nano3.errors import UserError
from nano3.rulegraph import RuleGraph
from workspace import Workspace


def test_edges_that_follow_from_others_are_not_drawn_and_inputs_come_first():
    edges = {("raw", "tokens"), ("raw", "train"), ("tokens", "train")}
    rules = rulegraph.arrange(Counter(train=1, tokens=4, raw=2), edges)
    assert list(rules.rules.items()) == [("raw", 2), ("tokens", 4), ("train", 1)]
    assert rules.edges == [("raw", "tokens"), ("tokens", "train")]


def test_a_cycle_is_an_error_that_names_its_rules():
    with pytest.raises(UserError, match="cycle: a, b"):
        rulegraph.arrange(Counter(a=1, b=1), {("a", "b"), ("b", "a")})


RULES = RuleGraph({"raw_shards": 2500, "sft": 1}, [("raw_shards", "sft")])


def test_mermaid_names_every_rule_and_edge():
    assert rulegraph.mermaid(RULES).splitlines() == [
        "```mermaid",
        "flowchart TB",
        "  raw_shards[raw shards]",
        "  sft[sft]",
        "  raw_shards --> sft",
        "```",
    ]


def test_the_table_counts_jobs_and_adds_them_up():
    assert rulegraph.job_table(RULES).splitlines()[2:] == [
        "| `raw_shards` | 2,500 |",
        "| `sft` | 1 |",
        "| in all | 2,501 |",
    ]


def test_the_picture_says_how_many_jobs_a_rule_has():
    picture = rulegraph.svg(RULES, "Rules")
    assert (
        picture.startswith("<svg") and "2,500 jobs" in picture and "1 job<" in picture and picture.count("<rect") == 2
    )


def test_only_the_part_between_the_markers_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{rulegraph.BEGIN}\nold\n{rulegraph.END}\nafter\n")
    assert rulegraph.replace_block(page, "new") == f"before\n{rulegraph.BEGIN}\nnew\n{rulegraph.END}\nafter\n"
    page.write_text("no markers\n")
    with pytest.raises(UserError, match="lacks the markers"):
        rulegraph.replace_block(page, "new")


@pytest.mark.workflow
def test_the_docs_show_the_workflow_as_it_is():
    checked = subprocess.run([sys.executable, "scripts/dag.py", "--docs", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.workflow
def test_a_recipe_has_a_picture_of_its_rules_as_a_target(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.snakemake("--profile", "profiles/local", "results/tiny/dag.svg")
    picture = (tmp_path / "results/tiny/dag.svg").read_text()
    assert re.search(r'class="name"[^>]*>pretrain long context<', picture) and "13 jobs" in picture
