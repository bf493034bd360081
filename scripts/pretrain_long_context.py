"""Pretraining, long context: goes on from phase 2 on long and short sequences, at a constant learning rate."""

from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe
from nano3.recipe.stages import pretrain_config


def main(argv: list[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model of phase 2")
    parser.add_argument("--blend", type=Path, required=True, help="blend of the long-context stage")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer of the blend's tokens")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)

    from nano3.train.loop import train
    from nano3.train.optimizer import adamw
    from nano3.train.pretrain import Data, long_context_task, token_shards
    from nano3.train.session import carry_on, carry_on_optimizer, directory_of, open_session, publish

    before, blend, tokenizer = map(directory_of, (options.model, options.blend, options.tokenizer))
    with open_session(
        "pretrain/long_context",
        recipe,
        "long_context",
        config=pretrain_config(recipe, "long_context"),
        inputs={"model": before, "blend": blend, "tokenizer": tokenizer},
        also_verify=token_shards(blend),
        options=options,
    ) as session:
        if session.run.finished:
            return
        task, sampled = long_context_task(recipe, Data(blend, tokenizer, session.samples))
        model = carry_on(recipe, before, session.machine.device)
        optimizer = adamw(model, recipe.pretrain.optimizer)
        carry_on_optimizer(optimizer, before)
        train(session.run, task, model, optimizer, session.machine, session.mirror)
        publish(session, model, tokenizer=tokenizer, optimizer=optimizer, statistics={"sampled_tokens": sampled})


if __name__ == "__main__":
    cli.run(main)
