"""The report page: what the sections hold, as plain values for `page.html`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from nano3.artifacts.lineage import Lineage, read_lineage, upstream
from nano3.errors import to_make
from nano3.model import size
from nano3.recipe import Recipe
from nano3.report import figures, read, reinforcement, results, tables
from nano3.report.graph import draw_lineage
from nano3.report.read import Artifact, Evaluated, Stage
from nano3.report.svg import number

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Inputs:
    """Everything the page is made from. `missing`: artifacts that are not built yet, as targets to type; random_order:
    evaluation and stage of a run without the curriculum, where there is one."""

    recipe: Recipe
    recipe_file: Path
    results: Path
    stages: list[Stage]
    evaluations: list[Evaluated]
    data: list[Artifact]
    missing: list[str]
    random_order: tuple[Evaluated | None, Stage | None] = (None, None)

    def stage(self, path: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.path == path), None)

    def artifact(self, path: str) -> Artifact | None:
        return next((artifact for artifact in self.data if artifact.path == path), None)


def gather(
    recipe: Recipe, recipe_file: Path, root: Path, *, stages: list[Path], evaluations: list[Path], data: list[Path]
) -> Inputs:
    """Read what is there of the given paths; root: results/{recipe}."""
    missing: list[str] = []

    def present(paths: list[Path], reader: Any) -> list[Any]:
        found = []
        for path in paths:
            artifact = reader(path, root)
            if artifact is None:
                missing.append((path.parent if path.name == "manifest.json" else path).as_posix())
            else:
                found.append(artifact)
        return found

    return Inputs(
        recipe=recipe,
        recipe_file=recipe_file,
        results=root,
        stages=present(stages, read.read_stage),
        evaluations=[found for found in present(evaluations, read.read_evaluation) if found.path != read.RANDOM_ORDER],
        data=present(data, read.read_artifact),
        missing=missing,
        random_order=(
            read.read_evaluation(root / read.RANDOM_ORDER, root),
            read.read_stage(root / read.RANDOM_ORDER.replace("evaluation/", "rl/"), root),
        ),
    )


def render(inputs: Inputs) -> str:
    """The page as one HTML text. The same inputs give the same bytes."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["to_make"] = to_make
    environment.filters |= {
        "number": number,
        "percent": percent,
        "clock": clock,
        "tokens": tokens,
        "signed": signed,
        "svg": Markup,
    }
    return environment.get_template("page.html").render(css=Markup((HERE / "page.css").read_text()), **content(inputs))


def content(inputs: Inputs) -> dict[str, Any]:
    """Values of the template's variables."""
    lineage = _lineage(inputs)
    pretraining = [stage for stage in inputs.stages if stage.path.startswith("pretrain/")]
    sft = inputs.stage("sft/model")
    pairs = inputs.artifact("rl/dpo_pairs")
    random, random_stage = inputs.random_order
    first = next((e for e in inputs.evaluations if e.path == "evaluation/rlvr1"), None)
    return {
        "title": inputs.recipe.title,
        "name": inputs.results.name,
        "missing": inputs.missing,
        "tiles": tiles(inputs, lineage),
        "shape": shape(inputs.recipe),
        "rewards": tables.rewards(inputs.evaluations),
        "lengths": tables.lengths(inputs.evaluations),
        "tools": tables.tools(inputs.evaluations),
        "conversations": tables.conversations(inputs.evaluations),
        "random_order": tables.random_order(first, random, (inputs.stage("rl/rlvr1"), random_stage)),
        "chats": [(e.title, e.measured["chats"]) for e in inputs.evaluations if "chats" in e.measured],
        "bits": tables.bits(inputs.evaluations),
        "pretraining": figures.pretraining(pretraining),
        "sft": figures.fine_tuning(sft) if sft else [],
        "rl": [
            reinforcement.stage_content(stage, inputs.artifact(f"rl/profile/{stage.path.split('/')[-1]}"), pairs)
            for stage in inputs.stages
            if stage.path.startswith("rl/")
        ],
        "blends": [blend(inputs.artifact(path)) for path in read.BLENDS if inputs.artifact(path)],
        "sft_data": sft_data(inputs.artifact("sft/data")),
        "rl_data": rl_data(inputs.artifact("rl/prompts")),
        "samples": results.samples(inputs.evaluations),
        "costs": [cost(stage) for stage in inputs.stages],
        "lineage": draw_lineage(lineage),
        "dangling": lineage.missing,
        "recipe_path": inputs.recipe_file.as_posix(),
        "recipe_text": inputs.recipe_file.read_text(),
        "recipe_full": yaml.safe_dump(inputs.recipe.model_dump(mode="json"), sort_keys=False, width=110),
    }


