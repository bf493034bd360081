"""The model card of the final model: README.md, written from the recipe and the manifests alone."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano3.artifacts import digest_of
from nano3.chat.terminal import Sampling
from nano3.errors import to_make
from nano3.model import size
from nano3.model.config import ATTENTION, MAMBA, MOE
from nano3.recipe import Recipe
from nano3.recipe.data import Hub
from nano3.report import model_card_results as measured
from nano3.report.model_card_results import table
from nano3.report.read import BLENDS, Artifact, Evaluated, Stage, read_artifact
from nano3.report.svg import number

SMALL = 1_000_000_000  # parameters below which the card says that the model is a demonstration


@dataclass(frozen=True)
class Card:
    """What a card is written from. results: results/{recipe}; stages and evaluations in the recipe's order."""

    recipe: Recipe
    results: Path
    stages: Sequence[Stage]
    evaluations: Sequence[Evaluated]

    @property
    def name(self) -> str:
        return self.results.name

    @property
    def directory(self) -> str:
        return f"results/{self.name}/rl/final"


def model_card(card: Card) -> str:
    """The text of README.md."""
    sections = [
        _front_matter(card),
        _introduction(card),
        _usage(card),
        _architecture(card),
        _training(card),
        _data(card),
        measured.post_training(card.recipe, card.stages, card.evaluations),
        measured.evaluation(card.evaluations),
        _limitations(card),
        _licence(card),
        _reproduction(card),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _front_matter(card: Card) -> str:
    return f"""---
library_name: transformers
pipeline_tag: text-generation
license: other
license_name: licences-of-the-training-data
tags: [nemotron_h, mamba2, mixture-of-experts, {card.name}]
---"""


def _introduction(card: Card) -> str:
    parameters = size.parameters(card.recipe.model)
    text = (
        f"A hybrid Mamba-2, mixture-of-experts and attention language model with {number(parameters.total)} parameters,"
        f" of which {number(parameters.active)} are active for a token. It was pretrained, fine-tuned on chats with and"
        f" without reasoning, and trained with {_alignment(card.recipe)}, by an open recipe for Nemotron 3 Nano. It is"
        " not NVIDIA's released model."
    )
    return f"# {card.recipe.title}\n\n{textwrap.fill(text, 120)}"


def _alignment(recipe: Recipe) -> str:
    """What came after fine-tuning, in words."""
    rl = recipe.rl
    rewards = "verifiable rewards" + " and from a generative reward model" * (rl.rlhf is not None)
    pairs = ", then on preference pairs against calls of tools that were not offered (DPO)" * (rl.dpo is not None)
    return f"reinforcement learning from {rewards}{pairs}"


def _usage(card: Card) -> str:
    return f"""## Use

With transformers, no custom code:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{card.directory}")
model = AutoModelForCausalLM.from_pretrained("{card.directory}")
messages = [{{"role": "user", "content": "What is a bee?"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, enable_thinking=True, return_tensors="pt", return_dict=True
)
output = model.generate(**inputs, max_new_tokens=256, do_sample=True, temperature={Sampling.temperature})
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :]))
```

In the terminal, from the repository:

```
python scripts/chat.py {card.directory}
python scripts/chat.py {card.directory} --no-think --prompt "What is a bee?"
```

`enable_thinking=False` answers without reasoning. Generation ends at `<|im_end|>`.

`config.json` says `time_step_min: 0.0`. Transformers clamps the time step of its chunked scan from below by that
value, though the model was trained without a clamp and transformers' own one-token path has none; 0.0 makes the clamp
do nothing, so that reading a prompt and generating agree. The value that initialised the weights stands under the key
`nano3`."""


def _architecture(card: Card) -> str:
    model = card.recipe.model
    parameters = size.parameters(model)
    rows = [
        ("Parameters", f"{parameters.total:,}"),
        ("Active per token", f"{parameters.active:,} (with the embedding table {parameters.active_with_embeddings:,})"),
        (
            "Layers",
            f"{model.num_layers}: {model.pattern.count(MAMBA)} Mamba-2, {model.pattern.count(MOE)} mixture of experts,"
            f" {model.pattern.count(ATTENTION)} attention (`{model.pattern}`)",
        ),
        ("Hidden size", f"{model.hidden_size:,}"),
        ("Vocabulary", f"{model.vocab_size:,}"),
        (
            "Mamba-2",
            f"{model.mamba_num_heads} heads of {model.mamba_head_dim}, state {model.ssm_state_size},"
            f" {model.n_groups} groups",
        ),
        (
            "Experts",
            f"{model.n_routed_experts} routed of width {model.moe_intermediate_size},"
            f" {model.num_experts_per_tok} per token; one shared of width {model.moe_shared_expert_intermediate_size}",
        ),
        (
            "Attention",
            f"{model.num_attention_heads} query and {model.num_key_value_heads} key/value heads of {model.head_dim},"
            " no position embedding",
        ),
        ("Longest context", f"{model.max_position_embeddings:,} tokens"),
    ]
    return "## Architecture\n\n" + table(("", ""), rows)


def _training(card: Card) -> str:
    rows = []
    for stage in card.stages:
        statistics = stage.statistics
        loss = statistics.get("train_loss")
        rows.append(
            (
                stage.title,
                f"{statistics['steps']:,}" if "steps" in statistics else "",
                number(statistics["tokens"]) if "tokens" in statistics else "",
                f"{loss:.3f}" if loss is not None and not stage.path.startswith("rl/") else "",
                _validation(statistics.get("validation", {}).get("end", {})),
                f"`{stage.manifest.identity}`",
            )
        )
    head = ("Stage", "Steps", "Tokens", "Last training loss", "Held out, at the end", "Identity")
    tokens = "Tokens of RL stages are those of the sampled responses"
    tokens += ", of DPO those of its pairs" * (card.recipe.rl.dpo is not None)
    return f"## Training\n\n{table(head, rows)}\n\n{tokens}."


def _validation(end: dict[str, Any]) -> str:
    if "ranking_accuracy" in end:
        return f"ranking accuracy {end['ranking_accuracy']:.1%}, broken {end['broken_share']:.1%}"
    if "judge_score" in end:
        return f"judge's score {end['judge_score']:.2f}"
    if "hallucinated_tools/rate" in end:
        return f"absent tools called {end['hallucinated_tools/rate']:.1%}"
    if "reward" in end:
        return f"mean reward {end['reward']:.3f}"
    loss = end.get("loss", {})
    if not isinstance(loss, dict):
        return ""
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(loss.items())) + " nats" * bool(loss)


