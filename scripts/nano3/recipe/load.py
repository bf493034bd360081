"""Reading a recipe file: `extends`, and errors that name the key and the nearest one that exists."""

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from nano3.errors import UserError
from nano3.recipe.schema import Recipe


def load_recipe(path: Path | str) -> Recipe:
    """Read and check a recipe file. Raises UserError that names file, key, value and what to change."""
    path = Path(path)
    try:
        return Recipe.model_validate(_merged(path, seen=()))
    except ValidationError as error:
        lines = [f"{path} is not a valid recipe:"]
        for problem in error.errors():
            lines.append(f"  {'.'.join(_readable(problem['loc'])) or 'recipe'}: {_explain(problem)}")
        raise UserError("\n".join(lines)) from None


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise UserError(f"recipes extend each other in a circle: {' -> '.join(map(str, (*seen, path)))}")
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        named = f"{seen[-1]} extends it" if seen else "the path of a target names its recipe: results/{recipe}/..."
        raise UserError(
            f"there is no recipe {path}; {named}.\n  Recipes in {path.parent}: {', '.join(known) or 'none'}."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of sections, found {type(content).__name__}")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    return _overlay(_merged(path.parent / f"{parent}.yaml", (*seen, path)), content)


def _overlay(base: Any, change: Any) -> Any:
    """Mappings merge key by key, a null removes its key, everything else replaces."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _overlay(base.get(key), value)
    return result


def _readable(location: tuple[Any, ...]) -> list[str]:
    """A pydantic location without the tags of tagged unions."""
    tags = {"python_code", "python_docs", "files", "hub", "tasks", "train", "existing"}
    parts = [str(part) for part in location]
    if parts[:2] == ["rl", "judge"] and parts[2:3] in (["endpoint"], ["model"]):
        del parts[2]
    return [
        part
        for i, part in enumerate(parts)
        if not (part in tags and i in (1, 2) and parts[0] in {"datasets", "tokenizer"})
    ]


def _explain(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        if key in _known_keys(Recipe, problem["loc"][:-1]):
            return f"{key!r} belongs to another kind; remove it, or set it to null if it comes by `extends`"
        near = difflib.get_close_matches(key, _known_keys(Recipe, problem["loc"][:-1]), n=1, cutoff=0.5)
        return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if problem["type"] == "missing":
        return "this key is required"
    message = problem["msg"].removeprefix("Value error, ")
    return message if isinstance(problem["input"], dict) else f"{message} (found {problem['input']!r})"


def _known_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Keys that the schema knows at a place, following fields, mappings and unions."""
    models = _models_of(model)
    for part in location:
        step = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in step for found in _models_of(annotation)] or models
    return [name for m in models for name in m.model_fields]


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_of(argument)]
