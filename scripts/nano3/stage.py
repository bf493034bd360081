"""The life of a training stage, in one place: identity, lock, resume, stop, publish.

    with open_stage("sft", config=..., inputs={"model": ..., "data": ...}, output=...) as run:
        if not run.finished:
            ...train; checkpoints below run.checkpoints; raise Preempted when run.stop_requested()...
            run.publish(payload, statistics={...})

1. The identity is the hash of the stage's configuration and of its input manifests. If its work directory holds
   a finished result, that is published again by hard links and `run.finished` is true.
2. Otherwise inputs are verified and the work directory is locked.
3. Checkpoints live in the work directory, which is no rule's output, so Snakemake never deletes them.
4. SIGTERM and SIGUSR1 only set a flag; the training loop saves and raises `Preempted`, which exits 75.
5. Publishing writes the manifest last and renames.
"""

import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nano3.artifacts.lock import lock
from nano3.artifacts.manifest import MANIFEST, PROVENANCE, Manifest, describe_files, digest_of, verify
from nano3.artifacts.provenance import write_provenance
from nano3.artifacts.publish import fsync_tree, publish_directory
from nano3.cli import say
from nano3.errors import UserError
from nano3.recipe.identity import identity

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StageRun:
    """One open stage."""

    name: str
    identity: str
    config: Any
    inputs: dict[str, str]
    work: Path
    output: Path
    finished: bool = False
    _stop: list[int] = field(default_factory=list)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def checkpoints(self) -> Path:
        """Directory of the stage's rolling checkpoints."""
        return self.work / "checkpoints"

    def stop_requested(self) -> bool:
        """True once SIGTERM or SIGUSR1 has arrived or the time is over: save, then raise Preempted."""
        return bool(self._stop)

    def request_stop(self) -> None:
        """Ask the training to save and stop, as SIGTERM does."""
        self._stop.append(signal.SIGTERM)

    def publish(self, payload: Path, *, statistics: dict[str, Any], provenance: dict[str, Any] | None = None) -> None:
        """Make `payload` (a directory in the work directory) the stage's result and publish it.

        The result stays in the work directory, so an accidental second run costs nothing; the rolling
        checkpoints are removed, for the result holds what later stages need."""
        result = self.work / "result"
        manifest = Manifest(
            kind=self.name,
            identity=self.identity,
            config=self.config,
            inputs=self.inputs,
            files=describe_files(payload),
            statistics=statistics,
        )
        write_provenance(payload / PROVENANCE, started=self._started, extra=provenance)
        (payload / MANIFEST).write_text(manifest.text())
        fsync_tree(payload)
        shutil.rmtree(result, ignore_errors=True)
        payload.rename(result)
        publish_directory(result, self.output)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


@contextmanager
def open_stage(
    name: str,
    *,
    config: Any,
    inputs: dict[str, Path],
    output: Path,
    trust_inputs: bool = False,
    also_verify: Iterable[Path] = (),
) -> Iterator[StageRun]:
    """Open the stage `name` of the recipe that `output` belongs to; see the module's docstring.

    also_verify: artifacts that an input refers to (the shards of a blend) and whose digests it records.
    output: e.g. results/tiny/pretrain/phase1; the work directory is results/tiny/.work/{name}/{identity}.
    Raises UserError for a broken input or when another live process works on the same stage."""
    digests = {key: digest_of(path) for key, path in inputs.items()}
    result_identity = identity(config, digests)
    output = Path(output)
    work = recipe_results(output) / ".work" / name / result_identity
    run = StageRun(name, result_identity, config, digests, work, output)
    work.mkdir(parents=True, exist_ok=True)
    with lock(work / "lock"):
        if _finished(work / "result"):
            say(f"{name}: this exact stage has finished before; publishing its result again")
            say(f"  To train it anew, e.g. after a change of its code:  rm -r {work} {output}")
            publish_directory(work / "result", output)
            run.finished = True
            yield run
            return
        for path in (*inputs.values(), *also_verify):
            verify(path, hashes=not trust_inputs)
        with _stop_flag(run):
            yield run


def recipe_results(output: Path) -> Path:
    """The directory results/{recipe} that a path lies in; raises UserError elsewhere."""
    parts = Path(output).parts
    if "results" not in parts[:-1]:
        raise UserError(f"--output {output} must lie below results/{{recipe}}/, as the rule's output does")
    return Path(*parts[: parts.index("results") + 2])


def _finished(result: Path) -> bool:
    if not (result / MANIFEST).is_file():
        return False
    try:
        verify(result)
    except UserError as problem:
        say(f"the earlier result can't be used again, so the stage runs anew: {problem}")
        return False
    return True


@contextmanager
def _stop_flag(run: StageRun) -> Iterator[None]:
    def request(number: int, _frame: Any) -> None:
        run._stop.append(number)

    before = {number: signal.signal(number, request) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
