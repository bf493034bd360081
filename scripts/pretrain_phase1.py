"""Pretraining, phase 1: from initial weights, on the broad blend, along the schedule's warmup and stable part."""

from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe
from nano3.recipe.stages import pretrain_config


def main(argv: list[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--blend", type=Path, required=True, help="blend of phase 1")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer of the blend's tokens")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)

    from nano3.train.loop import train
    from nano3.train.optimizer import adamw
    from nano3.train.pretrain import Data, phase_task, token_shards
    from nano3.train.session import directory_of, new_model, open_session, publish

    blend, tokenizer = directory_of(options.blend), directory_of(options.tokenizer)
    with open_session(
        "pretrain/phase1",
        recipe,
        "pretrain",
        config=pretrain_config(recipe, "phase1"),
        inputs={"blend": blend, "tokenizer": tokenizer},
        also_verify=token_shards(blend),
        options=options,
    ) as session:
        if session.run.finished:
            return
        task, sampled = phase_task(recipe, "phase1", Data(blend, tokenizer, session.samples))
        model = new_model(recipe, session.machine.device)
        optimizer = adamw(model, recipe.pretrain.optimizer)
        train(session.run, task, model, optimizer, session.machine, session.mirror)
        publish(session, model, tokenizer=tokenizer, optimizer=optimizer, statistics={"sampled_tokens": sampled})


if __name__ == "__main__":
    cli.run(main)
