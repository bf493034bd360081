"""The lineage of a recipe's artifacts: lineage.json (nodes, edges, missing inputs) and lineage.svg beside it.

python scripts/lineage.py --recipe config/recipes/tiny.yaml --output results/tiny/lineage.json
"""

from nano3 import cli
from nano3.artifacts.lineage import mermaid, read_lineage
from nano3.errors import to_make
from nano3.report.boxes import standalone
from nano3.report.graph import draw_lineage
from nano3.stage import recipe_results


def main(argv: list[str] | None = None) -> None:
    """Walk results/{recipe} and write the graph."""
    parser = cli.parser(__doc__)
    parser.add_argument("--mermaid", action="store_true", help="also print the graph as Mermaid text")
    arguments = cli.parse(parser, argv)
    results = recipe_results(arguments.output)
    lineage = read_lineage(results)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(lineage.text(), encoding="utf-8")
    picture = arguments.output.with_suffix(".svg")
    if lineage.nodes:
        picture.write_text(standalone(draw_lineage(lineage)), encoding="utf-8")
    for entry in lineage.missing:
        cli.say(
            f"{results / entry.path} was made from an input {entry.input!r} ({entry.digest[:12]}) that is gone or was"
            f" made again since.\n  To bring it up to date:  {to_make(results / entry.path)}"
        )
    if arguments.mermaid:
        cli.say(mermaid(lineage))
    cli.say(f"{arguments.output}: {len(lineage.nodes)} artifacts, {len(lineage.edges)} edges")


if __name__ == "__main__":
    cli.run(main)
