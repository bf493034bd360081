"""The graph of the workflow's rules, as Snakemake itself plans it: for the docs, and as a picture (SVG)."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nano3.errors import UserError
from nano3.report import boxes

BEGIN, END = "<!-- drawn from the workflow: python scripts/dag.py --docs -->", "<!-- end of what is drawn -->"


@dataclass(frozen=True)
class RuleGraph:
    """rules: name -> number of jobs, inputs before what needs them; edges: (rule, rule that needs it), without those
    that follow from longer paths."""

    rules: dict[str, int]
    edges: list[tuple[str, str]]


def plan(target: str) -> RuleGraph:
    """Ask Snakemake for the jobs of a target, also for those whose results are there.

    Raises UserError with its message when it can't plan them."""
    command = [sys.executable, "-m", "snakemake", "--nolock", "--forceall", "--d3dag", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"snakemake --d3dag {target} failed:\n{done.stderr.strip()}")
    found = json.loads(done.stdout)
    rule_of = {node["id"]: node["value"]["rule"] for node in found["nodes"]}
    edges = {(rule_of[edge["u"]], rule_of[edge["v"]]) for edge in found["edges"]}
    return arrange(Counter(rule_of.values()), edges)


def arrange(jobs: Counter, edges: set[tuple[str, str]]) -> RuleGraph:
    """Order the rules, and drop the edges that follow from others."""
    names = sorted(jobs)
    before = {name: {source for source, target in edges if target == name} for name in names}
    ordered: list[str] = []
    while len(ordered) < len(names):
        ready = [name for name in names if name not in ordered and before[name] <= set(ordered)]
        if not ready:
            raise UserError(f"the rules form a cycle: {', '.join(sorted(set(names) - set(ordered)))}")
        ordered += ready
    index = {name: number for number, name in enumerate(ordered)}
    numbered = sorted((index[source], index[target]) for source, target in edges)
    kept = [(ordered[source], ordered[target]) for source, target in boxes.reduced(numbered)]
    return RuleGraph({name: jobs[name] for name in ordered}, kept)


def mermaid(rules: RuleGraph) -> str:
    """The graph in Mermaid's language, which code hosts draw."""
    lines = [f"  {name}[{_words(name)}]" for name in rules.rules]
    lines += [f"  {source} --> {target}" for source, target in rules.edges]
    return "\n".join(["```mermaid", "flowchart TB", *lines, "```"])


def job_table(rules: RuleGraph) -> str:
    """Jobs of each rule, as a Markdown table."""
    rows = [f"| `{name}` | {count:,} |" for name, count in rules.rules.items()]
    total = f"| in all | {sum(rules.rules.values()):,} |"
    return "\n".join(["| rule | jobs |", "|---|---:|", *rows, total])


# Page -> the recipe it shows, and how; between two markers, as `docs` writes it.
DOCS = {Path("README.md"): ("tiny", mermaid), Path("profiles/README.md"): ("nano3", job_table)}


def docs() -> dict[Path, str]:
    """The pages that show the workflow, as they should be."""
    return {
        page: replace_block(page, show(plan(f"results/{recipe}/rl/final"))) for page, (recipe, show) in DOCS.items()
    }


def replace_block(page: Path, block: str) -> str:
    """The page's text with what is between its markers replaced. Raises UserError when a marker is missing."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise UserError(f"{page} lacks the markers; put these lines where the drawing belongs:\n{BEGIN}\n{END}")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{block}\n{text[text.index(END) :]}"


def svg(rules: RuleGraph, title: str) -> str:
    """The graph as a self-contained SVG: a box for each rule, with its number of jobs."""
    names = list(rules.rules)
    edges = [(names.index(source), names.index(target)) for source, target in rules.edges]
    drawn = [boxes.Box(_words(name), _jobs(count), _sort(name)) for name, count in rules.rules.items()]
    described = f"{sum(rules.rules.values())} jobs of {len(names)} rules"
    return boxes.standalone(boxes.draw(drawn, edges, title=title, described=described, css_class="rules"))


def _sort(name: str) -> str:
    """As in the lineage graph."""
    if name in {"raw_shards", "tokenizer", "tokenize_shards", "blend", "sft_data", "rl_prompts"}:
        return "data"
    return "evaluation" if name in {"evaluate", "report", "lineage"} else "model"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"
