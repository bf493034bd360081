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
    from nano3 import alignment, evaluation
    from nano3.model import hf
    from nano3.rl import scoring
    from nano3.rl.rollout import load_chat_tokenizer, read_prompts
    from nano3.train import hardware
    from nano3.train.session import directory_of
    from nano3.train.validation import bytes_of_tokens

    settings, execution = recipe.evaluation, recipe.execution
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

    device = hardware.set_up(execution, "evaluation")
    arithmetic = hardware.arithmetic(device, "auto")
    rows, generations = read_prompts(prompts / "valid.jsonl"), settings.generations
    scoring.set_up(recipe, rows, prompts, device=device)
    chat = load_chat_tokenizer(model_directory)
    model = hf.load(model_directory, device=device).eval()
    with building(options.output, kind="evaluation", config=config, inputs=inputs) as artifact:
        with arithmetic:
            rolled = evaluation.answer(model, chat, rows, settings, seed=recipe.seed)
            tools = {}
            if config["probe_tools"] or any(map(alignment.offers_tools, rows)):
                tools = alignment.tools_not_offered(model, chat, rows, rolled, settings, seed=recipe.seed)
            talked = {}
            if options.preferences:
                talked = alignment.conversations(
                    artifact.path, model, chat, settings, inputs, config["comparison"], seed=recipe.seed
                )
        token_bytes = bytes_of_tokens(chat.tokenizer, model.config.vocab_size) if tokens else None
        text = {
            name: evaluation.text_measures(
                model, paths, token_bytes, arithmetic=arithmetic, micro_batch_tokens=execution.micro_batch_tokens
            )
            for name, paths in tokens.items()
        }
        measured = {
            "environments": evaluation.scores(rolled, generations),
            "lengths": alignment.lengths_by_environment(rolled, generations, chat),
            "tools_not_offered": tools,
            "conversations": talked,
            "chats": evaluation.chats(rolled, generations),
            "bits_per_byte": {name: found for name, found in text.items() if found},
            "samples": evaluation.samples(rolled, generations, settings.samples, chat),
        }
        file = artifact.path / "evaluation.json"
        file.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        artifact.statistics |= {"chats": measured["chats"], "without_held_out_text": [n for n in text if not text[n]]}
        artifact.statistics["reward"] = {name: entry["mean"] for name, entry in measured["environments"].items()}
    _report(options.output.name, measured)


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
