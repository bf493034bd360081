"""The data blend of a pretraining phase: blend.json for Megatron and the torch trainer, shards.json for the report.

Weights mean tokens: a category gets its share of the phase's tokens and spreads it over its data sets by size."""

from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.data.blend import find_shards, make_blend, warnings, write_blend
from nano3.data.raw import artifact_directory
from nano3.recipe import stages
from nano3.recipe.load import load_recipe


def main(argv: list[str] | None = None) -> None:
    """Weigh the token shards and publish the blend."""
    parser = cli.parser(__doc__)
    parser.add_argument("--phase", required=True, choices=stages.PRETRAIN_PHASES, help="pretraining phase")
    parser.add_argument("--tokens", type=artifact_directory, nargs="+", required=True, help="token shard groups")
    arguments = cli.parse(parser, argv)
    config = stages.blend_config(load_recipe(arguments.recipe), arguments.phase)
    for path in arguments.tokens:
        verify(path, hashes=False)  # only counts are used here; training verifies content
    shards, common = find_shards(arguments.tokens)
    blend, statistics = make_blend(config, shards, common)
    inputs = {f"tokens/{shard.dataset}/{shard.group}": Path(shard.path) for shard in blend.shards}
    with building(arguments.output, kind="blend", config=config, inputs=inputs) as artifact:
        write_blend(blend, artifact.path)
        artifact.statistics |= statistics
    for name in sorted({shard.dataset for shard in shards} - set(statistics["datasets"])):
        cli.say(f"note: {name} is in no category of {arguments.phase}; its tokens are not used")
    for line in warnings(statistics):
        cli.say(f"note: {line}")
    for name, entry in statistics["datasets"].items():
        cli.say(f"{arguments.phase}: {name}: {entry['percent']:.1f}% of the tokens, {entry['epochs']:.2f} epochs")


if __name__ == "__main__":
    cli.run(main)
