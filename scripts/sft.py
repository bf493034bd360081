"""Supervised fine-tuning: the long-context model learns to chat from packed conversations, with a fresh optimizer."""

from pathlib import Path

from nano3 import cli
from nano3.recipe import load_recipe
from nano3.recipe.stages import sft_config


def main(argv: list[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model of the long-context stage")
    parser.add_argument("--data", type=Path, required=True, help="packed SFT data")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)

    from nano3.train.fine_tuning import sft_task
    from nano3.train.loop import train
    from nano3.train.optimizer import adamw
    from nano3.train.session import carry_on, directory_of, open_session, publish, special_ids

    before, data = directory_of(options.model), directory_of(options.data)
    with open_session(
        "sft",
        recipe,
        "sft",
        config=sft_config(recipe),
        inputs={"model": before, "data": data},
        options=options,
    ) as session:
        if session.run.finished:
            return
        model = carry_on(recipe, before, session.machine.device)
        task, sampled = sft_task(recipe, data, before)
        optimizer = adamw(model, recipe.sft.optimizer)
        train(session.run, task, model, optimizer, session.machine, session.mirror)
        im_end = special_ids(before)["im_end"]
        publish(session, model, tokenizer=before, generation_eos=im_end, statistics=sampled)


if __name__ == "__main__":
    cli.run(main)
