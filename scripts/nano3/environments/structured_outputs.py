"""Structured output: the answer is JSON that a JSON Schema accepts (report section 3.2.1; NeMo-Gym structured_outputs).

Only the form is judged, not the content. As in NeMo-Gym, object schemas are closed first: every listed property is
required and no other is allowed, so that an empty object never passes a lax schema.
"""

import json
from functools import lru_cache

from nano3.environments import bounded
from nano3.environments.fields import describe, field, optional
from nano3.environments.reward import Reward, malformed
from nano3.environments.text import brief, split_response, without_fence
from nano3.errors import UserError

SECONDS = 5.0
MAX_LOCAL_CHARS = 20_000  # longer answers are checked where a watchdog can end it

# Keywords whose check can take exponential time in the answer's length.
_UNBOUNDED = ('"pattern"', '"patternProperties"', '"format"', '"$ref"', '"$dynamicRef"', '"$recursiveRef"')
_SUBSCHEMA = ("additionalProperties", "items", "contains", "not", "if", "then", "else", "propertyNames")
_SUBSCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SUBSCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def verify(row: dict, response: str) -> Reward:
    """1 if the answer, bare or in a code fence, is JSON valid under row["schema_str"], else 0.

    The schema's `$schema` decides the draft (2020-12 by default). Raises UserError for a row whose schema is not
    a valid JSON Schema or whose schema_type is not json.
    """
    schema = str(field(row, "schema_str", str))
    optional(row, "schema_type", ("json",))
    fault = schema_fault(schema)
    if fault:
        raise UserError(f"{describe(row)}: schema_str is no JSON Schema: {fault}")
    parts = split_response(response)
    if parts.fault:
        return malformed(parts.fault)
    answer = without_fence(parts.answer)
    try:
        json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return malformed(f"not JSON: {brief(error)}")
    try:
        if len(answer) <= MAX_LOCAL_CHARS and not any(keyword in schema for keyword in _UNBOUNDED):
            violation = first_violation(schema, answer)
        else:
            violation = bounded.call(f"{__name__}:first_violation", schema, answer, seconds=SECONDS)
    except (bounded.CheckFailed, RecursionError) as failure:
        return Reward(0.0, f"validation failed: {brief(failure)}", well_formed=True)
    return Reward(float(not violation), violation or "valid", well_formed=True)


def first_violation(schema: str, answer: str) -> str:
    """What the schema finds wrong with the JSON text `answer`; empty when valid."""
    from jsonschema.exceptions import best_match

    try:
        error = best_match(_validator(schema).iter_errors(json.loads(answer)))
    except Exception as failure:  # an unresolvable $ref, a bad regular expression
        return f"schema cannot be applied: {brief(failure)}"
    return "" if error is None else f"{error.json_path}: {brief(error.message)}"


@lru_cache(maxsize=4096)
def schema_fault(schema: str) -> str:
    """Why a text is not a JSON Schema; empty when it is one."""
    from jsonschema.exceptions import SchemaError

    try:
        parsed = json.loads(schema)
        if not isinstance(parsed, dict | bool):
            return f"expected an object, got {type(parsed).__name__}"
        _draft(parsed).check_schema(parsed)
    except (ValueError, RecursionError) as error:
        return brief(error)
    except SchemaError as error:
        return f"{error.json_path}: {brief(error.message)}"
    return ""


@lru_cache(maxsize=1024)
def _validator(schema: str):
    from referencing import Registry

    parsed = json.loads(schema)
    # An empty registry: a $ref to the web must not be fetched.
    return _draft(parsed)(closed(parsed), registry=Registry())


def _draft(schema: dict | bool):
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    return validator_for(schema, default=Draft202012Validator)


def closed(schema: object) -> object:
    """The schema with every object closed: listed properties required, others refused."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _SUBSCHEMA:
        if isinstance(result.get(key), dict):
            result[key] = closed(result[key])
    for key in _SUBSCHEMA_LISTS:
        if isinstance(result.get(key), list):
            result[key] = [closed(each) for each in result[key]]
    for key in _SUBSCHEMA_MAPS:
        if isinstance(result.get(key), dict):
            result[key] = {name: closed(each) for name, each in result[key].items()}
    if isinstance(result.get("properties"), dict):
        result["required"] = list(result["properties"])
        result["additionalProperties"] = False
    return result


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
