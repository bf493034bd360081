"""The final model: a Hugging Face directory with tokenizer, chat template and model card.

Loads with AutoModelForCausalLM and AutoTokenizer, without custom code, and with scripts/chat.py."""

import os
import shutil
from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, digest_of, verify
from nano3.errors import UserError, to_make
from nano3.recipe import load_recipe
from nano3.report.model_card import Card, model_card
from nano3.report.read import Evaluated, Stage, read_evaluation, read_stage
from nano3.stage import recipe_results

NEEDED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# What a stage keeps for the report and for the next stage, and nobody needs to run the model.
NOT_SHIPPED = {"metrics.jsonl", "samples.jsonl", "trajectories.jsonl"}


def main(argv: list[str] | None = None) -> None:
    """Collect the files, write the card, publish."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the last RL stage")
    parser.add_argument("--stages", type=Path, nargs="+", required=True, help="all stages, in the recipe's order")
    parser.add_argument("--evaluations", type=Path, nargs="*", default=[], help="of the stages, in their order")
    arguments = cli.parse(parser, argv)
    recipe, results = load_recipe(arguments.recipe), recipe_results(arguments.output)
    source = arguments.model.parent if arguments.model.name == "manifest.json" else arguments.model
    manifest = verify(source, hashes=not arguments.trust_inputs)
    shipped = files_to_ship(source, list(manifest.files))
    stages = [_required(read_stage(path, results), path) for path in arguments.stages]
    evaluations = [_required(read_evaluation(path, results), path) for path in arguments.evaluations]
    check_evaluation(source, evaluations)
    inputs = {"model": source}
    inputs |= {part.path: part.directory for part in (*stages, *evaluations)}
    config = {"title": recipe.title}
    with building(arguments.output, kind="rl/final", config=config, inputs=inputs) as artifact:
        for name in shipped:
            _link(source / name, artifact.path / name)
        card = model_card(Card(recipe, results, stages, evaluations))
        (artifact.path / "README.md").write_text(card, encoding="utf-8")
        artifact.statistics["bytes"] = sum(manifest.files[name]["bytes"] for name in shipped)
    cli.say(f"{arguments.output}: {artifact.statistics['bytes'] / 1e6:,.1f} MB")


def files_to_ship(source: Path, files: list[str]) -> list[str]:
    """The files of a stage that belong to a Hugging Face directory; raises UserError if one is missing."""
    sharded = "model.safetensors.index.json" in files
    missing = [name for name in NEEDED if name not in files and not (sharded and name == "model.safetensors")]
    if missing:
        raise UserError(
            f"{source} has no {', '.join(missing)}, which a Hugging Face model needs. Make it again:"
            f"  {to_make(source, force=True)}"
        )
    return [name for name in files if "/" not in name and name not in NOT_SHIPPED]


def check_evaluation(model: Path, evaluations: list[Evaluated]) -> None:
    """The last evaluation must be of this very model, or the card would praise another one."""
    if evaluations and evaluations[-1].manifest.inputs.get("model") != digest_of(model):
        last = evaluations[-1].directory
        raise UserError(f"{last} measured another model than {model}. Make it again:  {to_make(last, force=True)}")


def _required(part: Stage | Evaluated | None, path: Path):
    if part is None:
        raise UserError(f"{path} does not exist. Make it first:  {to_make(path)}")
    return part


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


if __name__ == "__main__":
    cli.run(main)
