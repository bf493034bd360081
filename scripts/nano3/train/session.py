"""Opening and closing a training stage: processes, hardware, the stage's life, the W&B mirror, the published model."""

import random
import shutil
import threading
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nano3.artifacts.manifest import MANIFEST
from nano3.cli import say
from nano3.data import tokenizer as tokenizers
from nano3.errors import UserError
from nano3.model import hf
from nano3.model.nemotron_h import NemotronH
from nano3.model.size import parameters
from nano3.recipe import Recipe
from nano3.stage import StageRun, _stop_flag, open_stage
from nano3.train import distributed, hardware
from nano3.train.loop import Machine
from nano3.train.optimizer import load_state, save_state
from nano3.train.tracking import FILES, read_rows, short

OPTIMIZER_STATE = Path("training_state/optimizer.safetensors")


@dataclass
class Session:
    """An open training stage."""

    run: StageRun
    machine: Machine
    mirror: Any = None  # the W&B run, or None
    mirror_id: str | None = None

    @property
    def samples(self) -> Path:
        """Directory for the indices of sampled sequences; `publish` removes it."""
        return self.run.work / "samples"


@contextmanager
def open_session(
    stage: str,
    recipe: Recipe,
    section: Literal["pretrain", "long_context", "sft"],
    *,
    config: dict[str, Any],
    inputs: dict[str, Path],
    also_verify: Iterable[Path] = (),
    options: Namespace,
) -> Iterator[Session]:
    """Open a training stage on this process, as the leader of the job's processes or as one that follows it.

    section: the job's key in the recipe's `execution`; also_verify: artifacts that an input refers to;
    options: recipe, output and trust_inputs of the script.
    If `session.run.finished`, there is nothing left to do."""
    if recipe.execution.backend != "torch":
        raise UserError(
            f"execution.backend is {recipe.execution.backend!r}; this script trains with torch. Set backend: torch"
        )
    device = hardware.set_up(recipe.execution, section)
    _seed(config["seed"])
    with distributed.join(device) as world:
        arithmetic = hardware.arithmetic(device, config["precision"])
        machine = Machine(recipe.execution, device, arithmetic, world)
        if not world.leads:
            run = world.from_leader()
            with _stop_flag(run):
                yield Session(run, machine)
            return
        with open_stage(
            stage,
            config=config,
            inputs=inputs,
            output=options.output,
            trust_inputs=options.trust_inputs,
            also_verify=also_verify,
        ) as run:
            world.from_leader(run)
            session = Session(run, machine)
            if not run.finished:
                _start_mirror(session, recipe=options.recipe.stem)
            try:
                with _time_box(run, recipe.execution.save_after_minutes):
                    yield session
            finally:
                if session.mirror is not None:
                    published = run.output / MANIFEST
                    session.mirror.finish(published if run.finished else None)


def directory_of(path: Path) -> Path:
    """The directory of an artifact that is given as its directory or as its manifest."""
    return path.parent if path.name == MANIFEST else path


def new_model(recipe: Recipe, device: str) -> NemotronH:
    """A model with initial weights from the session's seed, the same on every device."""
    return NemotronH(recipe.model).to(device)


def carry_on(recipe: Recipe, directory: Path, device: str) -> NemotronH:
    """The model of the stage before, checked against the recipe."""
    model = hf.load(directory)
    if model.config != recipe.model:
        ours, theirs = recipe.model.model_dump(), model.config.model_dump()
        different = [
            f"{key}: {theirs[key]} there, {ours[key]} in the recipe" for key in ours if ours[key] != theirs[key]
        ]
        raise UserError(f"{directory} holds a model of another shape:\n  " + "\n  ".join(different))
    return model.to(device)


def carry_on_optimizer(optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Continue with the optimizer state that the stage before has published."""
    load_state(optimizer, directory / OPTIMIZER_STATE)


def publish(
    session: Session,
    model: NemotronH,
    *,
    tokenizer: Path,
    generation_eos: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    statistics: dict[str, Any] | None = None,
) -> None:
    """Publish the trained model with its tokenizer and metrics, and the optimizer's state if the next stage needs it.

    generation_eos: the token that ends generation; None: the one that ends a document."""
    run = session.run
    if not session.machine.world.leads:
        return
    payload = run.work / "payload"
    shutil.rmtree(payload, ignore_errors=True)
    payload.mkdir()
    special = special_ids(tokenizer)
    hf.save(
        model,
        payload,
        bos=special["bos"],
        eos=special["eos"],
        pad=special["pad"],
        generation_eos=special["eos"] if generation_eos is None else generation_eos,
    )
    tokenizers.copy_existing(str(tokenizer), "", payload)
    for name in FILES:
        shutil.copyfile(run.work / name, payload / name)
    if optimizer is not None:
        (payload / OPTIMIZER_STATE).parent.mkdir()
        save_state(optimizer, payload / OPTIMIZER_STATE)
    measured, speed = summarise(run.work)
    size = parameters(model.config)
    measured |= {"parameters": {"total": size.total, "active": size.active}, **(statistics or {})}
    run.publish(payload, statistics=measured, provenance=speed | {"wandb_run": session.mirror_id})
    run.finished = True
    shutil.rmtree(session.samples, ignore_errors=True)
    say(
        f"[{run.name}] published {run.output}: {measured['steps']} steps, {short(measured['tokens'])} tokens,"
        f" {short(speed['tokens_per_second'])} tok/s"
    )


def summarise(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Statistics (deterministic) and speed (not) of a stage, from its metrics files."""
    rows, timing = read_rows(directory / "metrics.jsonl"), read_rows(directory / "timing.jsonl")
    steps = [row for row in rows if "split" not in row]
    valid = [row for row in rows if row.get("split") == "valid"]
    statistics = {
        "steps": steps[-1]["step"],
        "tokens": steps[-1]["tokens"] - valid[0]["tokens"],
        "supervised_tokens": sum(row["supervised_tokens"] for row in steps),
        "train_loss": steps[-1]["loss"],
        "validation": {"start": _measures(valid[0]), "end": _measures(valid[-1])},
    }
    seconds = sum(row["seconds"] for row in timing)
    speed = {
        "tokens_per_second": round(statistics["tokens"] / seconds, 1),
        "peak_training_memory_bytes": max(row["peak_memory_bytes"] for row in timing),
    }
    return statistics, speed


def special_ids(tokenizer: Path) -> dict[str, int]:
    """Ids of the tokens that models need to know: bos, eos (end of a document), pad and im_end (end of a turn)."""
    known = tokenizers.load(tokenizer)
    names = {
        "bos": tokenizers.BOS,
        "eos": tokenizers.END_OF_TEXT,
        "pad": tokenizers.PAD,
        "im_end": tokenizers.IM_END,
    }
    return {role: known.token_to_id(token) for role, token in names.items()}


def _measures(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("split", "step", "tokens")}


def _start_mirror(session: Session, *, recipe: str) -> None:
    run = session.run
    try:
        from nano3.train import weights_and_biases

        session.mirror = weights_and_biases.start(
            stage=run.name, identity=run.identity, recipe=recipe, config=run.config, directory=run.work
        )
        if session.mirror is not None:
            session.mirror_id = weights_and_biases.run_id(recipe, run.name, run.identity)
    except Exception as error:  # a mirror of the metrics must never stop a training
        say(f"W&B: {error}; the stage goes on without it")


@contextmanager
def _time_box(run: StageRun, minutes: float | None) -> Iterator[None]:
    """Ask the run to save and stop after this time, as a signal would."""
    timer = threading.Timer(60 * (minutes or 0), run.request_stop)
    timer.daemon = True
    if minutes is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
