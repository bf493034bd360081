"""What a training process runs on: device, precision, threads, determinism and peak memory."""

import os
import resource
from contextlib import AbstractContextManager

import torch

from nano3 import sandbox
from nano3.errors import UserError
from nano3.recipe.execution import Execution
from nano3.recipe.training import Precision


def set_up(execution: Execution, section: str) -> str:
    """Set threads and deterministic kernels for a job of `execution.{section}`; returns "cuda" or "cpu".

    Also passes on whether model text may be scored without a sandbox, which is a property of the process."""
    job = getattr(execution, section)
    sandbox.allow_unsafe(execution.allow_unsafe)
    torch.set_num_threads(max(1, job.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    # cuBLAS is deterministic only with a workspace of fixed size, chosen before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False
    # An error and not a warning: attention's backward pass on a GPU takes a mere warning as leave to be inexact.
    # (use_deterministic_algorithms does the same for the compiler as well, and takes a second to import it.)
    torch.set_deterministic_debug_mode("error")
    if not job.gpus_per_node or job.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(
            f"execution.{section}.gpus_per_node is {job.gpus_per_node} but this machine has no usable GPU.\n"
            f"  Run on a machine with GPUs, or set execution.{section}.gpus_per_node: 0 to train on the CPU."
        )
    return "cuda"


def arithmetic(device: str, precision: Precision) -> AbstractContextManager:
    """The autocast context of forward passes: bfloat16 if asked for, or with "auto" where the hardware has it."""
    capable = has_bfloat16(device)
    if precision == "bf16" and device == "cuda" and not capable:
        raise UserError("precision is bf16 but this GPU has no bfloat16; set precision: auto or fp32")
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and capable))


def has_bfloat16(device: str) -> bool:
    """Whether matrix products in bfloat16 have instructions of their own (on a CPU: AVX512-BF16 or AMX)."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def peak_memory(device: str) -> int:
    """Largest memory of this process so far, in bytes: of the GPU if it trains on one, else resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux reports kibibytes