def _data(card: Card) -> str:
    """Mixtures of the blends that the stages were really trained on: the present ones only if their digests agree."""
    parts = []
    used = {stage.path.split("/")[-1]: stage.manifest.inputs.get("blend") for stage in card.stages}
    for path in BLENDS:
        artifact = read_artifact(card.results / path, card.results)
        if artifact is None or digest_of(artifact.directory) != used.get(path.split("/")[-1]):
            continue
        rows = [_category(name, entry) for name, entry in artifact.statistics.get("categories", {}).items()]
        parts.append(f"**{artifact.title}**\n\n" + table(("Category", "Asked", "Sampled", "Epochs"), rows))
    chats = _chat_data(card)
    return "## Data\n\n" + "\n\n".join([*parts, chats]) if parts or chats else ""


def _category(name: str, entry: dict[str, Any]) -> tuple[str, str, str, str]:
    epochs = entry.get("epochs")
    sampled = f"{entry['effective_percent']:.1f}%" if entry["released"] else "no public data"
    return name, f"{entry['asked_percent']:.1f}%", sampled, "" if epochs is None else f"{epochs:.2f}"


def _chat_data(card: Card) -> str:
    artifact: Artifact | None = read_artifact(card.results / "sft/data", card.results)
    sft = next((stage for stage in card.stages if stage.path == "sft/model"), None)
    if artifact is None or sft is None or digest_of(artifact.directory) != sft.manifest.inputs.get("data"):
        return ""
    rows = [
        (
            name,
            f"{entry['requested_share_of_rows']:.1%}",
            f"{entry['achieved_share_of_tokens']:.1%}",
            f"{entry['epochs']:.2f}",
        )
        for name, entry in artifact.statistics.get("datasets", {}).items()
    ]
    drawn = table(("Data set", "Rows asked", "Tokens sampled", "Epochs drawn"), rows)
    read = sft.statistics.get("epochs")
    often = "" if read is None else f"\n\nPacked into one data set, of which the training made {read:.2f} epochs."
    return f"**Fine-tuning chats**\n\n{drawn}{often}"


def _limitations(card: Card) -> str:
    total = size.parameters(card.recipe.model).total
    lines = [
        "- It was evaluated on the environments above and on nothing else. No safety training or testing was done.",
        "- It may state false things with confidence, also in its reasoning, which need not be why it answers so.",
        "- It repeats the errors and biases of its training data.",
    ]
    if card.recipe.rl.rlhf is not None:
        lines.append(
            "- RLHF followed a reward model that was trained from this model's own fine-tuned version; where that judge"
            " errs, so may the policy. How often it prefers a response says nothing about people."
        )
    if card.recipe.rl.dpo is not None:
        lines.append(
            "- DPO works against calls of tools that were not offered and does not exclude them; the evaluation says"
            " how often they remain. Check every call against the tools that you offer."
        )
    if total < SMALL:
        lines.insert(
            0,
            f"- With {number(total)} parameters it is a demonstration that the recipe works from end to end. It knows"
            " the kinds of problems it was trained on and little about the world; outside them expect fluent nonsense.",
        )
    return "## Limitations\n\n" + "\n".join(lines)


def _licence(card: Card) -> str:
    datasets = card.recipe.datasets
    hub = sorted({dataset.repo for dataset in datasets.values() if isinstance(dataset, Hub)})
    kinds = {dataset.kind for dataset in datasets.values()}
    lines = []
    if kinds & {"python_code", "python_docs"}:
        lines.append("- text of the Python standard library: Python Software Foundation License")
    if "tasks" in kinds:
        lines.append("- problems generated by the recipe itself: no further licence")
    if "files" in kinds:
        lines.append("- local files named in the recipe: their own licences")
    lines += [f"- `{repo}`: see its page on the Hugging Face hub" for repo in hub]
    return (
        "## Licence\n\nThe weights come with no licence beyond those of what they were trained on:\n\n"
        + "\n".join(lines)
        + "\n\nCheck them before you pass the weights on."
    )


def _reproduction(card: Card) -> str:
    return f"""## Reproduction

```
{to_make(card.directory)}
```

`manifest.json` holds the digest of every file and of every input; `results/{card.name}/lineage.json` shows
what those were made from."""
