"""Data sets of the Hugging Face hub: which files belong to a subset and split, and fetching them.

A subset is matched by its exact name: as a configuration of the data set's card, else as one whole component of a
file's path. Never by prefix, for then `High-Quality` would also be `High-Quality-Synthetic`."""

import fnmatch
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nano3.data.files import SUFFIXES, SourceFile
from nano3.errors import UserError

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 2.0
# Words that the hub takes for split names in file and folder names.
SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Listing:
    """A data set repository at one commit.

    files: its data files; configs: configuration name -> (split, file pattern) pairs of its card."""

    repo: str
    commit: str
    files: list[SourceFile]
    configs: dict[str, list[tuple[str, str]]]


def list_repository(repo: str, revision: str) -> Listing:
    """The data files of a repository at a revision, which is resolved to a commit."""
    info = _retry(
        lambda: _api().dataset_info(repo, revision=revision, files_metadata=True), repo=repo, what="the listing"
    )
    files = [
        SourceFile(entry.rfilename, entry.size or 0)
        for entry in info.siblings or []
        if entry.rfilename.endswith(SUFFIXES)
    ]
    card = info.card_data.to_dict() if info.card_data else {}
    return Listing(repo, info.sha, sorted(files, key=lambda file: file.name), _card_configs(card))


def select_files(listing: Listing, subset: str | None, split: str) -> list[SourceFile]:
    """The files of one subset and split; UserError, naming what there is, if there are none."""
    if subset in listing.configs:
        return _files_of_config(listing, subset, split)
    files = listing.files
    if subset is not None:
        files = [file for file in files if subset in _components(file.name)]
        if not files:
            raise UserError(
                f"{listing.repo} has no subset {subset!r} (names must match exactly).\n"
                f"  Subsets found: {', '.join(_subsets(listing)) or 'none'}"
            )
    splits = {file.name: _split_of(file.name, ignore=subset) for file in files}
    chosen = [file for file in files if splits[file.name] == _canonical(split)]
    if not chosen and _canonical(split) == "train":  # files that name no split are training data
        chosen = [file for file in files if splits[file.name] is None]
    if not chosen:
        found = sorted({name or "train" for name in splits.values()})
        raise UserError(f"{listing.repo} has no files of split {split!r}; splits found: {', '.join(found)}")
    return chosen


def download(repo: str, name: str, commit: str) -> Path:
    """Path of a file of the repository in the local hub cache, fetched if it isn't there."""
    from huggingface_hub import hf_hub_download

    return Path(
        _retry(
            lambda: hf_hub_download(repo, name, repo_type="dataset", revision=commit, endpoint=_endpoint()),
            repo=repo,
            what=name,
        )
    )


def download_matching(repo: str, revision: str, patterns: list[str]) -> tuple[Path, str]:
    """The files of a model repository that match glob patterns: (folder in the local hub cache, commit)."""
    from huggingface_hub import snapshot_download

    commit = _retry(lambda: _api().model_info(repo, revision=revision), repo=repo, what="the listing").sha
    folder = _retry(
        lambda: snapshot_download(repo, revision=commit, allow_patterns=patterns, endpoint=_endpoint()),
        repo=repo,
        what=", ".join(patterns),
    )
    return Path(folder), commit


def _files_of_config(listing: Listing, subset: str, split: str) -> list[SourceFile]:
    patterns = [pattern for name, pattern in listing.configs[subset] if _canonical(name) == _canonical(split)]
    if not patterns:
        found = sorted({name for name, _ in listing.configs[subset]})
        raise UserError(
            f"configuration {subset!r} of {listing.repo} has no split {split!r}; splits found: {', '.join(found)}"
        )
    matchers = [_glob(pattern) for pattern in patterns]
    files = [file for file in listing.files if any(matcher.fullmatch(file.name) for matcher in matchers)]
    if not files:
        raise UserError(
            f"configuration {subset!r} of {listing.repo} names {', '.join(patterns)}, but no data file matches"
        )
    return files


def _card_configs(card: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The `configs` of a card. `data_files` may be a pattern, a list, or a list of {split, path}."""
    configs = {}
    for config in card.get("configs") or []:
        folder = (config.get("data_dir") or "").strip("/")
        entries = config.get("data_files") or ([f"{folder}/**"] if folder else [])
        pairs = []
        for entry in [entries] if isinstance(entries, (str, dict)) else entries:
            split, paths = ("train", entry) if isinstance(entry, str) else (entry["split"], entry["path"])
            pairs += [(split, path) for path in ([paths] if isinstance(paths, str) else paths)]
        if pairs:
            configs[str(config["config_name"])] = pairs
    return configs


def _glob(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` and `?` stay inside one path component, `**` does not."""
    parts = []
    for piece in re.split(r"(\*\*/?|\*|\?|\[[^]]*\])", pattern.removeprefix("./")):
        if piece.startswith("**"):
            parts.append("(?:.*/)?" if piece.endswith("/") else ".*")
        elif piece in ("*", "?"):
            parts.append("[^/]*" if piece == "*" else "[^/]")
        elif piece.startswith("["):
            parts.append(fnmatch.translate(piece).removeprefix("(?s:").removesuffix(")\\Z"))
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts))


def _components(name: str) -> set[str]:
    """Path components of a file name, and its last one without the suffix of its format."""
    *folders, last = name.split("/")
    return {*folders, _stem(last)}


def _stem(name: str) -> str:
    suffix = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")
    return name.removesuffix(suffix)


def _subsets(listing: Listing) -> list[str]:
    folders = {file.name.rsplit("/", 1)[0] for file in listing.files if "/" in file.name}
    stems = {_stem(file.name.rsplit("/", 1)[-1]) for file in listing.files}
    return sorted(listing.configs) or sorted(folders | (stems if len(stems) <= 20 else set()))


def _canonical(split: str) -> str:
    return next((name for name, words in SPLIT_WORDS.items() if split in words), split)


def _split_of(name: str, ignore: str | None) -> str | None:
    """The split that a path's folders, then its file name, tell of, the subset's name apart; None: no split."""
    *folders, last = name.split("/")
    for part in (*folders, _stem(last)):
        if part == ignore:
            continue
        words = set(re.split(r"[-_. ]+", part.lower()))
        for split, known in SPLIT_WORDS.items():
            if words & known:
                return split
    return None


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _retry(call: Callable[[], Result], *, repo: str, what: str) -> Result:
    """Call with exponential backoff on network errors; what the user must do is an error at once."""
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for attempt in range(ATTEMPTS):
        try:
            return call()
        except GatedRepoError:
            raise UserError(
                f"{repo} is gated: accept its terms on its page at {_endpoint() or 'https://huggingface.co'},"
                " then set HF_TOKEN to a token of that account"
            ) from None
        except RepositoryNotFoundError:
            raise UserError(
                f"{repo} does not exist on the hub, or is private and HF_TOKEN is not set or may not read it"
            ) from None
        except (RevisionNotFoundError, RemoteEntryNotFoundError) as error:
            raise UserError(f"{repo}: {what} not found at this revision ({error})") from None
        except OfflineModeIsEnabled:
            raise UserError(
                f"{repo}: {what} must be fetched, but HF_HUB_OFFLINE is set. Unset it, or fetch the files elsewhere"
                " and name the local path in the recipe."
            ) from None
        except Exception as error:
            if attempt + 1 == ATTEMPTS:
                raise UserError(
                    f"{repo}: {what} failed {ATTEMPTS} times; the last error was {type(error).__name__}: {error}\n"
                    "  Check the network and HF_ENDPOINT, or fetch the files elsewhere and name the local path."
                ) from error
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable")
