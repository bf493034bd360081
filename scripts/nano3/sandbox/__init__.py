"""Running what a model wrote: see `run`. cell.py and warden.py are the inside, launch.py chooses how to hold it."""

from nano3.sandbox.launch import allow_unsafe, kind
from nano3.sandbox.run import Limits, Outcome, run

__all__ = ["Limits", "Outcome", "allow_unsafe", "kind", "run"]
