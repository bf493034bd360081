"""One shard group of one data set as raw shards (shard_00000.jsonl.zst, ...).

Rows: {"id", "source", "text"} for form text; chat and RL rows as they are, with id and source added."""

from nano3 import cli
from nano3.artifacts import building
from nano3.data.raw import write_shards
from nano3.data.sources import Source, read_rows
from nano3.errors import UserError
from nano3.recipe import stages
from nano3.recipe.load import load_recipe


def main(argv: list[str] | None = None) -> None:
    """Read the group from its source and publish it."""
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", required=True, help="data set of the recipe")
    parser.add_argument("--group", type=int, default=0, help="shard group, from 0")
    arguments = cli.parse(parser, argv)
    recipe = load_recipe(arguments.recipe)
    name, group = arguments.dataset, arguments.group
    if name not in recipe.datasets:
        raise UserError(f"{arguments.recipe} has no data set {name!r}; it has {', '.join(sorted(recipe.datasets))}")
    config = {"dataset": name, "group": group, **stages.dataset_config(recipe, name)}
    source = Source(name, recipe.datasets[name], group, recipe.seed)
    with building(arguments.output, kind="raw", config=config) as artifact:
        counts = write_shards(read_rows(source), artifact.path)
        where = f"{name}, group {group}"
        source.bad.check(
            counts["rows"],
            recipe.tokenisation.max_bad_rows,
            where=where,
            key="tokenisation.max_bad_rows",
        )
        if not counts["rows"]:
            raise UserError(
                f"{where}, has no rows. Check datasets.{name} in {arguments.recipe}: its source"
                f"{', or fewer groups than ' + str(recipe.datasets[name].groups) if group else ''}"
            )
        artifact.statistics |= counts | source.facts
        if source.bad.total:
            artifact.statistics["bad_rows"] = source.bad.statistics()
    cli.say(f"{where}: {counts['rows']:,} rows, {counts['bytes'] / 1e6:.1f} MB, {source.bad.total} bad rows")


if __name__ == "__main__":
    cli.run(main)
