"""Pass rates of the training prompts: what the curriculum of an RL stage is made from (report, section 3.2.2).

The output's name says for which stage: results/{recipe}/rl/profile/rlvr1."""

from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.recipe import load_recipe
from nano3.recipe.stages import profile_config


def main(argv: list[str] | None = None) -> None:
    """Sample a few responses to every prompt and publish profile.jsonl."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the policy that the stage starts from")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts; train.jsonl is used")
    options = cli.parse(parser, argv)
    recipe, name = load_recipe(options.recipe), options.output.name
    config = profile_config(recipe, name)

    from nano3.model import hf
    from nano3.rl import draw, scoring
    from nano3.rl.curriculum import write_profile
    from nano3.rl.rollout import load_chat_tokenizer, read_prompts
    from nano3.train import hardware
    from nano3.train.loop import Machine
    from nano3.train.session import directory_of

    model, prompts = directory_of(options.model), directory_of(options.prompts)
    for path in (model, prompts):
        verify(path, hashes=not options.trust_inputs)
    device = hardware.set_up(recipe.execution, "evaluation")
    settings = getattr(recipe.rl, name)
    machine = Machine(recipe.execution, device, hardware.arithmetic(device, settings.precision))
    rows = read_prompts(prompts / "train.jsonl")
    scoring.set_up(recipe, rows, prompts, device=device)
    task = draw.Task(f"rl/{name}", settings, recipe.seed, rows, [], load_chat_tokenizer(model))
    policy = hf.load(model, device=device).eval()
    inputs = {"model": model, "prompts": prompts}
    with building(options.output, kind="rl/profile", config=config, inputs=inputs) as artifact:
        rows = draw.profile(
            policy, task, machine, prompts=config["prompts"], generations=config["generations"], seed="first"
        )
        write_profile(artifact.path / "profile.jsonl", rows)
        rates = [row["pass_rate"] for row in rows]
        solved = sum(rate >= settings.curriculum.solved for rate in rates)
        artifact.statistics |= {"prompts": len(rows), "pass_rate": draw.mean(rates), "solved": solved}
    cli.say(f"{len(rows)} prompts, mean pass rate {draw.mean(rates):.3f}, {solved} solved and dropped")


if __name__ == "__main__":
    cli.run(main)
