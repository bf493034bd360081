"""What a recipe costs: tokens, operations, device hours, wall time, price and disk of every stage, as text."""

from nano3 import cli
from nano3.estimate import text
from nano3.recipe import load_recipe


def main(argv: list[str] | None = None) -> None:
    options = cli.parse(cli.parser(__doc__), argv)
    page = text(load_recipe(options.recipe), options.recipe.stem)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page)
    cli.say(page)


if __name__ == "__main__":
    cli.run(main)
