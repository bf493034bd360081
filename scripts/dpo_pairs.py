"""Preference pairs from the policy's own responses, with calls of tools that were not offered on the rejected side."""

from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.artifacts.manifest import sha256
from nano3.errors import UserError
from nano3.recipe import load_recipe
from nano3.recipe.stages import pairs_config


def main(argv: list[str] | None = None) -> None:
    """Sample, pair, divide into train.jsonl and valid.jsonl, publish."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy that DPO starts from")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts; train.jsonl is used")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)
    settings = recipe.rl.dpo.pairs

    from nano3.data.jsonl import read_jsonl, write_jsonl
    from nano3.model import hf
    from nano3.rl import scoring
    from nano3.rl.order import derived_seed
    from nano3.rl.pairs import divide, mine
    from nano3.rl.rollout import load_chat_tokenizer, read_prompts
    from nano3.train import hardware
    from nano3.train.session import directory_of

    model, prompts = directory_of(options.model), directory_of(options.prompts)
    for path in (model, prompts):
        verify(path, hashes=not options.trust_inputs)
    device = hardware.set_up(recipe.execution, "evaluation")
    rows = read_prompts(prompts / "train.jsonl")
    scoring.set_up(recipe, rows, prompts, device=device)
    policy, chat = hf.load(model, device=device).eval(), load_chat_tokenizer(model)
    inputs = {"model": model, "prompts": prompts}
    config = pairs_config(recipe) | {"digests": [sha256(Path(file)) for file in settings.files]}
    with building(options.output, kind="rl/dpo_pairs", config=config, inputs=inputs) as artifact:
        with hardware.arithmetic(device, recipe.rl.dpo.precision):
            pairs, statistics = mine(policy, chat, rows, settings, seed=derived_seed(recipe.seed, "dpo_pairs"))
        given = [row for file in settings.files for row in read_jsonl(Path(file))]
        statistics["pairs"] |= {"given": len(given)} if settings.files else {}
        train, valid = divide(pairs + given, settings.valid, seed=recipe.seed)
        if not train:
            raise UserError(
                f"no preference pairs were found: {statistics}.\n"
                "  Raise rl.dpo.pairs.generations or prompts, so that some responses to one prompt differ in worth,"
                " or name pair files in rl.dpo.pairs.files."
            )
        write_jsonl(artifact.path / "train.jsonl", train)
        write_jsonl(artifact.path / "valid.jsonl", valid)
        artifact.statistics |= statistics
    cli.say(
        ", ".join(f"{count} {group}" for group, count in statistics["pairs"].items())
        + f"; tools called that were not offered: {statistics.get('hallucinated_tools/rate', 0):.1%}"
    )


if __name__ == "__main__":
    cli.run(main)
