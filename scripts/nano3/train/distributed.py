"""Data parallelism: every process takes its share of the global batch and sums are taken over processes.

Processes find each other by the usual variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which
torchrun sets. Without them there is one process and nothing here does anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nano3.cli import say
from nano3.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes of this job and the own place among them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def share(self, rows: int) -> tuple[int, int]:
        """First row and number of rows of the own share of a batch; shares differ by at most one row."""
        first, end = rows * self.rank // self.size, rows * (self.rank + 1) // self.size
        return first, end - first

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.size == 1:
            return flag
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return bool(self.sum(torch.tensor(int(flag), device=device)))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def from_leader(self, value: Any = None) -> Any:
        """The leader's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]


@contextmanager
def join(device: str) -> Iterator[World]:
    """Join the job's processes; device "cuda" talks over NCCL, "cpu" over Gloo."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    try:
        rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    except KeyError:
        raise UserError(
            "WORLD_SIZE is set but RANK is not; start the processes with torchrun, or unset WORLD_SIZE"
        ) from None
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if rank == 0:
        nodes = size // int(os.environ.get("LOCAL_WORLD_SIZE", size))
        say(f"{size} processes on {nodes} node{'s' * (nodes > 1)} train together, over {dist.get_backend()}")
    try:
        yield World(rank, size, local_rank)
    finally:
        dist.destroy_process_group()
