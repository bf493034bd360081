"""Rolling checkpoints from which a resumed run equals an uninterrupted one.

    checkpoints/step_40/
      model.safetensors       the model's state dict, buffers (the expert bias) included
      optimizer.safetensors   moments and step counts
      rng.safetensors         states of torch's generators, one per device
      state.json              step, the caller's progress, states of Python's and NumPy's generators
      digests.json            SHA-256 of the files above; written last

A checkpoint is written beside its place, flushed to the disk and renamed, so it is whole or not there. One whose bytes
changed later is set aside with a message, and the one before is used.
"""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nano3.artifacts.manifest import sha256
from nano3.artifacts.publish import fsync_tree
from nano3.cli import say
from nano3.train.optimizer import load_state, save_state

KEEP = 2
DIGESTS = "digests.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    progress: dict[str, Any]  # what the caller gave to `save`


def save(
    directory: Path, step: int, *, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> Path:
    """Write the checkpoint of the end of `step`, and drop all but the last two.

    progress: JSON-able; what else the caller needs to go on, e.g. tokens seen and lengths of its metrics files."""
    from safetensors.torch import save_file

    temporary = directory / f"step_{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, temporary / "model.safetensors")
    save_state(optimizer, temporary / "optimizer.safetensors")
    save_file(_torch_generators(), temporary / "rng.safetensors")
    state = {"step": step, "progress": progress, "python": random.getstate(), "numpy": _numpy_generator()}
    (temporary / "state.json").write_text(json.dumps(state))
    digests = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
    (temporary / DIGESTS).write_text(json.dumps(digests, indent=2))
    fsync_tree(temporary)
    final = directory / f"step_{step}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    fsync_tree(directory)
    for old in _complete(directory)[:-KEEP]:
        shutil.rmtree(old)
    return final


def newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint whose digests are right, or None. Damaged ones are renamed to step_N.damaged."""
    for path in reversed(_complete(directory)):
        problem = _damage(path)
        if problem is None:
            state = json.loads((path / "state.json").read_text())
            return Checkpoint(path, state["step"], state["progress"])
        say(f"checkpoint {path} is damaged ({problem}); going back to the one before")
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return None


def restore(checkpoint: Checkpoint, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the checkpoint's weights, optimizer state and random generators back in place."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(checkpoint.path / "model.safetensors"))
    load_state(optimizer, checkpoint.path / "optimizer.safetensors")
    for device, state in load_file(checkpoint.path / "rng.safetensors").items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available() and int(device.removeprefix("cuda")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(device.removeprefix("cuda")))
    state = json.loads((checkpoint.path / "state.json").read_text())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    generator = state["numpy"]
    np.random.set_state((*generator[:1], np.array(generator[1], dtype=np.uint32), *generator[2:]))


def _complete(directory: Path) -> list[Path]:
    """Directories step_N, oldest first."""
    found = [path for path in directory.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        digests = json.loads((path / DIGESTS).read_text())
        for name, expected in digests.items():
            actual = sha256(path / name)
            if actual != expected:
                return f"{name}: expected sha256 {expected[:16]}..., found {actual[:16]}..."
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _torch_generators() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _numpy_generator() -> list[Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return [name, keys.tolist(), position, has_gauss, gauss]
