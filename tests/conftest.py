"""Tests run from the repository's root, with few threads, without a network and without an account."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.chdir(ROOT)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def chat(tmp_path_factory):
    """The chat tokenizer of the RL toys."""
    from nano3.rl.rollout import load_chat_tokenizer
    from rl_toy import toy_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer().save(str(directory / "tokenizer.json"))
    return load_chat_tokenizer(directory)


@pytest.fixture
def machine():
    """One process of a CPU, in float32."""
    from nano3.recipe.execution import Execution
    from nano3.train import hardware
    from nano3.train.loop import Machine

    return Machine(Execution(micro_batch_tokens=600, checkpoint_interval=2), "cpu", hardware.arithmetic("cpu", "fp32"))
