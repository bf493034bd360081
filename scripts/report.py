"""The report of a recipe: one self-contained HTML page with curves, tables, samples, costs and lineage.

Made from manifests, metrics and evaluations alone. Without --stages, --evaluations and --data it shows what is there
below results/{recipe} and names what is not built yet. An evaluation of a run like rlvr1 with its prompts in random
order, results/{recipe}/evaluation/rlvr1_random, is compared with the curriculum where there is one:

    python scripts/report.py --recipe config/recipes/tiny.yaml --output results/tiny/report.html
"""

import os
from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe, stages
from nano3.report.page import gather, render
from nano3.stage import recipe_results


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    parser = cli.parser(__doc__)
    parser.add_argument("--stages", type=Path, nargs="*", help="trained stages, in the recipe's order")
    parser.add_argument("--evaluations", type=Path, nargs="*", help="evaluations, in the recipe's order")
    parser.add_argument("--data", type=Path, nargs="*", help="tokenizer, blends, SFT data and RL prompts")
    arguments = cli.parse(parser, argv)
    results, recipe = recipe_results(arguments.output), load_recipe(arguments.recipe)
    models = (*stages.evaluated(recipe), *stages.compared(recipe))

    def paths(given: list[Path] | None, known: list[str]) -> list[Path]:
        return [results / name for name in known] if given is None else given

    inputs = gather(
        recipe,
        arguments.recipe,
        results,
        stages=paths(arguments.stages, stages.stage_paths(recipe)),
        evaluations=paths(arguments.evaluations, [f"evaluation/{name}" for name in models]),
        data=paths(arguments.data, stages.data_paths(recipe)),
    )
    page = render(inputs)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.output.with_name(f".{arguments.output.name}.tmp.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(arguments.output)
    if inputs.missing:
        cli.say(f"not built yet: {', '.join(inputs.missing)}")
    cli.say(f"{arguments.output}: {len(page.encode()) / 1e3:,.0f} kB")


if __name__ == "__main__":
    cli.run(main)