def tiles(inputs: Inputs, lineage: Lineage) -> list[tuple[str, str, str]]:
    """The page's key figures: (value, what it is, a line of detail)."""
    parameters = size.parameters(inputs.recipe.model)
    found = [(number(parameters.total), "parameters", f"{number(parameters.active)} active per token")]
    trained = [stage.train[-1]["tokens"] for stage in inputs.stages if stage.train and "tokens" in stage.train[-1]]
    if trained:
        tokens = sum(_tokens(stage) for stage in inputs.stages)
        found.append(
            (number(tokens), "tokens trained on", f"{sum(len(s.train) for s in inputs.stages):,} optimizer steps")
        )
    seconds = busy_seconds([inputs.results / node.path for node in lineage.nodes])
    if seconds:
        found.append((clock(seconds), "wall time", f"to make {len(lineage.nodes)} artifacts"))
    scored = [(e, results.overall(results.scores(e))) for e in inputs.evaluations]
    scored = [(e, score) for e, score in scored if score]
    if scored:
        last, score = scored[-1]
        path = " → ".join(f"{s.mean:.0%}" for _, s in scored)
        found.append((percent(score.mean), f"held-out reward after {last.title}", path if len(scored) > 1 else ""))
    return found


def shape(recipe: Recipe) -> list[tuple[str, str]]:
    """The model in a few lines."""
    model = recipe.model
    return [
        ("Layers", f"{model.num_layers}: {model.pattern}"),
        ("Width", f"{model.hidden_size}, vocabulary {model.vocab_size:,}"),
        (
            "Experts",
            f"{model.n_routed_experts} routed, {model.num_experts_per_tok} per token, and one that sees every token",
        ),
        ("Mamba-2", f"{model.mamba_num_heads} heads of {model.mamba_head_dim}, state {model.ssm_state_size}"),
        ("Attention", f"{model.num_attention_heads} heads, {model.num_key_value_heads} for keys and values"),
    ]


def blend(artifact: Artifact) -> dict[str, Any]:
    """A pretraining mixture: its categories as asked for and as sampled."""
    statistics = artifact.statistics
    categories = statistics.get("categories", {})
    widest = max((max(c["asked_percent"], c["effective_percent"]) for c in categories.values()), default=1) or 1
    return {
        "title": artifact.title,
        "tokens": statistics.get("tokens"),
        "unreleased": statistics.get("unreleased_percent", 0),
        "categories": [(name, {**entry, "widest": widest}) for name, entry in categories.items()],
        "datasets": list(statistics.get("datasets", {}).items()),
    }


def sft_data(artifact: Artifact | None) -> dict[str, Any] | None:
    """The SFT blend: per data set the rows asked for and the tokens that came of them."""
    if artifact is None:
        return None
    statistics = artifact.statistics
    return {
        "datasets": list(statistics.get("datasets", {}).items()),
        "splits": list(statistics.get("splits", {}).items()),
    }


def rl_data(artifact: Artifact | None) -> list[dict[str, Any]]:
    """The RL prompts: per split its size, its longest prompt, and prompts by environment."""
    if artifact is None:
        return []
    return [{"split": split, **counts} for split, counts in artifact.statistics.get("splits", {}).items()]


def cost(stage: Stage) -> dict[str, Any]:
    """What a stage took: steps, tokens, time, speed and memory."""
    rates = [row["tokens_per_second"] for row in stage.timing if "tokens_per_second" in row]
    memory = [row["peak_memory_bytes"] for row in stage.timing if row.get("peak_memory_bytes")]
    memory += [stage.provenance["peak_memory_bytes"]] if stage.provenance.get("peak_memory_bytes") else []
    return {
        "title": stage.title,
        "steps": len(stage.train),
        "tokens": _tokens(stage),
        "seconds": sum(row.get("seconds", 0) for row in stage.timing) or None,
        "job_seconds": stage.provenance.get("seconds"),
        "rate": median(rates) if rates else None,
        "memory": max(memory) if memory else None,
        "loss": stage.train[-1].get("loss") if stage.train else None,
    }


def busy_seconds(directories: Sequence[Path]) -> float:
    """Wall time during which at least one of these artifacts was being made: the union of their time spans."""
    spans = []
    for directory in directories:
        file = directory / "provenance.json"
        if file.is_file():
            record = read._json(file)
            if "started" in record and "finished" in record:
                spans.append((_time(record["started"]), _time(record["finished"])))
    total, end = 0.0, float("-inf")
    for start, finish in sorted(spans):
        total += max(0.0, finish - max(start, end))
        end = max(end, finish)
    return total


def percent(value: float) -> str:
    """0.1234 -> "12.3%"."""
    return f"{100 * value:.1f}%"


def tokens(value: float) -> str:
    """33.38 -> "33.4", 12345.6 -> "12,346"."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def signed(value: float) -> str:
    """A change with one decimal: -2.34 -> "−2.3", 0.5 -> "+0.5"."""
    return f"{value:+.1f}".replace("-", "−")


def clock(seconds: float) -> str:
    """7 -> "7 s", 95 -> "1 min 35 s", 3700 -> "1 h 2 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours < 100 else f"{hours:,} h"


def _lineage(inputs: Inputs) -> Lineage:
    paths = {artifact.path for artifact in (*inputs.stages, *inputs.evaluations, *inputs.data)}
    return upstream(read_lineage(inputs.results), paths) if paths else Lineage(inputs.results.name, (), (), ())


def _tokens(stage: Stage) -> int:
    """Tokens that the stage itself trained on. Its counter may go on from the stage before, as the validation
    before the first step shows."""
    if not stage.train:
        return 0
    before = next((row.get("tokens", 0) for row in stage.valid if row.get("step") == 0), 0)
    return stage.train[-1].get("tokens", 0) - before


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
