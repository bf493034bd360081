"""Held-out measurements of one model: rewards and lengths by environment, whole chats, tools called that were not
offered, open conversations, bits per byte; writes evaluation.json.

The output's name says which model it is: results/{recipe}/evaluation/base, .../sft, .../rlvr1."""

import json
from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.errors import UserError
from nano3.recipe import load_recipe
from nano3.recipe.stages import evaluation_config


def main(argv: list[str] | None = None) -> None:
    """Measure the model and publish the numbers with a few answers in full."""
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model to measure")
    parser.add_argument("--prompts", type=Path, required=True, help="RL prompts; valid.jsonl is used")
    parser.add_argument("--tokens", type=Path, nargs="*", default=[], help="token artifacts, for bits per byte")
    parser.add_argument("--preferences", type=Path, help="comparisons, for RLHF's held-out conversations")
    parser.add_argument("--genrm", type=Path, help="reward model that compares the responses to these conversations")
    parser.add_argument("--sft", type=Path, help="SFT model, whose responses they are compared with")
    options = cli.parse(parser, argv)
    recipe = load_recipe(options.recipe)

    from nano3 import evaluation
    from nano3.rl import scoring
    from nano3.rl.rollout import read_prompts
    from nano3.train import hardware
    from nano3.train.session import directory_of

    model_directory, prompts = directory_of(options.model), directory_of(options.prompts)
    tokens = evaluation.by_dataset([directory_of(path) for path in options.tokens])
    inputs = {"model": model_directory, "prompts": prompts}
    inputs |= {f"tokens/{name}/{i}": path for name, paths in tokens.items() for i, path in enumerate(paths)}
    further = ("preferences", "genrm", "sft")
    inputs |= {name: directory_of(path) for name in further if (path := getattr(options, name))}
    config = evaluation_config(recipe, options.output.name)
    lacking = {"preferences", "genrm", "sft"} - set(inputs) if config["comparison"] else ()
    if lacking:
        raise UserError(f"{options.output} compares with the SFT model; also give --{' --'.join(sorted(lacking))}")
    for path in inputs.values():
        verify(path, hashes=not options.trust_inputs)

    device = hardware.set_up(recipe.execution, "evaluation")
    rows = read_prompts(prompts / "valid.jsonl")
    scoring.set_up(recipe, rows, prompts, device=device)
    with building(options.output, kind="evaluation", config=config, inputs=inputs) as artifact:
        measured = _measure(recipe, config, inputs, rows, tokens, artifact.path, device)
        file = artifact.path / "evaluation.json"
        file.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        without = [name for name in tokens if name not in measured["bits_per_byte"]]
        artifact.statistics |= {"chats": measured["chats"], "without_held_out_text": without}
        artifact.statistics["reward"] = {name: entry["mean"] for name, entry in measured["environments"].items()}
    _report(options.output.name, measured)


def _measure(recipe, config: dict, inputs: dict, rows: list[dict], tokens: dict, directory: Path, device: str) -> dict:
    """All measurements of the model. rows: held-out prompts; tokens: data set -> its token artifacts; RLHF's
    conversations are kept in `directory`."""
    from nano3 import alignment, evaluation
    from nano3.model import hf
    from nano3.rl.rollout import load_chat_tokenizer
    from nano3.train import hardware
    from nano3.train.validation import bytes_of_tokens

    settings, generations = recipe.evaluation, recipe.evaluation.generations
    arithmetic = hardware.arithmetic(device, settings.precision)
    chat, model = load_chat_tokenizer(inputs["model"]), hf.load(inputs["model"], device=device).eval()
    tools, talked = {}, {}
    with arithmetic:
        rolled = evaluation.answer(model, chat, rows, settings, seed=recipe.seed)
        if config["probe_tools"] or any(map(alignment.offers_tools, rows)):
            tools = alignment.tools_not_offered(model, chat, rows, rolled, settings, seed=recipe.seed)
        if "preferences" in inputs:
            compared = config["comparison"]
            talked = alignment.conversations(directory, model, chat, settings, inputs, compared, seed=recipe.seed)
    token_bytes = bytes_of_tokens(chat.tokenizer, model.config.vocab_size) if tokens else None
    limits = {"arithmetic": arithmetic, "micro_batch_tokens": recipe.execution.micro_batch_tokens}
    limits["most"] = settings.text_tokens
    text = {name: evaluation.text_measures(model, paths, token_bytes, **limits) for name, paths in tokens.items()}
    return {
        "environments": evaluation.scores(rolled, generations),
        "lengths": alignment.lengths_by_environment(rolled, generations, chat),
        "tools_not_offered": tools,
        "conversations": talked,
        "chats": evaluation.chats(rolled, generations),
        "bits_per_byte": {name: found for name, found in text.items() if found},
        "samples": evaluation.samples(rolled, generations, settings.samples, chat),
    }


def _report(name: str, measured: dict) -> None:
    for environment, entry in measured["environments"].items():
        cli.say(
            f"{name}: {environment}: reward {entry['mean']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}],"
            f" {entry['prompts']} prompts x {entry['generations']}, finished {entry['finished']:.1%},"
            f" well formed {entry['well_formed']:.1%}, {entry['mean_length']:.0f} tokens"
        )
    whole = measured["chats"]
    cli.say(f"{name}: whole chats {whole['mean']:.1%} [{whole['low']:.1%}, {whole['high']:.1%}]")
    if "all" in measured["tools_not_offered"]:
        probe = measured["tools_not_offered"]["all"]
        cli.say(
            f"{name}: tools called that were not offered {probe['rate']:.1%} [{probe['low']:.1%}, {probe['high']:.1%}],"
            f" {probe['n']} responses"
        )
    if "win_rate" in measured["conversations"]:
        won = measured["conversations"]["win_rate"]
        cli.say(
            f"{name}: preferred to the SFT model in {won['mean']:.1%} [{won['low']:.1%}, {won['high']:.1%}] of"
            f" {won['n']} comparisons, {won['broken_share']:.1%} of the verdicts broken"
        )
    for dataset, entry in measured["bits_per_byte"].items():
        margin = f" ± {entry['margin']:.3f}" if "margin" in entry else ""
        cli.say(
            f"{name}: {dataset}: {entry['model']:.3f}{margin} bits per byte"
            f" (unigram {entry['unigram']:.3f}), {entry['documents']} documents"
        )


if __name__ == "__main__":
    cli.run(main)
