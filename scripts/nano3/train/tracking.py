"""Metrics of a training stage: two JSONL files, console lines, and W&B as a mirror.

metrics.jsonl   one object per optimizer step, and one with "split": "valid" per validation; the same bytes for
                the same recipe and data
timing.jsonl    step, seconds, tokens_per_second, peak_memory_bytes; differs from run to run
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from nano3.cli import say
from nano3.errors import UserError

FILES = ("metrics.jsonl", "timing.jsonl")


class Tracker:
    """Writes one stage's metrics below its work directory.

    lengths: from `Tracker.lengths()` of the checkpoint that is resumed; the files are cut back to them.
    quiet: a process that writes nothing (every rank but the first)."""

    def __init__(
        self,
        directory: Path,
        stage: str,
        *,
        steps: int,
        first_step: int = 0,
        lengths: dict[str, int] | None = None,
        log_interval: int = 1,
        mirror: Any = None,
        quiet: bool = False,
    ) -> None:
        self.stage, self.steps, self.log_interval, self.mirror = stage, steps, log_interval, mirror
        self.quiet = quiet
        self._files = (
            {} if quiet else {name: _open_at(directory / name, (lengths or {}).get(name, 0)) for name in FILES}
        )
        self._bar = None if quiet else _progress_bar(stage, steps, first_step)
        self._first_step, self._started = first_step, time.monotonic()

    def train(self, row: dict[str, Any], *, seconds: float, tokens: int, peak_memory: int) -> None:
        """Record an optimizer step. `row` has step, tokens (so far), loss, lr, ...; `tokens` are this step's."""
        if self.quiet:
            return
        rate = tokens / seconds
        self._write("metrics.jsonl", row)
        self._write(
            "timing.jsonl",
            {
                "step": row["step"],
                "seconds": seconds,
                "tokens_per_second": rate,
                "peak_memory_bytes": peak_memory,
            },
        )
        if self.mirror is not None:
            self.mirror.log(row | {"tokens_per_second": rate}, row["step"])
        self._show(row, rate)

    def valid(self, row: dict[str, Any]) -> None:
        """Record a validation; `row` has step, tokens and mappings data set -> number."""
        if self.quiet:
            return
        row = {"split": "valid", **row}
        self._write("metrics.jsonl", row)
        if self.mirror is not None:
            self.mirror.log(row, row["step"])
        measures, unit = _headline(row)
        values = "  ".join(f"{name} {value:.3f}" for name, value in measures.items())
        self.message(f"[{self.stage}] step {row['step']}/{self.steps}  validation, {unit}:  {values}")

    def message(self, text: str) -> None:
        """Print a line without tearing the progress bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.clear()
        say(text)
        if self._bar is not None:
            self._bar.refresh()

    def lengths(self) -> dict[str, int]:
        """Bytes of the files so far, on the disk; goes into the checkpoint."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._bar is not None:
            self._bar.close()

    def _write(self, name: str, row: dict[str, Any]) -> None:
        self._files[name].write(json.dumps(_rounded(row)).encode() + b"\n")
        self._files[name].flush()

    def _show(self, row: dict[str, Any], rate: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{_progress(row)}, {rate / 1e3:.1f}k tok/s", refresh=False)
            self._bar.update()
        elif row["step"] % self.log_interval == 0 or row["step"] == self.steps:
            done = row["step"] - self._first_step
            left = (time.monotonic() - self._started) / done * (self.steps - row["step"])
            say(
                f"[{self.stage}] step {row['step']}/{self.steps}  tokens {short(row['tokens'])}"
                f"  {_progress(row)}  lr {row['lr']:.1e}  {short(rate)} tok/s  eta {clock(left)}"
            )


def _headline(row: dict[str, Any]) -> tuple[dict[str, float], str]:
    """What a validation row says first, and its unit: rewards by environment, bits per byte or losses by data set."""
    rewards = {key.removeprefix("reward/"): value for key, value in row.items() if key.startswith("reward/")}
    if rewards:
        return rewards, "reward"
    if row.get("bits_per_byte"):
        return row["bits_per_byte"], "bits per byte"
    return row.get("loss", {}), "loss"


def _progress(row: dict[str, Any]) -> str:
    """What is followed from step to step: the reward where there is one (RL), else the loss."""
    name = "reward" if "reward" in row else "loss"
    return f"{name} {row[name]:.3f}"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file."""
    with file.open() as lines:
        return [json.loads(line) for line in lines]


def short(number: float) -> str:
    """1234567 -> "1.2M"."""
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{suffix}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """65 -> "1:05", 3700 -> "1:01:40"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _rounded(value: Any) -> Any:
    """Floats at 7 significant digits: what a float32 holds."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value


def _open_at(path: Path, length: int):
    """Open a file for writing after its first `length` bytes; what follows belongs to steps that run again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    if file.tell() < length:
        raise UserError(
            f"{path} has {file.tell()} bytes, but the checkpoint was written after {length}: it was cut.\n"
            f"  To train this stage again from its start:  rm -r {path.parent}"
        )
    file.truncate(length)
    file.seek(length)
    return file


def _progress_bar(stage: str, steps: int, first_step: int):
    if not sys.stdout.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=steps, initial=first_step, desc=stage, unit="step", file=sys.stdout, dynamic_ncols=True)
