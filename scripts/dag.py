"""The workflow's rules as Snakemake plans them: a picture for a recipe, or the graph in the README.

python scripts/dag.py --recipe config/recipes/tiny.yaml --output results/tiny/dag.svg
python scripts/dag.py --readme README.md               rewrite the graph between the README's markers
python scripts/dag.py --readme README.md --check       exit 1 if it differs from the workflow
python scripts/dag.py --recipe config/recipes/nano3.yaml --table       jobs of each rule, in Markdown
"""

import argparse
import sys
from pathlib import Path

from nano3 import cli, rulegraph


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("config/recipes/tiny.yaml"), help="whose jobs to plan")
    parser.add_argument("--output", type=Path, help="write a picture of the rules (SVG)")
    parser.add_argument("--readme", type=Path, help="file with the two markers")
    parser.add_argument("--check", action="store_true", help="with --readme: change nothing, exit 1 on a difference")
    parser.add_argument("--table", action="store_true", help="print the number of jobs of each rule")
    parser.add_argument("--log", type=Path, help="also write every message to this file")
    options = cli.parse(parser, argv)
    name = options.recipe.stem
    rules = rulegraph.plan(f"results/{name}/rl/final")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(rulegraph.svg(rules, f"Rules of the recipe {name}"))
    if options.table:
        cli.say(rulegraph.job_table(rules))
    if options.readme:
        text = options.readme.read_text()
        new = rulegraph.replace_block(text, rulegraph.readme_block(rules))
        if options.check and new != text:
            command = f"python scripts/dag.py --readme {options.readme}"
            cli.say(f"{options.readme} shows another graph than the workflow has; to renew it:  {command}")
            sys.exit(1)
        if not options.check:
            options.readme.write_text(new)


if __name__ == "__main__":
    cli.run(main)
