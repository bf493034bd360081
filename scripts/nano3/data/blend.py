"""Blends: which token shards a pretraining phase samples from, and with what weight.

A weight is a share of the phase's tokens. A category's share is spread over its shards in proportion to their tokens;
shares of categories without released data are spread over the others in proportion. Megatron reads `blend.json`;
`shards.json` tells which data set and category each prefix is, for validation by data set and for the report."""

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nano3.artifacts import read_manifest, verify
from nano3.data.indexed import bin_path, index_path
from nano3.data.raw import artifact_directory
from nano3.errors import UserError, to_make

SPLITS = ("train", "valid", "test")
# Up to about four epochs, repeated data is nearly as good as new (Muennighoff et al. 2023, arXiv 2305.16264).
MANY_EPOCHS = 4.0


@dataclass(frozen=True)
class Shard:
    """A token artifact of a blend.

    path: relative to the repository; tokens and bytes: by split; shares: category -> fraction of the phase's tokens
    that come from this shard."""

    path: str
    dataset: str
    group: int
    tokens: dict[str, int]
    bytes: dict[str, int]
    shares: dict[str, float]

    def prefix(self, split: str) -> str:
        """Megatron's path prefix of the shard's .bin and .idx."""
        return f"{self.path}/{split}"


@dataclass(frozen=True)
class BlendData:
    """A blend as read from its directory. splits: split -> [(weight, prefix), ...], weights add up to 1."""

    splits: dict[str, list[tuple[float, str]]]
    shards: list[Shard]
    eos_id: int
    vocab_size: int

    def shard_of(self, prefix: str) -> Shard:
        """The shard that a prefix belongs to."""
        return self._by_path[prefix.rsplit("/", 1)[0]]

    @cached_property
    def _by_path(self) -> dict[str, Shard]:
        return {shard.path: shard for shard in self.shards}


def find_shards(directories: list[Path]) -> tuple[list[Shard], dict[str, Any]]:
    """The token artifacts as shards without shares, and what they have in common: {"eos_id", "vocab_size"}.

    Raises UserError for a missing file, a path outside the repository, a shard given twice, or shards of different
    tokenizers."""
    shards, common, tokenizers = [], {}, {}
    for directory in map(artifact_directory, directories):
        manifest = read_manifest(directory)
        if manifest.kind != "tokens":
            raise UserError(f"{directory} is an artifact of kind {manifest.kind!r}; tokens were expected")
        for split in SPLITS:
            for file in (bin_path(directory / split), index_path(directory / split)):
                if not file.is_file():
                    raise UserError(f"{file} is missing; make it again:  {to_make(directory, force=True)}")
        tokenizers[manifest.inputs["tokenizer"]] = directory
        if len(tokenizers) > 1:
            raise UserError(
                f"token shards of different tokenizers can't be mixed: {' and '.join(map(str, tokenizers.values()))}"
            )
        statistics = manifest.statistics
        common = {key: statistics[key] for key in ("eos_id", "vocab_size")}
        config = manifest.config
        shards.append(
            Shard(
                _relative(directory), config["dataset"], config["group"], statistics["tokens"], statistics["bytes"], {}
            )
        )
    shards.sort(key=lambda shard: (shard.dataset, shard.group))
    for (dataset, group), number in Counter((shard.dataset, shard.group) for shard in shards).items():
        if number > 1:
            raise UserError(f"--tokens holds group {group} of {dataset} more than once")
    return shards, common


def make_blend(config: dict[str, Any], shards: list[Shard], common: dict[str, Any]) -> tuple[BlendData, dict[str, Any]]:
    """The blend of a phase and its statistics.

    config: `nano3.recipe.stages.blend_config`: {"tokens", "categories": {name: {"share", "datasets"}}}.
    Raises UserError if a category's data sets are missing or have no training tokens."""
    categories = {
        name: category for name, category in config["categories"].items() if category["datasets"] and category["share"]
    }
    by_dataset = defaultdict(list)
    for shard in shards:
        by_dataset[shard.dataset].append(shard)
    total = sum(category["share"] for category in categories.values())
    members = {name: _members(name, category, by_dataset) for name, category in categories.items()}
    spread = {
        split: {name: _spread(category["share"] / total, members[name], split) for name, category in categories.items()}
        for split in SPLITS
    }
    named = {shard.path for group in members.values() for shard in group}
    used = [
        replace(shard, shares={name: part[shard.path] for name, part in spread["train"].items() if shard.path in part})
        for shard in shards
        if shard.path in named
    ]
    blend = BlendData({split: _weights(spread[split], split) for split in SPLITS}, used, **common)
    return blend, _statistics(config, total, members, blend)


