"""Writes config/schema.json and config/README.md from the typed recipe:  python -m nano3.recipe.docs config

A test fails when they differ from what this module writes.
"""

import json
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nano3.recipe.schema import Recipe

HEAD = """\
# The recipe file

One file in `recipes/` says everything about a run; `results/{recipe}/...` is made from `recipes/{recipe}.yaml`.
`extends: tiny` takes another recipe and changes single keys: mappings merge, lists and values replace, `null` removes
a key. Unknown keys are errors that name the nearest key. `schema.json` is the same contract for editors: put
`# yaml-language-server: $schema=../schema.json` into the first line of a recipe.

| recipe | what it is |
|---|---|
| `tiny` | the whole recipe on two CPU cores in minutes |
| `nano3` | Nemotron 3 Nano 30B-A3B with the numbers of its technical report |

A changed value re-runs the stages that depend on it and what follows them, nothing before. `execution` is about how
jobs run; changing it re-runs nothing.

The tables below are generated from the code: `python -m nano3.recipe.docs config`.
"""

# Keys whose meaning is the same wherever they stand.
MEANING = {
    "kind": "which of these sections it is",
    "form": "what a row is",
    "epsilon": "added to the denominator",
}


def schema_json() -> str:
    """The recipe's JSON Schema."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"


def readme() -> str:
    """The recipe's documentation: one table for every section."""
    parts = [HEAD]
    todo: list[tuple[str, type[BaseModel]]] = [("recipe", Recipe)]
    done: set[type[BaseModel]] = set()
    while todo:
        path, section = todo.pop(0)
        if section in done:
            continue
        done.add(section)
        parts.append(_section(path, section))
        for name, field in section.model_fields.items():
            child = name if section is Recipe else f"{path}.{name}"
            todo += [(_child_path(child, field.annotation), model) for model in _models(field.annotation)]
    return "\n".join(parts)


def _section(path: str, section: type[BaseModel]) -> str:
    lines = [f"## {_title(path, section)}", "", " ".join((section.__doc__ or "").split()), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        meaning = field.description or MEANING.get(name) or _first_line(field.annotation)
        lines.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def _title(path: str, section: type[BaseModel]) -> str:
    kinds = get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()
    return f"{path} of kind {' or '.join(kinds)}" if kinds else path


def _child_path(path: str, annotation: Any) -> str:
    return f"{path}.<name>" if get_origin(annotation) is dict else path


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _first_line(annotation: Any) -> str:
    models = _models(annotation)
    return (models[0].__doc__ or "").strip().splitlines()[0] if models else ""


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _type(a) for a in arguments)
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(_type(a) for a in arguments if a is not Ellipsis) + "]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"section {annotation.__name__}"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}[annotation.__name__]


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "see section"
    return f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write(directory: Path) -> None:
    """Write both files into `directory`."""
    (directory / "schema.json").write_text(schema_json())
    (directory / "README.md").write_text(readme())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
