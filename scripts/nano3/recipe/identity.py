"""Identity: the hash that decides whether a result can be used again."""

import hashlib
import json
from typing import Any


def identity(config: Any, inputs: dict[str, str]) -> str:
    """Hash of a configuration subtree and the digests of the input manifests, as 16 hex digits.

    config: anything that JSON holds; a value without a stable form (an object, a set, NaN) is a TypeError or
    ValueError. Paths, GPU counts, partitions and log cadence must not be in it."""
    text = json.dumps({"config": config, "inputs": inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
