"""The workflow's rules as Snakemake plans them: a picture for a recipe, or what the docs show of them.

python scripts/dag.py --recipe config/recipes/tiny.yaml --output results/tiny/dag.svg
python scripts/dag.py --docs             rewrite the graph in README.md and the table of jobs in profiles/README.md
python scripts/dag.py --docs --check     change nothing; exit 1 if they differ from the workflow
"""

import argparse
import sys
from pathlib import Path

from nano3 import cli, rulegraph


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("config/recipes/tiny.yaml"), help="whose jobs to plan")
    parser.add_argument("--output", type=Path, help="write a picture of the rules (SVG)")
    parser.add_argument("--docs", action="store_true", help="rewrite what README.md and profiles/README.md show")
    parser.add_argument("--check", action="store_true", help="with --docs: change nothing, exit 1 on a difference")
    parser.add_argument("--log", type=Path, help="also write every message to this file")
    options = cli.parse(parser, argv)
    if options.output:
        name = options.recipe.stem
        rules = rulegraph.plan(f"results/{name}/rl/final")
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(rulegraph.svg(rules, f"Rules of the recipe {name}"))
    if options.docs:
        changed = {page: text for page, text in rulegraph.docs().items() if text != page.read_text()}
        for page, text in changed.items():
            if options.check:
                cli.say(f"{page} shows another workflow than this one; to renew it:  python scripts/dag.py --docs")
            else:
                page.write_text(text)
        sys.exit(bool(changed) and options.check)


if __name__ == "__main__":
    cli.run(main)