def write_blend(blend: BlendData, directory: Path) -> None:
    """Write `blend.json` (Megatron's per-split form) and `shards.json`."""
    flat = {
        split: [entry for weight, prefix in entries for entry in (weight, prefix)]
        for split, entries in blend.splits.items()
    }
    about = {
        "eos_id": blend.eos_id,
        "vocab_size": blend.vocab_size,
        "shards": [asdict(shard) for shard in blend.shards],
    }
    for name, content in (("blend.json", flat), ("shards.json", about)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")


def read_blend(directory: Path) -> BlendData:
    """Read a blend directory. Raises UserError if it is none, or if a token file it names is gone."""
    directory = artifact_directory(directory)
    try:
        flat = json.loads((directory / "blend.json").read_text())
        about = json.loads((directory / "shards.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist; make the blend:  {to_make(directory)}") from None
    splits = {split: list(zip(flat[split][::2], flat[split][1::2], strict=True)) for split in SPLITS}
    for entries in splits.values():
        for _, prefix in entries:
            if not index_path(prefix).is_file() or not bin_path(prefix).is_file():
                raise UserError(
                    f"{directory}/blend.json names {prefix}, but {index_path(prefix)} or its .bin is missing"
                    f" (looked from {Path.cwd()}).\n  Run from the repository root, or make the tokens again."
                )
    shards = [Shard(**shard) for shard in about["shards"]]
    return BlendData(splits, shards, about["eos_id"], about["vocab_size"])


def verify_shards(directory: Path, *, hashes: bool = True) -> None:
    """Check every token file of a blend: its artifact is the one that was weighed, and its files are unchanged.

    hashes: also the content, not just sizes. Raises UserError that names the file, or the artifact that was made anew
    since."""
    blend, inputs = read_blend(directory), read_manifest(directory).inputs
    for shard in blend.shards:
        manifest = verify(shard.path, hashes=hashes)
        expected = inputs[f"tokens/{shard.dataset}/{shard.group}"]
        if manifest.digest != expected:
            raise UserError(
                f"{shard.path} was made anew after {directory} had weighed it.\n  expected manifest {expected}\n"
                f"  actual   manifest {manifest.digest}\n  Make the blend again:  {to_make(directory, force=True)}"
            )


def _members(name: str, category: dict[str, Any], by_dataset: dict[str, list[Shard]]) -> list[Shard]:
    """The shards of a category's data sets."""
    missing = sorted(set(category["datasets"]) - set(by_dataset))
    if missing:
        raise UserError(f"category {name!r} needs tokens of {', '.join(missing)}; give their directories to --tokens")
    shards = [shard for dataset in dict.fromkeys(category["datasets"]) for shard in by_dataset[dataset]]
    if not sum(shard.tokens["train"] for shard in shards):
        raise UserError(
            f"category {name!r} asks for {category['share']}% of the tokens, but {', '.join(category['datasets'])}"
            " have no training tokens"
        )
    return shards


def _spread(share: float, shards: list[Shard], split: str) -> dict[str, float]:
    """A category's share of the tokens by shard path, in proportion to the shards' tokens; without empty ones."""
    available = sum(shard.tokens[split] for shard in shards)
    return {shard.path: share * shard.tokens[split] / available for shard in shards if shard.tokens[split]}


def _weights(spread: dict[str, dict[str, float]], split: str) -> list[tuple[float, str]]:
    """(weight, prefix) of a split: a shard's parts of all categories together."""
    weights: dict[str, float] = defaultdict(float)
    for parts in spread.values():
        for path, part in parts.items():
            weights[f"{path}/{split}"] += part
    scale = sum(weights.values())  # below 1 where a category has no held-out document
    return [(weight / scale, prefix) for prefix, weight in sorted(weights.items())]


def _statistics(
    config: dict[str, Any], total: float, members: dict[str, list[Shard]], blend: BlendData
) -> dict[str, Any]:
    """For the manifest: shares asked and effective, tokens there are, and the epochs that they make.

    total: percent of the categories that have data; members: those categories' shards."""
    asked = sum(category["share"] for category in config["categories"].values())
    by_category = {}
    for name, category in config["categories"].items():
        effective = 100 * category["share"] / total if name in members else 0.0
        available = sum(shard.tokens["train"] for shard in members.get(name, []))
        by_category[name] = {
            "asked_percent": round(100 * category["share"] / asked, 4),
            "effective_percent": round(effective, 4),
            "released": bool(category["datasets"]),
            "tokens_available": available,
            "epochs": round(config["tokens"] * effective / 100 / available, 4) if available else None,
        }
    by_dataset: dict[str, dict[str, Any]] = {}
    for shard in blend.shards:
        entry = by_dataset.setdefault(shard.dataset, {"percent": 0.0, "tokens_available": 0})
        entry["percent"] += 100 * sum(shard.shares.values())
        entry["tokens_available"] += shard.tokens["train"]
    for entry in by_dataset.values():
        entry["epochs"] = round(config["tokens"] * entry["percent"] / 100 / max(1, entry["tokens_available"]), 4)
        entry["percent"] = round(entry["percent"], 4)
    return {
        "tokens": config["tokens"],
        "categories": by_category,
        "datasets": by_dataset,
        "unreleased_percent": round(100 * (asked - total) / asked, 4),
        "empty_shards": {split: len(blend.shards) - len(blend.splits[split]) for split in SPLITS},
    }


def warnings(statistics: dict[str, Any]) -> list[str]:
    """What a user should know about a blend: data sets repeated often, and shares that no data stands for."""
    lines = [
        f"{name} is repeated {entry['epochs']:.1f} times; more than {MANY_EPOCHS:.0f} epochs teach little that is new."
        " Lower its share or the phase's tokens, or add data."
        for name, entry in statistics["datasets"].items()
        if entry["epochs"] > MANY_EPOCHS
    ]
    missing = [name for name, entry in statistics["categories"].items() if not entry["released"]]
    if missing:
        lines.append(
            f"{statistics['unreleased_percent']:.1f}% of the mixture has no data ({', '.join(missing)});"
            " the other categories take its place in proportion"
        )
    return lines


def _relative(directory: Path) -> str:
    """The path relative to the repository root, which jobs run in; so a blend is the same on every machine."""
    if not directory.is_absolute():
        return directory.as_posix()
    try:
        return directory.relative_to(Path.cwd()).as_posix()
    except ValueError:
        raise UserError(
            f"--tokens {directory} lies outside {Path.cwd()}. A blend names its shards relative to the repository:"
            " run from its root (a symbolic link there may point to another disk)"
        ) from None
