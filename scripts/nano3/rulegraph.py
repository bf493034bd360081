"""The graph of the workflow's rules, as Snakemake itself plans it: for the README (Mermaid) and as a picture (SVG)."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from html import escape

from nano3.errors import UserError
from nano3.report import graph

BEGIN, END = "<!-- rule graph: python scripts/dag.py --readme README.md -->", "<!-- end of rule graph -->"


@dataclass(frozen=True)
class RuleGraph:
    """rules: name -> number of jobs, inputs before what needs them; edges: (rule, rule that needs it), without those
    that follow from longer paths."""

    rules: dict[str, int]
    edges: list[tuple[str, str]]


def plan(target: str) -> RuleGraph:
    """Ask Snakemake for the jobs of a target. Raises UserError with its message when it can't plan them."""
    command = [sys.executable, "-m", "snakemake", "--nolock", "--d3dag", target]
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
            raise UserError(f"the rules form a cycle: {', '.join(set(names) - set(ordered))}")
        ordered += ready
    index = {name: number for number, name in enumerate(ordered)}
    numbered = sorted((index[source], index[target]) for source, target in edges)
    kept = [(ordered[source], ordered[target]) for source, target in graph._reduced(numbered)]
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


def readme_block(rules: RuleGraph) -> str:
    """What stands between the README's two markers."""
    return f"{BEGIN}\n{mermaid(rules)}\n{END}"


def replace_block(text: str, block: str) -> str:
    """The text with its marked part replaced. Raises UserError when a marker is missing."""
    if BEGIN not in text or END not in text:
        raise UserError(f"the markers are missing; put these two lines where the graph belongs:\n{BEGIN}\n{END}")
    return text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]


def svg(rules: RuleGraph, title: str) -> str:
    """The graph as a self-contained SVG: a box for each rule, with its number of jobs."""
    names = list(rules.rules)
    edges = [(names.index(source), names.index(target)) for source, target in rules.edges]
    layers = graph._layers(len(names), edges)
    steps = graph._routed(layers, edges)
    layers = graph._ordered(layers, steps)
    width = 2 * graph.MARGIN + max(graph._span(layer) for layer in layers)
    height = 2 * graph.MARGIN + len(layers) * graph.BOX_HEIGHT + (len(layers) - 1) * graph.GAP_Y
    place = graph._places(layers, width)
    drawn = [graph._edge(place[source], place[target]) for source, target in steps]
    drawn += [graph._pass(*place[index]) for index in sorted(place) if index < 0]
    drawn += [_box(names[index], rules.rules[names[index]], *place[index]) for index in sorted(place) if index >= 0]
    described = f"{sum(rules.rules.values())} jobs of {len(names)} rules"
    picture = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-labelledby="t d">'
        f'<title id="t">{escape(title)}</title><desc id="d">{described}</desc>' + "".join(drawn) + "</svg>"
    )
    return graph.standalone(picture)


def _box(name: str, count: int, center: float, y: float) -> str:
    return (
        f'<g><rect class="box c{_colour(name)}" x="{center - graph.BOX_WIDTH / 2:g}" y="{y:g}"'
        f' width="{graph.BOX_WIDTH}" height="{graph.BOX_HEIGHT}" rx="7"/>'
        f'<text class="name" text-anchor="middle" x="{center:g}" y="{y + 19:g}">{escape(_words(name))}</text>'
        f'<text class="note" text-anchor="middle" x="{center:g}" y="{y + 35:g}">{_jobs(count)}</text></g>'
    )


def _colour(name: str) -> int:
    """As in the lineage graph: models, measurements, data."""
    if name.startswith("pretrain") or name in {"sft", "final"} or name.startswith("rlvr"):
        return 3
    return 5 if name in {"evaluate", "report", "lineage"} else 1


def _words(name: str) -> str:
    return name.replace("_", " ")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"
