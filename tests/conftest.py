"""Tests run from the repository's root, with few threads, without a network and without an account."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
os.chdir(ROOT)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
